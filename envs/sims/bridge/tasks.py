"""Tasks of BridgeSim: instructions in words, success and distance as functions of the state.

Nothing here needs MuJoCo: everything is computed from the privileged state, see `bridge_state`, in
which a task's first thing comes first and its second one next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_gym.envs.sims.bridge.objects import (
    BASKET_HALF_M,
    BLOCK_HALF_M,
    PLATE_HEIGHT_M,
    PLATE_RADIUS_M,
    THINGS,
    TOWEL_HALF_M,
    TOWEL_HEIGHT_M,
)
from wm_gym.envs.sims.bridge.state import BridgeState
from wm_gym.errors import UserError
from wm_gym.instructions import Goal, InstructionSet, as_text

REST_SPEED_M_S = 0.05  # a thing that moves faster has not come to rest
UPRIGHT = 0.9  # least cosine between the second thing's axis and the vertical


@dataclass(frozen=True)
class Place:
    """Where the first thing has to come to rest, in the frame of the second one, stood upright.

    Attributes:
        first: the thing to be moved.
        second: where to.
        template: of the instruction.
        height_m: of the first thing's origin when it is done.
        heights_m: lowest and highest that count.
        within_m: radius of a circle, or half sides of a rectangle, for its x and y.
        any_face: the second thing is as good on any of its faces: height is counted along the
            vertical instead of its own axis.
    """

    first: str
    second: str
    template: str
    height_m: float
    heights_m: tuple[float, float]
    within_m: tuple[float, ...]
    any_face: bool = False


PLACES: dict[str, Place] = {
    "carrot_on_plate": Place(
        "carrot",
        "plate",
        "put the {first=carrot} on the {second=plate}",
        PLATE_HEIGHT_M / 2 + 0.0135,
        (0.012, 0.032),
        (0.85 * PLATE_RADIUS_M,),
    ),
    "spoon_on_towel": Place(
        "spoon",
        "towel",
        "put the {first=spoon} on the {second=towel}",
        TOWEL_HEIGHT_M / 2 + 0.006,
        (0.005, 0.020),
        TOWEL_HALF_M,
    ),
    "green_block_on_yellow_block": Place(
        "green block",
        "yellow block",
        "stack the {first=green block|red block} on the {second=yellow block|blue block}",
        2 * BLOCK_HALF_M,
        (2 * BLOCK_HALF_M - 0.006, 2 * BLOCK_HALF_M + 0.006),
        (BLOCK_HALF_M,),
        any_face=True,
    ),
    "eggplant_in_basket": Place(
        "eggplant",
        "basket",
        "put the {first=eggplant} in the {second=basket}",
        0.006 + 0.0225,
        (0.0, 0.055),
        BASKET_HALF_M,
    ),
}
TASKS = tuple(PLACES)
TASK_TEMPLATES = {task: place.template for task, place in PLACES.items()}
INSTRUCTIONS = InstructionSet(
    TASK_TEMPLATES,
    (*THINGS, *(thing.unseen_name for thing in THINGS.values() if thing.unseen_name)),
)


@dataclass(frozen=True)
class BridgeGoal:
    """What is to be done.

    Attributes:
        task: one of `TASKS`.
        unseen_colours: whether the things wear their unseen colours, which changes names.
    """

    task: str
    unseen_colours: bool = False

    @property
    def place(self) -> Place:
        """The first and second thing and where to bring them together."""
        return PLACES[self.task]

    @property
    def objects(self) -> tuple[str, str]:
        """The two things by the names of the instruction."""
        first, second = self.place.first, self.place.second
        if self.unseen_colours:
            first = THINGS[first].unseen_name or first
            second = THINGS[second].unseen_name or second
        return first, second

    @property
    def instruction(self) -> str:
        """The goal in words."""
        return INSTRUCTIONS.render(Goal(self.task, self.objects))


def parse_instruction(instruction: str, unseen_colours: bool = False) -> BridgeGoal:
    """Turns an instruction in words into a goal.

    Args:
        instruction: a sentence by one of `TASK_TEMPLATES`; case and spacing do not matter.
        unseen_colours: whether the things wear their unseen colours.

    Raises:
        ValueError: if it is not understood, or names things that are not there.
    """
    parsed = INSTRUCTIONS.parse(as_text(instruction))
    goal = BridgeGoal(parsed.task, unseen_colours)
    if goal.objects != parsed.objects:
        raise UserError(
            f"instruction {instruction!r}: these things are not on the table; expected "
            f"{goal.instruction!r} (BridgeSimEnv(colours=...) chooses the colours)."
        )
    return goal


def target_point(state: BridgeState, place: Place) -> np.ndarray:
    """Returns where the first thing's origin has to go, (3,) metres."""
    second = state.things[1]
    up = np.eye(3)[2] if place.any_face else second.rotation[:, 2]
    return second.position_m + place.height_m * up


def task_distance(state: np.ndarray, goal: BridgeGoal) -> float:
    """Returns how far the first thing is from its place in or on the second one, in metres."""
    named = BridgeState.from_array(state)
    return float(np.linalg.norm(named.things[0].position_m - target_point(named, goal.place)))


def is_success(state: np.ndarray, goal: BridgeGoal) -> bool:
    """Tells whether the first thing rests in its place, let go of by the hand."""
    named = BridgeState.from_array(state)
    first, second = named.things[:2]
    place = goal.place
    x, y, z = first.position_m - second.position_m
    if not place.any_face:
        if second.rotation[2, 2] < UPRIGHT:
            return False
        x, y, z = second.rotation.T @ (first.position_m - second.position_m)
    if len(place.within_m) == 1:
        inside = bool(np.hypot(x, y) < place.within_m[0])
    else:
        inside = bool(abs(x) < place.within_m[0] and abs(y) < place.within_m[1])
    low, high = place.heights_m
    still = first.speed_m_s < REST_SPEED_M_S
    return inside and bool(low < z < high) and still and not first.touched
