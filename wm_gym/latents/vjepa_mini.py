"""vjepa-mini: V-JEPA's encoder at a laptop's size; its latents were learned without pixels.

Trained by `wm-gym train vjepa`. A frame is cut into patches, and a clip's tokens are those of all
its frames. Tubelets are one frame long, as on V-JEPA 2.1's image path: a single image is a clip of
length one, needs no patch embedding of its own and gives one grid of latents.

Positions are rotary, hence relative: a token says what is there, not where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.errors import UserError
from wm_gym.latents.adapted import NoDecoderError
from wm_gym.latents.preprocessing import check_frames
from wm_gym.latents.rotary import Rotation, rotate, rotation
from wm_gym.latents.vae_mini import to_pixels


@dataclass(frozen=True)
class VJEPAMiniConfig:
    """Sizes of `VJEPAMini`.

    Attributes:
        height: frame height in pixels.
        width: frame width in pixels.
        patch: pixels per latent cell and axis.
        dim: transformer width, and D of the latents.
        depth: transformer blocks.
        heads: attention heads.
    """

    height: int = 64
    width: int = 64
    patch: int = 8
    dim: int = 96
    depth: int = 6
    heads: int = 4

    def __post_init__(self) -> None:
        """Check that patches tile the frame and heads leave room for three rotated axes."""
        if self.height % self.patch or self.width % self.patch:
            raise UserError(
                f"frame {self.height}x{self.width} is not a multiple of patch {self.patch}; "
                "choose a patch that divides both"
            )
        check_heads(self.dim, self.heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Latent rows and columns."""
        return self.height // self.patch, self.width // self.patch


def check_heads(dim: int, heads: int) -> None:
    """Refuse heads that do not divide the width evenly, or are too narrow for rotary positions."""
    if dim % heads or dim // heads % 2 or dim // heads < 6:
        raise UserError(
            f"dim {dim} over {heads} heads: expected an even number of at least 6 channels a head, "
            "so that time, rows and columns can each be rotated"
        )


class RotaryBlock(nn.Module):
    """Pre-norm transformer block over tokens at (time, row, column)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, turned_by: Rotation) -> Tensor:
        """Attend and transform tokens (B, N, dim); attention stays in float32."""
        q, k, v = self.qkv(self.norm1(x)).float().unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, heads, N, head)
        attended = F.scaled_dot_product_attention(rotate(q, turned_by), rotate(k, turned_by), v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def token_coordinates(frames: int, grid: tuple[int, int]) -> Tensor:
    """Time, row and column (T·P, 3) of a clip's tokens, frame by frame and row by row."""
    axes = torch.meshgrid(*(torch.arange(n) for n in (frames, *grid)), indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, 2).float()


def rows_of(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Tokens (B, K, C) of (B, N, C) by their numbers (B, K)."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[-1]))


class VJEPAMini(nn.Module):
    """Vision transformer over the patches of a clip, or of one frame."""

    name = "vjepa-mini"

    def __init__(self, config: VJEPAMiniConfig) -> None:
        super().__init__()
        self.config = config
        self.grid, self.channels = config.grid, config.dim
        self.frame_size = (config.height, config.width)
        self.patchify = nn.Linear(3 * config.patch**2, config.dim)
        self.blocks = nn.ModuleList(
            RotaryBlock(config.dim, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim)

    def patches(self, clips: Tensor) -> Tensor:
        """Patches (B, T·P, 3·patch²) of clips (B, T, H, W, 3) uint8, values in [-1, 1]."""
        (rows, columns), side = self.grid, self.config.patch
        pixels = to_pixels(clips.flatten(0, 1))  # (B·T, 3, H, W)
        cells = pixels.reshape(len(pixels), 3, rows, side, columns, side)
        cells = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B·T, P, 3·patch²)
        return cells.unflatten(0, clips.shape[:2]).flatten(1, 2)

    def forward(self, clips: Tensor, kept: Tensor | None = None) -> Tensor:
        """Features of a clip's tokens.

        Args:
            clips: (B, T, H, W, 3) uint8.
            kept: numbers (B, K) of the tokens to look at; the others are not computed at all.

        Returns:
            (B, T·P, D) float32, or (B, K, D).
        """
        patches = self.patches(clips)
        coordinates = token_coordinates(clips.shape[1], self.grid).to(patches)
        if kept is not None:
            patches, coordinates = rows_of(patches, kept), coordinates[kept]
            coordinates = coordinates[:, None]  # the same for all heads
        turned_by = rotation(coordinates, self.config.dim // self.config.heads)
        x = self.patchify(patches)
        for block in self.blocks:
            x = block(x, turned_by)
        return self.norm(x).float()

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8, each on its own, into raw latents (B, h, w, D)."""
        check_frames(frames, self.frame_size, self.name)
        return self(frames[:, None]).unflatten(1, self.grid)

    def decode(self, latents: Tensor) -> Tensor:
        """Raise: this space has no decoder of its own (`wm-gym train pixel-decoder` makes one)."""
        raise NoDecoderError(self.name)
