"""The bridge to Stable-Baselines3, against the environment it wraps."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecCheckNan, VecMonitor

import wm_gym  # noqa: F401
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv

GOAL = {"instruction": "reach the red moon"}


def dream(checkpoint: str, rows: int = 3, **settings: Any) -> gym.vector.VectorEnv:
    return gym.make_vec(
        "WM-LangTable-VAE-v0", num_envs=rows, checkpoint=checkpoint,
        **{"obs": "latents", "reward": "distance", "autoreset_mode": "Disabled"} | settings,
    )  # fmt: skip


def test_rows_are_those_of_the_imagined_environment(tiny_checkpoint):
    bridge = ImaginedVecEnv(dream(tiny_checkpoint, horizon=3), options=GOAL)
    plain = dream(tiny_checkpoint, horizon=3)
    assert bridge.seed(7) == [7, 8, 9]
    first = bridge.reset()
    expected, infos = plain.reset(seed=7, options=GOAL)
    np.testing.assert_array_equal(first, expected)
    assert [info["start"] for info in bridge.reset_infos] == list(infos["start"])
    generator = np.random.default_rng(0)
    for step in range(3):
        actions = generator.uniform(-1, 1, (3, 2))
        seen, rewards, dones, rows = bridge.step(actions)
        truth, true_rewards, terminated, truncated, true_infos = plain.step(
            (0.03 * actions).astype(np.float32)
        )
        np.testing.assert_allclose(rewards, true_rewards, rtol=1e-6)
        assert rewards.dtype == np.float32 and not terminated.any()
        assert (dones == truncated).all() and dones.all() == (step == 2)
        for row, info in enumerate(rows):
            assert info["surprise"] == true_infos["surprise"][row]
            assert info["is_success"] is False and info["instruction"] == GOAL["instruction"]
            assert info["TimeLimit.truncated"] == (step == 2)
            if step == 2:
                np.testing.assert_array_equal(info["terminal_observation"], truth[row])
                assert info["judge"]["name"] == "distance"
            else:
                np.testing.assert_array_equal(seen[row], truth[row])
                assert "terminal_observation" not in info
    assert not np.array_equal(seen, truth), "the observation after an end is the next episode's"
    again = plain.reset(options={**GOAL, "reset_mask": np.ones(3, bool)})[0]
    np.testing.assert_array_equal(seen, again)
    assert bridge.get_attr("instruction") == [GOAL["instruction"]] * 3


def test_success_terminates_without_a_time_limit(tiny_checkpoint):
    envs = dream(tiny_checkpoint, rows=2)
    envs.unwrapped.engine.reward.model.thresholds["reach"] = -1.0  # everything is a success
    bridge = ImaginedVecEnv(envs, options=GOAL)
    bridge.reset()
    _, rewards, dones, infos = bridge.step(np.zeros((2, 2)))
    assert dones.all() and (rewards > 0.5).all()
    for info in infos:
        assert info["is_success"] is True and info["TimeLimit.truncated"] is False
        assert info["terminal_observation"].shape == (4, 4, 4)


def test_only_the_ended_row_begins_anew(tiny_checkpoint):
    bridge = ImaginedVecEnv(dream(tiny_checkpoint, reward="none", horizon=4), options=GOAL)
    bridge.seed(0)
    bridge.reset()
    bridge.imagined.engine.episodes[1].steps = 2  # row 1 reaches its horizon first
    bridge.step(np.zeros((3, 2)))
    _, _, dones, _ = bridge.step(np.zeros((3, 2)))
    assert dones.tolist() == [False, True, False]
    assert bridge.get_attr("steps") == [2, 0, 2]
    assert bridge.get_attr("steps", indices=1) == [0]


def test_actions_are_units_of_half_the_range(tiny_checkpoint):
    taken = []
    envs = dream(tiny_checkpoint, rows=2)
    step = envs.step
    envs.step = lambda actions: taken.append(actions) or step(actions)
    bridge = ImaginedVecEnv(envs, options=GOAL)
    assert bridge.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    bridge.reset()
    bridge.step(np.array([[1.0, -0.5], [7.0, 0.0]]))
    np.testing.assert_allclose(taken[0], [[0.03, -0.015], [0.03, 0.0]], rtol=1e-6)
    with pytest.raises(ValueError, match="diverged; train it with a lower learning rate"):
        bridge.step(np.array([[np.nan, 0.0], [0.0, 0.0]]))
    for shape in ((2, 1), (1, 2), (2, 3), (2,)):  # the first would be stretched to both components
        with pytest.raises(ValueError, match=r"expected \(2, 2\)"):
            bridge.step(np.zeros(shape))


def test_options_and_seeds_hold_for_one_reset(tiny_checkpoint):
    bridge = ImaginedVecEnv(dream(tiny_checkpoint), options=GOAL)
    bridge.set_options({"start": "push-1"})
    bridge.seed(3)
    bridge.reset()
    assert [info["start"] for info in bridge.reset_infos] == ["push-1"] * 3
    assert bridge.get_attr("instruction") == [GOAL["instruction"]] * 3
    bridge.seed(3)
    one = bridge.reset()
    bridge.seed(3)
    np.testing.assert_array_equal(one, bridge.reset())
    assert not np.array_equal(one, bridge.reset())
    bridge.set_options([{"start": "push-1"}, {}, {}])
    with pytest.raises(ValueError, match="give every row the same"):
        bridge.reset()


def test_attributes_and_methods_of_rows(tiny_checkpoint):
    bridge = ImaginedVecEnv(dream(tiny_checkpoint))
    bridge.reset()
    bridge.set_attr("instruction", "reach the blue cube", indices=[0, 2])
    found = bridge.get_attr("instruction")
    assert found[0] == found[2] == "reach the blue cube" != found[1]
    assert bridge.has_attr("card") and not bridge.has_attr("no_such_thing")
    assert [frame.shape for frame in bridge.env_method("render", indices=[0, 1])] == [
        (32, 32, 3)
    ] * 2
    assert bridge.render().shape[2] == 3
    assert bridge.env_is_wrapped(gym.Wrapper) == [False] * 3
    with pytest.raises(ValueError, match="own reset"):
        bridge.env_method("reset")
    with pytest.raises(ValueError, match="horizon is shared"):
        bridge.set_attr("horizon", 3, indices=[0])


def test_other_environments_are_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="autoreset_mode='NextStep'; expected 'Disabled'"):
        ImaginedVecEnv(dream(tiny_checkpoint, autoreset_mode="NextStep"))
    with pytest.raises(TypeError, match="no vector environment of a latent world model"):
        ImaginedVecEnv(gym.make_vec("CartPole-v1", num_envs=2))


@pytest.mark.filterwarnings("ignore:.*:UserWarning:stable_baselines3")  # hints, not faults
@pytest.mark.parametrize("obs", ["pixels", "latents", "dict"])
def test_stable_baselines_own_check(tiny_checkpoint, obs):
    check_env(gym.make("WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, obs=obs).unwrapped)


@pytest.mark.parametrize(
    ("algorithm", "policy", "obs"),
    [
        (PPO, "MlpPolicy", "latents"),
        (SAC, "MlpPolicy", "latents"),
    ],
)
def test_agents_learn_on_it(tiny_checkpoint, algorithm, policy, obs):
    small = {"n_steps": 4, "batch_size": 4, "n_epochs": 1} if algorithm is PPO else {}
    if algorithm is SAC:
        small = {"buffer_size": 50, "learning_starts": 6, "batch_size": 4}
    bridge = VecCheckNan(
        ImaginedVecEnv(dream(tiny_checkpoint, obs=obs, horizon=3), options=GOAL),
        raise_exception=True,
    )
    envs = VecMonitor(bridge)
    agent = algorithm(policy, envs, seed=0, device="cpu", **small)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(24)
    assert agent.num_timesteps == 24
    assert any(not value.equal(before[name]) for name, value in agent.policy.state_dict().items())
    assert list(agent.ep_success_buffer) == [False] * 6, "24 steps of 3 rows, horizon 3"
    returns, lengths = evaluate_policy(agent, envs, 3, return_episode_rewards=True)
    assert lengths == [3, 3, 3] and np.isfinite(returns).all()


def test_an_agent_learns_from_goal_and_time(embedded_checkpoint):
    envs = ImaginedVecEnv(
        dream(embedded_checkpoint, rows=2, obs="dict", horizon=2, denoising_steps=1), options=GOAL
    )
    agent = PPO("MultiInputPolicy", envs, seed=0, n_steps=3, batch_size=3, device="cpu")
    agent.learn(6)
    seen = agent.rollout_buffer.observations
    assert isinstance(seen, dict) and seen["pixels"].shape == (3 * 2, 3, 96, 96)
    # row by row: after the reset, after a step, after the next reset
    np.testing.assert_allclose(seen["time_left"][:, 0], [1, 0.5, 1] * 2)
    assert (seen["goal"] == seen["goal"][0]).all() and seen["goal"][0].sum() == 2


def test_a_replay_buffer_bootstraps_at_the_horizon(tiny_checkpoint):
    envs = ImaginedVecEnv(dream(tiny_checkpoint, rows=2, horizon=2), options=GOAL)
    agent = SAC("MlpPolicy", envs, seed=0, buffer_size=40, learning_starts=100, device="cpu")
    agent.learn(8)
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.timeouts[:4].tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    drawn = agent.replay_buffer.observations[1:4]
    following = agent.replay_buffer.next_observations[:3]
    np.testing.assert_array_equal(drawn[0], following[0])
    assert not np.array_equal(drawn[1], following[1]), "not the next episode's first frame"
