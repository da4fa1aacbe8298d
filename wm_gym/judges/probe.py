"""Success probe: does a clip of latents show the instructed outcome? One logit per clip."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.errors import UserError


@dataclass(frozen=True)
class SpatiotemporalProbeConfig:
    """Sizes of a `SpatiotemporalProbe`.

    Attributes:
        feature_dim: channels D of a latent.
        n_frames: frames T of a clip.
        n_heads: attention heads.
        pool_mode: "super_patch_<rows>x<columns>", the grid every frame is averaged down to.
        num_layers: blocks.
        model_dim: width.
        text_dim: channels of the text tokens.
        text_dropout: dropout of the text tokens in training.
        dropout: dropout of attention and feed-forward in training.
    """

    feature_dim: int
    n_frames: int = 10
    n_heads: int = 8
    pool_mode: str = "super_patch_4x4"
    num_layers: int = 6
    model_dim: int = 384
    text_dim: int = 1152
    text_dropout: float = 0.1
    dropout: float = 0.1

    @property
    def pooled(self) -> tuple[int, int]:
        """Rows and columns after pooling."""
        match = re.fullmatch(r"super_patch_(\d+)x(\d+)", self.pool_mode)
        if match is None:
            raise UserError(
                f"pool_mode {self.pool_mode!r} is unknown; expected super_patch_4x4 or the like"
            )
        return int(match[1]), int(match[2])


class SpatiotemporalProbe(nn.Module):
    """Attention in space, in time (both ways) and to the words of an instruction.

    Example:
        >>> cfg = SpatiotemporalProbeConfig(8, n_frames=2, n_heads=2, model_dim=16, text_dim=4)
        >>> SpatiotemporalProbe(cfg)(torch.zeros(3, 2, 8, 8, 8)).shape
        torch.Size([3])
    """

    def __init__(self, cfg: SpatiotemporalProbeConfig) -> None:
        super().__init__()
        self.cfg = cfg
        rows, columns = cfg.pooled
        dim = cfg.model_dim
        self.input_proj = nn.Linear(cfg.feature_dim, dim)
        self.text_proj = nn.Linear(cfg.text_dim, dim)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.temporal_embed = nn.Parameter(0.02 * torch.randn(1, cfg.n_frames, 1, dim))
        self.spatial_embed = nn.Parameter(0.02 * torch.randn(1, 1, rows * columns, dim))
        self.blocks = nn.ModuleList(
            _Block(dim, cfg.n_heads, cfg.dropout) for _ in range(cfg.num_layers)
        )
        self.head = nn.Linear(dim, 1)

    def forward(
        self, latents: Tensor, text_tokens: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Score clips.

        Args:
            latents: (B, T, h, w, D).
            text_tokens: (B, L, text_dim), or None to leave the instruction out.
            text_mask: (B, L) bool, True where a token is real; a row may have none.

        Returns:
            Logits (B,) of success.

        Raises:
            ValueError: if the clip length or the channels do not fit.
        """
        cfg = self.cfg
        if latents.shape[1] != cfg.n_frames or latents.shape[-1] != cfg.feature_dim:
            raise UserError(
                f"latents have shape {tuple(latents.shape)}, expected (B, {cfg.n_frames}, h, w, "
                f"{cfg.feature_dim})"
            )
        batch, frames = latents.shape[:2]
        pooled = F.adaptive_avg_pool2d(latents.flatten(0, 1).permute(0, 3, 1, 2), cfg.pooled)
        x = _norm(pooled.flatten(2).transpose(1, 2))  # (B * T, P, D)
        x = self.input_proj(x).unflatten(0, (batch, frames))
        x = x + self.temporal_embed + self.spatial_embed  # (B, T, P, D)
        text = None
        if text_tokens is not None:
            text = _norm(self.text_proj(text_tokens))  # (B, L, D)
            text = F.dropout(text, cfg.text_dropout, self.training)
        cls = self.cls_token.expand(batch, -1, -1)
        for block in self.blocks:
            cls, x = block(cls, x, text, text_mask)
        return self.head(_norm(x).mean(dim=(1, 2))).squeeze(-1)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.spatial_attn = _Attention(dim, heads, dropout)
        self.temporal_attn = _Attention(dim, heads, dropout)
        self.cross_attn = _Attention(dim, heads, dropout)
        self.ffn = _SwiGLU(dim)

    def forward(
        self, cls: Tensor, x: Tensor, text: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update the CLS token (B, 1, D) and the patches (B, T, P, D)."""
        batch, frames, patches, _ = x.shape
        y = _norm(x).flatten(0, 1)  # (B * T, P, D)
        x = x + self.spatial_attn(y, y).unflatten(0, (batch, frames))
        y = _norm(x).transpose(1, 2).flatten(0, 1)  # (B * P, T, D)
        x = x + self.temporal_attn(y, y).unflatten(0, (batch, patches)).transpose(1, 2)
        tokens = torch.cat([cls, x.flatten(1, 2)], dim=1)
        if text is not None:
            tokens = tokens + self.cross_attn(_norm(tokens), text, mask)
        tokens = tokens + F.dropout(self.ffn(_norm(tokens)), self.dropout, self.training)
        return tokens[:, :1], tokens[:, 1:].unflatten(1, (frames, patches))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from x (B, N, D) to source (B, L, D); rows of the mask may be empty."""
        query, key, value = (
            proj(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj, y in ((self.q_proj, x), (self.k_proj, source), (self.v_proj, source))
        )
        query, key = (F.rms_norm(y, y.shape[-1:]) for y in (query, key))
        visible = None
        if mask is not None:
            empty = ~mask.bool().any(dim=1)
            # without a real token softmax has nothing to weigh: let such rows read zeros instead
            value = value.masked_fill(empty[:, None, None, None], 0.0)
            visible = (mask.bool() | empty[:, None])[:, None, None]
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, visible, dropout_p=rate)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class _SwiGLU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 2 * 4 * dim // 3
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)
