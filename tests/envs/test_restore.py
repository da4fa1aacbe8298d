"""Snapshots restored where one would: in a fresh `gym.make`, and where they do not belong."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from tests.envs.scripted_reward import ScriptedReward
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv

ZERO = np.zeros(2, np.float32)


def make(model, **kwargs) -> gymnasium.Env:
    return gymnasium.make(
        "WM-LangTable-VAE-v0", model=model, **{"reward": "none", "obs": "latents", **kwargs}
    )


@pytest.fixture
def saved(tiny_model) -> tuple[bytes, np.ndarray]:
    """A snapshot after three steps, and the observation after the fourth."""
    env = make(tiny_model)
    env.reset(seed=0)
    for _ in range(3):
        env.step(ZERO)
    return env.unwrapped.snapshot(), env.step(ZERO)[0]


def test_a_fresh_environment_goes_on_after_one_reset(tiny_model, saved):
    content, expected = saved
    env = make(tiny_model)
    env.reset(seed=5)
    env.unwrapped.restore(content)
    np.testing.assert_array_equal(env.step(ZERO)[0], expected)


def test_without_a_reset_only_the_environment_itself_steps(tiny_model, saved):
    content, expected = saved
    env = make(tiny_model)
    env.unwrapped.restore(content)
    with pytest.raises(ResetNeeded, match=r"before calling env\.reset"):
        env.step(ZERO)
    np.testing.assert_array_equal(env.unwrapped.step(ZERO)[0], expected)


def wrong_snapshots(content: bytes, model) -> list[tuple[object, str]]:
    envs = WorldModelVectorEnv(3, model=model, reward="none")
    envs.reset(seed=0)
    return [
        ("snapshot.bin", "a snapshot is bytes, got 'snapshot.bin' of type str; .*read_bytes"),
        (None, "a snapshot is bytes, got None"),
        (content[: len(content) // 2], "not a snapshot .* or it is cut off"),
        (envs.snapshot(), "3 rows, this environment has 1; restore it in gym.make"),
    ]


def test_what_is_no_snapshot_of_this_environment_changes_nothing(tiny_model, saved):
    env = make(tiny_model)
    env.reset(seed=0)
    expected = env.step(ZERO)[0]
    env.reset(seed=0)
    for content, message in wrong_snapshots(saved[0], tiny_model):
        with pytest.raises(ValueError, match=message):
            env.unwrapped.restore(content)
    np.testing.assert_array_equal(env.step(ZERO)[0], expected)


def test_a_reward_that_needs_an_instruction_refuses_a_snapshot_without_one(tiny_model):
    silent = make(tiny_model)
    silent.reset(seed=0, options={"frames": np.zeros((32, 32, 3), np.uint8)})
    env = WorldModelEnv(model=tiny_model, reward="none", obs="latents")
    env.engine.reward = ScriptedReward()
    env.engine.starts.judged_by = "scripted"
    _, info = env.reset(seed=0)
    before = env.engine.latents()
    with pytest.raises(ValueError, match="reward 'scripted' scores an instruction"):
        env.restore(silent.unwrapped.snapshot())
    np.testing.assert_array_equal(env.engine.latents(), before)
    assert env.instruction == info["instruction"]
    env.step(ZERO)


def test_other_denoising_steps_are_named(tiny_checkpoint, saved):
    env = gymnasium.make(
        "WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, reward="none", denoising_steps=3
    )
    with pytest.raises(ValueError, match=r"with 2 denoising steps, this environment .* with 3"):
        env.unwrapped.restore(saved[0])
