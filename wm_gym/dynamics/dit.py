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

import torch
from torch import Tensor

from wm_gym.dynamics.attention import causal_mask
from wm_gym.dynamics.dit_config import DIT_SIZES, DiTConfig
from wm_gym.dynamics.dit_layers import ContextPart, DiTLayers, LayerKV

__all__ = ["DIT_SIZES", "ContextPart", "DiT", "DiTConfig", "LayerKV"]


class DiT(DiTLayers):
    """Diffusion transformer over latent frames, with the state dict of the published models.

    Latents are channels-last everywhere: (B, T, h, w, C), as in the published code. Timesteps are
    on the 0..1000 scale, one per frame. Actions are normalised, one per frame.

    Example:
        >>> net = DiT(DiTConfig(channels=16, dim=64, depth=1, heads=2, action_width=2))
        >>> latents, t = torch.randn(1, 5, 8, 8, 16), torch.zeros(1, 5)
        >>> net(latents, t, torch.zeros(1, 5, 2)).shape
        torch.Size([1, 5, 8, 8, 16])
    """

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
