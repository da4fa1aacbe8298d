"""Scripted behaviours of LangTable: experts succeed, near misses miss, play moves things."""

import numpy as np
import pytest

from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.expert import Expert, NoisyExpert
from wm_gym.envs.sims.langtable.play import NearMiss, RandomPlay
from wm_gym.envs.sims.langtable.tasks import TASKS


def play(env, behaviour, seed, steps=120):
    """Returns (final info, actions, nearest distance) of one episode."""
    _, info = env.reset(seed=seed)
    behaviour.reset(env.goal, np.random.default_rng(seed), env.objects)
    actions, nearest = [], info["distance"]
    for _ in range(steps):
        actions.append(behaviour.act(env))
        _, _, terminated, truncated, info = env.step(actions[-1])
        assert not info["action_clipped"] and actions[-1].dtype == np.float32
        nearest = min(nearest, info["distance"])
        if terminated or truncated:
            break
    return info, np.array(actions), nearest


@pytest.mark.parametrize(("task", "blocks"), [(t, "standard") for t in TASKS] + [("push", "ood")])
def test_expert_succeeds(task, blocks):
    env = LangTableEnv(task=task, obs="state", blocks=blocks)
    succeeded = [play(env, Expert(), seed)[0]["is_success"] for seed in range(50)]
    assert np.mean(succeeded) >= 0.9


def test_noise_is_added_and_seeded():
    env = LangTableEnv(task="push", obs="state")
    first, again = (play(env, NoisyExpert(0.01), 1, 20)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    quiet = play(env, NoisyExpert(0.0), 1, 20)[1]
    np.testing.assert_array_equal(quiet, play(env, Expert(), 1, 20)[1])
    assert np.abs(first[0] - quiet[0]).max() > 1e-4


def test_random_play_covers_the_actions_hits_blocks_and_hangs_together():
    env = LangTableEnv(task="push", obs="state", terminate_on_success=False)
    moved, actions = [], []
    for seed in range(8):
        start = env.reset(seed=seed)[0]
        actions.append(play(env, RandomPlay(), seed, 60)[1])
        way = (env.privileged_state() - start)[2:].reshape(-1, 3)[:, :2]
        moved.append((np.linalg.norm(way, axis=1) > 0.005).sum())
    every = np.concatenate(actions)
    assert np.mean(moved) >= 2
    assert every.min() < -0.0299 and every.max() > 0.0299
    assert 0.03 < (np.abs(every).max(1) < 1e-6).mean() < 0.3
    for axis in range(2):
        pairs = np.concatenate([np.stack([a[:-1, axis], a[1:, axis]], 1) for a in actions])
        assert np.corrcoef(pairs.T)[0, 1] > 0.5


@pytest.mark.parametrize(
    ("task", "near_m"), [("reach", 0.013), ("push", 0.105), ("separate", 0.025)]
)
def test_near_misses_come_near_and_miss(task, near_m):
    env = LangTableEnv(task=task, obs="state")
    results = [play(env, NearMiss(), seed, 60) for seed in range(15)]
    assert np.mean([info["is_success"] for info, *_ in results]) <= 0.3
    assert np.mean([nearest < near_m for *_, nearest in results]) >= 0.7
