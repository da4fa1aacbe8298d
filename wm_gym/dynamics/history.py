"""What rollouts start from: frames, or latents, with the actions between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.dynamics.dit import DiT
    from wm_gym.dynamics.samplers import Sampler
    from wm_gym.spec import WorldModelSpec


class Stepped(Protocol):
    """What a rollout needs of a world model."""

    spec: WorldModelSpec
    network: DiT
    sampler: Sampler

    def encode(self, frames: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> normalised latents (B, h, w, C)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, h, w, C) -> (B, H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class LatentHistory:
    """Frames to start from that are latents already.

    Attributes:
        latents: (B, n, h, w, C), normalised.
        slots: (B, n, width) network action in the slot of each frame.
    """

    latents: Tensor
    slots: Tensor


def start_history(
    world_model: Stepped, frames: Tensor | LatentHistory, actions: Tensor | None
) -> LatentHistory:
    """Encode frames and put actions into the slots that the card's alignment says.

    Args:
        world_model: encoder and card.
        frames: (B, h_px, w_px, 3) or (B, n, h_px, w_px, 3) uint8, repeated in front up to the
            card's history; a `LatentHistory` is taken as it is.
        actions: (B, n - 1, A) physical; `actions[:, i]` led from frame i to frame i + 1. Slots
            without a known action hold the null action.
    """
    if not isinstance(frames, Tensor):
        return frames
    spec = world_model.spec
    if frames.ndim == 4:
        frames = frames[:, None]
    if frames.ndim != 5:
        raise UserError(
            f"frames must be (B, H, W, 3) or (B, n, H, W, 3), got {tuple(frames.shape)}"
        )
    rows, count = frames.shape[:2]
    encoded = world_model.encode(frames.flatten(0, 1)).unflatten(0, (rows, count))
    missing = max(0, spec.context.history - count)
    latents = torch.cat([encoded[:, :1].expand(-1, missing, -1, -1, -1), encoded], 1)
    null = spec.action.null_action().to(latents.device)
    slots = null.expand(rows, missing + count, -1).clone()
    if actions is not None:
        expected = (rows, count - 1, spec.action.size)
        if tuple(actions.shape) != expected:
            raise UserError(
                f"{count} frames a row need actions {expected}, got {tuple(actions.shape)}"
            )
        first = missing + (spec.action.alignment == "target")
        slots[:, first : first + count - 1] = spec.action.normalise(actions.to(slots.device))
    return LatentHistory(latents, slots)


def pad_front(frames: Tensor, count: int) -> Tensor:
    """Make room for `count` frames along axis 1 by zeros in front; always a fresh tensor."""
    missing = max(0, count - frames.shape[1])
    return torch.cat([frames.new_zeros(len(frames), missing, *frames.shape[2:]), frames], 1)
