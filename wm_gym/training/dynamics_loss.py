"""The flow-matching loss of latent dynamics, and the measurement of action-following.

Random numbers are drawn for a whole global batch as a function of (seed, step), and a process, or a
part of an accumulated step, takes its rows of them: neither changes what is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics import flow
from wm_gym.dynamics.dit import DiT
from wm_gym.errors import UserError
from wm_gym.training.loop import generator

if TYPE_CHECKING:
    from wm_gym.training.latent_dynamics import LatentDynamicsConfig


@dataclass(frozen=True)
class Batch:
    """One global batch.

    Attributes:
        latents: (B, T, h, w, D), normalised.
        actions: (B, T, width), as the network reads them.
        repeated: (B,) slots at the start that only repeat the first frame of an episode.
        counted: (B, h, w) bool, cells that carry loss; None for all.
    """

    latents: Tensor
    actions: Tensor
    repeated: Tensor
    counted: Tensor | None = None


@dataclass(frozen=True)
class NoisyBatch:
    """A global batch with its random numbers; N noisy copies of the last M of T frames.

    Attributes:
        noisy: (B, N, M, h, w, D).
        times: (B, N, M) on the 0..1000 scale.
        target: (B, N, M, h, w, D), velocity.
        context: (B, T, h, w, D), clean frames with light noise.
        actions: (B, T, width), with some clips' actions dropped.
        weight: (B, 1, M, h, w, 1), mean 1 over the batch, 0 where a frame is given.
        given: (B, M), frames among the M that are given and carry no loss.
        blind: pure noise, one (B, 1, M, h, w, D) for each time that the network first predicts the
            frames that take the place of the context; none where the context is the recorded one.
        counted: (B, h, w) bool, cells that carry loss, the others being edges of a crop; None for
            all.
    """

    noisy: Tensor
    times: Tensor
    target: Tensor
    context: Tensor
    actions: Tensor
    weight: Tensor
    given: Tensor
    blind: tuple[Tensor, ...]
    counted: Tensor | None = None


def changed_tokens(latents: Tensor, threshold: float) -> Tensor:
    """Which cells differ from the frame before: bool (B, T, h, w), the first frame all False."""
    changed = torch.zeros(latents.shape[:-1], dtype=torch.bool)
    change = (latents[:, 1:] - latents[:, :-1]).abs().mean(-1)
    changed[:, 1:] = change > threshold
    return changed


def crop_clips(
    batch: Batch, changed: Tensor, side: int, margin: int, rng: np.random.Generator
) -> Batch:
    """Cut a square around a cell that changes out of every clip, the same in all its frames.

    Args:
        batch: clips of whole frames.
        changed: (B, T, h, w) bool, cells that differ from the frame before. A clip in which nothing
            changes is cropped anywhere.
        side: rows and columns of the square, at most those of the frames.
        margin: cells along its edges that carry no loss, except where the frame itself ends.
        rng: chooses the cell and where in the square it lies.

    Returns:
        The cropped clips.

    Raises:
        ValueError: if the square is larger than the frames.
    """
    height, width = batch.latents.shape[2:4]
    if side > min(height, width):
        raise UserError(f"crop={side} is larger than the grid of {height}x{width} cells")
    latents, counted = [], torch.zeros(len(batch.latents), side, side, dtype=torch.bool)
    for clip, (cells, touched) in enumerate(zip(batch.latents, changed.any(1), strict=True)):
        places = torch.nonzero(touched)
        if len(places):
            row, column = places[int(rng.integers(len(places)))].tolist()
        else:
            row, column = int(rng.integers(height)), int(rng.integers(width))
        corner = []
        for at, size in ((row, height), (column, width)):
            offset = int(rng.integers(margin, side - margin))
            corner.append(min(max(at - offset, 0), size - side))
        top, left = corner
        latents.append(cells[:, top : top + side, left : left + side])
        inner = [
            slice(margin if start else 0, side - (margin if start + side < size else 0))
            for start, size in ((top, height), (left, width))
        ]
        counted[clip][tuple(inner)] = True
    return replace(batch, latents=torch.stack(latents), counted=counted)


class DynamicsLoss:
    """The flow-matching loss of a batch, split over processes and parts.

    Args:
        config: recipe.
        shift: noise-schedule shift.
        context_label: flow time written on clean context frames.
    """

    def __init__(self, config: LatentDynamicsConfig, shift: float, context_label: float) -> None:
        self.config, self.shift, self.context_label = config, shift, context_label

    def times(self, shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
        """Training times (B, N, M)."""
        if self.config.times == "logit-normal":
            return flow.sample_times(shape, self.shift, noise)
        copies = torch.arange(shape[1])[None, :, None]
        t = (copies + torch.rand(shape, generator=noise)) / shape[1]
        return flow.shift_time(t, self.shift)

    def histories(self, batch: Batch, noise: torch.Generator) -> Tensor:
        """Frames that are given, per clip (B,): fixed, or drawn from 1 to `history_max`.

        A frame that only repeats the first one of its episode is always given: learning to predict
        it would teach that nothing moves.
        """
        config, count = self.config, len(batch.latents)
        if not config.history_max:
            return torch.full((count,), config.history)
        drawn = torch.randint(1, config.history_max + 1, (count,), generator=noise)
        return torch.maximum(drawn, batch.repeated + 1)

    def draw(self, batch: Batch, noise: torch.Generator) -> NoisyBatch:
        """Noise, times, dropped actions and histories for all rows of a global batch."""
        config = self.config
        count, frames = batch.latents.shape[:2]
        first = 1 if config.history_max else config.history
        copies = config.copies if config.context == "clean" else 1
        t = self.times((count, copies, frames - first), noise)
        target_latents = batch.latents[:, None, first:].expand(-1, copies, *(-1,) * 4)
        eps = torch.randn(target_latents.shape, generator=noise)
        context = flow.noise_history(batch.latents, noise, config.history_noise)
        dropped = torch.rand(count, generator=noise) < config.action_dropout
        null = torch.zeros(batch.actions.shape[-1])
        null[-1] = 1.0
        given = torch.arange(first, frames) < self.histories(batch, noise)[:, None]  # (B, M)
        weight = 1.0 + (config.change_weight - 1.0) * changed_tokens(
            batch.latents, config.change_threshold
        )
        weight = weight[:, None, first:, :, :, None] * ~given[:, None, :, None, None, None]
        if batch.counted is not None:
            weight = weight * batch.counted[:, None, None, :, :, None]
        blind: tuple[Tensor, ...] = ()
        if config.own_context and torch.rand((), generator=noise) < config.own_context:
            passes = 1
            if config.own_context_passes > 1:
                passes = int(torch.randint(config.own_context_passes, (), generator=noise)) + 1
            shape = target_latents[:, :1].shape
            blind = tuple(torch.randn(shape, generator=noise) for _ in range(passes))
        return NoisyBatch(
            noisy=flow.add_noise(target_latents, eps, t),
            times=t * flow.TIMESTEP_SCALE,
            target=flow.velocity_target(target_latents, eps),
            context=context,
            actions=torch.where(dropped[:, None, None], null, batch.actions),
            weight=weight / weight.mean(),
            given=given,
            blind=blind,
            counted=batch.counted,
        )

    @torch.no_grad()
    def own_frames(
        self,
        network: torch.nn.Module,
        blind: Tensor,
        given: Tensor,
        seen: tuple[Tensor, ...],
        counted: Tensor | None = None,
    ) -> Tensor:
        """The context (B, T, h, w, D) with every frame after the given ones as the network has it.

        One denoising step from pure noise, from the past in `seen`: what a rollout shows the
        network after its first step, mistakes included; called again with what it returned, after
        one step more. The frames to predict stay the recorded ones, so the network learns to mend
        its own mistakes (scheduled sampling, all frames at once). The edges of a crop stay the
        recorded ones: what a network that does not see beyond them predicts there, no rollout in
        whole frames shows.
        """
        context, labels, actions = seen
        times = torch.full(blind.shape[:3], flow.TIMESTEP_SCALE, device=blind.device)
        velocity = network(blind, times, context, labels, actions)
        first = context.shape[1] - blind.shape[2]
        own = (blind - velocity)[:, 0].to(context)
        if self.config.unchanged_threshold:
            before = context[:, first - 1 : -1]
            own = flow.keep_unchanged(own, before, self.config.unchanged_threshold)
        recorded = given[..., None, None, None]
        if counted is not None:
            recorded = recorded | ~counted[:, None, :, :, None]
        own = torch.where(recorded, context[:, first:], own)
        return torch.cat([context[:, :first], own], dim=1)

    def __call__(
        self, network: torch.nn.Module, drawn: NoisyBatch, rows: slice
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of the given rows; the mean over equal shares of rows is that of the batch."""
        device = next(network.parameters()).device
        noisy, times, target, context, actions, weight, given = (
            tensor[rows].to(device)
            for tensor in (
                drawn.noisy, drawn.times, drawn.target, drawn.context, drawn.actions,
                drawn.weight, drawn.given,
            )
        )  # fmt: skip
        if self.config.context == "clean":
            labels = torch.full(context.shape[:2], self.context_label * flow.TIMESTEP_SCALE)
            labels = labels.to(device)
            counted = None if drawn.counted is None else drawn.counted[rows].to(device)
            for blind in drawn.blind:
                seen = (context, labels, actions)
                context = self.own_frames(network, blind[rows].to(device), given, seen, counted)
            velocity = network(noisy, times, context, labels, actions)
        else:
            first = context.shape[1] - noisy.shape[2]
            seen = torch.where(given[..., None, None, None], context[:, first:], noisy[:, 0])
            label = torch.where(given, 0.0, times[:, 0])
            clip = torch.cat([context[:, :first], seen], dim=1)
            labels = torch.cat([times.new_zeros(len(times), first), label], dim=1)
            velocity = network(clip, labels, actions)[:, None, first:]
        error = (velocity - target).pow(2)
        loss = (weight * error).mean()
        predicted = (~given).float()[:, None, :, None, None, None]
        plain = (error.detach() * predicted).mean() / drawn.given.logical_not().float().mean()
        return loss, {"velocity_error": plain}


class TeacherForced(torch.nn.Module):
    """Calls `DiT.teacher_forced_forward`, so that data-parallel wrappers see a forward pass."""

    def __init__(self, network: DiT) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """See `DiT.teacher_forced_forward`."""
        return self.network.teacher_forced_forward(*inputs)


@torch.no_grad()
def action_sensitivity(
    network: DiT, batch: Batch, context_label: float, threshold: float, t: float
) -> dict[str, float]:
    """One-frame error on changed tokens, with true and with shuffled actions.

    The last frame of each clip is predicted from its clean past at flow time `t`; the error is that
    of the implied clean latent, in units of the latents' standard deviation.
    """
    device = next(network.parameters()).device
    noise = torch.randn(batch.latents[:, -1:].shape, generator=generator(0, 0))
    times = torch.full((len(batch.latents), 1, 1), t)
    noisy = flow.add_noise(batch.latents[:, None, -1:], noise[:, None], times).to(device)
    labels = torch.full(batch.latents.shape[:2], context_label * flow.TIMESTEP_SCALE).to(device)
    changed = changed_tokens(batch.latents, threshold)[:, -1]
    errors = {}
    for name, order in (("true", 0), ("shuffled", 1)):
        actions = batch.actions.clone()
        actions[:, -1] = batch.actions[:, -1].roll(order, dims=0)
        velocity = network.teacher_forced_forward(
            noisy,
            (times * flow.TIMESTEP_SCALE).to(device),
            batch.latents.to(device),
            labels,
            actions.to(device),
        )
        clean = (noisy - t * velocity)[:, 0, 0].float().cpu()
        error = (clean - batch.latents[:, -1]).pow(2).mean(-1)
        errors[f"changed_error_{name}_t{t:g}"] = float(error[changed].mean())
    moved = (batch.latents[:, -1] - batch.latents[:, -2]).pow(2).mean(-1)
    return errors | {"changed_error_copy": float(moved[changed].mean())}
