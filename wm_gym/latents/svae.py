"""S-VAE: the adapter that compresses a wide semantic latent (D = 1024 or 1152) to d = 96 channels.

Layers keep the names of the released checkpoints, so their state dicts load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.errors import UserError


@dataclass(frozen=True)
class SVAEConfig:
    """Sizes of an S-VAE, named as in the `adapter_config` of the released checkpoints.

    Attributes:
        input_dim: channels D of the wide latent.
        latent_dim: channels d of the compressed latent.
        num_heads: attention heads at width D; no shape tells it.
        num_layers: layers on each side.
        intermediate_size: width of the feed-forward layers at width D.
        progressive: narrow D -> mid_dim -> d, the last layer running at `mid_dim`.
        mid_dim: width of the middle stage; None takes int(sqrt(D * d)).
        mid_heads: heads of the middle stage; None takes the most up to 16 that divide its width.
        latent_layers: layers at width d, after the Gaussian and before the decoder.
        latent_heads: heads of those; None takes the most up to 8 that divide d.
    """

    input_dim: int
    latent_dim: int = 96
    num_heads: int = 16
    num_layers: int = 3
    intermediate_size: int = 2048
    progressive: bool = False
    mid_dim: int | None = None
    mid_heads: int | None = None
    latent_layers: int = 0
    latent_heads: int | None = None

    def middle(self) -> tuple[int, int]:
        """Width and heads of the middle stage of a progressive S-VAE."""
        width = self.mid_dim or int(math.sqrt(self.input_dim * self.latent_dim))
        heads = self.mid_heads or _most_heads(width, 16)
        return width // heads * heads, heads


def infer_svae_config(weights: Mapping[str, Tensor], *, num_heads: int = 16) -> SVAEConfig:
    """Read an S-VAE's sizes from the shapes of its state dict.

    Args:
        weights: official state dict.
        num_heads: heads at width D, which shapes do not tell.
    """
    high = _count_layers(weights, "enc_blocks")
    progressive = "enc_down.weight" in weights
    first = "enc_blocks.0.intermediate.dense.weight"
    if first not in weights or "dec_proj.weight" not in weights:
        raise UserError(
            f"these weights are no S-VAE: keys enc_blocks.* and dec_proj.* are expected, "
            f"found {sorted(weights)[:3]}"
        )
    return SVAEConfig(
        input_dim=weights[first].shape[1],
        latent_dim=weights["dec_proj.weight"].shape[1],
        num_heads=num_heads,
        num_layers=high + 1 if progressive else high,
        intermediate_size=weights[first].shape[0],
        progressive=progressive,
        mid_dim=weights["enc_down.weight"].shape[0] if progressive else None,
        latent_layers=_count_layers(weights, "latent_enc_blocks"),
    )


class SVAE(nn.Module):
    """Variational autoencoder over the tokens of one frame, without positions.

    Example:
        >>> svae = SVAE(SVAEConfig(input_dim=32, latent_dim=4, num_heads=2, intermediate_size=64))
        >>> svae.decode(svae.encode(torch.zeros(2, 4, 4, 32))).shape
        torch.Size([2, 4, 4, 32])
    """

    def __init__(self, cfg: SVAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        wide, narrow = cfg.input_dim, cfg.latent_dim
        high = max(1, cfg.num_layers - 1) if cfg.progressive else cfg.num_layers
        inner = wide

        def wide_layers() -> nn.ModuleList:
            return _layers(high, wide, cfg.num_heads, cfg.intermediate_size)

        self.enc_blocks, self.dec_blocks = wide_layers(), wide_layers()
        if cfg.progressive:
            inner, heads = cfg.middle()
            self.enc_norm_high = nn.LayerNorm(wide)
            self.enc_down = nn.Linear(wide, inner)
            self.enc_blocks_mid = _layers(1, inner, heads, 4 * inner)
            self.dec_blocks_mid = _layers(1, inner, heads, 4 * inner)
            self.dec_norm_mid = nn.LayerNorm(inner)
            self.dec_up = nn.Linear(inner, wide)
        self.enc_norm = nn.LayerNorm(inner)
        self.enc_proj = nn.Linear(inner, 2 * narrow)
        self.dec_proj = nn.Linear(narrow, inner)
        self.dec_norm = nn.LayerNorm(wide)
        if cfg.latent_layers:
            heads = cfg.latent_heads or _most_heads(narrow, 8)
            self.latent_enc_blocks = _layers(cfg.latent_layers, narrow, heads, 4 * narrow)
            self.latent_enc_norm = nn.LayerNorm(narrow)
            self.latent_dec_blocks = _layers(cfg.latent_layers, narrow, heads, 4 * narrow)
            self.latent_dec_norm = nn.LayerNorm(narrow)

    def moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (..., h, w, d), of wide latents (..., h, w, D)."""
        x, grid = _as_tokens(latents)
        x = _run(self.enc_blocks, x)
        if self.cfg.progressive:
            x = _run(self.enc_blocks_mid, self.enc_down(self.enc_norm_high(x)))
        mean, logvar = self.enc_proj(self.enc_norm(x)).chunk(2, dim=-1)
        return mean.reshape(*grid, -1), logvar.reshape(*grid, -1)

    def refine(self, narrow: Tensor) -> Tensor:
        """Apply the layers at width d that follow the Gaussian; (..., h, w, d) keeps its shape."""
        if not self.cfg.latent_layers:
            return narrow
        x, grid = _as_tokens(narrow)
        return self.latent_enc_norm(_run(self.latent_enc_blocks, x)).reshape(*grid, -1)

    def encode(self, latents: Tensor) -> Tensor:
        """Compress (..., h, w, D) to (..., h, w, d), deterministically: the mean, not a sample."""
        return self.refine(self.moments(latents)[0])

    def decode(self, narrow: Tensor) -> Tensor:
        """Expand (..., h, w, d) to (..., h, w, D)."""
        x, grid = _as_tokens(narrow)
        if self.cfg.latent_layers:
            x = self.latent_dec_norm(_run(self.latent_dec_blocks, x))
        x = self.dec_proj(x)
        if self.cfg.progressive:
            x = self.dec_up(self.dec_norm_mid(_run(self.dec_blocks_mid, x)))
        return self.dec_norm(_run(self.dec_blocks, x)).reshape(*grid, -1)


class _Layer(nn.Module):
    """Pre-LN transformer layer with the module tree of transformers' ViTMAELayer."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        heads_in = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value")})
        heads_out = nn.ModuleDict({"dense": nn.Linear(dim, dim)})
        self.attention = nn.ModuleDict({"attention": heads_in, "output": heads_out})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, dim)})
        self.layernorm_before = nn.LayerNorm(dim, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:  # (B, P, D) -> (B, P, D)
        y = self.layernorm_before(x)
        query, key, value = (
            self.attention.get_submodule(f"attention.{name}")(y)
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.attention.get_submodule("output.dense")(y)
        y = F.gelu(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.output["dense"](y)


def _layers(count: int, dim: int, heads: int, hidden: int) -> nn.ModuleList:
    if dim % heads:
        raise UserError(f"width {dim} is no multiple of {heads} heads; give another num_heads")
    return nn.ModuleList(_Layer(dim, heads, hidden) for _ in range(count))


def _run(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _as_tokens(latents: Tensor) -> tuple[Tensor, torch.Size]:
    """Reshape (..., h, w, D) to (B, P, D), each frame on its own, and give the leading shape."""
    grid = latents.shape[:-1]
    return latents.reshape(-1, grid[-2] * grid[-1], latents.shape[-1]), grid


def _most_heads(width: int, limit: int) -> int:
    return max(heads for heads in range(1, limit + 1) if width % heads == 0)


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    found = {key.split(".")[1] for key in weights if key.startswith(f"{prefix}.")}
    return len(found)
