"""Success and distance of every stored state under goals, from the simulator's own predicates.

Where all objects of a simulator are always on the table, one episode teaches a reward model about
all goals, not only about its own: the privileged state says what "reach the red moon" would have
answered in each of its frames. Where a task brings its own things, it says so about that task.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wm_gym.checkpoints import write_atomically
from wm_gym.data.latent_clips import read_episode_facts
from wm_gym.envs.sims.bridge import state as bridge_state
from wm_gym.envs.sims.bridge import tasks as bridge_tasks
from wm_gym.envs.sims.langtable import tasks as langtable_tasks
from wm_gym.errors import UserError
from wm_gym.instructions import named_objects


@dataclass(frozen=True)
class GoalLabelsConfig:
    """Label a folder of latents with every goal of the simulator its episodes come from."""

    latents: Path
    """Folder of precomputed latents; `goal_labels.npz` is written into it."""


@dataclass(frozen=True)
class GoalLabels:
    """What the simulator knows about N states under G goals.

    Attributes:
        goals: [task, first, second or ""] of every column.
        success: (N, G) bool.
        distance_m: (N, G) float32, metres; NaN where a state says nothing about a goal.
        positions_m: (N, K, 2) float32, metres: the goals' `named_objects`, then the effector; NaN
            for an object that is not there.
    """

    goals: list[list[str]]
    success: np.ndarray
    distance_m: np.ndarray
    positions_m: np.ndarray


def label_langtable(states: np.ndarray, tasks: Sequence[str] = ()) -> GoalLabels:
    """Label privileged LangTable states (N, 2 + 3·8) of the standard blocks.

    Args:
        states: privileged states.
        tasks: task of each state's episode; all goals are labelled, whatever it is.
    """
    del tasks
    objects = langtable_tasks.OBJECTS
    states = np.asarray(states, np.float64)
    gaps = np.stack(
        [langtable_tasks.peg_gaps(state) for state in tqdm(states, desc="labels", delay=2)]
    )
    blocks = states[:, 2:].reshape(len(states), -1, 3)[:, :, :2]
    centres = np.linalg.norm(blocks[:, :, None] - blocks[:, None], axis=-1)
    goals, success, distance = [], [], []
    for goal in langtable_tasks.goals("any"):
        first = objects.index(goal.first)
        goals.append([goal.task, goal.first, goal.second or ""])
        between = gaps[:, first]
        if goal.second is not None:
            between = centres[:, first, objects.index(goal.second)]
        metres = langtable_tasks.distance_of(goal.task, between)
        success.append(langtable_tasks.fulfils(goal.task, metres))
        distance.append(metres)
    places = np.concatenate([blocks, states[:, None, :2]], axis=1).astype(np.float32)
    return GoalLabels(goals, np.stack(success, 1), np.stack(distance, 1).astype(np.float32), places)


def label_bridge(states: np.ndarray, tasks: Sequence[str]) -> GoalLabels:
    """Label privileged BridgeSim states (N, 8 + 9·2), each under its own task's goal.

    Args:
        states: privileged states, without distractors.
        tasks: task of each state's episode, which says what lies on the table.
    """
    goals = [[task, place.first, place.second] for task, place in bridge_tasks.PLACES.items()]
    columns = {goal[0]: number for number, goal in enumerate(goals)}
    things = named_objects(goals)
    success = np.zeros((len(states), len(goals)), bool)
    distance = np.full((len(states), len(goals)), np.nan, np.float32)
    places = np.full((len(states), len(things) + 1, 2), np.nan, np.float32)
    for row, (state, task) in enumerate(
        zip(tqdm(states, desc="labels", delay=2), tasks, strict=True)
    ):
        goal, column = bridge_tasks.BridgeGoal(task), columns[task]
        success[row, column] = bridge_tasks.is_success(state, goal)
        distance[row, column] = bridge_tasks.task_distance(state, goal)
        named = bridge_state.BridgeState.from_array(state)
        for name, thing in zip(goal.objects, named.things, strict=False):
            places[row, things.index(name)] = thing.position_m[:2]
        places[row, -1] = named.hand_m[:2]
    return GoalLabels(goals, success, distance, places)


LABELS: dict[str, Callable[[np.ndarray, Sequence[str]], GoalLabels]] = {
    "LangTable-v0": label_langtable,
    "BridgeSim-v0": label_bridge,
}
"""Simulator id -> labels of privileged states, given the task of each."""


def label_states(states: np.ndarray, simulator: str | None, tasks: Sequence[str]) -> GoalLabels:
    """Label privileged states (N, S) of a simulator.

    Args:
        states: privileged states.
        simulator: its id.
        tasks: task of the episode that each state is of, N names.

    Raises:
        ValueError: if the simulator has no predicates here.
    """
    if simulator not in LABELS:
        raise UserError(f"simulator {simulator!r} has no labels; expected one of {list(LABELS)}")
    return LABELS[simulator](states, tasks)


def label_goals(config: GoalLabelsConfig) -> Path:
    """Write `goal_labels.npz` beside the latents.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if the latents do not say which episodes they are of.
        ValueError: if those come from no simulator that has predicates.
    """
    facts = read_episode_facts(config.latents)
    lengths = np.diff(np.load(config.latents / "bounds.npy"))
    tasks = np.repeat([goal[0] for goal in facts.goals], lengths).tolist()
    labels = label_states(np.load(config.latents / "privileged.npy"), facts.simulator, tasks)
    path = config.latents / "goal_labels.npz"
    buffer = io.BytesIO()
    np.savez(
        buffer,
        goals=json.dumps(labels.goals),
        success=labels.success,
        distance_m=labels.distance_m,
        positions_m=labels.positions_m,
    )
    write_atomically(path, buffer.getvalue())
    return path
