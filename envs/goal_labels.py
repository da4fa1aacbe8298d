"""Success and distance of every stored state under every goal, from the simulator's own predicates.

One episode teaches a reward model about all goals, not only about its own: the privileged state
says
what "reach the red moon" would have answered in each of its frames.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wm_gym.envs.sims import langtable_tasks as tasks


@dataclass(frozen=True)
class GoalLabelsConfig:
    """Label a folder of latents with every goal of its simulator."""

    latents: Path
    """Folder of precomputed latents; `goal_labels.npz` is written into it."""
    simulator: str = "LangTable-v0"
    """Whose predicates to use."""


@dataclass(frozen=True)
class GoalLabels:
    """What the simulator knows about N states under G goals.

    Attributes:
        goals: [task, first, second or ""] of every column.
        success: (N, G) bool.
        distance_m: (N, G) float32, metres.
        positions_m: (N, K, 2) float32, metres: the objects in the order of the goals, then the
            effector.
    """

    goals: list[list[str]]
    success: np.ndarray
    distance_m: np.ndarray
    positions_m: np.ndarray


def label_langtable(states: np.ndarray) -> GoalLabels:
    """Label privileged LangTable states (N, 2 + 3·8) of the standard blocks."""
    objects = tasks.OBJECTS
    states = np.asarray(states, np.float64)
    gaps = np.stack([tasks.peg_gaps(state) for state in tqdm(states, desc="labels")])
    blocks = states[:, 2:].reshape(len(states), -1, 3)[:, :, :2]
    centres = np.linalg.norm(blocks[:, :, None] - blocks[:, None], axis=-1)
    goals, success, distance = [], [], []
    for goal in tasks.goals("any"):
        first = objects.index(goal.first)
        goals.append([goal.task, goal.first, goal.second or ""])
        if goal.task == "reach":
            metres = np.maximum(gaps[:, first], 0.0)
            reached = metres < tasks.CONTACT_GAP_M
        else:
            between = centres[:, first, objects.index(str(goal.second))]
            push = goal.task == "push"
            metres = between if push else np.maximum(tasks.SEPARATE_DISTANCE_M - between, 0.0)
            reached = between < tasks.PUSH_DISTANCE_M if push else metres <= 0.0
        success.append(reached)
        distance.append(metres)
    places = np.concatenate([blocks, states[:, None, :2]], axis=1).astype(np.float32)
    return GoalLabels(goals, np.stack(success, 1), np.stack(distance, 1).astype(np.float32), places)


def label_states(states: np.ndarray, simulator: str) -> GoalLabels:
    """Label privileged states (N, S) of a simulator.

    Raises:
        ValueError: if the simulator has no predicates here.
    """
    if simulator != "LangTable-v0":
        raise ValueError(f"simulator {simulator!r} has no labels; expected 'LangTable-v0'")
    return label_langtable(states)


def label_goals(config: GoalLabelsConfig) -> Path:
    """Write `goal_labels.npz` beside the latents.

    Returns:
        The file.
    """
    labels = label_states(np.load(config.latents / "privileged.npy"), config.simulator)
    path = config.latents / "goal_labels.npz"
    np.savez(
        path,
        goals=json.dumps(labels.goals),
        success=labels.success,
        distance_m=labels.distance_m,
        positions_m=labels.positions_m,
    )
    return path
