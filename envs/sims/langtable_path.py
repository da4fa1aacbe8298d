"""Shortest ways over the table around blocks, for scripted experts (A* on a coarse grid)."""

from __future__ import annotations

import heapq

import numpy as np

_CELL_M = 0.0125
_BLOCKED_COST = 25.0  # a way through a block is dear but exists, so there is always an answer
_NEIGHBOURS = [
    (dx, dy, float(np.hypot(dx, dy))) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy
]


def _free(start: np.ndarray, end: np.ndarray, centres: np.ndarray, clearance_m: float) -> bool:
    """Tells whether the straight way keeps its distance from all centres."""
    if not len(centres):
        return True
    way = end - start
    along = np.clip((centres - start) @ way / max(way @ way, 1e-12), 0.0, 1.0)
    nearest = np.linalg.norm(start + along[:, None] * way - centres, axis=1)
    # what is already too near at the start does not count if the way leads away from it
    return bool((nearest >= np.minimum(clearance_m, np.linalg.norm(start - centres, axis=1))).all())


def next_waypoint(
    start: np.ndarray,
    end: np.ndarray,
    centres: np.ndarray,
    clearance_m: float,
    bound_m: float,
) -> np.ndarray:
    """Returns the farthest point of a short way to `end` that can be headed for in a straight line.

    Args:
        start: (2,) metres.
        end: (2,) metres.
        centres: (n, 2) centres of what is in the way.
        clearance_m: distance to keep from these centres.
        bound_m: half width of the square in which the way stays.

    Returns:
        (2,) metres; `end` itself where nothing is in between.
    """
    if _free(start, end, centres, clearance_m):
        return end
    last = round(bound_m / _CELL_M)
    axis = np.arange(-last, last + 1) * _CELL_M
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    gap = np.linalg.norm(grid[:, :, None] - centres, axis=-1).min(-1)
    inside = np.clip((clearance_m - gap) / _CELL_M, 0.0, 1.0)
    cost = (1.0 + _BLOCKED_COST * inside).tolist()
    first = tuple(np.clip(np.rint(start / _CELL_M), -last, last).astype(int) + last)
    goal = tuple(np.clip(np.rint(end / _CELL_M), -last, last).astype(int) + last)
    best, parent = {first: 0.0}, {}
    queue = [(0.0, first)]
    done = set()
    while queue:
        _, cell = heapq.heappop(queue)
        if cell == goal:
            break
        if cell in done:
            continue
        done.add(cell)
        for dx, dy, length in _NEIGHBOURS:
            x, y = cell[0] + dx, cell[1] + dy
            if not (0 <= x <= 2 * last and 0 <= y <= 2 * last):
                continue
            total = best[cell] + length * cost[x][y]
            if total < best.get((x, y), np.inf):
                best[(x, y)], parent[(x, y)] = total, cell
                guess = ((x - goal[0]) ** 2 + (y - goal[1]) ** 2) ** 0.5
                heapq.heappush(queue, (total + guess, (x, y)))
    way = [goal]
    while way[-1] in parent:
        way.append(parent[way[-1]])
    points = [end] + [grid[cell] for cell in way[1:-1]]  # from the end backwards
    for point in points:
        if _free(start, point, centres, clearance_m):
            return point
    return points[-1]
