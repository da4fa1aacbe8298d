"""Pixel decoder: a convolutional network from latents (h, w, d) to RGB frames.

Layers keep the names of the released checkpoints, so their state dicts load strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.errors import UserError

CANONICAL_GRID = 16  # attention is placed as if the input were 16 x 16, whatever its size


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Sizes of a pixel decoder, named as in the released configs (read by `from_released`).

    Attributes:
        latent_dim: channels of the latent.
        base_channels: channels of the outermost level.
        channel_multipliers: multiples of `base_channels`, outermost level first.
        num_res_blocks: residual blocks a level.
        attn_resolutions: resolutions whose level ends with attention.
        attn_heads: heads of every attention.
        dropout: dropout inside the residual blocks in training.
        output_activation: how the last layer is brought into [0, 1].
    """

    latent_dim: int = 96
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 4, 8)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    attn_heads: int = 1
    dropout: float = 0.0
    output_activation: Literal["sigmoid", "tanh"] = "sigmoid"

    def __post_init__(self) -> None:
        """Accept lists, as JSON gives them."""
        for name in ("channel_multipliers", "attn_resolutions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.output_activation not in ("sigmoid", "tanh"):
            raise UserError(
                f"output_activation must be 'sigmoid' or 'tanh', got {self.output_activation!r}"
            )

    @classmethod
    def from_released(cls, config: Mapping[str, Any]) -> PixelDecoderConfig:
        """Read a released config, whose defaults depend on what it names.

        Naming either attention key asks for attention at resolution 16 unless it says otherwise; a
        legacy config names none and has attention in the middle only, with one head.
        """
        attended = {"attn_resolutions", "attn_heads"} & config.keys()
        defaults: dict[str, Any] = {"attn_resolutions": (CANONICAL_GRID,)} if attended else {}
        return cls(**defaults | dict(config))

    @property
    def scale(self) -> int:
        """Pixels per latent along each axis."""
        return 2 ** (len(self.channel_multipliers) - 1)


def infer_pixel_decoder_config(
    weights: Mapping[str, Tensor], *, attn_heads: int | None = None
) -> PixelDecoderConfig:
    """Read a pixel decoder's sizes from the shapes of its state dict.

    Args:
        weights: official state dict.
        attn_heads: heads, which shapes do not tell; by default 4 with attention in the levels
            (the released layout) and 1 without (the legacy layout).
    """
    if "proj_in.weight" not in weights or "conv_out.weight" not in weights:
        raise UserError(
            "these weights are no pixel decoder: keys proj_in.* and conv_out.* are expected, "
            f"found {sorted(weights)[:3]}"
        )
    levels = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("up_levels."))
    widths = [
        weights[f"up_levels.{i}.blocks.0.conv1.weight"].shape[0] for i in reversed(range(levels))
    ]
    attended = [i for i in range(levels) if f"up_levels.{i}.attn.q.weight" in weights]
    blocks = {k.split(".")[3] for k in weights if k.startswith("up_levels.0.blocks.")}
    return PixelDecoderConfig(
        latent_dim=weights["proj_in.weight"].shape[1],
        base_channels=widths[0],
        channel_multipliers=tuple(width // widths[0] for width in widths),
        num_res_blocks=len(blocks),
        attn_resolutions=tuple(CANONICAL_GRID * 2**i for i in attended),
        attn_heads=attn_heads or (4 if attended else 1),
    )


class PixelDecoder(nn.Module):
    """Residual and attention blocks, and nearest upsampling.

    Example:
        >>> import torch
        >>> decoder = PixelDecoder(PixelDecoderConfig(8, 16, (1, 2), 1))
        >>> decoder(torch.zeros(1, 4, 4, 8)).shape
        torch.Size([1, 8, 8, 3])
    """

    def __init__(self, cfg: PixelDecoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        widths = [cfg.base_channels * m for m in reversed(cfg.channel_multipliers)]
        self.proj_in = nn.Conv2d(cfg.latent_dim, widths[0], 1)
        self.mid_block1 = _ResidualBlock(widths[0], widths[0], cfg.dropout)
        self.mid_attn = _AttentionBlock(widths[0], cfg.attn_heads)
        self.mid_block2 = _ResidualBlock(widths[0], widths[0], cfg.dropout)
        self.up_levels = nn.ModuleList(
            _Level(
                before,
                width,
                cfg.num_res_blocks,
                dropout=cfg.dropout,
                heads=cfg.attn_heads if CANONICAL_GRID * 2**i in cfg.attn_resolutions else None,
                upsample=i < len(widths) - 1,
            )
            for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode (..., h, w, d) into colours in [0, 1], (..., h * scale, w * scale, 3)."""
        lead = latents.shape[:-3]
        x = latents.reshape(-1, *latents.shape[-3:]).permute(0, 3, 1, 2)  # (B, d, h, w)
        x = self.mid_block2(self.mid_attn(self.mid_block1(self.proj_in(x))))
        for level in self.up_levels:
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(x))).permute(0, 2, 3, 1)
        x = x.sigmoid() if self.cfg.output_activation == "sigmoid" else (x.tanh() + 1) / 2
        return x.reshape(*lead, *x.shape[1:])


class _Level(nn.Module):
    """Residual blocks, optional attention, optional doubling of the resolution."""

    def __init__(
        self,
        before: int,
        width: int,
        count: int,
        *,
        dropout: float,
        heads: int | None,
        upsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _ResidualBlock(before if i == 0 else width, width, dropout) for i in range(count)
        )
        self.attn = None if heads is None else _AttentionBlock(width, heads)
        self.upsample = (
            nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1)}) if upsample else None
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.attn is not None:
            x = self.attn(x)
        if self.upsample is not None:
            x = self.upsample["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1, self.norm2 = _norm(before), _norm(width)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.dropout(F.silu(self.norm2(y)), self.dropout, self.training))
        return self.skip(x) + y


class _AttentionBlock(nn.Module):
    """Attention over all positions of one frame."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = min(heads, width)
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> the same
        y = self.norm(x)
        query, key, value = (
            conv(y).flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)
            for conv in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(x.shape)
        return x + self.proj_out(y)


def _norm(width: int) -> nn.GroupNorm:
    groups = min(32, width)
    if width % groups:
        raise UserError(f"{width} channels are more than 32 and no multiple of 32")
    return nn.GroupNorm(groups, width, eps=1e-6)
