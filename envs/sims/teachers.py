"""What a simulator teaches a policy beside frames: a clean expert's word, and where things are.

Both come from recorded privileged states; a policy itself sees frames and words only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_gym.data.episodes import Episode
from wm_gym.domains import BRIDGE, CUBE
from wm_gym.envs.sims.behaviours import Behaviour
from wm_gym.envs.sims.bridge import expert as bridge_expert
from wm_gym.envs.sims.bridge import state as bridge_state
from wm_gym.envs.sims.bridge import tasks as bridge_tasks
from wm_gym.envs.sims.bridge import view as bridge_view
from wm_gym.envs.sims.cube import expert as cube_expert
from wm_gym.envs.sims.cube import state as cube_state
from wm_gym.envs.sims.cube import tasks as cube_tasks
from wm_gym.envs.sims.cube import view as cube_view
from wm_gym.envs.sims.langtable import expert as langtable_expert
from wm_gym.envs.sims.langtable import tasks as langtable_tasks
from wm_gym.envs.sims.langtable import view as langtable_view
from wm_gym.instructions import Goal


@dataclass(frozen=True)
class Teacher:
    """What a simulator knows about its recorded episodes.

    Attributes:
        expert: makes an expert without noise, who reads privileged states.
        goal: the simulator's own goal for a task and its objects.
        places: privileged states (T+1, S) of an episode with that goal -> float32
            (T+1, 1 + objects, 2), where the effector and each of the domain's objects appear in the
            frame, within ±1, x to the right and y up; NaN for what is not there.
        objects: what lies on the table in every episode, in the order of the state; () where that
            is what the goal names.
    """

    expert: Callable[[], Behaviour]
    goal: Callable[[Goal], Any]
    places: Callable[[np.ndarray, Goal], np.ndarray]
    objects: tuple[str, ...] = ()

    def labels(self, episode: Episode) -> np.ndarray:
        """What the expert would do in every state of an episode, at one fixed pace.

        Args:
            episode: with privileged states; a clean expert's own actions are taken as they are.

        Returns:
            float32 (T, A), physical units.
        """
        if episode.behaviour == "expert":
            return episode.actions
        expert, goal = self.expert(), self.goal(episode.goal)
        pace: Any = _Midway()
        expert.reset(goal, pace, self.objects or episode.goal.objects)
        return np.stack([expert.act(state) for state in episode.privileged[:-1]])


class _Midway:
    """Stands in for the generator that draws an expert's pace: always the middle of the range."""

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


def _langtable_goal(goal: Goal) -> langtable_tasks.Goal:
    return langtable_tasks.Goal(goal.task, *goal.objects)


def langtable_places(privileged: np.ndarray, goal: Goal) -> np.ndarray:
    """Where peg and blocks are in the near-top-down frame, see `Teacher.places`."""
    del goal  # all blocks are always there
    return langtable_view.places(privileged).astype(np.float32)


def bridge_places(privileged: np.ndarray, goal: Goal) -> np.ndarray:
    """Where the hand and the task's two things are in the shoulder frame, see `Teacher.places`."""
    things = privileged[:, bridge_state.EFFECTOR_SIZE :]
    things = things.reshape(len(privileged), -1, bridge_state.THING_SIZE)[:, :, :3]
    places = np.full((len(privileged), 1 + len(BRIDGE.objects), 2), np.nan, np.float32)
    places[:, 0] = bridge_view.project(privileged[:, :3])
    for number, name in enumerate(goal.objects):
        places[:, 1 + BRIDGE.objects.index(name)] = bridge_view.project(things[:, number])
    return places


def cube_places(privileged: np.ndarray, goal: Goal) -> np.ndarray:
    """Where the hand and the cubes are in the front camera's frame, see `Teacher.places`."""
    del goal  # all cubes are always there
    states = cube_state.CubeState.from_array(privileged)
    points = np.concatenate([states.hand_m[:, None], states.cubes_m], axis=1)
    places = np.full((len(privileged), 1 + len(CUBE.objects), 2), np.nan, np.float32)
    places[:, : points.shape[1]] = cube_view.project(points)
    return places


TEACHERS: dict[str, Teacher] = {
    "LangTable-v0": Teacher(
        langtable_expert.Expert, _langtable_goal, langtable_places, langtable_tasks.OBJECTS
    ),
    "BridgeSim-v0": Teacher(
        bridge_expert.Expert, lambda goal: bridge_tasks.BridgeGoal(goal.task), bridge_places
    ),
    "Cube-v0": Teacher(
        cube_expert.Expert,
        lambda goal: cube_tasks.CubeGoal(goal.task, *goal.objects),
        cube_places,
        cube_tasks.OBJECTS,
    ),
}
"""Simulator id -> what it teaches."""
