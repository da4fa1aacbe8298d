"""A rollout as bytes, and back: tensors as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors.torch import load, save

from wm_gym.dynamics.kv_cache import KVCache
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.dynamics.rollout import Rollout

SCALARS = ("cache_mode", "guidance", "micro_batch", "position", "committed", "frame_passes")
ROW_NUMBERS = {"born": np.int64, "steps": np.int64, "seeds": np.uint64}
TENSORS = ("latent_history", "slots", "surprise")


def pack(rollout: Rollout) -> bytes:
    """Everything that changes in a rollout; its world model and noise source are not included."""
    tensors = {name: getattr(rollout, name) for name in TENSORS}
    facts = {name: getattr(rollout, name) for name in SCALARS}
    facts |= {name: getattr(rollout, name).tolist() for name in ROW_NUMBERS}
    facts["caches"] = []
    for number, cache in enumerate(rollout.caches):
        stored, layout = cache.state()
        tensors |= {f"cache{number}.{name}": tensor for name, tensor in stored.items()}
        facts["caches"].append(layout)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(contiguous, {"rollout": json.dumps(facts)})


def unpack(rollout: Rollout, snapshot: bytes) -> None:
    """Put the state of a snapshot into a rollout that has its world model already.

    Raises:
        ValueError: if the bytes are no snapshot, or one of a model with other latents.
    """
    try:
        size = int.from_bytes(snapshot[:8], "little")
        facts = json.loads(json.loads(snapshot[8 : 8 + size])["__metadata__"]["rollout"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("these bytes are no rollout snapshot: pass what snapshot() gave") from error
    device = rollout.world_model.network.device
    tensors = {name: tensor.to(device) for name, tensor in load(snapshot).items()}
    latent = rollout.world_model.spec.latent
    expected = (*latent.grid, latent.channels)
    if tuple(tensors["latent_history"].shape[2:]) != expected:
        raise UserError(
            f"the snapshot holds latents {tuple(tensors['latent_history'].shape[2:])}, this world "
            f"model has {expected}: restore it with the model it was taken from"
        )
    for name in TENSORS:
        setattr(rollout, name, tensors[name])
    for name in SCALARS:
        setattr(rollout, name, facts[name])
    for name, kind in ROW_NUMBERS.items():
        setattr(rollout, name, np.array(facts[name], kind))
    rollout.caches = []
    for number, layout in enumerate(facts["caches"]):
        prefix = f"cache{number}."
        stored = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        rollout.caches.append(KVCache.from_state(stored, layout))
