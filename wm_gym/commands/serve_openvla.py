"""`wm-gym serve-openvla`: OpenVLA behind its REST protocol, in an environment of its own."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError

REQUIREMENTS = (
    "torch==2.2.2",
    "torchvision==0.17.2",
    "transformers==4.40.1",  # from 4.50 on the image is reported to be ignored, silently
    "tokenizers==0.19.1",
    "timm==0.9.10",
    "accelerate==0.30.1",
    "numpy==1.26.4",
    "pillow==10.4.0",
)
"""What OpenVLA's own code was written for."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class ServeError(UserError, RuntimeError):
    """An environment that cannot be made, or a server that did not start."""


@dataclass(frozen=True)
class ServeOpenVLAConfig:
    """Serve OpenVLA at POST /act, after making sure that it looks at its pictures.

    The model's own code runs, so the revision is a whole commit. Its environment, with an old
    transformers, is made once (several GB).
    """

    revision: str
    """Commit of the model's repository, 40 hexadecimal digits."""
    model: str = "openvla/openvla-7b"
    """Repository on the hub, or a folder."""
    unnorm_key: str = "bridge_orig"
    """Dataset whose statistics the first check uses; a client names its own."""
    device: str = "cuda"
    """Torch device."""
    host: str = "127.0.0.1"
    """Interface to listen on; 0.0.0.0 lets other machines in, and nothing asks who they are."""
    port: int = 8000
    """Port."""
    environment: Path = Path("~/.cache/wm_gym/openvla")
    """Folder of the virtual environment."""
    python: str = "python3.11"
    """Interpreter it is made from, 3.9 to 3.11: the old torch knows no newer one."""
    dry_run: bool = False
    """Only print the commands."""

    def __post_init__(self) -> None:
        """Refuse a moving revision."""
        if not _COMMIT.fullmatch(self.revision):
            raise UserError(
                f"revision={self.revision!r}; expected a commit of {self.model}, 40 hexadecimal "
                "digits: its code runs on this machine, and a branch may change overnight"
            )


def commands(config: ServeOpenVLAConfig) -> list[list[str]]:
    """What is run: make the environment unless it is there, then serve."""
    folder = config.environment.expanduser()
    python = str(folder / "bin" / "python")
    script = find_spec("wm_gym.policies.act_server")
    assert script is not None and script.origin is not None
    serve = [python, script.origin]
    for name in ("model", "revision", "unnorm_key", "device", "host", "port"):
        serve += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    if _is_made(folder):
        return [serve]
    make = [config.python, "-m", "venv", "--clear", str(folder)]
    return [make, [python, "-m", "pip", "install", *REQUIREMENTS], serve]


def serve_openvla(config: ServeOpenVLAConfig) -> int:
    """Run `wm-gym serve-openvla`.

    Returns:
        Exit status.

    Raises:
        ServeError: naming the command that failed.
    """
    *preparations, serve = commands(config)
    for command in [*preparations, serve]:
        print(f"+ {shlex.join(command)}", flush=True)
    if config.dry_run:
        return 0
    for command in preparations:
        _run(command, "the environment could not be made", (0,))
    if preparations:
        _mark(config.environment.expanduser())
    _run(
        serve,
        "the server did not start; its weights come from the hub, so without one give --model "
        "the folder of a copy",
        (0, -2, 130),  # Ctrl-C is how a server ends
    )
    return 0


def _run(command: list[str], fault: str, fine: tuple[int, ...]) -> None:
    try:
        status = subprocess.run(command, check=False).returncode
    except FileNotFoundError as error:
        raise ServeError(f"{fault}: there is no {command[0]}; name one with --python") from error
    if status not in fine:
        raise ServeError(f"{fault} (status {status}): {shlex.join(command)}")


def _fingerprint() -> str:
    return hashlib.sha256("\n".join(REQUIREMENTS).encode()).hexdigest()


def _is_made(folder: Path) -> bool:
    stamp = folder / "wm_gym.sha256"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == _fingerprint()


def _mark(folder: Path) -> None:
    write_atomically(folder / "wm_gym.sha256", _fingerprint().encode())
