"""docs/environments.md says what the environments do."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from wm_gym.checkpoints import Checkpoint
from wm_gym.domains import LANGTABLE
from wm_gym.envs.observations import OBSERVATIONS, goal_vector, observation_space
from wm_gym.envs.reward_registry import REWARDS
from wm_gym.envs.sims.bridge.env import CAMERAS, BridgeSimEnv
from wm_gym.envs.sims.bridge.objects import BACKGROUNDS, DISTRACTORS, TABLES
from wm_gym.envs.start_states import FILENAME, StartStates
from wm_gym.instructions import Goal

TEXT = (Path(__file__).parent.parent / "docs" / "environments.md").read_text(encoding="utf-8")
ID = "WM-LangTable-VAE-v0"


def keys(heading: str) -> set[str]:
    """First column of the table below a heading."""
    section = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `\"?(\w+)\"?`", section, re.MULTILINE))


def test_every_choice_is_there():
    assert keys("Observations: `obs=`") == set(OBSERVATIONS)
    assert keys("Rewards and ends: `reward=`") == set(REWARDS)
    assert keys("Many rows") == {mode.value for mode in gymnasium.vector.AutoresetMode}


def test_the_spaces_are_those_of_the_model_that_ships(embedded_checkpoint):
    spec = Checkpoint.open(Path(embedded_checkpoint)).spec
    for obs in ("pixels", "latents"):
        space = observation_space(spec, obs)
        assert f"{space.dtype} {space.shape}" in TEXT
    vector = goal_vector(Goal("push", ("green cube", "yellow pentagon")), spec)
    assert np.flatnonzero(vector).tolist() == [2, 3, 18] and f"float32 {vector.shape}" in TEXT
    assert f": {', '.join(spec.tasks)} |" in TEXT and f": {', '.join(spec.objects)} |" in TEXT
    assert f"({spec.horizon} steps" in TEXT and spec.action.high == (0.03, 0.03)
    assert spec.dynamics.denoising_steps == 2 and LANGTABLE.action.names == ("dx", "dy")
    stored = StartStates.read(Path(embedded_checkpoint) / FILENAME)
    assert stored.ranges().startswith("reach-6500 to reach-6549, ") and len(stored) == 150


def test_the_switches_of_bridge_sim_are_all_there():
    section = TEXT.split("switches of `BridgeSim-v0`\n", 1)[1]
    cells = re.findall(r"^\| `(\w+)` \| `\"(\w+)\"` \| (.+) \|$", section, re.MULTILINE)
    unseen = {
        "distractors": ("all", *DISTRACTORS),
        "colours": ("unseen",),
        "table": tuple(TABLES)[1:],
        "background": tuple(BACKGROUNDS)[1:],
    }
    assert [name for name, *_ in cells] == list(unseen)
    for name, standard, text in cells:
        assert inspect.signature(BridgeSimEnv).parameters[name].default == standard
        assert all(choice in text for choice in unseen[name])
        for choice in unseen[name]:
            BridgeSimEnv(obs="state", **{name: choice})
    assert f'cameras="{", ".join(CAMERAS)}"' in section


@pytest.mark.parametrize("reward", REWARDS)
def test_every_key_of_info_is_explained(tiny_checkpoint, reward):
    env = gymnasium.make(ID, checkpoint=tiny_checkpoint, reward=reward, horizon=2)
    history = np.zeros((2, 32, 32, 3), np.uint8)
    options = {
        "frames": history, "actions": np.zeros((1, 2)), "instruction": "reach the red moon"
    }  # fmt: skip
    explained = keys("`info`") - {"value", "answers", "privileged"}  # of other kinds
    assert set(env.reset(seed=0)[1]) == set(env.reset(options=options)[1]) == explained
    for _ in range(2):
        assert set(env.step(np.zeros(2, np.float32))[4]) == explained


def test_a_start_of_another_task_gives_that_tasks_episode(tiny_checkpoint):
    env = gymnasium.make(ID, checkpoint=tiny_checkpoint, task="push", reward="none")
    assert env.reset(options={"start": "reach-0"})[1]["instruction"].startswith("reach the ")
    assert env.reset(seed=0)[1]["start"].startswith("push-")
