"""KL-VAE of the latent-diffusion (LDM) family, with that family's state-dict names."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class KLVAEConfig:
    """Sizes of a `KLVAE`; the defaults are VA-VAE f16d32.

    Attributes:
        embed_dim: latent channels.
        ch: channels of the outermost level.
        ch_mult: multiples of `ch`, outermost level first; every level but the last halves the size.
        num_res_blocks: residual blocks a level (one more in the decoder).
        attn_resolutions: resolutions with attention, counted from `resolution`.
        resolution: nominal frame side, which places the attention.
    """

    embed_dim: int = 32
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256

    @property
    def scale(self) -> int:
        """Pixels per latent along each axis."""
        return 2 ** (len(self.ch_mult) - 1)

    def has_attention(self, level: int) -> bool:
        """Whether a level, counted from the outermost, has attention after its blocks."""
        return self.resolution // 2**level in self.attn_resolutions


class KLVAE(nn.Module):
    """Encoder to the moments of a diagonal Gaussian, and decoder."""

    def __init__(self, cfg: KLVAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder, self.decoder = _Encoder(cfg), _Decoder(cfg)
        self.quant_conv = nn.Conv2d(2 * cfg.embed_dim, 2 * cfg.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(cfg.embed_dim, cfg.embed_dim, 1)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, d, h, w) of pixels (B, 3, H, W) in [-1, 1]."""
        mean, logvar = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), about [-1, 1], of latents (B, d, h, w)."""
        return self.decoder(self.post_quant_conv(latents))


class _Encoder(nn.Module):
    def __init__(self, cfg: KLVAEConfig) -> None:
        super().__init__()
        widths = [cfg.ch * m for m in cfg.ch_mult]
        self.conv_in = nn.Conv2d(3, cfg.ch, 3, padding=1)
        self.down = nn.ModuleList(
            _Level(
                before,
                width,
                cfg.num_res_blocks,
                attention=cfg.has_attention(i),
                resample="downsample" if i < len(widths) - 1 else None,
            )
            for i, (before, width) in enumerate(zip([cfg.ch, *widths], widths, strict=False))
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * cfg.embed_dim, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class _Decoder(nn.Module):
    def __init__(self, cfg: KLVAEConfig) -> None:
        super().__init__()
        widths = [cfg.ch * m for m in cfg.ch_mult]
        self.conv_in = nn.Conv2d(cfg.embed_dim, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        # up[0] is the outermost level and runs last
        self.up = nn.ModuleList(
            _Level(
                before,
                width,
                cfg.num_res_blocks + 1,
                attention=cfg.has_attention(i),
                resample="upsample" if i else None,
            )
            for i, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Level(nn.Module):
    def __init__(
        self, before: int, width: int, count: int, *, attention: bool, resample: str | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResidualBlock(before if i == 0 else width, width) for i in range(count)
        )
        self.attn = nn.ModuleList(_AttentionBlock(width) for _ in range(count if attention else 0))
        self.resample = resample
        if resample is not None:
            down = resample == "downsample"
            conv = nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=0 if down else 1)
            self.add_module(resample, nn.ModuleDict({"conv": conv}))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        if self.resample == "downsample":  # the padding is on the right and at the bottom only
            x = self.get_submodule("downsample.conv")(F.pad(x, (0, 1, 0, 1)))
        elif self.resample == "upsample":
            x = self.get_submodule("upsample.conv")(
                F.interpolate(x, scale_factor=2.0, mode="nearest")
            )
        return x


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = _ResidualBlock(width, width), _ResidualBlock(width, width)
        self.attn_1 = _AttentionBlock(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(before), _norm(width)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class _AttentionBlock(nn.Module):
    """Attention with one head over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key, value = (
            conv(y).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(y)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)
