"""The parts the latent DiT is made of: positions, conditions, attention, block, last layer.

Shapes: B batch, F frames (batch and time folded), T time, P patches of one frame, D channels,
N heads, E channels of one head. Attention and norms stay in float32 whatever the linear layers use.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Modulation = tuple[Tensor, ...]
"""Shift, scale and gate of attention, then of the feed-forward, each (..., 1, D)."""

ROPE_BASE = 10_000.0
TIMESTEP_FEATURES = 256


class Linear(nn.Linear):
    """A linear layer that may multiply in bfloat16 while its inputs and outputs stay float32.

    `compute_dtype` is set for a whole network by `DiT.set_linear_dtype`. The cast weights are kept
    between calls as long as no gradient is wanted and the weights do not change.
    """

    compute_dtype: torch.dtype | None = None
    _cast: tuple | None = None

    def multiply(self, x: Tensor) -> Tensor:
        """The layer's output in `compute_dtype`."""
        dtype = self.compute_dtype
        if dtype is None or dtype == self.weight.dtype:
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            bias = None if self.bias is None else self.bias.to(dtype)
            return F.linear(x.to(dtype), self.weight.to(dtype), bias)
        version = (self.weight.data_ptr(), self.weight._version, dtype)
        if self._cast is None or self._cast[0] != version:
            bias = None if self.bias is None else self.bias.to(dtype)
            self._cast = (version, self.weight.to(dtype), bias)
        return F.linear(x.to(dtype), self._cast[1], self._cast[2])

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output in the type of its weights."""
        return self.multiply(x).to(self.weight.dtype)

    def train(self, mode: bool = True) -> Linear:
        """Set the mode, and cast the weights anew at the next call."""
        self._cast = None  # writes through `.data` leave no trace in the version
        return super().train(mode)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_cast"}


def rotation(positions: Tensor, channels: int) -> Tensor:
    """Cosine and sine for rotating adjacent channel pairs at integer positions.

    Angles are computed in float64, so absolute positions may grow without losing precision.

    Args:
        positions: (L,) integer coordinates, negative ones allowed.
        channels: even number of channels to rotate.

    Returns:
        (L, channels / 2, 2) float32.
    """
    exponent = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
    angles = positions.double()[:, None] * ROPE_BASE**-exponent
    return torch.stack([angles.cos(), angles.sin()], -1).float()


def view_axis_split(head_dim: int) -> tuple[int, int, int]:
    """Channels given to height, width and view by the released multi-view positions."""
    view = head_dim // 3 // 2 * 2
    height = (head_dim - view) // 2 // 2 * 2
    width = head_dim - view - height
    if width % 2:  # pragma: no cover - head_dim is even, so is the rest
        width, view = width - 1, view + 1
    return height, width, view


def spatial_rotation(height: int, width: int, head_dim: int, num_views: int = 1) -> Tensor:
    """Rotation of the P = height x width patches of one frame, row-major.

    With several cameras the released code reads the width as (column, view) although latents are
    laid out (view, column); its weights need the same reading: column j stands at width coordinate
    j // num_views and view coordinate j % num_views.

    Returns:
        (P, head_dim / 2, 2) float32.
    """
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    if num_views == 1:
        return torch.cat([rotation(rows, head_dim // 2), rotation(columns, head_dim // 2)], -2)
    split = view_axis_split(head_dim)
    coordinates = (rows, columns // num_views, columns % num_views)
    return torch.cat([rotation(c, n) for c, n in zip(coordinates, split, strict=True)], -2)


def neighbours(height: int, width: int, reach: int) -> Tensor:
    """Which patches lie at most `reach` rows and columns apart: (P, P) bool, row-major."""
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    apart = [(c[:, None] - c).abs() for c in (rows, columns)]
    return torch.maximum(*apart) <= reach


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of (..., E) by rotations that broadcast to (..., E / 2, 2)."""
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, not complex
        (first, second), (cos, sin) = pairs.unbind(-1), rotations.unbind(-1)
        turned = (first * cos - second * sin, first * sin + second * cos)
        return torch.stack(turned, -1).flatten(-2)
    product = torch.view_as_complex(pairs) * torch.view_as_complex(rotations)
    return torch.view_as_real(product).flatten(-2)


def attend_context(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: list[tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Attention of frames to themselves and to stored context, without joining the two in memory.

    Args:
        query: (B, L, M, E), where L = patches x heads and M frames do not see each other.
        key: (B, L, M, E) of the same frames.
        value: (B, L, M, E).
        context: parts of the context, each keys (G, L, S, E), values (G, L, S, E) and an additive
            mask that broadcasts against (B, L, M, S): zero where a frame may attend, else -inf.
            Context row g is shared by B / G consecutive rows.

    Returns:
        (B, L, M, E).
    """
    query = query * query.shape[-1] ** -0.5
    own = (query * key).sum(-1, keepdim=True)  # (B, L, M, 1)
    scores = [_per_group(query, keys.transpose(-1, -2)) + mask for keys, _, mask in context]
    weights = torch.cat([*scores, own], -1).softmax(-1)
    out = weights[..., -1:] * value
    start = 0
    for _, values, _ in context:
        stop = start + values.shape[-2]
        out = out + _per_group(weights[..., start:stop], values)
        start = stop
    return out


def _per_group(rows: Tensor, shared: Tensor) -> Tensor:
    """Matrix product of (B, L, M, I) with (G, L, I, O), one of G for B / G consecutive rows."""
    groups, batch = len(shared), len(rows)
    if groups == batch:
        return torch.matmul(rows, shared)
    frames = rows.shape[-2]
    grouped = rows.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2, 3)
    product = torch.matmul(grouped, shared)  # (G, L, B / G * M, O)
    return product.unflatten(2, (-1, frames)).transpose(1, 2).flatten(0, 1)


def timestep_features(timesteps: Tensor) -> Tensor:
    """Sinusoids of the timestep, cosines first: (...,) -> (..., 256)."""
    half = TIMESTEP_FEATURES // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[..., None] * torch.exp(-math.log(10_000.0) * index / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


def causal_mask(frames: int, band: int | None, *, strict: bool = False) -> Tensor:
    """Which frame (row) may attend to which (column); `strict` leaves out the frame itself.

    Returns:
        (T, T) bool.
    """
    age = torch.arange(frames)[:, None] - torch.arange(frames)
    allowed = age >= (1 if strict else 0)
    return allowed if band is None else allowed & (age < band)


class Attention(nn.Module):
    """Projections and QK-norm; who attends to whom is decided by the caller."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = Linear(dim, 3 * dim, bias=False)
        self.out_proj = Linear(dim, dim)

    def project(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised and rotated queries and keys, and values.

        Args:
            x: (..., D).
            rotations: broadcasts against (..., 1, 1, E / 2, 2).

        Returns:
            Three tensors (..., N, E).
        """
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1))
        query_key = F.rms_norm(qkv[..., :2, :, :], qkv.shape[-1:])
        query_key = rotate(query_key, rotations)
        return query_key[..., 0, :, :], query_key[..., 1, :, :], qkv[..., 2, :, :]


class SwiGLU(nn.Module):
    """Feed-forward with one projection for both halves."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = int(2 * (4 * dim) / 3)
        self.w12 = Linear(dim, 2 * hidden)
        self.w3 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, up = self.w12.multiply(x).chunk(2, -1)  # stays in the layers' compute type
        return self.w3(F.silu(gate) * up)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """RMSNorm without weights, then the scale and shift of the condition."""
    return torch.addcmul(shift, F.rms_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Block(nn.Module):
    """AdaLN block: attention, then SwiGLU, each gated by the condition of the frame."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(dim, 6 * dim))
        self.attn = Attention(dim, heads)
        self.ffwd = SwiGLU(dim)

    def modulation(self, condition: Tensor) -> Modulation:
        """Shift, scale and gate of attention, then of the feed-forward, each (..., 1, D)."""
        return self.adaLN_modulation(condition).unsqueeze(-2).chunk(6, -1)

    def finish(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """Output projection, residuals and feed-forward.

        Args:
            x: (..., P, D).
            attended: (..., P, N, E).
            modulation: from `modulation`.
        """
        _, _, gate1, shift2, scale2, gate2 = modulation
        x = torch.addcmul(x, self.attn.out_proj(attended.flatten(-2)), gate1)
        return torch.addcmul(x, self.ffwd(modulate(x, shift2, scale2)), gate2)

    def spatial(
        self, x: Tensor, modulation: Modulation, rotations: Tensor, near: Tensor | None = None
    ) -> Tensor:
        """Attention over the patches of each frame.

        Args:
            x: (..., P, D).
            modulation: from `modulation`.
            rotations: (P, E / 2, 2).
            near: (P, P) bool, which patches each patch may attend to; None for all.
        """
        normed = modulate(x, modulation[0], modulation[1])
        projected = self.attn.project(normed, rotations[:, None, None])
        query, key, value = (p.flatten(0, -4).transpose(1, 2) for p in projected)  # (F, N, P, E)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=near)
        return self.finish(x, attended.transpose(1, 2).unflatten(0, x.shape[:-2]), modulation)

    def temporal_project(
        self, x: Tensor, modulation: Modulation, rotations: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, (..., L, T, E) views: x (..., T, P, D)."""
        projected = self.attn.project(modulate(x, modulation[0], modulation[1]), rotations)
        query, key, value = (p.flatten(-3, -2).transpose(-3, -2) for p in projected)
        return query, key, value

    def temporal_finish(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """Close a temporal block: attended (..., L, T, E)."""
        heads = attended.transpose(-3, -2).unflatten(-2, (-1, self.attn.heads))
        return self.finish(x, heads, modulation)


class BlockPair(nn.Module):
    """A spatial and a temporal block; the depth of a network counts these."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.s_block = Block(dim, heads)
        self.t_block = Block(dim, heads)


class FinalLayer(nn.Module):
    """RMSNorm under shift and scale, then the projection to one patch of latents."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.linear = Linear(dim, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """X (..., P, D) and condition (..., D) -> (..., P, out)."""
        shift, scale = self.adaLN_modulation(condition).unsqueeze(-2).chunk(2, -1)
        return self.linear(modulate(x, shift, scale))
