"""Blocks that stay whole in a rollout, those that are touched apart from those that are not.

The simulator's state says where every block truly is and which have moved. Every pixel of a colour
belongs to the nearest true block of that colour, and a block is whole if the largest connected part
of its pixels is about as large as in the true frame. So it need not be in the right place: that is
what the gap closed measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_gym.envs.sims.langtable.view import places
from wm_gym.evaluation.open_loop.components import colour_masks, component_areas

if TYPE_CHECKING:
    from wm_gym.evaluation.open_loop.clips import OpenLoopClips

MOVED_M = 0.002
"""A block was touched if it is farther than this from where the clip began..."""
TURNED_RAD = 0.05
"""...or turned by more than this."""
LEAST, MOST = 0.6, 1.5
"""A whole block covers at least and at most so many times what it covers in the true frame."""
KINDS = ("touched", "untouched")
HIDDEN_PX = 12
"""A block of which the true frame shows fewer pixels (the peg hides it) is not judged."""


def block_pixels(state: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where the middles of blocks appear: x and y in pixels, (n, 2), of one state (2 + 3n,)."""
    shown = places(state[None])[0, 1:]
    return np.stack([(1 + shown[:, 0]) * width / 2, (1 - shown[:, 1]) * height / 2], -1) - 0.5


def block_areas(frame: np.ndarray, middles: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """The largest connected part of every block.

    Args:
        frame: uint8 (H, W, 3).
        middles: true middles of the blocks, x and y in pixels, (n, 2).
        colours: of the blocks, n names.

    Returns:
        Pixels, (n,) int64; 0 where nothing is left.
    """
    areas = np.zeros(len(middles), np.int64)
    y, x = np.indices(frame.shape[:2])
    for colour, mask in colour_masks(frame).items():
        blocks = [number for number, name in enumerate(colours) if name == colour]
        if not blocks:
            continue
        distance = [np.hypot(x - middles[b, 0], y - middles[b, 1]) for b in blocks]
        nearest = np.argmin(distance, axis=0)
        for index, block in enumerate(blocks):
            parts = component_areas(mask & (nearest == index))
            areas[block] = parts[0] if len(parts) else 0
    return areas


def touched_blocks(states: np.ndarray) -> np.ndarray:
    """Which blocks have moved or turned since the first of states (T, 2 + 3n): (T, n) bool."""
    poses = states[:, 2:].reshape(len(states), -1, 3)
    moved = np.hypot(*np.moveaxis(poses[..., :2] - poses[:1, :, :2], -1, 0))
    turned = np.abs((poses[..., 2] - poses[:1, :, 2] + np.pi) % (2 * np.pi) - np.pi)
    return np.maximum.accumulate((moved > MOVED_M) | (turned > TURNED_RAD), axis=0)


def whole_blocks(
    clips: OpenLoopClips,
    versions: dict[str, np.ndarray],
    colours: Sequence[str],
    horizons: Sequence[int],
) -> dict[str, Any] | None:
    """Share of blocks that are whole at some steps.

    Args:
        clips: truth, with the simulator's states.
        versions: frames (N, T, H, W, 3) by name.
        colours: of the blocks, in the states' order.
        horizons: steps, 1 being the first generated frame.

    Returns:
        By `horizon_<h>`, then `touched` and `untouched`: `blocks`, how many are judged, and the
        share that is whole by version, None where there is no block. None if no states of so many
        blocks were recorded.
    """
    if clips.states is None or clips.states.shape[-1] != 2 + 3 * len(colours):
        return None
    found: dict[str, Any] = {}
    height, width = clips.frames.shape[2:4]
    for horizon in sorted(horizons):
        counts = {
            kind: dict.fromkeys(("blocks", *versions), 0) for kind in ("touched", "untouched")
        }
        for row in np.flatnonzero(clips.steps >= horizon):
            states = clips.states[row, : horizon + 1]
            middles = block_pixels(states[-1], height, width)
            expected = block_areas(clips.truth[row, horizon - 1], middles, colours)
            judged = expected >= HIDDEN_PX
            touched = touched_blocks(states)[-1]
            for kind, chosen in (("touched", touched), ("untouched", ~touched)):
                counts[kind]["blocks"] += int((judged & chosen).sum())
            for name, frames in versions.items():
                areas = block_areas(frames[row, horizon - 1], middles, colours)
                whole = judged & (areas >= LEAST * expected) & (areas <= MOST * expected)
                counts["touched"][name] += int((whole & touched).sum())
                counts["untouched"][name] += int((whole & ~touched).sum())
        found[f"horizon_{horizon}"] = {
            kind: {
                name: count if name == "blocks" else count / of["blocks"] if of["blocks"] else None
                for name, count in of.items()
            }
            for kind, of in counts.items()
        }
    return found
