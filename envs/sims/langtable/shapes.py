"""The blocks of LangTable: names, colours, outlines and distances between them (no MuJoCo).

An outline is a polygon in the block's own frame, counter-clockwise, in metres, its origin at the
centroid of its area, so that a push through the origin does not turn the block much.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from wm_gym.errors import UserError

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.14),
    "green": (0.10, 0.68, 0.24),
    "blue": (0.10, 0.32, 0.92),
    "yellow": (1.00, 0.80, 0.05),
    "purple": (0.58, 0.16, 0.76),
}
SHAPES = ("cube", "moon", "star", "pentagon")
OBJECTS = (
    "green cube",
    "blue cube",
    "red moon",
    "blue moon",
    "green star",
    "yellow star",
    "red pentagon",
    "yellow pentagon",
)
OOD_OBJECTS = (
    "green pentagon",
    "purple pentagon",
    "blue star",
    "red cube",
    "yellow moon",
    "purple cube",
)

ALL_OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

PEG_RADIUS_M = 0.0125
PEG_HEIGHT_M = 0.045
BLOCK_HEIGHT_M = 0.025
BLOCK_RADIUS_M = 0.0297  # largest distance of an outline's corner from its origin, rounded up
WORKSPACE_M = 0.18  # the peg's centre stays within a square of this half width
BLOCK_BOUND_M = 0.22  # and a block's centre within this one

_CUBE_HALF_M = 0.020
_PENTAGON_RADIUS_M = 0.0235
_STAR_RADII_M = (0.027, 0.0145)
_MOON_OUTER_M, _MOON_INNER_M, _MOON_OFFSET_M, _MOON_SEGMENTS = 0.0245, 0.0155, 0.0135, 6


def parse_blocks(blocks: str) -> tuple[str, ...]:
    """Returns the names of the blocks that stand on the table.

    Args:
        blocks: `"standard"` (the eight of the paper), `"ood"` (the six that its training data
            lack, and only those) or names separated by commas, such as `"red cube, blue star"`.

    Returns:
        Names in table order.

    Raises:
        ValueError: if a name is unknown or given twice.
    """
    if blocks == "standard":
        return OBJECTS
    if blocks == "ood":
        return OOD_OBJECTS
    names = tuple(" ".join(part.split()) for part in str(blocks).split(","))
    for name in names:
        colour, _, shape = name.partition(" ")
        if colour not in COLOURS or shape not in SHAPES:
            raise UserError(
                f"blocks={blocks!r}: {name!r} is not a block; expected 'standard', 'ood' or names "
                f"'<colour> <shape>' separated by commas, with a colour of {', '.join(COLOURS)} "
                f"and a shape of {', '.join(SHAPES)}."
            )
    if len(set(names)) != len(names) or not 2 <= len(names) <= 10:
        raise UserError(
            f"blocks={blocks!r} names {len(names)} blocks; expected 2 to 10 different ones."
        )
    return names


def _moon() -> tuple[list[np.ndarray], np.ndarray]:
    outer, inner, offset = _MOON_OUTER_M, _MOON_INNER_M, _MOON_OFFSET_M
    tip_x = (outer**2 - inner**2 + offset**2) / (2 * offset)
    tip_y = np.sqrt(outer**2 - tip_x**2)
    steps = np.linspace(0.0, 1.0, _MOON_SEGMENTS + 1)
    start, start_in = np.arctan2(tip_y, tip_x), np.arctan2(tip_y, tip_x - offset)
    angle = start + steps * (2 * np.pi - 2 * start)
    angle_in = start_in + steps * (2 * np.pi - 2 * start_in)
    rim = outer * np.stack([np.cos(angle), np.sin(angle)], 1)
    hollow = inner * np.stack([np.cos(angle_in), np.sin(angle_in)], 1) + (offset, 0.0)
    parts = []
    for k in range(_MOON_SEGMENTS):
        corners = [rim[k], rim[k + 1], hollow[k + 1], hollow[k]]
        if k == 0:
            corners = corners[:3]
        if k == _MOON_SEGMENTS - 1:
            corners = [rim[k], rim[k + 1], hollow[k]]
        parts.append(np.array(corners))
    return parts, np.concatenate([rim, hollow[-2:0:-1]])


def _centroid(outline: np.ndarray) -> np.ndarray:
    after = np.roll(outline, -1, axis=0)
    cross = outline[:, 0] * after[:, 1] - after[:, 0] * outline[:, 1]
    return ((outline + after) * cross[:, None]).sum(0) / (3 * cross.sum())


@cache
def geometry(shape: str) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Returns a shape's convex parts and its outline.

    Args:
        shape: one of `SHAPES`.

    Returns:
        Convex polygons, each (n, 2), whose union is the shape, and the outline (N, 2); metres,
        counter-clockwise, origin at the centroid.
    """
    if shape == "cube":
        outline = _CUBE_HALF_M * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=float)
        parts = [outline]
    elif shape == "pentagon":
        angle = np.pi / 2 + 2 * np.pi * np.arange(5) / 5
        outline = _PENTAGON_RADIUS_M * np.stack([np.cos(angle), np.sin(angle)], 1)
        parts = [outline]
    elif shape == "star":
        angle = np.pi / 2 + 2 * np.pi * np.arange(10) / 10
        radius = np.resize(_STAR_RADII_M, 10)[:, None]
        outline = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        parts = [
            np.array([[0.0, 0.0], outline[k - 1], outline[k], outline[(k + 1) % 10]])
            for k in range(0, 10, 2)
        ]
    else:
        parts, outline = _moon()
    centre = _centroid(outline)
    return tuple(part - centre for part in parts), outline - centre


@cache
def _edges(objects: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of several blocks as edges (n, E, 2), padded by repeating the last corner."""
    outlines = [geometry(name.split(" ")[1])[1] for name in objects]
    longest = max(map(len, outlines))
    start = np.stack([np.pad(o, ((0, longest - len(o)), (0, 0)), mode="edge") for o in outlines])
    return start, np.roll(start, -1, axis=1)


def signed_distances(point: np.ndarray, poses: np.ndarray, objects: tuple[str, ...]) -> np.ndarray:
    """Returns how far a point is outside each block.

    Args:
        point: (2,) metres.
        poses: (n, 3), x and y in metres and the angle in radians.
        objects: the n blocks' names.

    Returns:
        (n,) metres, negative inside.
    """
    start, end = _edges(objects)
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    offset = np.asarray(point) - poses[:, :2]
    local = np.stack(
        [cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]], 1
    )[:, None]  # (n, 1, 2)
    edge, to_point = end - start, local - start
    length2 = (edge**2).sum(-1)
    along = np.clip((to_point * edge).sum(-1) / np.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    distance = np.sqrt(((to_point - along[..., None] * edge) ** 2).sum(-1)).min(1)
    # crossings of a ray in +x from the point with the outline: an odd number means inside
    above, above_end = start[..., 1] > local[..., 1], end[..., 1] > local[..., 1]
    rise = np.where(above != above_end, edge[..., 1], 1.0)
    cut = start[..., 0] + (local[..., 1] - start[..., 1]) / rise * edge[..., 0]
    inside = ((above != above_end) & (local[..., 0] < cut)).sum(1) % 2 == 1
    return np.where(inside, -distance, distance)
