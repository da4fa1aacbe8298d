"""Labels of every simulator are its predicates, and a reward model can be trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wm_gym.data.latent_clips import EpisodeFacts, write_episode_facts
from wm_gym.envs.goal_labels import GoalLabelsConfig, label_bridge, label_goals, label_states
from wm_gym.envs.sims.bridge.env import BridgeSimEnv
from wm_gym.envs.sims.bridge.tasks import PLACES, TASKS, BridgeGoal, is_success, task_distance
from wm_gym.instructions import named_objects
from wm_gym.training.labelled_latents import LabelledLatents
from wm_gym.training.loop import LoopConfig
from wm_gym.training.reward import RewardConfig, train_reward


@pytest.fixture(scope="module")
def bridge() -> tuple[np.ndarray, list[str]]:
    """Some states of every task, three of them successes, and their tasks."""
    env = BridgeSimEnv(obs="state")
    states, tasks = [], []
    for number, task in enumerate(TASKS):
        for seed in range(6):
            env.reset(seed=10 * number + seed, options={"task": task})
            state = env.privileged_state()
            if seed == 0 and task != "eggplant_in_basket":  # put where it belongs, let go of
                place = PLACES[task]
                state[8:11] = np.add(state[17:20], (0.0, 0.0, place.height_m))
                state[[15, 16]] = 0.0
            states.append(state)
            tasks.append(task)
    return np.stack(states), tasks


def test_bridge_labels_are_the_simulators_predicates(bridge):
    states, tasks = bridge
    labels = label_bridge(states, tasks)
    assert [goal[0] for goal in labels.goals] == list(TASKS)
    assert labels.success.sum() == 3
    things = named_objects(labels.goals)
    assert things[:4] == ("carrot", "spoon", "green block", "eggplant")
    for row, (state, task) in enumerate(zip(states, tasks, strict=True)):
        column, goal = TASKS.index(task), BridgeGoal(task)
        assert labels.success[row, column] == is_success(state, goal)
        assert labels.distance_m[row, column] == pytest.approx(task_distance(state, goal))
        others = np.delete(labels.distance_m[row], column)
        assert np.isnan(others).all() and not np.delete(labels.success[row], column).any()
        there = np.isfinite(labels.positions_m[row]).all(-1)
        assert {things[k] for k in np.flatnonzero(there[:-1])} == set(goal.objects)
        first = labels.positions_m[row, things.index(goal.objects[0])]
        np.testing.assert_allclose(first, state[8:10], rtol=1e-6)
        np.testing.assert_allclose(labels.positions_m[row, -1], state[:2], rtol=1e-6)


def write_folder(folder: Path, states: np.ndarray, tasks: list[str]) -> Path:
    """Latents that say the task distance outright, one episode a state."""
    folder.mkdir(parents=True)
    distance = np.nanmin(label_bridge(states, tasks).distance_m, axis=1)
    latents = np.zeros((len(states), 2, 2, 3), np.float16)
    latents[..., 0] = distance[:, None, None] * 10
    np.save(folder / "latents.npy", latents)
    np.save(folder / "privileged.npy", states)
    np.save(folder / "bounds.npy", np.arange(len(states) + 1))
    scale = {"mean": [0.0] * 3, "std": [1.0] * 3}
    (folder / "normalisation.json").write_text(json.dumps(scale), encoding="utf-8")
    goals = tuple((task, *BridgeGoal(task).objects) for task in tasks)
    write_episode_facts(folder, EpisodeFacts("BridgeSim-v0", goals))
    return folder


def test_a_reward_model_learns_from_labels_that_know_one_goal_a_state(bridge, tmp_path: Path):
    states, tasks = bridge
    folder = write_folder(tmp_path / "latents", states, tasks)
    assert label_goals(GoalLabelsConfig(folder)) == folder / "goal_labels.npz"
    data = LabelledLatents.read(folder, near_miss_m=0.02)
    rows, columns = data.draw(np.random.default_rng(0), 400)
    own = np.array([TASKS[column] == tasks[row] for row, column in zip(rows, columns, strict=True)])
    # under another task's instruction a state shows other objects, and is never a success
    assert own.any() and not own.all()
    assert not data.success[rows[~own], columns[~own]].any()
    assert np.isnan(data.distance[rows[~own], columns[~own]]).all()
    loop = LoopConfig(steps=3, warmup_steps=1, ema=0.5, log_every=1)
    config = RewardConfig(
        folder, folder, tmp_path / "out", dim=16, depth=1, trunk_dim=24, trunk_depth=1,
        trunk_heads=2, batch=24, foreign_share=0.0, loop=loop,
    )  # fmt: skip
    train_reward(config)
    lines = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(np.isfinite(json.loads(line)["position_error_mm_median"]) for line in lines)
    record = json.loads((tmp_path / "out" / "reward.json").read_text(encoding="utf-8"))
    assert record["network"]["objects"][4:] == ["plate", "towel", "yellow block", "basket"]
    sizes = [record["network"][f"trunk_{name}"] for name in ("dim", "depth", "heads")]
    assert sizes == [24, 1, 2]
    # nobody knows what a success in the basket looks like here
    assert set(record["held_out"]) == set(TASKS[:3])


def test_what_cannot_be_labelled_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match="simulator 'Mars-v0' has no labels; expected one of"):
        label_states(np.zeros((1, 3)), "Mars-v0", ["fly"])
    with pytest.raises(FileNotFoundError, match=r"episodes.json is missing; the `wm-gym train"):
        label_goals(GoalLabelsConfig(tmp_path))
