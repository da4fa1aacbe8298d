"""Rollouts: everything that changes while a world model is stepped.

One step, for all rows at once: the action is normalised; the newest frame, finished in the step
before, is passed once more, clean, and its keys and values are stored (lazy commit); then K
denoising passes over the new frame's tokens alone turn the row's noise into its latents.

Shapes: B rows, n frames, h w C latents, A physical action components.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics.cache_modes import CacheMode, resolve_cache_mode
from wm_gym.dynamics.history import LatentHistory, Stepped, pad_front, start_history
from wm_gym.dynamics.kv_cache import KVCache, Rows, row_batches
from wm_gym.dynamics.noise import row_noise
from wm_gym.dynamics.snapshot import pack, unpack
from wm_gym.errors import UserError
from wm_gym.plain_torch import plain_torch

__all__ = ["CacheMode", "LatentHistory", "NoiseSource", "Rollout"]

NoiseSource = Callable[[Sequence[int], Sequence[int], tuple[int, ...]], Tensor]
"""(row seeds, row steps, shape of one frame) -> (B, *shape)."""
Predictor = Callable[[Tensor, int], Tensor]
"""(noisy frame (R, h, w, C), number of the denoising step) -> prediction (R, h, w, C)."""


class Rollout:
    """A batch of imagined episodes.

    Args:
        world_model: spec, network, sampler, encoder and decoder.
        frames: (B, h_px, w_px, 3) uint8, one image per row, repeated as its own history with null
            actions; or (B, n, h_px, w_px, 3), a history; or a `LatentHistory`.
        actions: (B, n - 1, A) physical, `actions[:, i]` led from frame i to frame i + 1 whatever
            the card's alignment; None means null actions.
        seeds: one noise seed per row.
        cache: `off` recomputes the context at every denoising step (the reference); `exact` always
            equals it; `rolling` never recomputes (exact for banded models, an approximation for
            window models once their window has slid); `auto` is the fastest exact one.
        guidance: classifier-free guidance scale against the null action; 1 is off, anything else
            doubles the work.
        micro_batch: most rows passed through the network at once; None for all.
        noise: source of the initial noise of frames.

    Attributes:
        surprise: (B,) distance, in units of the latents' standard deviation, between the clean
            frame guessed at the first denoising step and the frame that came out: how undecided
            the model was. It costs nothing. 0 before the first step, NaN at one denoising step,
            where the first guess is the frame itself and nothing can be said.
        frame_passes: frames passed through the network so far, summed over rows.
    """

    @plain_torch()
    def __init__(
        self,
        world_model: Stepped,
        frames: Tensor | LatentHistory,
        actions: Tensor | None = None,
        *,
        seeds: Sequence[int],
        cache: str = "auto",
        guidance: float = 1.0,
        micro_batch: int | None = None,
        noise: NoiseSource = row_noise,
    ) -> None:
        self.world_model, self.guidance, self.micro_batch = world_model, guidance, micro_batch
        self.noise = noise
        self.cache_mode = resolve_cache_mode(
            cache, world_model.spec.context, world_model.network.config
        )
        history = start_history(self.world_model, frames, actions)
        rows = len(history.latents)
        self.latent_history, self.slots = history.latents[:, :0], history.slots[:, :0]
        self.caches = [KVCache(rows, self.length - 1) for _ in range(1 + (guidance != 1.0))]
        self.position = 0
        self.born = np.zeros(rows, np.int64)
        self.seeds, self.steps = np.zeros(rows, np.uint64), np.zeros(rows, np.int64)
        self.surprise = torch.zeros(rows, device=self._null.device)
        self.committed = False
        self.frame_passes = 0
        self._frames: Tensor | None = None
        self._place(np.arange(rows), history, seeds)

    @property
    def length(self) -> int:
        """Frames of the window or band, the one being made included."""
        return self.world_model.spec.context.length

    @property
    def banded(self) -> bool:
        """Whether stored keys and values stay right for ever."""
        return self.world_model.spec.context.kind == "banded"

    @cached_property
    def _null(self) -> Tensor:
        return self.world_model.spec.action.null_action().to(self.world_model.network.device)

    @property
    def rows(self) -> int:
        """Number of rows B."""
        return len(self.born)

    @property
    def latents(self) -> Tensor:
        """Newest latents, normalised, (B, h, w, C)."""
        return self.latent_history[:, -1]

    @property
    def _reach(self) -> int:
        """Finished frames that can influence the next one."""
        if not self.banded:
            return max(1, self.length - 1)
        return max(1, self.world_model.network.config.depth * (self.length - 1))

    # ---- starting rows -----------------------------------------------------------------------

    @plain_torch()
    @torch.no_grad()
    def _place(self, rows: np.ndarray, history: LatentHistory, seeds: Sequence[int]) -> None:
        """Let some rows begin with a history whose last frame is the newest one."""
        if len(seeds) != len(rows) or len(history.latents) != len(rows):
            raise UserError(
                f"{len(rows)} rows need as many histories and seeds, got "
                f"{len(history.latents)} and {len(seeds)}"
            )
        count = min(history.latents.shape[1], self._reach)
        latents, slots = history.latents[:, -count:], history.slots[:, -count:]
        self.latent_history = pad_front(self.latent_history, count)
        self.slots = pad_front(self.slots, count)
        index = torch.from_numpy(rows).to(slots.device)
        self.latent_history[index, -count:] = latents
        self.slots[index, -count:] = slots
        self.born[rows] = self.position - count + 1
        self.seeds[rows] = np.array(list(seeds), np.uint64)
        self.steps[rows] = 0
        self.surprise[index] = 0.0
        self._frames = None
        for cache in self.caches:
            cache.forget(rows)
        known = count if self.committed else count - 1  # the newest frame is committed lazily
        if self.cache_mode != "off" and known:
            for batch in row_batches(np.isin(np.arange(self.rows), rows), self.micro_batch):
                self._encode(batch, slice(-count, known - count or None), known)

    def restart(
        self,
        rows: Sequence[int],
        frames: Tensor | LatentHistory,
        *,
        seeds: Sequence[int],
        actions: Tensor | None = None,
    ) -> None:
        """Begin new episodes in some rows; the others do not notice.

        Args:
            rows: rows to restart.
            frames: as in the class, for those rows.
            seeds: one per restarted row.
            actions: as in the class, for those rows.
        """
        self._place(
            np.asarray(rows, np.int64), start_history(self.world_model, frames, actions), seeds
        )

    # ---- stepping ----------------------------------------------------------------------------

    @plain_torch()
    @torch.no_grad()
    def step(self, action: Tensor) -> Tensor:
        """Imagine the next frame, or the frames of a chunk of actions.

        Args:
            action: (B, A) or (B, n, A), physical units.

        Returns:
            Normalised latents, (B, h, w, C) or (B, n, h, w, C).

        Raises:
            ValueError: if the shape is another; nothing has changed then.
        """
        spec = self.world_model.spec
        action = torch.as_tensor(action)
        if action.ndim not in (2, 3) or action.shape[:: action.ndim - 1] != (
            self.rows,
            spec.action.size,
        ):
            raise UserError(
                f"action has shape {tuple(action.shape)}, expected ({self.rows}, "
                f"{spec.action.size}) or ({self.rows}, n, {spec.action.size})"
            )
        normalised = spec.action.normalise(action.to(self._null.device))
        if action.ndim == 2:
            return self._advance(normalised)
        return torch.stack([self._advance(one) for one in normalised.unbind(1)], 1)

    def _advance(self, action: Tensor) -> Tensor:
        """One frame; action (B, width) normalised."""
        if self.world_model.spec.action.alignment == "target":
            slot = action
        else:  # the action is taken at the newest frame; the one being made knows none yet
            self.slots[:, -1] = action
            slot = self._null.expand_as(action)
        shape = tuple(self.latent_history.shape[2:])
        noise = self.noise(self.seeds.tolist(), self.steps.tolist(), shape).to(slot.device)
        if self.cache_mode != "off" and not self.committed:
            self._commit()
        everyone = np.ones(self.rows, bool)
        made = [
            self._denoise(rows, noise[rows], slot[rows])
            for rows in row_batches(everyone, self.micro_batch)
        ]
        newest = torch.cat([latents for latents, _ in made])
        self.surprise = torch.cat([surprise for _, surprise in made])
        kept = min(self.latent_history.shape[1], self._reach - 1)
        start = self.latent_history.shape[1] - kept
        self.latent_history = torch.cat([self.latent_history[:, start:], newest[:, None]], 1)
        self.slots = torch.cat([self.slots[:, start:], slot[:, None]], 1)
        self.position += 1
        self.steps += 1
        self.committed = False
        self._frames = None
        for cache in self.caches:
            cache.drop_expired(self.position, self.length)  # it is still to be committed
        return newest

    def _denoise(self, rows: Rows, noisy: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (R, h, w, C) to latents of the next frame of some rows, and their surprise (R,)."""
        sampler = self.world_model.sampler
        branches = [slot, self._null.expand_as(slot)][: len(self.caches)]
        make = self._recomputed if self.cache_mode == "off" else self._stored
        predictors = [make(rows, number, branch) for number, branch in enumerate(branches)]
        guess = noisy
        for step in range(sampler.steps):
            prediction, *null = (predict(noisy, step) for predict in predictors)
            if null:
                prediction = torch.lerp(null[0], prediction, self.guidance)
            if step == 0:
                guess = sampler.clean_estimate(noisy, prediction, step)
            noisy = sampler.advance(noisy, prediction, step)
        surprise = (noisy - guess).square().mean((1, 2, 3)).sqrt()
        noisy = sampler.settle(noisy, self.latent_history[rows, -1])
        return noisy, surprise if sampler.steps > 1 else torch.full_like(surprise, torch.nan)

    def _stored(self, rows: Rows, branch: int, slot: Tensor) -> Predictor:
        """Prediction of the next frame against stored keys and values."""
        position, sampler = self.position + 1, self.world_model.sampler
        times = slot.new_tensor([sampler.timestep(step) for step in range(sampler.steps)])
        self.frame_passes += len(slot) * sampler.steps
        return self.world_model.network.frame_predictor(
            times.expand(len(slot), -1),
            slot,
            self.caches[branch].context(position, self.length, rows),
            position=position,
        )

    def _recomputed(self, rows: Rows, branch: int, slot: Tensor) -> Predictor:
        """Prediction of the next frame by passing its whole context again."""
        history, slots = self.latent_history[rows], self.slots[rows]
        if branch:
            slots = self._null.expand_as(slots)
        sampler = self.world_model.sampler
        limit = self._reach if self.banded else self.length - 1
        ages = np.minimum(self.position - self.born[rows] + 1, limit)

        def predict(noisy: Tensor, step: int) -> Tensor:
            out = torch.empty_like(noisy)
            for age in np.unique(ages).tolist():
                index = torch.from_numpy(np.flatnonzero(ages == age)).to(noisy.device)
                past = slice(history.shape[1] - age, None)
                context = sampler.context_input(history[index, past])
                times = noisy.new_full((len(index), age + 1), sampler.context_timestep)
                times[:, -1] = sampler.timestep(step)
                self.frame_passes += times.numel()
                out[index] = self.world_model.network(
                    torch.cat([context, noisy[index, None]], 1),
                    times,
                    torch.cat([slots[index, past], slot[index, None]], 1),
                )[:, -1]
            return out

        return predict

    # ---- stored context ----------------------------------------------------------------------

    def _context_inputs(
        self, rows: Rows, frames: slice, branch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clean frames of the history, their labels and actions, as the network reads them."""
        sampler = self.world_model.sampler
        latents = sampler.context_input(self.latent_history[rows, frames])
        slots = self.slots[rows, frames]
        if branch:
            slots = self._null.expand_as(slots)
        return latents, latents.new_full(slots.shape[:2], sampler.context_timestep), slots

    def _encode(self, rows: Rows, frames: slice, count: int) -> None:
        """Store `count` frames of the history that have nothing before them."""
        first = self.position + 1 + frames.start
        numbers = np.arange(self.rows)[rows]
        for branch, cache in enumerate(self.caches):
            inputs = self._context_inputs(rows, frames, branch)
            layers = self.world_model.network.encode_context(*inputs, start=first)
            self.frame_passes += len(numbers) * count
            cache.forget(numbers)
            cache.write(layers, first, numbers)

    def _slid(self) -> np.ndarray:
        """Rows (B,) whose window has slid since their context was computed, and must be again."""
        if self.cache_mode != "exact" or self.banded:
            return np.zeros(self.rows, bool)
        full = self.position - self.born + 1 > self.length - 1
        return full & (self.caches[0].starts() != self.position + 2 - self.length)

    def _commit(self) -> None:
        """Store the newest frame; where a window slid and `exact` is wanted, its whole context."""
        if self.length == 1:
            return
        slid = self._slid()
        # encoding starts the row's context afresh, as its positions do in the window
        for rows in row_batches(slid, self.micro_batch):
            self._encode(rows, slice(1 - self.length, None), self.length - 1)
        finished = []  # written at the end: the slot of the oldest frame is still read by others
        for rows in row_batches(~slid, self.micro_batch):
            numbers = np.arange(self.rows)[rows]
            for branch, cache in enumerate(self.caches):
                latents, times, slots = self._context_inputs(rows, slice(-1, None), branch)
                layers = self.world_model.network.commit_frame(
                    latents[:, 0],
                    times[:, 0],
                    slots[:, 0],
                    cache.context(self.position, self.length, rows),
                    position=self.position,
                )
                self.frame_passes += len(numbers)
                finished.append((cache, layers, numbers))
        for cache, layers, numbers in finished:
            cache.write(layers, self.position, numbers)
        self.committed = True

    # ---- looking, copying, storing -----------------------------------------------------------

    def frames(self) -> Tensor:
        """Newest frames (B, h_px, w_px, 3) uint8, decoded at the first call after a step only."""
        if self._frames is None:
            self._frames = self.world_model.decode(self.latents)
        return self._frames

    @torch.no_grad()
    def fork(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> Rollout:
        """Copy rows into a new rollout; both go on independently.

        Rows that repeat in equal consecutive groups share one copy of their stored context.

        Args:
            rows: rows to copy, repeats allowed, e.g. `np.repeat(range(B), candidates)`.
            seeds: one per copy; None keeps the rows' own, so that copies meet the same noise.
        """
        index = np.asarray(rows, np.int64)
        repeated = len(np.unique(index)) < len(index)
        target = self.world_model.spec.action.alignment == "target"
        if repeated and self.cache_mode != "off" and not self.committed:
            if target:
                self._commit()  # its action is known, so it is passed once and not once per copy
            elif self.length > 2 and self._slid()[index].any():
                return self._fork_slid(index, seeds)
        chosen = torch.from_numpy(index).to(self.slots.device)
        child = copy.copy(self)
        child.latent_history, child.slots = self.latent_history[chosen], self.slots[chosen]
        child.surprise = self.surprise[chosen]
        child.caches = [cache.select(index) for cache in self.caches]
        child.born, child.steps = self.born[index], self.steps[index]
        child.seeds = self.seeds[index] if seeds is None else np.array(list(seeds), np.uint64)
        if len(child.seeds) != len(index):
            raise UserError(f"{len(index)} rows need as many seeds, got {len(child.seeds)}")
        child._frames = None if self._frames is None else self._frames[chosen]
        child.frame_passes = 0
        return child

    def _fork_slid(self, index: np.ndarray, seeds: Sequence[int] | None) -> Rollout:
        """As `fork`: copies differ in the newest frame's action, so all before it is shared."""
        rows, index = np.unique(index, return_inverse=True)
        origin = self.fork(rows.tolist())
        for batch in row_batches(origin._slid(), self.micro_batch):
            origin._encode(batch, slice(1 - self.length, -1), self.length - 2)
        child = origin.fork(index.tolist(), seeds)
        child.frame_passes = origin.frame_passes
        return child

    def snapshot(self) -> bytes:
        """Everything needed to go on exactly, as safetensors bytes; see `restore`."""
        return pack(self)

    @classmethod
    def restore(
        cls, world_model: Stepped, snapshot: bytes, *, noise: NoiseSource = row_noise
    ) -> Rollout:
        """Inverse of `snapshot`, for the same world model."""
        rollout = cls.__new__(cls)
        rollout.world_model, rollout.noise, rollout._frames = world_model, noise, None
        unpack(rollout, snapshot)
        return rollout

    def nbytes(self) -> int:
        """Bytes held by stored context and history."""
        held = sum(cache.nbytes() for cache in self.caches)
        return held + self.latent_history.nbytes + self.slots.nbytes
