"""Stable-Baselines3's own files: an agent's .zip with a JSON beside it, read without unpickling.

What an agent is stands in its .zip in pickled form only, which may run code when it is read. So
`save_agent` writes the same facts as JSON beside it, and `load_agent` takes nothing from the .zip
but the tensors of its policy.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError
from wm_gym.policies.base import (
    POLICY_VERSION,
    Policy,
    PolicyError,
    build,
    describe,
    read_object,
)

if TYPE_CHECKING:
    import torch
    from stable_baselines3.common.base_class import BaseAlgorithm

WEIGHTS = "policy.pth"


def description_file(path: Path) -> Path:
    """The JSON beside an agent's .zip."""
    return path.with_name(path.name + ".json")


def save_agent(agent: BaseAlgorithm, path: str | Path) -> Path:
    """Save an agent as SB3 does, with the JSON that `load_agent` needs.

    Args:
        agent: an agent that `SB3Policy.from_agent` takes.
        path: the .zip.

    Raises:
        PolicyError: if it could not be loaded again; nothing is written then.
    """
    from wm_gym.policies.sb3.policy import SB3Policy

    path = Path(path)
    content: dict[str, Any] = {
        "version": POLICY_VERSION,
        **describe(SB3Policy.from_agent(agent)),
    }
    stored = io.BytesIO()
    agent.save(stored)
    with zipfile.ZipFile(stored) as archive:
        content["weights_sha256"] = hashlib.sha256(archive.read(WEIGHTS)).hexdigest()
    write_atomically(path, stored.getvalue())
    write_atomically(description_file(path), (json.dumps(content, indent=1) + "\n").encode())
    return path


def load_agent(path: str | Path) -> Policy:
    """The policy of an agent's .zip; nothing is unpickled but the tensors of its policy.

    Raises:
        PolicyError: if the JSON beside it is missing or of another agent, or the .zip is damaged or
            holds anything but tensors.
    """
    path = Path(path).expanduser()
    described = _description(path)
    try:
        with zipfile.ZipFile(path) as archive:
            stored = archive.read(WEIGHTS)
    except (
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise PolicyError(
            f"{path} cannot be read as an agent of Stable-Baselines3 ({error}); expected a .zip "
            f"with {WEIGHTS} in it"
        ) from error
    if hashlib.sha256(stored).hexdigest() != described.get("weights_sha256"):
        raise PolicyError(
            f"{path} is not the agent that {description_file(path).name} describes: one of them "
            "was written later; save both with wm_gym.policies.sb3.agent_zip.save_agent"
        )
    from wm_gym.policies.sb3.policy import acting_weights

    try:
        weights = acting_weights(
            described["config"]["network"]["algorithm"], _tensors(stored, path)
        )
    except (KeyError, TypeError) as error:
        raise PolicyError(
            f"{description_file(path)} names no known algorithm ({type(error).__name__}: {error}); "
            "save the agent again"
        ) from error
    return build(described, weights)


def _description(path: Path) -> dict[str, Any]:
    beside = description_file(path)
    try:
        content = read_object(beside)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{path} has no readable {beside.name} beside it ({error}). The .zip says what the "
            "agent is in pickled form only, which wm_gym never reads, as it may run any code: "
            "where the agent was trained, save it with "
            "wm_gym.policies.sb3.agent_zip.save_agent(agent, path)"
        ) from error
    if content.get("version") != POLICY_VERSION or content.get("kind") != "sb3":
        raise PolicyError(
            f"{beside} is version {content.get('version')!r} of kind {content.get('kind')!r}, "
            f"expected version {POLICY_VERSION} of kind 'sb3'; save the agent again"
        )
    return content


def _tensors(stored: bytes, path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        found = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in found.items()
        ):
            raise UserError("expected a dict of tensors")
        return found
    except (
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise PolicyError(
            f"{WEIGHTS} in {path} holds something else than tensors, or is damaged ({error}); get "
            "the agent again"
        ) from error
