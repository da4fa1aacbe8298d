"""What Cube's questions mean: predicates over two privileged states, before and after.

Every predicate returns a slack in units of its ambiguity margin: positive is "yes", negative "no",
and less than 1 in size is ambiguous. A conjunction is the smallest slack of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wm_gym.envs.sims.cube.state import CubeState
from wm_gym.envs.sims.slack import above, below, ordered_pairs
from wm_gym.semantic.cube_question_types import CUBE_QUESTIONS
from wm_gym.semantic.questions import Question, QuestionError, QuestionType

PRESENT_TYPES = CUBE_QUESTIONS.present_types
"""Types that a single picture answers; the others compare the future with the present."""


def slacks(kind: str, before: np.ndarray, after: np.ndarray, objects: Sequence[str]) -> np.ndarray:
    """Answers every question of a type about many pairs of states.

    Args:
        kind: name of the type.
        before: privileged states in which the question is asked, (N, S), see `cube_state`.
        after: privileged states that it asks about, (N, S).
        objects: the n cubes, in the states' order.

    Returns:
        Slack of each of `CUBE_QUESTIONS.instances(kind, objects)`, (N, instances).

    Raises:
        QuestionError: if the type is unknown.
    """
    if kind not in _PREDICATES:
        raise QuestionError(f"Cube cannot answer {kind!r}; it knows {sorted(_PREDICATES)}")
    states = CubeState.from_array(before), CubeState.from_array(after)
    found = _PREDICATES[kind](CUBE_QUESTIONS.types[kind], *states)
    if CUBE_QUESTIONS.types[kind].blocks == 2:
        first, second = ordered_pairs(len(objects))
        found = found[:, first, second]
    return found


def slack(
    question: Question, before: np.ndarray, after: np.ndarray, objects: Sequence[str]
) -> float:
    """The slack of one question about one pair of states (S,), see `slacks`.

    Raises:
        QuestionError: if it is about a cube that is not there.
    """
    CUBE_QUESTIONS.type_of(question)
    absent = set(question.blocks) - set(objects)
    if absent:
        raise QuestionError(
            f"{question} is about {', '.join(sorted(absent))}; there are {', '.join(objects)}"
        )
    number = CUBE_QUESTIONS.instances(question.type, objects).index(question)
    pair = np.asarray(before)[None], np.asarray(after)[None]
    return float(slacks(question.type, *pair, objects)[0, number])


def _cube_grasped(kind: QuestionType, before: CubeState, after: CubeState) -> np.ndarray:
    farther_pad = after.pad_gaps_m.max(-1)
    w, *vector = np.moveaxis(after.cubes_quaternion, -1, 0)
    axis = -np.stack(vector, -1)  # the inverse turn: into the cube's frame
    way = after.hand_m[:, None] - after.cubes_m
    twice = 2 * np.cross(axis, way)
    inside = way + w[..., None] * twice + np.cross(axis, twice)
    offset = np.abs(inside).max(-1)
    both = below(farther_pad, kind.limits["gap"])
    return np.minimum(both, below(offset, kind.limits["offset"]))


def _gripper_touching(kind: QuestionType, before: CubeState, after: CubeState) -> np.ndarray:
    return below(after.pad_gaps_m.min(-1), kind.limits["gap"])


def _block_touching(kind: QuestionType, before: CubeState, after: CubeState) -> np.ndarray:
    return below(after.cube_gaps_m, kind.limits["gap"])


def _on_top(kind: QuestionType, before: CubeState, after: CubeState) -> np.ndarray:
    step = after.cubes_m[:, :, None] - after.cubes_m[:, None]  # from the second to the first
    parts = (
        below(after.cube_gaps_m, kind.limits["gap"]),
        above(step[..., 2], kind.limits["rise"]),
        below(np.linalg.norm(step[..., :2], axis=-1), kind.limits["aside"]),
    )
    return np.minimum.reduce(parts)


def _gripper_closer(kind: QuestionType, before: CubeState, after: CubeState) -> np.ndarray:
    was, now = (np.linalg.norm(s.hand_m[:, None] - s.cubes_m, axis=-1) for s in (before, after))
    return above(was - now, kind.limits["approach"])


def _block_closer(kind: QuestionType, before: CubeState, after: CubeState) -> np.ndarray:
    was, now = (
        np.linalg.norm(s.cubes_m[:, :, None] - s.cubes_m[:, None], axis=-1) for s in (before, after)
    )
    return above(was - now, kind.limits["approach"])


_Predicate = Callable[[QuestionType, CubeState, CubeState], np.ndarray]
"""(N, n) for types about one cube, (N, n, n) with the first cube before the second for two."""

_PREDICATES: dict[str, _Predicate] = {
    "cube_grasped": _cube_grasped,
    "gripper_touching_block": _gripper_touching,
    "block_touching_block": _block_touching,
    "block_on_top_of_block": _on_top,
    "gripper_closer_to_block": _gripper_closer,
    "block_closer_to_block": _block_closer,
}
