"""What LangTable's questions mean: predicates over two privileged states, before and after.

Every predicate returns a slack in units of its ambiguity margin: positive is "yes", negative "no",
and less than 1 in size is ambiguous. A conjunction is the smallest slack of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from wm_gym.envs.sims.langtable.shapes import PEG_RADIUS_M, geometry, signed_distances
from wm_gym.envs.sims.slack import above, below, ordered_pairs
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.questions import Question, QuestionError, QuestionType

PRESENT_TYPES = LANGTABLE_QUESTIONS.present_types
"""Types that a single picture answers; the others compare the future with the present."""

_AXES = {
    "right": (1.0, 0.0),
    "up": (0.0, 1.0),
    "left": (-1.0, 0.0),
    "down": (0.0, -1.0),
    "above": (0.0, 1.0),
    "below": (0.0, -1.0),
}
_STILL_M = 1e-6  # a shorter way has no direction


def slacks(kind: str, before: np.ndarray, after: np.ndarray, objects: Sequence[str]) -> np.ndarray:
    """Answers every question of a type about many pairs of states.

    Args:
        kind: name of the type.
        before: privileged states in which the question is asked, (N, 2 + 3n).
        after: privileged states that it asks about, (N, 2 + 3n).
        objects: the n blocks on the table, in the states' order.

    Returns:
        Slack of each of `LANGTABLE_QUESTIONS.instances(kind, objects)`, (N, instances).

    Raises:
        QuestionError: if the type is unknown.
    """
    if kind not in _PREDICATES:
        raise QuestionError(f"LangTable cannot answer {kind!r}; it knows {sorted(_PREDICATES)}")
    of = LANGTABLE_QUESTIONS.types[kind]
    states = np.asarray(before, float), np.asarray(after, float)
    found = _PREDICATES[kind](of, *states, tuple(objects))
    return found.reshape(len(states[1]), -1)


def slack(
    question: Question, before: np.ndarray, after: np.ndarray, objects: Sequence[str]
) -> float:
    """The slack of one question about one pair of states (2 + 3n,), see `slacks`.

    Raises:
        QuestionError: if it is about a block that is not on the table.
    """
    LANGTABLE_QUESTIONS.type_of(question)
    absent = set(question.blocks) - set(objects)
    if absent:
        raise QuestionError(
            f"{question} is about {', '.join(sorted(absent))}; on the table are "
            f"{', '.join(objects)}"
        )
    number = LANGTABLE_QUESTIONS.instances(question.type, objects).index(question)
    pair = np.asarray(before)[None], np.asarray(after)[None]
    return float(slacks(question.type, *pair, objects)[0, number])


def block_gaps(states: np.ndarray, objects: tuple[str, ...]) -> np.ndarray:
    """Gaps between the blocks' outlines, (N, n, n) metres; near 0 where they touch or overlap.

    Args:
        states: privileged states, (N, 2 + 3n).
        objects: the n blocks' names.
    """
    # a state is asked about from several earlier ones; its gaps are the dearest thing to compute
    states, back = np.unique(states, axis=0, return_inverse=True)
    poses = states[:, 2:].reshape(len(states), -1, 3)
    cos, sin = np.cos(poses[..., 2]), np.sin(poses[..., 2])
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)  # (N, n, 2, 2)
    corners = np.einsum("snij,nej->snei", turn, _outlines(objects)) + poses[:, :, None, :2]
    edge = np.roll(corners, -1, axis=2) - corners  # a repeated last corner is an edge of length 0
    length2 = np.where((edge**2).sum(-1) > 0, (edge**2).sum(-1), 1.0)
    n = len(objects)
    gaps = np.full((len(states), n, n), np.inf)
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            to_corner = corners[:, i, :, None] - corners[:, j, None]  # (N, E, E, 2)
            along = (to_corner * edge[:, j, None]).sum(-1) / length2[:, j, None]
            foot = np.clip(along, 0.0, 1.0)[..., None] * edge[:, j, None]
            gaps[:, i, j] = np.sqrt(((to_corner - foot) ** 2).sum(-1)).min((1, 2))
    return np.minimum(gaps, gaps.transpose(0, 2, 1))[back]


@cache
def _outlines(objects: tuple[str, ...]) -> np.ndarray:
    """Corners of every block in its own frame, (n, E, 2), padded by repeating the last one."""
    outlines = [geometry(name.split(" ")[1])[1] for name in objects]
    longest = max(map(len, outlines))
    return np.stack([np.pad(o, ((0, longest - len(o)), (0, 0)), mode="edge") for o in outlines])


def _centres(states: np.ndarray) -> np.ndarray:
    return states[:, 2:].reshape(len(states), -1, 3)[..., :2]


def _directed(kind: QuestionType, offset: np.ndarray) -> np.ndarray:
    """Slack of the angle between offsets (..., 2) and each of the type's directions, (..., V)."""
    axes = np.asarray([_AXES[value] for value in kind.values])
    length = np.linalg.norm(offset, axis=-1, keepdims=True)
    cosine = np.clip(offset @ axes.T / np.maximum(length, _STILL_M), -1.0, 1.0)
    angle = np.where(length < _STILL_M, 180.0, np.degrees(np.arccos(cosine)))
    return below(angle, kind.limits["angle"])


def _peg_gaps(states: np.ndarray, objects: tuple[str, ...]) -> np.ndarray:
    states, back = np.unique(states, axis=0, return_inverse=True)
    poses = states[:, 2:].reshape(len(states), -1, 3)
    rows = [signed_distances(s[:2], p, objects) for s, p in zip(states, poses, strict=True)]
    return (np.stack(rows) - PEG_RADIUS_M)[back]


def _block_touching(kind, before, after, objects):
    first, second = ordered_pairs(len(objects))
    return below(block_gaps(after, objects)[:, first, second], kind.limits["gap"])


def _peg_to_block(kind, before, after, objects):
    return below(_peg_gaps(after, objects), kind.limits["gap"])


def _block_board_position(kind, before, after, objects):
    limit = kind.limits["centre"]
    x, y = np.moveaxis(_centres(after), -1, 0)  # (N, n)
    sides = {
        "right": above(x, limit),
        "left": above(-x, limit),
        "top": above(y, limit),
        "bottom": above(-y, limit),
    }
    places = []
    for value in kind.values:
        if value == "center":
            places.append(below(np.maximum(np.abs(x), np.abs(y)), limit))
        else:
            places.append(np.minimum.reduce([sides[side] for side in value.split(" ")]))
    return np.stack(places, -1)


def _peg_block_direction(kind, before, after, objects):
    return _directed(kind, after[:, None, :2] - _centres(after))


def _block_block_direction(kind, before, after, objects):
    first, second = ordered_pairs(len(objects))
    centres = _centres(after)
    return _directed(kind, centres[:, first] - centres[:, second])


def _block_moved(kind, before, after, objects):
    way = np.linalg.norm(_centres(after) - _centres(before), axis=-1)
    return above(way, kind.limits["way"])


def _moved_towards(kind: QuestionType, way: np.ndarray) -> np.ndarray:
    far = above(np.linalg.norm(way, axis=-1), kind.limits["way"])
    return np.minimum(far[..., None], _directed(kind, way))


def _block_move_direction(kind, before, after, objects):
    return _moved_towards(kind, _centres(after) - _centres(before))


def _peg_move_direction(kind, before, after, objects):
    return _moved_towards(kind, after[:, :2] - before[:, :2])


def _block_block_closer(kind, before, after, objects):
    first, second = ordered_pairs(len(objects))
    was, now = (
        np.linalg.norm(_centres(s)[:, first] - _centres(s)[:, second], axis=-1)
        for s in (before, after)
    )
    return above(was - now, kind.limits["approach"])


def _peg_block_closer(kind, before, after, objects):
    was, now = (np.linalg.norm(s[:, None, :2] - _centres(s), axis=-1) for s in (before, after))
    return above(was - now, kind.limits["approach"])


_Predicate = Callable[[QuestionType, np.ndarray, np.ndarray, tuple[str, ...]], np.ndarray]

_PREDICATES: dict[str, _Predicate] = {
    "block_touching": _block_touching,
    "peg_to_block": _peg_to_block,
    "block_board_position": _block_board_position,
    "peg_block_direction": _peg_block_direction,
    "block_block_direction": _block_block_direction,
    "block_move_direction": _block_move_direction,
    "block_moved": _block_moved,
    "peg_move_direction": _peg_move_direction,
    "block_block_closer": _block_block_closer,
    "peg_block_closer": _peg_block_closer,
}
