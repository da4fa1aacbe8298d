"""Pictures that show nothing of a domain: what a success classifier must never affirm.

Flat colours, noise and checkerboards are drawn. Pictures in swapped or inverted colours, upside
down or with their cells shuffled are made from the domain's own frames, whose statistics they
share.
"""

from __future__ import annotations

import numpy as np

from wm_gym.data.episodes import EpisodeReader

CELL = 8
"""Side of the cells that are shuffled, in pixels."""


def foreign_pictures(frames: np.ndarray, seed: int = 0) -> np.ndarray:
    """One foreign picture for each frame, of all kinds in turn.

    Args:
        frames: (N, H, W, 3) uint8 frames of the domain.
        seed: of everything that is drawn.

    Returns:
        (N, H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    return np.stack(
        [KINDS[k % len(KINDS)](np.asarray(frame), rng) for k, frame in enumerate(frames)]
    )


def _black(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(frame)


def _white(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.full_like(frame, 255)


def _flat(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(rng.integers(0, 256, 3, np.uint8), frame.shape).copy()


def _noise(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, frame.shape, np.uint8)


def _grainy(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey noise around a level, in grains of one to eight pixels."""
    grain, level = int(rng.integers(1, 9)), rng.uniform(30, 225)
    rows, columns = (-(-side // grain) for side in frame.shape[:2])
    drawn = rng.normal(level, rng.uniform(10, 80), (rows, columns, 1))
    drawn = drawn.repeat(grain, 0).repeat(grain, 1)[: frame.shape[0], : frame.shape[1]]
    return np.broadcast_to(drawn.clip(0, 255), frame.shape).astype(np.uint8)


def _checkerboard(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = int(rng.integers(2, 17))
    rows, columns = np.indices(frame.shape[:2]) // side
    colours = rng.integers(0, 256, (2, 3), np.uint8)
    return colours[(rows + columns) % 2]


def _swapped_colours(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frame[..., ::-1].copy()


def _inverted(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - frame


def _upside_down(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frame[::-1].copy()


def _shuffled(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frame's cells of 8x8 pixels in another order; what is over at the edges stays."""
    rows, columns = frame.shape[0] // CELL, frame.shape[1] // CELL
    whole = frame[: rows * CELL, : columns * CELL]
    cells = whole.reshape(rows, CELL, columns, CELL, 3).swapaxes(1, 2).reshape(-1, CELL, CELL, 3)
    cells = rng.permutation(cells).reshape(rows, columns, CELL, CELL, 3).swapaxes(1, 2)
    picture = frame.copy()
    picture[: rows * CELL, : columns * CELL] = cells.reshape(whole.shape)
    return picture


KINDS = (
    _black,
    _white,
    _noise,
    _flat,
    _grainy,
    _checkerboard,
    _swapped_colours,
    _inverted,
    _upside_down,
    _shuffled,
)


def sample_frames(data: EpisodeReader, count: int, seed: int = 0) -> np.ndarray:
    """Frames (count, H, W, 3) uint8 of random states, repeats allowed."""
    rng = np.random.default_rng(seed)
    episodes = rng.integers(len(data), size=count)
    return np.concatenate(
        [
            data.frames(int(e), np.array([int(rng.integers(data.lengths[e] + 1))]))
            for e in np.sort(episodes)
        ]
    )
