"""What other people's loops do with every kind of environment: forks, copies, attributes, seeds."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import wm_gym
from tests.envs.test_forks import run
from wm_gym.envs.video import RecordGrid

DREAM = "WM-LangTable-VAE-v0"
SEMANTIC = "WM-LangTable-SWM-v0"
SINGLE = [DREAM, SEMANTIC, "LangTable-v0", "BridgeSim-v0", "Cube-v0", "twin"]
KINDS = [*SINGLE, "vector", "semantic vector"]


def make(kind, **arguments):
    if kind in (SEMANTIC, "semantic vector"):
        arguments = {"threshold": 0.9999, **arguments}  # no episode ends early
    if kind == "twin":
        return wm_gym.make_twin(gymnasium.make(DREAM), **arguments)
    if kind in ("vector", "semantic vector"):
        env_id = DREAM if kind == "vector" else SEMANTIC
        return gymnasium.make_vec(env_id, num_envs=2, **arguments)
    if kind == "Cube-v0":
        pytest.importorskip("ogbench")
    return gymnasium.make(kind, **arguments)


def future(env, steps=2):
    """Observations and rewards of the next steps."""
    seen = []
    for _ in range(steps):
        observation, reward, *_ = env.step(np.full(env.action_space.shape, 0.01, np.float32))
        seen += [*(observation.values() if isinstance(observation, dict) else [observation])]
        seen.append(reward)
    return seen


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_continues_the_episode(kind, copied):
    env = make(kind)
    if copied is copy.copy and kind != "twin":
        env = env.unwrapped  # a wrapper's shallow copy shares what it wraps
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, 0.01, np.float32))
    other = copied(env)
    expected = future(env)
    env.reset(seed=5)  # the copy is not concerned
    assert equal(future(other), expected)
    assert other.spec == env.spec


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_can_be_done_before_the_first_reset(kind):
    env = make(kind)
    core = env if kind == "twin" else env.unwrapped
    for attempt in (lambda: core.step(core.action_space.sample()), core.render):
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            attempt()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_attributes_that_clients_read(kind):
    env = make(kind)
    env.reset(seed=np.int64(5))
    rows = 2 if "vector" in kind else 1
    core = env if kind == "twin" else env.unwrapped

    def read(name):
        return core.call(name) if rows == 2 else (core.get_wrapper_attr(name),)

    assert read("np_random_seed") == (5, 6)[:rows]
    assert core.np_random_seed == ((5, 6) if rows == 2 else 5)
    assert read("_max_episode_steps") == read("horizon")
    assert all(type(horizon) is int and horizon > 0 for horizon in read("horizon"))
    assert all(isinstance(task, str) and task for task in read("task"))
    assert all(instruction for instruction in read("instruction"))
    assert read("task_description") == read("instruction")
    assert core.render_mode == "rgb_array"
    assert type(core.metadata["render_fps"]) is int


@pytest.mark.parametrize("kind", SINGLE)
def test_lerobots_evaluation_drives_every_kind(kind):
    """The calls of lerobot.scripts.eval 0.4 to 0.6, in order."""
    envs = SyncVectorEnv([lambda: make(kind)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=[3, 4], options={"lerobot_new_rollout": True})
    assert len(set(envs.call("_max_episode_steps"))) == 1
    assert len(envs.call("task")) == len(envs.call("task_description")) == 2
    assert envs.envs[0].get_wrapper_attr("task_description")
    envs.step(envs.action_space.sample())
    assert np.stack([env.render() for env in envs.envs]).dtype == np.uint8


def test_lerobots_evaluation_drives_the_batched_vector():
    envs = make("vector", autoreset_mode="SameStep")
    envs.reset(seed=[3, 4], options={"lerobot_new_rollout": True})
    assert envs.call("_max_episode_steps") == (120, 120)
    assert len(envs.call("task")) == len(envs.call("task_description")) == 2
    assert len(envs.call("render")) == 2


@pytest.mark.parametrize("env_id", [DREAM, SEMANTIC, "LangTable-v0"])
def test_an_unknown_argument_is_refused_in_the_words_that_torchrl_looks_for(env_id):
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
        gymnasium.make(env_id, frameskip=1)


@pytest.mark.parametrize("env_id", [DREAM, SEMANTIC])
def test_max_episode_steps_is_the_horizon_everywhere(env_id):
    single = gymnasium.make(env_id, max_episode_steps=3)
    rows = gymnasium.make_vec(env_id, num_envs=1, max_episode_steps=3)
    assert single.unwrapped.horizon == rows.horizon == 3
    assert gymnasium.make(single.spec).unwrapped.horizon == 3
    for make_it in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(ValueError, match="max_episode_steps=3"):
            make_it(env_id, horizon=5, max_episode_steps=3)
    assert gymnasium.make("LangTable-v0", max_episode_steps=3).unwrapped.horizon == 3
    with pytest.raises(ValueError, match="max_episode_steps=3"):
        gymnasium.make("LangTable-v0", horizon=5, max_episode_steps=3)


def test_a_time_limit_is_told_to_the_agent():
    env = gymnasium.make(DREAM, max_episode_steps=2, obs="dict", reward="none")
    env.reset(seed=0)
    left = [env.step(env.action_space.sample())[0]["time_left"].item() for _ in range(2)]
    assert left == [0.5, 0.0]


def test_an_instruction_cannot_be_set_before_the_first_reset():
    envs = make("vector")
    with pytest.raises(ResetNeeded, match="instruction"):
        envs.set_attr("instruction", "reach the red moon")


def test_a_single_environment_takes_another_instruction():
    env = make(DREAM)
    env.reset(seed=0)
    env.unwrapped.set_wrapper_attr("instruction", "reach the red moon")
    assert env.get_wrapper_attr("instruction") == "reach the red moon"


RELATIVE = """
import os, pickle, gymnasium, wm_gym
env = gymnasium.make("WM-LangTable-VAE-v0", checkpoint="here")
content = pickle.dumps(env)
os.chdir("/")
print(gymnasium.make(env.spec).unwrapped.card.name, pickle.loads(content).unwrapped.card.name)
"""


def test_a_relative_checkpoint_survives_another_working_directory(tmp_path):
    from wm_gym.checkpoints import assets_folder

    (tmp_path / "here").symlink_to(assets_folder() / "langtable-vae-mini")
    assert run(RELATIVE, cwd=tmp_path).split() == ["langtable-vae-mini"] * 2


@pytest.mark.parametrize("obs", ["pixels", "latents"])
def test_the_grid_shows_how_an_episode_ended(tmp_path, obs):
    envs = RecordGrid(
        make("vector", autoreset_mode="SameStep", horizon=1, reward="none", obs=obs), tmp_path
    )
    envs.reset(seed=0)
    start = envs._grids[0]
    envs.step(np.zeros((2, 2), np.float32))
    ended, begun = envs._grids[1:]
    assert not np.array_equal(ended, begun)
    assert np.array_equal(begun, envs.unwrapped.render_grid())
    # hardly anything moves in one step without action, and the next start is another picture
    difference = [np.abs(grid.astype(int) - start).mean() for grid in (ended, begun)]
    assert difference[0] < difference[1]
    envs.close()


def test_gymnasiums_player_plays(monkeypatch):
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils.play import play

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    steps = []

    def watch(*transition):
        steps.append(transition)
        if len(steps) == 2:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    keys = {"w": np.array([0, 0.01], np.float32)}
    env = make(DREAM, reward="none")
    play(env, noop=np.zeros(2, np.float32), keys_to_action=keys, callback=watch, seed=0)
    assert len(steps) >= 2


def test_the_calls_of_gymnasiums_player():
    """As in gymnasium.utils.play 1.4; pygame's `Clock.tick` takes whole numbers only."""
    env = make(DREAM, reward="none")
    env.reset(seed=0)
    assert env.render_mode in {"rgb_array", "rgb_array_list"}
    height, width, _ = env.render().shape
    env.step(np.zeros(2, np.float32))
    assert env.render().shape[:2] == (height, width)
    assert type(env.metadata.get("render_fps", 30)) is int


def test_the_loop_of_cleanrl():
    """Gymnasium 1.4 names for what ppo_continuous_action.py reads from a vector of rows."""
    envs = make("vector", autoreset_mode="SameStep", horizon=2, reward="none")
    observation, _ = envs.reset(seed=1)
    assert observation.shape == (2, *envs.single_observation_space.shape)
    for _ in range(2):
        observation, rewards, ends, cuts, infos = envs.step(envs.action_space.sample())
    assert np.logical_or(ends, cuts).tolist() == [True, True]
    assert rewards.shape == (2,) and infos["_final_info"].tolist() == [True, True]
    assert infos["final_obs"][0].shape == observation[0].shape
    assert len(infos["final_info"]["is_success"]) == 2
