"""The JSON that every measuring command writes: figures, and what is needed to get them again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_gym.checkpoints import save_card, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wm_gym.checkpoints import Checkpoint

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "scipy", "diffusers", "transformers", "minari")
_PROCESS_START_S = time.monotonic()


def measurement_header(
    *,
    seeds: Sequence[int] | int | None = None,
    duration_s: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Says where a measurement comes from.

    Args:
        seeds: the seeds it used, or a single one.
        duration_s: seconds it took, over all its runs if it was resumed; the age of this process
            by default.
        command: the command line; that of this process by default.

    Returns:
        `command`, `date` (UTC), `versions`, `seeds`, `machine` and `duration_s`, JSON-ready.

    Example:
        >>> header = measurement_header(seeds=[0, 1])
        >>> sorted(header)
        ['command', 'date', 'duration_s', 'machine', 'seeds', 'versions']
    """
    if duration_s is None:
        duration_s = time.monotonic() - _PROCESS_START_S
    return {
        "command": command or command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "seeds": _plain(seeds),
        "machine": machine(),
        "duration_s": round(duration_s, 1),
    }


def command_line() -> str:
    """This process's command, as one would type it: `wm-gym …` or `python -m …`."""
    program, *arguments = sys.argv
    main = sys.modules.get("__main__")
    module = getattr(getattr(main, "__spec__", None), "name", None)
    if module:
        words = ["python", "-m", module.removesuffix(".__main__")]
    elif program.endswith(".py"):
        words = ["python", program]
    else:
        words = [Path(program).name]
    return shlex.join(words + arguments)


def package_versions() -> dict[str, str]:
    """Versions of Python, wm_gym and the packages that figures depend on."""
    from wm_gym import __version__

    versions = {"python": platform.python_version(), "wm_gym": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """Processor, core and thread counts, memory, accelerator and operating system."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "accelerator": None,
    }
    torch = sys.modules.get("torch")  # a command that never needed torch does not pay for it here
    if torch is not None:
        found["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["accelerator"] = torch.cuda.get_device_name(0)
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def write_json(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes a report atomically, as JSON that any reader accepts.

    NumPy values, dataclasses and paths are converted; NaN and infinities, which JSON lacks, become
    null.

    Args:
        path: file to write; folders are made.
        content: the report.

    Returns:
        The path.

    Raises:
        TypeError: naming a value that has no JSON form.
    """
    path = Path(path)
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
    return path


def write_metric(
    opened: Checkpoint[Any],
    name: str,
    report: Mapping[str, Any],
    header: Mapping[str, Any],
    **changes: Any,
) -> Path:
    """Write a measurement into a card, with the command, date and duration behind it.

    Args:
        opened: the checkpoint, opened after the measurement: other metrics may have changed since.
        name: of the entry in the card's metrics.
        report: figures.
        header: of `measurement_header`.
        **changes: other fields of the card that follow from the measurement.

    Returns:
        The card.
    """
    entry = {**report, **{key: header[key] for key in ("command", "date", "duration_s")}}
    metrics = {**opened.spec.metrics, name: entry}
    save_card(opened.folder, replace(opened.spec, metrics=metrics, **changes))
    return opened.folder / "card.json"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer | int):
        return int(value)
    if isinstance(value, np.floating | float):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str):
        return value
    raise TypeError(
        f"a report cannot hold {value!r} of type {type(value).__name__}; expected numbers, "
        "strings, lists, dictionaries, dataclasses or NumPy arrays: convert it first"
    )
