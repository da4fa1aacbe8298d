"""Inverse dynamics model: which actions led from frame to frame, read from their latents.

Its correlation with the true actions measures how much of the action a latent keeps, be it encoded
or generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.errors import UserError


@dataclass(frozen=True)
class TransformerIDMConfig:
    """Sizes of a `TransformerIDM`.

    Attributes:
        feature_dim: channels D of a latent.
        spatial_h: latent rows.
        spatial_w: latent columns.
        horizon: actions k that are read from k + 1 frames.
        action_dim: components of an action.
        model_dim: width.
        num_layers: transformer layers.
        num_heads: attention heads.
        dropout: dropout in training.
        max_horizon: actions the temporal positions suffice for; None takes `horizon`.
        patch_size: latents along each axis that form one token.
    """

    feature_dim: int
    spatial_h: int = 16
    spatial_w: int = 16
    horizon: int = 4
    action_dim: int = 7
    model_dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    dropout: float = 0.1
    max_horizon: int | None = None
    patch_size: int = 1


class TransformerIDM(nn.Module):
    """Transformer over k query tokens and the patches of k + 1 latent frames.

    Example:
        >>> cfg = TransformerIDMConfig(8, 4, 4, horizon=1, model_dim=32, num_layers=1, num_heads=2)
        >>> TransformerIDM(cfg)(torch.zeros(3, 2, 4, 4, 8)).shape
        torch.Size([3, 1, 7])
    """

    def __init__(self, cfg: TransformerIDMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        p, dim = cfg.patch_size, cfg.model_dim
        if cfg.spatial_h % p or cfg.spatial_w % p:
            raise UserError(
                f"grid ({cfg.spatial_h}, {cfg.spatial_w}) is no multiple of patch_size {p}"
            )
        patches = (cfg.spatial_h // p) * (cfg.spatial_w // p)
        self.input_proj = nn.Linear(p * p * cfg.feature_dim, dim)
        self.spatial_pos_emb = nn.Parameter(0.02 * torch.randn(patches, dim))
        self.temporal_pos_emb = nn.Parameter(
            0.02 * torch.randn((cfg.max_horizon or cfg.horizon) + 1, dim)
        )
        self.cls_queries = nn.Parameter(0.02 * torch.randn(cfg.horizon, dim))
        self.transformer = nn.ModuleList(
            _Layer(dim, cfg.num_heads, cfg.dropout) for _ in range(cfg.num_layers)
        )
        self.final_norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, cfg.action_dim))

    def forward(self, latents: Tensor) -> Tensor:
        """Read k actions (B, k, A) from latents (B, k + 1, h, w, D), k being `cfg.horizon`.

        Raises:
            ValueError: if the grid, the channels or the number of frames do not fit.
        """
        cfg, k = self.cfg, self.cfg.horizon
        expected = (k + 1, cfg.spatial_h, cfg.spatial_w, cfg.feature_dim)
        if tuple(latents.shape[1:]) != expected:
            raise UserError(
                f"latents have shape {tuple(latents.shape)}, expected "
                f"(B, {', '.join(map(str, expected))}): horizon + 1 frames, rows, columns, channels"
            )
        x = _patchify(latents, cfg.patch_size)  # (B, T, P, p * p * D)
        x = self.input_proj(F.rms_norm(x, x.shape[-1:], eps=1e-6))
        x = x + self.spatial_pos_emb + self.temporal_pos_emb[: k + 1, None]
        queries = self.cls_queries.expand(len(x), -1, -1)
        x = torch.cat([queries, x.flatten(1, 2)], dim=1)
        for layer in self.transformer:
            x = layer(x)
        return self.head(self.final_norm(x[:, :k]))


def action_correlation(found: Tensor, truth: Tensor) -> dict[str, Any]:
    """Pearson's r between actions that were read and those that were taken.

    Args:
        found: (N, ..., A).
        truth: the same shape.

    Returns:
        `by_component`, A values, None where the true component never changes, and 0 where only the
        one that was read does not; `pearson`, the mean of those that are not None, NaN without any.
    """
    pairs = zip(found.flatten(0, -2).T.double(), truth.flatten(0, -2).T.double(), strict=True)
    rows: list[float | None] = []
    for read, taken in pairs:
        read, taken = read - read.mean(), taken - taken.mean()
        if float(taken.norm()) <= 1e-9:
            rows.append(None)
        else:
            rows.append(float(read @ taken / taken.norm() / read.norm().clamp(min=1e-9)))
    known = [r for r in rows if r is not None]
    return {"pearson": sum(known) / len(known) if known else math.nan, "by_component": rows}


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict(
            {"qkv_proj": nn.Linear(dim, 3 * dim), "out_proj": nn.Linear(dim, dim)}
        )
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D) -> (B, N, D)
        qkv = self.attn["qkv_proj"](self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        x = x + self.attn["out_proj"](y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def _patchify(latents: Tensor, p: int) -> Tensor:
    """Cut (B, T, h, w, D) into patches (B, T, P, p * p * D), order (p1 p2 D)."""
    batch, frames, h, w, d = latents.shape
    x = latents.reshape(batch, frames, h // p, p, w // p, p, d)
    return x.permute(0, 1, 2, 4, 3, 5, 6).reshape(batch, frames, -1, p * p * d)
