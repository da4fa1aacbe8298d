"""vae-mini: a small reconstruction autoencoder, a vision transformer with a KL bottleneck.

Trained by `wm-gym train autoencoder`. It patchifies, because convolutions at full resolution are
the
slow way on a CPU. Encoder and decoder attend across patches, and the last layer paints overlapping
squares, so that no seam shows where two patches meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from wm_gym.errors import UserError

FINE_PIXELS = 4
"""Pixels of a fine cell per axis."""


@dataclass(frozen=True)
class VAEMiniConfig:
    """Sizes of `VAEMini`.

    Attributes:
        height: frame height in pixels.
        width: frame width in pixels.
        patch: pixels per latent cell and axis.
        overlap: pixels by which the encoder's and decoder's squares reach over a cell on each side.
        channels: D of the latents.
        dim: transformer width.
        encoder_depth: encoder blocks.
        decoder_depth: decoder blocks.
        heads: attention heads.
        fine: channels of the decoder's convolutions on fine cells; 0 leaves them out, and a cell's
            picture is a linear image of its token.
        same_everywhere: the encoder does not know which cell it encodes: what looks alike, bare
            table included, has the same latents in every cell. A transition network that sees only
            neighbouring cells needs this. False, as in models of before, encodes the place too.
    """

    height: int = 96
    width: int = 96
    patch: int = 12
    overlap: int = 4
    channels: int = 16
    dim: int = 128
    encoder_depth: int = 2
    decoder_depth: int = 3
    heads: int = 4
    fine: int = 0
    same_everywhere: bool = False

    def __post_init__(self) -> None:
        """Check that patches tile the frame and heads divide the width."""
        if self.height % self.patch or self.width % self.patch:
            raise UserError(
                f"frame {self.height}x{self.width} is not a multiple of patch {self.patch}; "
                "choose a patch that divides both"
            )
        if self.fine and self.patch % FINE_PIXELS:
            raise UserError(
                f"patch {self.patch} is not a multiple of the {FINE_PIXELS} pixels of a fine cell; "
                "choose such a patch or fine=0"
            )
        if self.dim % self.heads:
            raise UserError(f"dim {self.dim} is not a multiple of heads {self.heads}")

    @property
    def grid(self) -> tuple[int, int]:
        """Latent rows and columns."""
        return self.height // self.patch, self.width // self.patch


class Block(nn.Module):
    """Pre-norm transformer block over the patches of one frame."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend and transform tokens (B, P, dim)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class FinePainter(nn.Module):
    """Tokens to pixels through a grid of fine cells, and how far each pixel is background.

    An edge at any place is no linear image of a token; left to a linear map alone, objects are
    surrounded by coloured noise.
    """

    def __init__(self, config: VAEMiniConfig) -> None:
        super().__init__()
        fine, self.ratio = config.fine, config.patch // FINE_PIXELS
        self.spread = nn.Linear(config.dim, fine * self.ratio**2)
        self.shapes = nn.Conv2d(fine, fine, 3, padding=1)
        self.edges = nn.Conv2d(fine, fine, 3, padding=1)
        self.paint = nn.ConvTranspose2d(fine, 4, 2 * FINE_PIXELS, FINE_PIXELS, FINE_PIXELS // 2)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, P, dim) -> (B, 3, H, W), the difference to the background."""
        cells = self.spread(tokens).transpose(1, 2).unflatten(2, grid)
        cells = F.gelu(F.pixel_shuffle(cells, self.ratio))
        cells = cells + F.gelu(self.shapes(cells))
        cells = cells + F.gelu(self.edges(cells))
        painted = self.paint(cells).float()
        return painted[:, :3] * painted[:, 3:].sigmoid()


class VAEMini(nn.Module):
    """Reconstruction autoencoder with a diagonal Gaussian bottleneck."""

    name = "vae-mini"
    background: torch.Tensor

    def __init__(self, config: VAEMiniConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.channels = config.channels
        rows, columns = config.grid
        kernel = config.patch + 2 * config.overlap
        self.patchify = nn.Conv2d(3, config.dim, kernel, config.patch, config.overlap)
        places = 1 if config.same_everywhere else rows * columns
        self.encoder_position = nn.Parameter(torch.randn(places, config.dim) * 0.02)
        self.encoder = nn.Sequential(
            *(Block(config.dim, config.heads) for _ in range(config.encoder_depth))
        )
        self.to_moments = nn.Sequential(
            nn.LayerNorm(config.dim), nn.Linear(config.dim, 2 * config.channels)
        )
        self.from_latent = nn.Linear(config.channels, config.dim)
        self.decoder_position = nn.Parameter(torch.randn(rows * columns, config.dim) * 0.02)
        self.decoder = nn.Sequential(
            *(Block(config.dim, config.heads) for _ in range(config.decoder_depth))
        )
        self.norm = nn.LayerNorm(config.dim)
        if config.fine:
            self.fine_painter = FinePainter(config)
        else:
            self.unpatchify = nn.ConvTranspose2d(
                config.dim, 3, kernel, config.patch, config.overlap
            )
        # the mean training frame; the network paints the difference to it
        self.register_buffer("background", torch.zeros(3, config.height, config.width))

    def moments(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance, (B, h, w, D) each, of pixels (B, 3, H, W) in [-1, 1]."""
        tokens = self.patchify(pixels - self.background).flatten(2).transpose(1, 2)
        tokens = self.encoder(tokens + self.encoder_position)
        mean, log_variance = self.to_moments(tokens).float().chunk(2, dim=-1)
        log_variance = log_variance.clamp(-12.0, 4.0)
        return mean.unflatten(1, self.grid), log_variance.unflatten(1, self.grid)

    def paint(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W), about [-1, 1] and not clipped, of raw latents (B, h, w, D)."""
        tokens = self.from_latent(latents.flatten(1, 2)) + self.decoder_position
        tokens = self.norm(self.decoder(tokens))
        if self.config.fine:
            painted = self.fine_painter(tokens, self.grid)
        else:
            painted = self.unpatchify(tokens.transpose(1, 2).unflatten(2, self.grid)).float()
        return painted + self.background

    @torch.inference_mode()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D), the posterior mean."""
        return self.moments(to_pixels(frames))[0]

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode raw latents (B, h, w, D) into frames (B, H, W, 3) uint8."""
        return to_frames(self.paint(latents))


def to_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Turn uint8 frames (B, H, W, 3) into pixels (B, 3, H, W) in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_frames(pixels: torch.Tensor) -> torch.Tensor:
    """Turn pixels (B, 3, H, W) into uint8 frames (B, H, W, 3), clipping to [-1, 1]."""
    levels = (pixels.clamp(-1.0, 1.0) + 1.0) * 127.5
    return levels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
