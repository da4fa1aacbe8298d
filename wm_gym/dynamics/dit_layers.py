"""Layers of the latent DiT, and one pass of tokens through its blocks.

Frames see each other only in two places here: `_causal` runs whole clips, `_against_context` runs
frames that each see stored keys and values and themselves. How a model is trained and rolled out
with them is `wm_gym.dynamics.dit`.

Shapes: B batch, T time, h w the latent grid, C latent channels, P patches = h·w / patch²,
D width, N heads, E = D / N, L = P·N.
"""

from __future__ import annotations

from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.dynamics.attention import (
    TIMESTEP_FEATURES,
    Block,
    BlockPair,
    FinalLayer,
    Linear,
    Modulation,
    attend_context,
    causal_mask,
    modulate,
    neighbours,
    rotation,
    spatial_rotation,
    timestep_features,
)
from wm_gym.dynamics.dit_config import DiTConfig
from wm_gym.errors import UserError

LayerKV = tuple[Tensor, Tensor]
"""Keys, rotated at absolute positions, and values of one temporal layer, each (B, L, T, E)."""

ContextPart = tuple[list[LayerKV], Tensor]
"""Keys and values of every layer, (G, L, S, E), and one additive mask for (G, 1, M, S)."""


class DiTLayers(nn.Module):
    """What the latent DiT is made of, under the names of the published state dicts.

    Args:
        config: its shape.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch
        self.x_proj = nn.Conv2d(config.channels, dim, kernel_size=patch, stride=patch)
        self.timestep_mlp = nn.Sequential(
            Linear(TIMESTEP_FEATURES, dim), nn.SiLU(), Linear(dim, dim)
        )
        self.action_embedder = Linear(config.action_width, dim)
        self.blocks = nn.ModuleList(BlockPair(dim, config.heads) for _ in range(config.depth))
        out = patch * patch * config.channels
        if config.head == "wide":
            self.s_projector = Linear(dim, config.wide_dim)
            self.head_final_layer = FinalLayer(config.wide_dim, out)
        else:
            self.final_layer = FinalLayer(dim, out)
        self._rotations: dict[tuple, Tensor] = {}
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for linear layers; modulation and output are zero: blocks start as identity."""
        for name, parameter in self.named_parameters():
            zero = "adaLN_modulation" in name or "final_layer" in name or name.endswith("bias")
            if zero:
                nn.init.zeros_(parameter)
            elif "timestep_mlp" in name or "action_embedder" in name:
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter.flatten(1))

    def set_linear_dtype(self, dtype: torch.dtype | None) -> Self:
        """Multiply in `dtype` inside linear layers (None: as the weights), all else as before."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.compute_dtype = dtype
        return self

    @property
    def _pairs(self) -> list[BlockPair]:
        return cast("list[BlockPair]", list(self.blocks))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.x_proj.weight.device

    def _embed(self, latents: Tensor) -> Tensor:
        """(..., h, w, C) -> (..., P, D)."""
        frames = latents.flatten(0, -4).permute(0, 3, 1, 2)
        tokens = self.x_proj(frames).flatten(2).transpose(1, 2)
        return tokens.unflatten(0, latents.shape[:-3])

    def _conditions(self, timesteps: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Condition of the timestep alone, and with the action: each (..., D)."""
        time = self.timestep_mlp(timestep_features(timesteps))
        return time, time + self.action_embedder(actions)

    def _head(self, x: Tensor, time: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        """(..., P, D) -> (..., h, w, C)."""
        if self.config.head == "wide":
            wide = self.s_projector(F.silu(x + time.unsqueeze(-2)))
            out = self.head_final_layer(wide, wide.mean(-2))
        else:
            out = self.final_layer(x, condition)
        patch, (height, width) = self.config.patch, grid
        out = out.unflatten(-1, (patch, patch, -1)).unflatten(-4, (height // patch, width // patch))
        return out.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)  # (h/p, w/p, p, p, C)

    def _spatial_rotation(self, grid: tuple[int, int]) -> Tensor:
        key = ("space", grid, self.device)
        if key not in self._rotations:
            height, width = (side // self.config.patch for side in grid)
            rotations = spatial_rotation(height, width, self.config.head_dim, self.config.num_views)
            self._rotations[key] = rotations.to(self.device)
        return self._rotations[key]

    def _near(self, grid: tuple[int, int]) -> Tensor | None:
        """Which patches of a frame see each other, (P, P) bool; None if all do."""
        reach = self.config.neighbourhood
        if reach is None:
            return None
        key = ("near", grid, self.device)
        if key not in self._rotations:
            height, width = (side // self.config.patch for side in grid)
            self._rotations[key] = neighbours(height, width, reach).to(self.device)
        return self._rotations[key]

    def _temporal_rotation(self, start: int, frames: int) -> Tensor:
        positions = torch.arange(start, start + frames)
        return rotation(positions, self.config.head_dim)[:, None, None, None].to(self.device)

    def _check(self, latents: Tensor, timesteps: Tensor, actions: Tensor) -> tuple[int, int]:
        config = self.config
        height, width, channels = latents.shape[-3:]
        if channels != config.channels or height % config.patch or width % config.patch:
            raise UserError(
                f"latents end in {(height, width, channels)}, but this network takes "
                f"{config.channels} channels last and a grid divisible by {config.patch}"
            )
        lead = latents.shape[:-3]
        if timesteps.shape != lead or actions.shape != (*lead, config.action_width):
            raise UserError(
                f"latents {tuple(latents.shape)} need timesteps {tuple(lead)} and actions "
                f"{(*lead, config.action_width)}, got {tuple(timesteps.shape)} and "
                f"{tuple(actions.shape)}"
            )
        return height, width

    def _modulations(self, condition: Tensor) -> list[tuple[Modulation, Modulation]]:
        """Modulation of every spatial and temporal block: condition (..., D)."""
        return [
            (pair.s_block.modulation(condition), pair.t_block.modulation(condition))
            for pair in self._pairs
        ]

    def _causal(
        self,
        x: Tensor,
        modulations: list[tuple[Modulation, Modulation]],
        grid: tuple[int, int],
        start: int,
        keep: bool,
    ) -> tuple[Tensor, list[LayerKV]]:
        """Blocks over (B, T, P, D). With `keep`, the last layer only makes keys and values."""
        frames = x.shape[1]
        space, near = self._spatial_rotation(grid), self._near(grid)
        time = self._temporal_rotation(start, frames)
        plain = self.config.band is None or self.config.band >= frames
        mask = None if plain else causal_mask(frames, self.config.band).to(x.device)
        stored: list[LayerKV] = []
        for index, (pair, (spatial, temporal)) in enumerate(
            zip(self._pairs, modulations, strict=True)
        ):
            x = pair.s_block.spatial(x, spatial, space, near)
            block = pair.t_block
            if self.config.temporal == "joint":
                x = self._joint(block, x, temporal, grid)
                continue
            query, key, value = block.temporal_project(x, temporal, time)
            if keep:
                stored.append((key, value))
                if index == len(self.blocks) - 1:
                    break
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=plain
            )
            x = block.temporal_finish(x, attended, temporal)
        return x, stored

    def _joint(
        self, block: Block, x: Tensor, modulation: Modulation, grid: tuple[int, int]
    ) -> Tensor:
        """Attention over all patches of all frames so far, positions in three dimensions."""
        frames, patches = x.shape[1:3]
        axis = self.config.head_dim // 6 * 2
        width = grid[1] // self.config.patch
        index = torch.arange(frames * patches)
        coordinates = (index // patches, index % patches // width, index % patches % width)
        parts = [rotation(c, axis) for c in coordinates]
        rest = self.config.head_dim // 2 - 3 * axis // 2
        parts.append(torch.tensor([1.0, 0.0]).expand(len(index), rest, 2))
        rotations = torch.cat(parts, -2).unflatten(0, (frames, patches))[:, :, None, None]
        normed = modulate(x, modulation[0], modulation[1])
        projected = block.attn.project(normed, rotations.to(x.device))
        query, key, value = (p.flatten(1, 2).transpose(1, 2) for p in projected)  # (B, N, TP, E)
        mask = causal_mask(frames, self.config.band).to(x.device)
        mask = mask.repeat_interleave(patches, 0).repeat_interleave(patches, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return block.finish(x, attended.transpose(1, 2).unflatten(1, (frames, patches)), modulation)

    def _needs_factored(self) -> None:
        if self.config.temporal != "factored":
            raise UserError("stored context needs temporal='factored'; use cache='off' instead")

    def _against_context(
        self,
        x: Tensor,
        modulations: list[tuple[Modulation, Modulation]],
        grid: tuple[int, int],
        rotations: Tensor,
        parts: list[ContextPart],
        keep: bool,
    ) -> tuple[Tensor, list[LayerKV]]:
        """Blocks over x (B, M, P, D); each frame attends to itself and to stored context."""
        space, near = self._spatial_rotation(grid), self._near(grid)
        stored: list[LayerKV] = []
        for index, (pair, (spatial, temporal)) in enumerate(
            zip(self._pairs, modulations, strict=True)
        ):
            x = pair.s_block.spatial(x, spatial, space, near)
            block = pair.t_block
            query, key, value = block.temporal_project(x, temporal, rotations)
            if keep:
                stored.append((key, value))
                if index == len(self.blocks) - 1:
                    break
            context = [(*layers[index], mask) for layers, mask in parts]
            x = block.temporal_finish(x, attend_context(query, key, value, context), temporal)
        return x, stored
