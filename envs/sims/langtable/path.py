"""Shortest ways over the table around blocks, for scripted experts (A* on a coarse grid)."""

from __future__ import annotations

import heapq
import math
from functools import lru_cache

import numpy as np

_CELL_M = 0.0125
_BLOCKED_COST = 25.0  # a way through a block is dear but exists, so there is always an answer
_DIRECTIONS = [
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
    cost = (1.0 + _BLOCKED_COST * inside).ravel().tolist()
    first, goal = (_cell(point, last) for point in (start, end))
    way = _shortest(first, goal, cost, last)
    cells = grid.reshape(-1, 2)
    points = [end] + [cells[cell] for cell in way[1:-1]]  # from the end backwards
    for point in points:
        if _free(start, point, centres, clearance_m):
            return point
    return points[-1]


def _cell(point: np.ndarray, last: int) -> int:
    """Number of the cell that a point (2,) lies in."""
    x, y = (np.clip(np.rint(point / _CELL_M), -last, last).astype(int) + last).tolist()
    return x * (2 * last + 1) + y


@lru_cache(maxsize=4)
def _neighbours(last: int) -> list[list[tuple[int, float]]]:
    """The cells next to each cell, and how far they are."""
    size = 2 * last + 1
    return [
        [
            ((x + dx) * size + y + dy, length)
            for dx, dy, length in _DIRECTIONS
            if 0 <= x + dx < size and 0 <= y + dy < size
        ]
        for x in range(size)
        for y in range(size)
    ]


def _shortest(first: int, goal: int, cost: list[float], last: int) -> list[int]:
    """The cells of the cheapest way, from the goal back to the first, by A*.

    Plain lists and numbers: NumPy's would take several times as long here.
    """
    size = 2 * last + 1
    goal_x, goal_y = divmod(goal, size)
    neighbours = _neighbours(last)
    best = [math.inf] * len(cost)
    parent = [-1] * len(cost)
    done = [False] * len(cost)
    best[first] = 0.0
    queue = [(0.0, first)]
    while queue:
        _, cell = heapq.heappop(queue)
        if cell == goal:
            break
        if done[cell]:
            continue
        done[cell] = True
        so_far = best[cell]
        for other, length in neighbours[cell]:
            total = so_far + length * cost[other]
            if total < best[other]:
                best[other], parent[other] = total, cell
                x, y = divmod(other, size)
                guess = ((x - goal_x) ** 2 + (y - goal_y) ** 2) ** 0.5
                heapq.heappush(queue, (total + guess, other))
    way = [goal]
    while parent[way[-1]] >= 0:
        way.append(parent[way[-1]])
    return way
