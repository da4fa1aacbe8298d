"""Scripted behaviours of BridgeSim: experts succeed, near misses miss, play moves things."""

import numpy as np
import pytest

from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.envs.sims.bridge.env import BridgeSimEnv
from wm_gym.envs.sims.bridge.expert import Expert, NoisyExpert
from wm_gym.envs.sims.bridge.play import NearMiss, RandomPlay
from wm_gym.envs.sims.bridge.tasks import TASKS, BridgeGoal


@pytest.fixture(scope="module")
def env():
    return BridgeSimEnv(obs="state", terminate_on_success=False)


def play(env, behaviour, seed, task, steps=50, stop=True):
    """Returns (whether it ever succeeded, actions, nearest distance) of one episode."""
    _, info = env.reset(seed=seed, options={"task": task})
    behaviour.reset(env.goal, np.random.default_rng(seed), env.objects)
    actions, nearest, succeeded = [], info["distance"], False
    for _ in range(steps):
        actions.append(behaviour.act(env))
        info = env.step(actions[-1])[-1]
        assert not info["action_clipped"] and actions[-1].dtype == np.float32
        nearest = min(nearest, info["distance"])
        succeeded |= info["is_success"]
        if stop and succeeded:
            break
    return succeeded, np.array(actions), nearest


@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds(env, task):
    assert all(play(env, Expert(), seed, task)[0] for seed in range(100, 104))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds_on_fifty_seeds(env, task):
    rate = np.mean([play(env, Expert(), seed, task)[0] for seed in range(50)])
    assert rate >= (0.8 if task == "eggplant_in_basket" else 0.9)


def test_a_success_lasts(env):
    for task in TASKS:
        play(env, Expert(), 3, task, stop=False)
        assert env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))[-1]["is_success"]


def test_noise_is_added_and_seeded(env):
    first, again = (play(env, NoisyExpert(0.2), 1, TASKS[0], 12)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    quiet = play(env, NoisyExpert(0.0), 1, TASKS[0], 12)[1]
    np.testing.assert_array_equal(quiet, play(env, Expert(), 1, TASKS[0], 12)[1])
    assert np.abs(first[0] - quiet[0])[:3].max() > 1e-4


def test_random_play_covers_the_actions_moves_and_lifts_things(env):
    moved, lifted, actions = [], [], []
    for seed in range(8):
        env.reset(seed=seed, options={"task": TASKS[seed % 4]})
        behaviour = RandomPlay()
        behaviour.reset(env.goal, np.random.default_rng(seed), env.objects)
        start = env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))[-1]["privileged"]["things_m"]
        height, places = 0.0, start
        for _ in range(50):
            actions.append(behaviour.act(env))
            places = env.step(actions[-1])[-1]["privileged"]["things_m"]
            height = max(height, float((places - start)[:, 2].max()))
        moved.append((np.linalg.norm(places - start, axis=1) > 0.01).any())
        lifted.append(height > 0.03)
    every = np.array(actions)
    assert np.mean(moved) >= 0.6 and np.mean(lifted) >= 0.2
    assert (every[:, :3].min(0) < -0.045).all() and (every[:, :3].max(0) > 0.04).all()
    assert (every[:, 3:6].std(0) > 0.03).all()
    assert 0.1 < (every[:, 6] < 0.2).mean() < 0.9


@pytest.mark.parametrize("task", TASKS)
def test_near_misses_come_near_and_miss(env, task):
    results = [play(env, NearMiss(), seed, task) for seed in range(6)]
    assert not any(succeeded for succeeded, *_ in results)
    assert np.mean([nearest < 0.1 for *_, nearest in results]) >= 0.6


def test_near_misses_miss_in_every_way():
    goal, kinds = BridgeGoal(TASKS[0]), set()
    for seed in range(30):
        behaviour = NearMiss()
        behaviour.reset(goal, np.random.default_rng(seed), ())
        kinds.add(behaviour.kind)
    assert kinds == set(NearMiss.KINDS)


@pytest.mark.parametrize("kind", NearMiss.KINDS)
def test_a_near_miss_is_what_its_name_says(env, monkeypatch, kind):
    """`hold`: in the closed hand above the place; `beside`: let go of, at rest off the place;
    `empty`: the hand goes there without the thing."""
    monkeypatch.setattr(NearMiss, "ODDS", tuple(float(kind == other) for other in NearMiss.KINDS))
    seen = []
    for seed in range(4):
        _, info = env.reset(seed=seed, options={"task": "carrot_on_plate"})
        behaviour = NearMiss()
        behaviour.reset(env.goal, np.random.default_rng(seed), env.objects)
        lifted, held_above, let_go, hand_went = False, False, False, False
        for _ in range(50):
            info = env.step(behaviour.act(env))[-1]
            assert not info["is_success"]
            (carrot, plate), touched = info["privileged"]["things_m"], info["privileged"]["touched"]
            aside = np.linalg.norm((carrot - plate)[:2])
            lifted |= carrot[2] > 0.05
            held_above |= bool(touched[0] and aside < 0.02 and 0.025 < carrot[2] - plate[2] < 0.09)
            let_go |= bool(lifted and not touched[0] and aside < 0.14 and carrot[2] < 0.04)
            hand_went |= np.linalg.norm((info["privileged"]["hand_m"] - plate)[:2]) < 0.03
        seen.append({"hold": held_above, "beside": let_go, "empty": hand_went and not lifted}[kind])
    assert sum(seen) >= 3


def test_collection_stores_what_training_needs(tmp_path):
    def config(name, workers):
        return CollectConfig(
            tmp_path / name,
            env_id="BridgeSim-v0",
            episodes=4,
            seed=500,
            steps=6,
            shard_episodes=2,
            workers=workers,
        )

    assert config("a", 1).tasks == TASKS and config("a", 1).frame_size == "64x64"
    one, two = (collect(config(*job), progress=False) for job in (("a", 1), ("b", 2)))
    for shard in sorted((one.folder / "shards").iterdir()):
        assert shard.read_bytes() == (two.folder / "shards" / shard.name).read_bytes()
    simulator = BridgeSimEnv(obs="state")
    for number, episode in enumerate(one):
        assert episode.frames.shape == (7, 64, 64, 3) and episode.actions.shape == (6, 7)
        assert episode.privileged.shape == (7, 26) and episode.success.shape == (7,)
        assert episode.seed == 500 + number and episode.goal.task in TASKS
        simulator.set_state(episode.start_state)
        assert simulator.instruction == episode.instruction
        for action, expected in zip(episode.actions, episode.privileged[1:], strict=True):
            simulator.step(action)
            np.testing.assert_array_equal(simulator.privileged_state(), expected)
