"""LangTableEnv: its options, blocks and picture; `test_simulators` holds the common contract."""

import numpy as np
import pytest

from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.shapes import COLOURS, OOD_OBJECTS
from wm_gym.envs.sims.langtable.tasks import OBJECTS, TASKS
from wm_gym.envs.sims.langtable.view import places


@pytest.fixture(scope="module")
def env():
    return LangTableEnv(task="any", obs="state")


@pytest.fixture(scope="module")
def camera_env():
    env = LangTableEnv(frame_size=96, render_mode="rgb_array")
    yield env
    env.close()


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
        ({"blocks": "pink cube, red moon"}, "'pink cube' is not a block"),
        ({"blocks": "red cube, red cube"}, "different ones"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_wrong_keywords_are_explained(keywords, words):
    with pytest.raises(ValueError, match=words):
        LangTableEnv(**keywords)


def test_blocks():
    assert LangTableEnv(obs="state").objects == OBJECTS and len(OBJECTS) == 8
    ood = LangTableEnv(obs="state", blocks="ood", task="any")
    assert ood.objects == OOD_OBJECTS and not set(OOD_OBJECTS) & set(OBJECTS)
    assert ood.reset(seed=0)[0].shape == (2 + 3 * len(OOD_OBJECTS),)
    some = LangTableEnv(obs="state", blocks="purple star, red cube,  yellow moon")
    assert some.objects == ("purple star", "red cube", "yellow moon")
    with pytest.raises(ValueError, match="Make one with blocks="):
        some.set_state(ood.get_state())


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


def test_mixed_blocks_are_drawn_anew_at_every_reset():
    env, again = (LangTableEnv(task="any", blocks="mixed", obs="state") for _ in range(2))
    tables = []
    for seed in range(4):
        state, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(again.reset(seed=seed)[0], state)
        assert again.objects == env.objects
        assert set(env.goal.objects) <= set(env.objects)
        tables.append(env.objects)
    assert len(set(tables)) == 4
    assert all(len(set(table)) == 8 for table in tables)
    stored = env.get_state()
    again.reset(seed=9)
    again.set_state(stored)
    assert again.objects == env.objects
    np.testing.assert_array_equal(again.privileged_state(), env.privileged_state())
    action = np.array([0.02, -0.01])
    np.testing.assert_array_equal(again.step(action)[0], env.step(action)[0])
    with pytest.raises(ValueError, match="drawn anew"):
        env.reset(options={"instruction": "reach the red moon"})


def test_mixed_blocks_are_rendered_as_they_are():
    env = LangTableEnv(blocks="mixed", frame_size=48, render_mode="rgb_array")
    named = None
    try:
        for seed in (0, 1):
            frame, _ = env.reset(seed=seed)
            named = LangTableEnv(blocks=", ".join(env.objects), frame_size=48)
            same, _ = named.reset(options={"state": env.get_state()})
            np.testing.assert_array_equal(frame, same)
            named.close()
    finally:
        env.close()


def test_things_appear_where_they_are_projected(camera_env):
    """In the middle of every block's place in the picture is its colour, and the peg is dark."""
    for seed in range(6):
        frame, _ = camera_env.reset(seed=seed)
        state = camera_env.privileged_state()
        right, up = np.moveaxis((places(state[None])[0] + 1) * 48, -1, 0)
        seen = frame[np.floor(96 - up).astype(int), np.floor(right).astype(int)] / 255
        assert seen[0].max() < 0.35
        for name, pixel in zip(OBJECTS, seen[1:], strict=True):
            shape = name.split(" ")[1]
            if shape != "moon":  # the middle of a moon may be hollow
                near = min(COLOURS, key=lambda c: np.abs(np.array(COLOURS[c]) - pixel).sum())
                assert name.startswith(near)
