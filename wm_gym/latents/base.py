"""The contract every latent space fulfils."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class LatentSpace(Protocol):
    """Maps frames to a grid of latents and back.

    Attributes:
        name: name in the registry.
        grid: (h, w) of one frame's latents.
        channels: D.
    """

    name: str
    grid: tuple[int, int]
    channels: int

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode raw latents (B, h, w, D) into frames (B, H, W, 3) uint8."""
        ...
