"""A U-Net over time that denoises a chunk of actions under a condition (arXiv:2303.04137, sec. 3).

Modules have the names that LeRobot's diffusion policy gives them, so that its weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.embeddings import Timesteps
from torch import nn


class ConvBlock(nn.Module):
    """Convolution over time, group normalisation and Mish: (B, D_in, T) to (B, D_out, T)."""

    def __init__(self, inside: int, outside: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(inside, outside, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(groups, outside),
            nn.Mish(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the three."""
        return self.block(x)


class FiLMBlock(nn.Module):
    """Two convolution blocks with a residual; the condition shifts and scales what lies between.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        condition: size of the condition.
        kernel_size: steps a convolution spans.
        groups: of the group normalisation.
        scale: whether the condition scales as well as shifts (FiLM, arXiv:1709.07871).
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        condition: int,
        *,
        kernel_size: int,
        groups: int,
        scale: bool,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = ConvBlock(inside, outside, kernel_size, groups)
        self.cond_encoder = nn.Sequential(
            nn.Mish(), nn.Linear(condition, 2 * outside if scale else outside)
        )
        self.conv2 = ConvBlock(outside, outside, kernel_size, groups)
        same = inside == outside
        self.residual_conv = nn.Identity() if same else nn.Conv1d(inside, outside, 1)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Maps (B, D_in, T) and (B, C) to (B, D_out, T)."""
        hidden = self.conv1(x)
        modulation = self.cond_encoder(condition)[:, :, None]
        if self.scale:
            gain, bias = modulation.chunk(2, dim=1)
            hidden = gain * hidden + bias
        else:
            hidden = hidden + modulation
        return self.conv2(hidden) + self.residual_conv(x)


class ConditionalUnet1D(nn.Module):
    """Predicts what the noise in a chunk of actions is, or the chunk without it.

    Args:
        action_size: A, components of an action.
        condition: C, size of the condition.
        down_dims: channels by level; every level after the first has half the steps.
        kernel_size: steps a convolution spans.
        groups: of the group normalisations; must divide all `down_dims`.
        time_embedding: size of the diffusion time's embedding.
        scale: see `FiLMBlock`.
    """

    def __init__(
        self,
        action_size: int,
        condition: int,
        *,
        down_dims: Sequence[int],
        kernel_size: int,
        groups: int,
        time_embedding: int,
        scale: bool,
    ) -> None:
        super().__init__()
        self.diffusion_step_encoder = nn.Sequential(
            Timesteps(time_embedding, flip_sin_to_cos=False, downscale_freq_shift=1),
            nn.Linear(time_embedding, 4 * time_embedding),
            nn.Mish(),
            nn.Linear(4 * time_embedding, time_embedding),
        )

        def block(inside: int, outside: int) -> FiLMBlock:
            return FiLMBlock(
                inside,
                outside,
                time_embedding + condition,
                kernel_size=kernel_size,
                groups=groups,
                scale=scale,
            )

        levels = list(zip((action_size, *down_dims), down_dims, strict=False))
        self.down_modules = nn.ModuleList()
        for number, (inside, outside) in enumerate(levels, 1):
            half = nn.Conv1d(outside, outside, 3, 2, 1) if number < len(levels) else nn.Identity()
            self.down_modules.append(
                nn.ModuleList([block(inside, outside), block(outside, outside), half])
            )
        deepest = down_dims[-1]
        self.mid_modules = nn.ModuleList([block(deepest, deepest), block(deepest, deepest)])
        self.up_modules = nn.ModuleList()
        for inside, outside in reversed(levels[1:]):
            double = nn.ConvTranspose1d(inside, inside, 4, 2, 1)
            # twice the channels: what the way down left at this level comes along
            self.up_modules.append(
                nn.ModuleList([block(2 * outside, inside), block(inside, inside), double])
            )
        first = down_dims[0]
        self.final_conv = nn.Sequential(
            ConvBlock(first, first, kernel_size, groups), nn.Conv1d(first, action_size, 1)
        )

    def forward(
        self, actions: torch.Tensor, times: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """One pass.

        Args:
            actions: noisy chunks, (B, T, A).
            times: diffusion time of each, (B,).
            condition: (B, C).

        Returns:
            The prediction, (B, T, A).
        """
        x = actions.transpose(1, 2)
        known = torch.cat([self.diffusion_step_encoder(times), condition], dim=1)
        skipped: list[torch.Tensor] = []
        for level in self.down_modules:
            first, second, half = level.children()
            x = second(first(x, known), known)
            skipped.append(x)
            x = half(x)
        for middle in self.mid_modules:
            x = middle(x, known)
        for level in self.up_modules:
            first, second, double = level.children()
            x = torch.cat([x, skipped.pop()], dim=1)
            x = double(second(first(x, known), known))
        return self.final_conv(x).transpose(1, 2)
