"""The transition model: a diffusion transformer over the patches of latent frames.

Every pair of blocks attends over the patches of one frame, then causally over time, per patch.
Frames see each other only through the temporal keys and values, and only backwards. Therefore the
keys and values of finished frames can be stored (`encode_context`), a new frame can be denoised on
its own against them (`predict_frame`), and training can do the same for all frames of a clip at
once (`teacher_forced_forward`).

Shapes: B batch, T time, h w the latent grid, C latent channels, P patches = h·w / patch²,
D width, N heads, E = D / N, L = P·N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

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
    rotation,
    spatial_rotation,
    timestep_features,
)
from wm_gym.dynamics.dit_config import DIT_SIZES, DiTConfig

__all__ = ["DIT_SIZES", "ContextPart", "DiT", "DiTConfig", "LayerKV"]


LayerKV = tuple[Tensor, Tensor]
"""Keys, rotated at absolute positions, and values of one temporal layer, each (B, L, T, E)."""

ContextPart = tuple[list[LayerKV], Tensor]
"""Keys and values of every layer, (G, L, S, E), and one additive mask for (G, 1, M, S)."""


class DiT(nn.Module):
    """Diffusion transformer over latent frames, with the state dict of the published models.

    Latents are channels-last everywhere: (B, T, h, w, C), as in the published code. Timesteps are
    on the 0..1000 scale, one per frame. Actions are normalised, one per frame.

    Example:
        >>> net = DiT(DiTConfig(channels=16, dim=64, depth=1, heads=2, action_width=2))
        >>> latents, t = torch.randn(1, 5, 8, 8, 16), torch.zeros(1, 5)
        >>> net(latents, t, torch.zeros(1, 5, 2)).shape
        torch.Size([1, 5, 8, 8, 16])
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

    def set_linear_dtype(self, dtype: torch.dtype | None) -> DiT:
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

    # ---- parts -------------------------------------------------------------------------------

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

    def _temporal_rotation(self, start: int, frames: int) -> Tensor:
        positions = torch.arange(start, start + frames)
        return rotation(positions, self.config.head_dim)[:, None, None, None].to(self.device)

    def _check(self, latents: Tensor, timesteps: Tensor, actions: Tensor) -> tuple[int, int]:
        config = self.config
        height, width, channels = latents.shape[-3:]
        if channels != config.channels or height % config.patch or width % config.patch:
            raise ValueError(
                f"latents end in {(height, width, channels)}, but this network takes "
                f"{config.channels} channels last and a grid divisible by {config.patch}"
            )
        lead = latents.shape[:-3]
        if timesteps.shape != lead or actions.shape != (*lead, config.action_width):
            raise ValueError(
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

    # ---- the three ways to run ---------------------------------------------------------------

    def forward(self, latents: Tensor, timesteps: Tensor, actions: Tensor) -> Tensor:
        """Predict for all frames of a clip at once; frame i sees frames up to i inside the band.

        Args:
            latents: (B, T, h, w, C), each frame at its own noise level.
            timesteps: (B, T) on the 0..1000 scale.
            actions: (B, T, A), normalised; the slot's action (see the card's alignment).

        Returns:
            (B, T, h, w, C): velocity (flow matching) or v (DDPM).
        """
        grid = self._check(latents, timesteps, actions)
        x = self._embed(latents)
        time, condition = self._conditions(timesteps, actions)
        x, _ = self._causal(x, self._modulations(condition), grid, start=0, keep=False)
        return self._head(x, time, condition, grid)

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
        space, time = self._spatial_rotation(grid), self._temporal_rotation(start, frames)
        plain = self.config.band is None or self.config.band >= frames
        mask = None if plain else causal_mask(frames, self.config.band).to(x.device)
        stored: list[LayerKV] = []
        for index, (pair, (spatial, temporal)) in enumerate(
            zip(self._pairs, modulations, strict=True)
        ):
            x = pair.s_block.spatial(x, spatial, space)
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

    def encode_context(
        self, latents: Tensor, timesteps: Tensor, actions: Tensor, *, start: int = 0
    ) -> list[LayerKV]:
        """Temporal keys and values of finished frames that have nothing before them.

        Args:
            latents: (B, T, h, w, C).
            timesteps: (B, T), the context label.
            actions: (B, T, A).
            start: absolute position of the first frame; only differences of positions matter.

        Returns:
            One (keys, values) per temporal layer, each (B, L, T, E); gradients flow.
        """
        self._needs_factored()
        grid = self._check(latents, timesteps, actions)
        _, condition = self._conditions(timesteps, actions)
        x, modulations = self._embed(latents), self._modulations(condition)
        return self._causal(x, modulations, grid, start, keep=True)[1]

    def _needs_factored(self) -> None:
        if self.config.temporal != "factored":
            raise ValueError("stored context needs temporal='factored'; use cache='off' instead")

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
        space = self._spatial_rotation(grid)
        stored: list[LayerKV] = []
        for index, (pair, (spatial, temporal)) in enumerate(
            zip(self._pairs, modulations, strict=True)
        ):
            x = pair.s_block.spatial(x, spatial, space)
            block = pair.t_block
            query, key, value = block.temporal_project(x, temporal, rotations)
            if keep:
                stored.append((key, value))
                if index == len(self.blocks) - 1:
                    break
            context = [(*layers[index], mask) for layers, mask in parts]
            x = block.temporal_finish(x, attend_context(query, key, value, context), temporal)
        return x, stored

    def frame_predictor(
        self,
        timesteps: Tensor,
        action: Tensor,
        context: list[ContextPart],
        *,
        position: int,
    ) -> Callable[[Tensor, int], Tensor]:
        """Denoising passes over one frame's tokens against stored context.

        Whatever does not depend on the frame is computed here, once for all K passes.

        Args:
            timesteps: (B, K) on the 0..1000 scale, one column per pass.
            action: (B, A).
            context: parts, each keys and values per layer and a mask broadcasting to (B, 1, 1, S).
                A part with G rows serves groups of B / G consecutive rows.
            position: absolute position of the frame, as used in `encode_context`.

        Returns:
            A function of the noisy frame (B, h, w, C) and the number of the pass, 0 … K - 1, that
            gives the prediction (B, h, w, C).
        """
        self._needs_factored()
        passes = timesteps.shape[1]
        actions = action[:, None].expand(-1, passes, -1)
        time, condition = self._conditions(timesteps, actions)
        modulations = self._modulations(condition)
        rotations = self._temporal_rotation(position, 1)

        def predict(noisy: Tensor, number: int) -> Tensor:
            column = slice(number, number + 1)
            grid = self._check(noisy[:, None], timesteps[:, column], actions[:, column])
            here = [
                (tuple(m[:, column] for m in spatial), tuple(m[:, column] for m in temporal))
                for spatial, temporal in modulations
            ]
            x = self._embed(noisy[:, None])
            x, _ = self._against_context(x, here, grid, rotations, context, keep=False)
            return self._head(x, time[:, column], condition[:, column], grid)[:, 0]

        return predict

    def predict_frame(
        self,
        noisy: Tensor,
        timestep: Tensor,
        action: Tensor,
        context: list[ContextPart],
        *,
        position: int,
    ) -> Tensor:
        """One denoising pass; as `frame_predictor` with noisy (B, h, w, C) and timestep (B,)."""
        predictor = self.frame_predictor(timestep[:, None], action, context, position=position)
        return predictor(noisy, 0)

    def commit_frame(
        self,
        clean: Tensor,
        timestep: Tensor,
        action: Tensor,
        context: list[ContextPart],
        *,
        position: int,
    ) -> list[LayerKV]:
        """Keys and values of one finished frame after stored context; arguments as `predict_frame`.

        Returns:
            One (keys, values) per temporal layer, each (B, L, 1, E).
        """
        self._needs_factored()
        clean, timestep, action = clean[:, None], timestep[:, None], action[:, None]
        grid = self._check(clean, timestep, action)
        _, condition = self._conditions(timestep, action)
        rotations = self._temporal_rotation(position, 1)
        x = self._embed(clean)
        modulations = self._modulations(condition)
        return self._against_context(x, modulations, grid, rotations, context, keep=True)[1]

    def teacher_forced_forward(
        self,
        noisy: Tensor,
        t_noisy: Tensor,
        clean: Tensor,
        t_clean: Tensor,
        actions: Tensor,
        *,
        noisy_actions: Tensor | None = None,
    ) -> Tensor:
        """What a cached inference step computes, for many frames of a clip in parallel.

        The clean clip runs once, causally; each noisy copy of frame i attends to the clean keys and
        values of frames before i inside the band and to itself, never to other noisy frames.

        Args:
            noisy: (B, N, M, h, w, C): N noisy copies of the LAST M of the T frames.
            t_noisy: (B, N, M) on the 0..1000 scale.
            clean: (B, T, h, w, C): the clip as context (with history noise, if any). Its last frame
                is context of nobody and costs nothing.
            t_clean: (B, T): context labels.
            actions: (B, T, A).
            noisy_actions: (B, N, M, A) where they differ from the slots' own (source alignment);
                default: the last M of `actions`.

        Returns:
            (B, N, M, h, w, C).
        """
        copies, predicted = noisy.shape[1:3]
        frames = clean.shape[1]
        slots = noisy_actions
        if slots is None:
            slots = actions[:, None, frames - predicted :].expand(-1, copies, -1, -1)
        grid = self._check(noisy, t_noisy, slots)
        parts: list[ContextPart] = []
        if frames > 1:
            past = frames - 1
            layers = self.encode_context(clean[:, :past], t_clean[:, :past], actions[:, :past])
            allowed = causal_mask(frames, self.config.band, strict=True)
            allowed = allowed[frames - predicted :, :past].to(noisy.device)
            parts.append(
                (
                    layers,
                    torch.zeros_like(allowed, dtype=noisy.dtype).masked_fill(~allowed, -torch.inf),
                )
            )
        time, condition = self._conditions(t_noisy.flatten(0, 1), slots.flatten(0, 1))
        rotations = self._temporal_rotation(frames - predicted, predicted)
        x = self._embed(noisy.flatten(0, 1))
        modulations = self._modulations(condition)
        x, _ = self._against_context(x, modulations, grid, rotations, parts, keep=False)
        return self._head(x, time, condition, grid).unflatten(0, (-1, copies))
