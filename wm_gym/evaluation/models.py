"""World models by environment id, as commands name them."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_gym.checkpoints import Checkpoint, resolve_checkpoint
from wm_gym.envs.registration import EMBEDDED_MODELS, SEMANTIC_MODELS, SIMULATORS
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.spec import WorldModelSpec
    from wm_gym.world_model import LatentWorldModel


def embedded_folder(env_id: str) -> str | None:
    """Folder under assets/ of an id's embedded model, None if it has none.

    Raises:
        ValueError: if there is no such id, naming the nearest.
    """
    if env_id not in EMBEDDED_MODELS:
        if env_id in SIMULATORS:
            raise UserError(
                f"id {env_id!r} is a simulator, no world model; `wm-gym list` shows which is which"
            )
        if env_id in SEMANTIC_MODELS:
            raise UserError(
                f"id {env_id!r} is a semantic world model, which makes no frames; see "
                "docs/semantic-models.md for what it is measured by"
            )
        near = get_close_matches(env_id, EMBEDDED_MODELS, 2, 0.0)
        raise UserError(
            f"id {env_id!r} is no world model; the nearest are {' and '.join(near)}, and "
            "`wm-gym list` shows all"
        )
    return EMBEDDED_MODELS[env_id]


def open_any_by_id(env_id: str, checkpoint: str = "embedded") -> Checkpoint[Any]:
    """Open the card of an id's checkpoint, of a latent or a semantic world model.

    Raises:
        ValueError: if there is no such id.
        CheckpointError: if there is no such checkpoint.
    """
    if env_id in SEMANTIC_MODELS:
        folder = resolve_checkpoint(checkpoint, SEMANTIC_MODELS[env_id], env_id, "semantic")
        return Checkpoint.open_semantic(folder)
    return open_by_id(env_id, checkpoint)


def open_by_id(env_id: str, checkpoint: str = "embedded") -> Checkpoint[WorldModelSpec]:
    """Open the card of an id's checkpoint without loading weights.

    Raises:
        ValueError: if there is no such id.
        CheckpointError: if there is no such checkpoint.
    """
    return Checkpoint.open(resolve_checkpoint(checkpoint, embedded_folder(env_id), env_id))


def load_by_id(
    env_id: str,
    checkpoint: str = "embedded",
    *,
    denoising_steps: int | None = None,
    device: str = "cpu",
) -> LatentWorldModel:
    """Load an id's world model.

    Args:
        env_id: e.g. "WM-LangTable-VAE-v0".
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        denoising_steps: steps per frame; the card's by default.
        device: torch device.

    Raises:
        ValueError: if there is no such id or device.
        CheckpointError: if the checkpoint cannot be found or is damaged.
    """
    from wm_gym.devices import check_device
    from wm_gym.world_model import load_world_model

    check_device(device)
    return load_world_model(
        checkpoint,
        embedded=embedded_folder(env_id),
        env_id=env_id,
        denoising_steps=denoising_steps,
        device=device,
    )


def checkpoint_folder(env_id: str, checkpoint: str = "embedded") -> Path:
    """Folder of an id's checkpoint; raises as `open_by_id`."""
    return open_by_id(env_id, checkpoint).folder
