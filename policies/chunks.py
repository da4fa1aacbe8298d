"""What a policy returns: a chunk of actions for every row that asked, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from wm_gym.envs.actions import UNREADABLE
from wm_gym.errors import UserError


class ChunkError(UserError):
    """What a policy returned is no chunk of finite actions for every row."""


Chunks: TypeAlias = np.ndarray | Sequence[np.ndarray | ChunkError]
"""Float (B, n, A), or B chunks (n, A) where they differ in length; a row may have an error instead.
"""


def read_chunk(chunks: Any, k: int, rows: int, size: int) -> np.ndarray:
    """One row's actions, (n, A) float64.

    Args:
        chunks: what `Policy.act` returned, which should be (rows, n, A).
        k: which of the rows that asked.
        rows: how many rows asked.
        size: A, components of an action.

    Raises:
        ChunkError: if it has another shape, holds something else than numbers, a NaN or what is
            infinite in float32, or is such an error.
    """
    expected = f"expected (rows, n, {size}) with n of at least 1"
    try:
        count = len(chunks)
    except TypeError:
        raise ChunkError(
            f"the policy returned {type(chunks).__name__} {chunks!r} for {rows} rows; {expected}"
        ) from None
    try:
        found = chunks[k]
    except (IndexError, KeyError, TypeError):
        found = ()
    if isinstance(found, ChunkError):
        raise found
    try:
        chunk = np.asarray(found)
        if chunk.dtype.kind not in "biuf":
            raise TypeError(f"its dtype is {chunk.dtype}")
    except UNREADABLE as error:
        raise ChunkError(
            f"the policy returned something else than numbers, {found!r:.80}: {error}; {expected}"
        ) from error
    if count != rows or chunk.ndim != 2 or chunk.shape[1] != size or not len(chunk):
        raise ChunkError(
            f"the policy returned {count} chunks for {rows} rows, this row's of shape "
            f"{chunk.shape}; {expected}"
        )
    chunk = chunk.astype(np.float64)
    if not (np.abs(chunk) <= np.finfo(np.float32).max).all():  # environments take float32
        raise ChunkError(f"the policy returned a NaN or an infinity: {chunk.tolist()}")
    return chunk


def read_chunks(chunks: Any, rows: int, size: int) -> list[np.ndarray | ChunkError]:
    """Every row's actions, (n, A) float64, or what is wrong with them; see `read_chunk`.

    For policies that work on another one's actions: a fault stays that of its row.
    """
    found: list[np.ndarray | ChunkError] = []
    for k in range(rows):
        try:
            found.append(read_chunk(chunks, k, rows, size))
        except ChunkError as error:
            found.append(error)
    return found


def join_chunks(rows: Sequence[np.ndarray | ChunkError]) -> Chunks:
    """One array (B, n, A) if all rows have chunks of the same length, else the rows as they are."""
    arrays = [row for row in rows if isinstance(row, np.ndarray)]
    if len(arrays) == len(rows) and len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return list(rows)
