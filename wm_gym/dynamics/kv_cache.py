"""Temporal keys and values of finished frames, per row, with prefixes that many rows share.

Keys are stored rotated at absolute positions: only differences of positions enter attention, so a
window can slide, and rows of any age share one position counter, without touching what is stored.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics.dit import ContextPart, LayerKV

NEVER = np.iinfo(np.int64).max
EMPTY = np.iinfo(np.int64).min
Rows = slice | np.ndarray
"""Rollout rows: contiguous, or any as indices."""


class CachePart:
    """Slots of keys and values for G stored rows, each serving B / G consecutive rollout rows.

    Attributes:
        layers: (keys, values) per temporal layer, each (G, L, S, E) with room for S frames.
        positions: absolute position of each slot, `EMPTY` if free, (S,).
        start: (B,) first position of this part that each rollout row may attend to.
    """

    def __init__(self, layers: list[LayerKV], positions: np.ndarray, start: np.ndarray) -> None:
        self.layers, self.positions, self.start = layers, positions, start

    @property
    def repeat(self) -> int:
        """Rollout rows served by one stored row."""
        return len(self.start) // len(self.layers[0][0]) if self.layers else 1

    def view(self, position: int, length: int, rows: Rows) -> ContextPart | None:
        """What frame `position` of some rows may attend to, or None if that is nothing.

        Args:
            position: absolute position of the attending frame.
            length: window or band, the attending frame included.
            rows: rollout rows.
        """
        if not self.layers:
            return None
        inside = (self.positions > position - length) & (self.positions < position)
        inside &= self.positions != EMPTY
        used = np.flatnonzero(inside)
        if not len(used):
            return None
        slots = slice(int(used[0]), int(used[-1]) + 1)
        allowed = inside[slots] & (self.positions[slots] >= self.start[rows][:, None])  # (B, S)
        if not allowed.any():
            return None
        keys = self.layers[0][0]
        mask = torch.zeros(allowed.shape, dtype=keys.dtype)
        mask[torch.from_numpy(~allowed)] = -torch.inf
        stored = self._stored_rows(rows)
        layers = [(k[stored][:, :, slots], v[stored][:, :, slots]) for k, v in self.layers]
        return layers, mask[:, None, None].to(keys.device)

    def _stored_rows(self, rows: Rows) -> slice | Tensor:
        """Index of the stored rows that serve some rollout rows, a view where possible."""
        repeat = self.repeat
        if not isinstance(rows, slice):
            return torch.from_numpy(rows // repeat)
        first, last = rows.start, rows.stop
        if first % repeat == 0 and last % repeat == 0:
            return slice(first // repeat, last // repeat)
        if first // repeat == (last - 1) // repeat:
            return slice(first // repeat, first // repeat + 1)
        return torch.arange(first, last) // repeat

    def expired(self, position: int, length: int) -> bool:
        """Whether no row can attend to anything here from `position` on."""
        oldest = self.start.min(initial=NEVER)
        alive = (self.positions > position - length) & (self.positions >= oldest)
        return not (alive & (self.positions != EMPTY)).any()

    def select(self, rows: np.ndarray) -> CachePart:
        """The part as seen by other rows; repeats in equal consecutive groups stay shared."""
        stored = rows // self.repeat
        groups = _consecutive_groups(stored)
        untouched = len(groups) == len(self.layers[0][0]) and (np.diff(groups) == 1).all()
        layers = self.layers
        if not untouched:
            index = torch.from_numpy(groups).to(layers[0][0].device)
            layers = [(keys[index], values[index]) for keys, values in layers]
        return CachePart(layers, self.positions, self.start[rows])


def _consecutive_groups(index: np.ndarray) -> np.ndarray:
    """Compress an index with equal runs, e.g. [3, 3, 5, 5] -> [3, 5]; others stay as they are."""
    edges = np.flatnonzero(np.diff(index)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(index)]]))
    repeat = int(np.gcd.reduce(lengths))
    return index[::repeat]


class KVCache:
    """All stored keys and values of a rollout: shared prefixes, then one part the rows own.

    Args:
        rows: rollout rows B.
        capacity: most frames a row may attend to besides the current one.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.prefixes: list[CachePart] = []
        self.own = CachePart([], np.empty(0, np.int64), np.full(rows, NEVER))

    @property
    def parts(self) -> list[CachePart]:
        """Prefixes first."""
        return [*self.prefixes, self.own]

    def context(self, position: int, length: int, rows: Rows) -> list[ContextPart]:
        """Everything that frame `position` of some rows may attend to."""
        views = (part.view(position, length, rows) for part in self.parts)
        return [view for view in views if view is not None]

    def write(self, layers: list[LayerKV], first: int, rows: np.ndarray) -> None:
        """Store frames first … first + T - 1 of some rows.

        Args:
            layers: (keys, values) per layer, each (len(rows), L, T, E).
            first: absolute position of the first of them.
            rows: rollout rows.
        """
        if not self.capacity:
            return
        frames = layers[0][0].shape[2]
        skipped = max(0, frames - self.capacity)
        index = torch.from_numpy(rows)
        whole = len(rows) == self.rows
        for frame in range(skipped, frames):
            slot = self._slot(first + frame, layers)
            for (keys, values), (new_keys, new_values) in zip(self.own.layers, layers, strict=True):
                target = slice(None) if whole else index.to(keys.device)
                keys[target, :, slot] = new_keys[:, :, frame]
                values[target, :, slot] = new_values[:, :, frame]
        self.own.start[rows] = np.minimum(self.own.start[rows], first + skipped)

    def _slot(self, position: int, like: list[LayerKV]) -> int:
        """Slot for a position: its own, a free one, a new one, or that of the oldest frame."""
        own = self.own
        for wanted in (position, EMPTY):
            found = np.flatnonzero(own.positions == wanted)
            if len(found):
                own.positions[found[0]] = position
                return int(found[0])
        used = len(own.positions)
        if used < self.capacity:
            size = min(self.capacity, max(1, 2 * used))
            self._grow(size - used, like)
            own.positions[used] = position
            return used
        oldest = int(own.positions.argmin())
        own.positions[oldest] = position
        return oldest

    def _grow(self, extra: int, like: list[LayerKV]) -> None:
        own = self.own

        def room(tensor: Tensor) -> Tensor:
            # zeros, not empty: a masked slot is multiplied by zero and must not hold a NaN
            return tensor.new_zeros(self.rows, tensor.shape[1], extra, tensor.shape[3])

        if own.layers:
            own.layers = [
                (torch.cat([keys, room(keys)], 2), torch.cat([values, room(values)], 2))
                for keys, values in own.layers
            ]
        else:
            own.layers = [(room(keys), room(values)) for keys, values in like]
        own.positions = np.concatenate([own.positions, np.full(extra, EMPTY)])

    def forget(self, rows: np.ndarray) -> None:
        """Hide everything stored for some rows from them."""
        for part in self.parts:
            part.start[rows] = NEVER

    def starts(self) -> np.ndarray:
        """First position stored for each row, (B,); `NEVER` where there is none."""
        return np.min([part.start for part in self.parts], axis=0)

    def drop_expired(self, position: int, length: int) -> None:
        """Free prefixes that no row can attend to from `position` on."""
        self.prefixes = [part for part in self.prefixes if not part.expired(position, length)]

    def select(self, rows: np.ndarray) -> KVCache:
        """The cache of other rows, repeats allowed; what repeats share is copied once."""
        chosen = KVCache(len(rows), self.capacity)
        chosen.prefixes = [part.select(rows) for part in self.prefixes]
        if self.own.layers:
            part = self.own.select(rows)
            shared = len(part.layers[0][0]) < len(rows)
            if part.layers is self.own.layers:  # this cache goes on writing into its own slots
                part.layers = [(keys.clone(), values.clone()) for keys, values in part.layers]
            part.positions = part.positions.copy()
            if shared:
                chosen.prefixes.append(part)
            else:
                chosen.own = part
        return chosen

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and JSON-ready facts from which `from_state` rebuilds the cache."""
        tensors, facts = {}, []
        for number, part in enumerate(self.parts):
            for layer, (keys, values) in enumerate(part.layers):
                tensors[f"{number}.{layer}.keys"] = keys.contiguous()
                tensors[f"{number}.{layer}.values"] = values.contiguous()
            facts.append(
                {
                    "layers": len(part.layers),
                    "positions": part.positions.tolist(),
                    "start": part.start.tolist(),
                }
            )
        return tensors, {"capacity": self.capacity, "parts": facts}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], facts: dict) -> KVCache:
        """Inverse of `state`."""
        parts = []
        for number, part in enumerate(facts["parts"]):
            layers = [
                (tensors[f"{number}.{layer}.keys"], tensors[f"{number}.{layer}.values"])
                for layer in range(part["layers"])
            ]
            positions = np.array(part["positions"], np.int64)
            parts.append(CachePart(layers, positions, np.array(part["start"], np.int64)))
        cache = cls(len(parts[-1].start), facts["capacity"])
        cache.prefixes, cache.own = parts[:-1], parts[-1]
        return cache

    def nbytes(self) -> int:
        """Bytes of stored keys and values; tensors shared with another rollout count in both."""
        return sum(
            tensor.numel() * tensor.element_size()
            for part in self.parts
            for layer in part.layers
            for tensor in layer
        )


def row_batches(chosen: np.ndarray, micro_batch: int | None) -> list[Rows]:
    """Split the rows that a (B,) bool array chooses into batches, contiguous ones if it is all."""
    rows = np.flatnonzero(chosen)
    size = micro_batch or max(1, len(rows))
    starts = range(0, len(rows), size)
    if chosen.all():
        return [slice(start, min(start + size, len(rows))) for start in starts]
    return [rows[start : start + size] for start in starts]
