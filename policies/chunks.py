"""Reads one row's chunk out of what a policy returned, and says what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np


class ChunkError(ValueError):
    """What a policy returned is no chunk of finite actions for every row."""


def read_chunk(chunks: Any, k: int, rows: int, size: int) -> np.ndarray:
    """One row's actions, (n, A) float64.

    Args:
        chunks: what `Policy.act` returned, which should be (rows, n, A).
        k: which of the rows that asked.
        rows: how many rows asked.
        size: A, components of an action.

    Raises:
        ChunkError: if it has another shape, or holds a NaN or an infinity.
    """
    expected = f"expected (rows, n, {size}) with n of at least 1"
    try:
        count = len(chunks)
    except TypeError:
        raise ChunkError(
            f"the policy returned {type(chunks).__name__} {chunks!r} for {rows} rows; {expected}"
        ) from None
    chunk: np.ndarray
    try:
        chunk = np.asarray(chunks[k], np.float64)
    except (IndexError, KeyError, TypeError, ValueError):
        chunk = np.empty(0)
    if count != rows or chunk.ndim != 2 or chunk.shape[1] != size or not len(chunk):
        raise ChunkError(
            f"the policy returned {count} chunks for {rows} rows, this row's of shape "
            f"{chunk.shape}; {expected}"
        )
    if not np.isfinite(chunk).all():
        raise ChunkError(f"the policy returned a NaN or an infinity: {chunk.tolist()}")
    return chunk
