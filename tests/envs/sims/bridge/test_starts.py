"""Starts of the models whose tasks bring their own things: dream and twin refuse what cannot be."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import wm_gym
from wm_gym.envs.sims.bridge.env import BridgeSimEnv

SPOON = "put the spoon on the towel"


@pytest.fixture(scope="module")
def dream():
    env = gymnasium.make("WM-Bridge-VAE-v0", denoising_steps=1, disable_env_checker=True)
    yield env
    env.close()


@pytest.mark.filterwarnings("ignore:WM-Bridge")
def test_an_instruction_draws_a_start_that_has_its_things(dream):
    twin = wm_gym.make_twin(dream)
    for seed in range(6):
        _, info = dream.reset(seed=seed, options={"instruction": SPOON})
        assert info["start"].startswith("spoon_on_towel-")
        _, told = twin.reset(seed=seed, options={"instruction": SPOON})
        assert (told["start"], told["task"]) == (info["start"], "spoon_on_towel")
    twin.close()


def test_a_start_without_the_things_is_refused_by_both(dream):
    options = {"start": "carrot_on_plate-6500", "instruction": SPOON}
    with pytest.raises(ValueError, match="about things that start 'carrot_on_plate-6500' does not"):
        dream.reset(options=options)
    twin = wm_gym.make_twin(dream)
    with pytest.raises(ValueError, match="only carrot, plate are on the table"):
        twin.reset(options=options)
    _, info = twin.reset(seed=0, options={"task": "spoon_on_towel"})
    assert info["task"] == "spoon_on_towel" and info["start"] == ""
    twin.close()


@pytest.fixture
def env():
    made = BridgeSimEnv(obs="state", task="carrot_on_plate")
    made.reset(seed=3)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"physics": np.zeros(3)}, r"has shape \(3,\) and must be"),
        ({"physics": "far"}, "finite numbers below"),
        ({"steps": np.array(-5)}, r"state\['steps'\] is -5"),
        ({"generator": '{"bit_generator": "Dice"}'}, "PCG64"),
        ({"distractors": "blue cup"}, "state holds the distractors blue cup"),
    ],
)
def test_a_refused_state_changes_nothing(env, change, words):
    other = BridgeSimEnv(obs="state", task="green_block_on_yellow_block")
    other.reset(seed=4)
    state = other.get_state() | change
    if isinstance(state["physics"], str):
        state["physics"] = np.full_like(other.get_state()["physics"], 1e30)
    before = env.get_state()
    with pytest.raises(ValueError, match=words):
        env.set_state(state)
    after = env.get_state()
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)


def test_a_task_that_contradicts_the_other_options_is_refused(env):
    with pytest.raises(ValueError, match="is of the task 'spoon_on_towel'; give one of them"):
        env.reset(options={"task": "carrot_on_plate", "instruction": SPOON})
    with pytest.raises(ValueError, match="'carrot_on_plate' beside a state, which has its own"):
        env.reset(options={"task": "carrot_on_plate", "state": env.get_state()})


def test_colours_are_the_environments_and_not_the_states():
    """What lies where is a state's; the words follow the colours that are seen."""
    unseen = BridgeSimEnv(obs="state", task="green_block_on_yellow_block", colours="unseen")
    standard = BridgeSimEnv(obs="state", task="green_block_on_yellow_block")
    standard.reset(seed=0)
    state = standard.get_state()
    _, info = unseen.reset(options={"state": state})
    assert info["instruction"] == "stack the red block on the blue block"
    np.testing.assert_array_equal(unseen.privileged_state(), standard.privileged_state())
    _, info = standard.reset(options={"state": unseen.get_state()})
    assert info["instruction"] == "stack the green block on the yellow block"
