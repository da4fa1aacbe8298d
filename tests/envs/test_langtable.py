"""LangTableEnv: the Gymnasium contract, determinism, state, errors and the picture."""

import json
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from wm_gym.envs.sims.langtable import LangTableEnv
from wm_gym.envs.sims.langtable_shapes import COLOURS, OOD_OBJECTS
from wm_gym.envs.sims.langtable_tasks import OBJECTS, TASKS


@pytest.fixture(scope="module")
def env():
    return LangTableEnv(task="any", obs="state")


@pytest.fixture(scope="module")
def camera_env():
    env = LangTableEnv(frame_size=96, render_mode="rgb_array")
    yield env
    env.close()


def random_actions(steps, seed=0):
    return np.random.default_rng(seed).uniform(-0.03, 0.03, (steps, 2)).astype(np.float32)


@pytest.mark.parametrize("obs", ["pixels", "state"])
def test_check_env(obs):
    env = LangTableEnv(frame_size="48x64", obs=obs, render_mode="rgb_array")
    with warnings.catch_warnings():
        # an unbounded state space is no fault
        warnings.filterwarnings("ignore", message=".*Box observation space.*infinity.*")
        check_env(env, skip_close_check=True)
    env.close()


def test_same_seed_same_episode(env):
    twin = LangTableEnv(task="any", obs="state")
    for seed in range(3):
        first, info = env.reset(seed=seed)
        second, twin_info = twin.reset(seed=seed)
        assert info["instruction"] == twin_info["instruction"]
        np.testing.assert_array_equal(first, second)
        for action in random_actions(15, seed):
            np.testing.assert_array_equal(env.step(action)[0], twin.step(action)[0])


def test_frames_of_the_same_state_are_equal(camera_env):
    frame, _ = camera_env.reset(seed=5)
    state = camera_env.get_state()
    camera_env.step(np.array([0.02, 0.0]))
    again, _ = camera_env.reset(options={"state": state})
    np.testing.assert_array_equal(frame, again)
    np.testing.assert_array_equal(frame, camera_env.render())


@pytest.mark.parametrize("form", ["arrays", "json", "npz"])
def test_continuation_from_a_stored_state_is_the_same_bit_for_bit(env, form, tmp_path):
    env.reset(seed=11)
    actions = random_actions(40, 1)
    for action in actions[:15]:
        env.step(action)
    state = env.get_state()
    before = [env.step(action) for action in actions[15:]]
    next_start, _ = env.reset()
    if form == "json":
        state = json.loads(
            json.dumps(
                {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}
            )
        )
    elif form == "npz":
        np.savez(tmp_path / "state.npz", **state)
        state = dict(np.load(tmp_path / "state.npz"))
    other = LangTableEnv(task="any", obs="state")
    other.reset(seed=99)
    other.set_state(state)
    for action, (observation, reward, terminated, truncated, info) in zip(
        actions[15:], before, strict=True
    ):
        result = other.step(action)
        np.testing.assert_array_equal(result[0], observation)
        assert result[1:4] == (reward, terminated, truncated)
        assert result[4]["instruction"] == info["instruction"]
    np.testing.assert_array_equal(other.reset()[0], next_start)


def test_reset_options(env):
    _, info = env.reset(
        seed=0, options={"instruction": "Separate the red moon from the blue cube."}
    )
    assert info["instruction"] == "separate the red moon from the blue cube"
    assert env.unwrapped.task_description == env.instruction == info["instruction"]
    for task in TASKS:
        assert env.reset(options={"task": task})[1]["task"] == task
    state = env.get_state()
    _, info = env.reset(seed=1, options={"state": state, "instruction": "reach the green star"})
    np.testing.assert_array_equal(env.privileged_state(), state["positions"])
    assert info["task"] == "reach"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instruction": "reach the pink cube"}, "'pink cube' is not on the table"),
        ({"instruction": "eat the green cube"}, "fits no template"),
        ({"instruction": "push the green cube to the green cube"}, "two different blocks"),
        ({"task": "juggle"}, "expected one of 'reach'"),
        ({"goal": "reach"}, "expected instruction, task or state"),
        ({"state": {"positions": [0.0]}}, "state lacks"),
    ],
)
def test_wrong_reset_options_are_explained(env, options, words):
    with pytest.raises(ValueError, match=words):
        env.reset(seed=0, options=options)
    env.reset(seed=0)
    env.step(np.zeros(2))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"task": "fly"}, "task='fly'"),
        ({"obs": "latents"}, "obs='latents'"),
        ({"blocks": "pink cube, red moon"}, "'pink cube' is not a block"),
        ({"blocks": "red cube, red cube"}, "different ones"),
        ({"frame_size": "big"}, "is not a frame size"),
        ({"frame_size": "4x4"}, "is not a frame size"),
        ({"horizon": 0}, "horizon=0"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_wrong_keywords_are_explained(keywords, words):
    with pytest.raises(ValueError, match=words):
        LangTableEnv(**keywords)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.array([np.nan, 0.0]), "finite"),
        (np.zeros(3), r"expected \(2,\)"),
        (np.zeros((1, 2)), "without a batch axis"),
    ],
)
def test_wrong_actions_raise_and_leave_the_environment_usable(env, action, words):
    before, _ = env.reset(seed=2)
    with pytest.raises(ValueError, match=words):
        env.step(action)
    np.testing.assert_array_equal(env.privileged_state(), before)
    env.step(np.zeros(2))


def test_out_of_range_actions_are_clipped_and_reported(env):
    env.reset(seed=3)
    state = env.get_state()
    far, *_, info = env.step(np.array([1.0, 0.0]))
    assert info["action_clipped"]
    env.set_state(state)
    near, *_, info = env.step(np.array([0.03, 0.0], dtype=np.float32))
    assert not info["action_clipped"]
    np.testing.assert_array_equal(far, near)


def test_truncates_at_the_horizon_and_not_before():
    env = LangTableEnv(task="push", obs="state", horizon=7)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_blocks():
    assert LangTableEnv(obs="state").objects == OBJECTS and len(OBJECTS) == 8
    ood = LangTableEnv(obs="state", blocks="ood", task="any")
    assert ood.objects == OOD_OBJECTS and not set(OOD_OBJECTS) & set(OBJECTS)
    assert ood.reset(seed=0)[0].shape == (2 + 3 * len(OOD_OBJECTS),)
    some = LangTableEnv(obs="state", blocks="purple star, red cube,  yellow moon")
    assert some.objects == ("purple star", "red cube", "yellow moon")
    with pytest.raises(ValueError, match="Make one with blocks="):
        some.set_state(ood.get_state())


def test_pickled_environment_plays_the_same_episode():
    env = LangTableEnv(task="reach", obs="state", horizon=9)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.horizon == 9
    np.testing.assert_array_equal(env.reset(seed=4)[0], copy.reset(seed=4)[0])


@pytest.mark.parametrize("size", ["96", 64, (180, 320)])
def test_frame_size(size):
    env = LangTableEnv(frame_size=size)
    frame, _ = env.reset(seed=0)
    assert frame.dtype == np.uint8 and env.observation_space.contains(frame)
    env.close()


def test_every_block_and_the_peg_are_legible_at_96_pixels(camera_env):
    """Blocks span at least 6 pixels and the peg 4, wherever they stand."""
    corners = [(x, y) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    middle = [(0.0, 0.15), (0.0, -0.15), (0.15, 0.0), (-0.15, 0.0)]
    camera_env.reset(seed=0)
    state = camera_env.get_state()
    for turn in range(8):
        spots = np.roll(corners + middle, turn, axis=0)
        poses = np.column_stack([spots, np.full(8, 0.4 * turn)])
        state["positions"] = np.concatenate([(0.0, 0.0), poses.ravel()])
        frame = camera_env.reset(options={"state": state})[0].astype(float)
        seen = dict.fromkeys(COLOURS, 0)
        for name in ("red", "green", "blue", "yellow"):
            colour = 255 * np.array(COLOURS[name])
            direction = colour / np.linalg.norm(colour)
            alike = (frame @ direction) / np.linalg.norm(frame, axis=-1).clip(1)
            seen[name] = int((alike > 0.97).sum())
        # two blocks each, at least about 6 by 6 pixels less what a star or moon lacks
        assert all(seen[name] >= 2 * 20 for name in ("red", "green", "blue", "yellow")), seen
        dark = frame.max(-1) < 90
        rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
        middle_rows = rows[(rows > 40) & (rows < 56)]
        middle_columns = columns[(columns > 40) & (columns < 56)]
        assert len(middle_rows) >= 4 and len(middle_columns) >= 4


def test_without_gl_the_state_works_and_a_picture_says_what_to_install():
    code = """
import numpy as np
from wm_gym.envs.sims.langtable import LangTableEnv
env = LangTableEnv(obs="state")
env.reset(seed=0)
env.step(np.zeros(2))
try:
    env.render()
except RuntimeError as error:
    print("ERROR", error)
"""
    environment = os.environ | {"MUJOCO_GL": "disable"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "ERROR LangTable cannot render" in result.stdout
    assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri" in result.stdout


def test_import_loads_no_mujoco():
    code = (
        "import sys, wm_gym.envs.sims.langtable, wm_gym.envs.sims.langtable_expert; "
        "assert not {'mujoco', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
