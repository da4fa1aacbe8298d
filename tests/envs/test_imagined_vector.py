"""The vector environment: rows equal single environments, autoreset modes, errors by row."""

import gc
import re

import gymnasium
import imageio.v3 as imageio
import numpy as np
import psutil
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from tests.envs.scripted_reward import ScriptedReward
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.envs.video import RecordGrid, tile, write_strip

STEPS = 10


def make(model, num_envs: int, **kwargs) -> WorldModelVectorEnv:
    return WorldModelVectorEnv(num_envs, model=model, **{"reward": "none", **kwargs})


def actions_of(space: gymnasium.spaces.Box, rows: int, steps: int = STEPS) -> np.ndarray:
    """(steps, rows, A); a row's actions do not depend on the number of rows."""
    shape = (steps, *space.shape)
    draws = [
        np.random.default_rng(row).uniform(space.low, space.high, shape) for row in range(rows)
    ]
    return np.stack(draws, axis=1).astype(np.float32)


def single(model, seed: int, row: int, obs: str, **kwargs) -> list[np.ndarray]:
    env = WorldModelEnv(model=model, reward="none", obs=obs, horizon=100, **kwargs)
    observations = [env.reset(seed=seed)[0]]
    return observations + [
        env.step(action)[0] for action in actions_of(env.action_space, row + 1)[:, row]
    ]


def assert_nearly_equal(one, other, obs):
    one, other = np.asarray(one), np.asarray(other)
    if obs == "latents":
        np.testing.assert_allclose(one, other, atol=1e-4)
    else:
        levels = np.abs(one.astype(int) - other.astype(int))
        assert (levels <= 1).mean() >= 0.999 and levels.max() <= 8


@pytest.mark.parametrize("obs", ["latents", "pixels"])
@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_row_i_equals_the_single_environment_with_its_seed(any_model, num_envs, obs):
    envs = make(any_model, num_envs, obs=obs, horizon=100)
    observations = [envs.reset(seed=40)[0]]
    observations += [
        envs.step(actions)[0] for actions in actions_of(envs.single_action_space, num_envs)
    ]
    for row in range(num_envs):
        found = [observation[row] for observation in observations]
        assert_nearly_equal(found, single(any_model, 40 + row, row, obs), obs)


@pytest.mark.parametrize("num_envs", [2, 5])
def test_a_row_is_not_disturbed_by_neighbours_that_reset(any_model, num_envs):
    envs = make(any_model, num_envs, obs="latents", horizon=100, autoreset_mode="Disabled")
    rows = [envs.reset(seed=40)[0][1]]
    for step, actions in enumerate(actions_of(envs.single_action_space, num_envs)):
        if step % 3 == 2:
            mask = np.ones(num_envs, bool)
            mask[1] = False
            before = envs.engine.latents()[1]
            observation, infos = envs.reset(options={"reset_mask": mask})
            np.testing.assert_array_equal(observation[1], before)
            assert not infos["_instruction"][1]
        rows.append(envs.step(actions)[0][1])
    assert_nearly_equal(rows, single(any_model, 41, 1, "latents"), "latents")


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_row_goes_on_after_autoreset_like_the_single_environment(any_model, num_envs):
    envs = make(any_model, num_envs, obs="latents", horizon=3)
    env = WorldModelEnv(model=any_model, reward="none", obs="latents", horizon=3)
    found, expected = [envs.reset(seed=4)[0][0]], [env.reset(seed=4)[0]]
    over = False
    for actions in actions_of(envs.single_action_space, num_envs, 10):
        observations, _, terminated, truncated, infos = envs.step(actions)
        found.append(observations[0])
        if over:
            expected.append(env.reset()[0])
            over = False
            assert infos["_start"][0] and not terminated[0] and not truncated[0]
        else:
            observation, _, one, other, _ = env.step(actions[0])
            expected.append(observation)
            over = one or other
            assert (terminated[0], truncated[0]) == (one, other)
    assert_nearly_equal(found, expected, "latents")


def test_next_step_is_the_default_and_resets_in_the_step_after(any_model):
    envs = make(any_model, 2, horizon=2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    action = actions_of(envs.single_action_space, 2, 1)[0]
    assert not envs.step(action)[3].any()
    assert envs.step(action)[3].all()
    # actions of rows that are about to reset are ignored, whatever they are
    _, rewards, terminated, truncated, infos = envs.step(action * np.nan)
    assert not (rewards.any() or terminated.any() or truncated.any())
    assert not any(infos["error"]) and infos["_start"].all()


def test_same_step_returns_the_new_episode_and_keeps_the_old_ones_end(any_model):
    envs = make(any_model, 3, horizon=2, autoreset_mode="SameStep")
    reference = make(any_model, 3, horizon=2, autoreset_mode="Disabled")
    action = actions_of(envs.single_action_space, 3, 1)[0]
    for env in (envs, reference):
        env.reset(seed=0)
        env.step(action)
    observations, _, _, truncated, infos = envs.step(action)
    last = reference.step(action)[0]
    assert truncated.all() and infos["_final_obs"].all() and infos["_final_info"].all()
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), last)
    assert not infos["final_info"]["is_success"].any()
    assert infos["final_info"]["_surprise"].all() and infos["_start"].all()
    starts = envs.engine.starts.stored
    for row in range(3):
        frame = starts.frames[starts.index(infos["start"][row])]
        np.testing.assert_array_equal(observations[row], frame)
    assert not envs.step(action)[3].any()


def test_disabled_wants_a_reset_of_the_rows_that_ended(any_model):
    envs = make(any_model, 2, horizon=2, autoreset_mode=AutoresetMode.DISABLED)
    action = actions_of(envs.single_action_space, 2, 1)[0]
    envs.reset(seed=0)
    envs.step(action)
    envs.step(action)
    with pytest.raises(ResetNeeded, match="reset_mask"):
        envs.step(action)
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        envs.step(action)
    envs.reset(seed=[None, 5], options={"reset_mask": np.array([False, True])})
    envs.step(action)


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False], TypeError),
        (np.array([1, 0]), TypeError),
        (np.array([True]), ValueError),
        (np.array([False, False]), ValueError),
    ],
)
def test_a_bad_reset_mask_is_refused(tiny_model, mask, error):
    envs = make(tiny_model, 2)
    envs.reset(seed=0)
    with pytest.raises(error, match="reset_mask"):
        envs.reset(options={"reset_mask": mask})


def test_stepping_or_masking_before_a_reset_is_refused(tiny_model):
    envs = make(tiny_model, 2)
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="without a mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([np.nan, 0.0], "finite"),
        ([0.0] * 3, r"shape \(3,\)"),
        (None, "shape"),
        ([10**400, 0], "no shape"),
    ],
)
def test_a_bad_action_ends_only_its_row(tiny_model, bad, message):
    envs = make(tiny_model, 3, obs="pixels", horizon=100)
    reference = make(tiny_model, 3, obs="pixels", horizon=100)
    actions = actions_of(envs.single_action_space, 3)
    for env in (envs, reference):
        env.reset(seed=0)
    before = envs.step(actions[0])[0]
    reference.step(actions[0])
    wrong = [actions[1][0], bad, actions[1][2]]
    observations, rewards, terminated, truncated, infos = envs.step(wrong)
    expected = reference.step(actions[1])[0]
    assert truncated.tolist() == [False, True, False] and not terminated.any()
    assert rewards[1] == 0 and [bool(e) for e in infos["error"]] == [False, True, False]
    assert re.search(message, infos["error"][1])
    np.testing.assert_array_equal(observations[1], before[1])
    np.testing.assert_array_equal(observations[[0, 2]], expected[[0, 2]])
    _, _, _, truncated, infos = envs.step(actions[2])
    assert not truncated.any() and envs.get_attr("steps")[1] == 0


def test_a_row_that_diverges_ends_alone(tiny_model, monkeypatch):
    envs = make(tiny_model, 2, obs="latents", autoreset_mode="SameStep")
    before, _ = envs.reset(seed=0)
    original = envs.engine._rollout.step

    def step(action):
        return torch.cat([original(action)[:1], torch.full_like(original(action)[1:], np.nan)])

    monkeypatch.setattr(envs.engine._rollout, "step", step)
    observations, _, _, truncated, infos = envs.step(np.zeros((2, 2), np.float32))
    assert truncated.tolist() == [False, True] and "NaN" in infos["final_info"]["error"][1]
    np.testing.assert_array_equal(infos["final_obs"][1], before[1])
    assert np.isfinite(observations).all()


def test_the_wrong_number_of_actions_raises_and_changes_nothing(tiny_model):
    envs = make(tiny_model, 2, obs="latents")
    before, _ = envs.reset(seed=0)
    with pytest.raises(ValueError, match="3 actions, expected 2"):
        envs.step(np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(envs.engine.latents(), before)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((2, 3), np.float32), r"\(2, 3\)"),
        (np.zeros((2, 1), np.float32), r"\(2, 1\)"),
        (np.zeros(2, np.float32), r"\(2,\)"),
        (np.zeros((2, 1, 2), np.float32), r"\(2, 1, 2\)"),
        (torch.zeros(2, 7), r"\(2, 7\)"),
        (["left", "right"], "could not convert"),
        (0.0, "actions are 0.0"),
        (None, "actions are None"),
    ],
)
def test_a_batch_of_a_wrong_shape_raises_and_changes_nothing(tiny_model, wrong, found):
    envs = make(tiny_model, 2, obs="latents", horizon=100)
    envs.reset(seed=0)
    expected = envs.step(actions_of(envs.single_action_space, 2)[0])[0]
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=found) as error:
        envs.step(wrong)
    assert "expected shape (2, 2)" in str(error.value) and "x, y in m, m" in str(error.value)
    assert "reshape" in str(error.value) or "np.stack" in str(error.value)
    observations, _, terminated, truncated, infos = envs.step(
        actions_of(envs.single_action_space, 2)[0]
    )
    np.testing.assert_array_equal(observations, expected)
    assert not (terminated.any() or truncated.any() or any(infos["error"]))


def test_success_ends_rows_one_by_one(tiny_model):
    envs = make(tiny_model, 3)
    envs.engine.reward = ScriptedReward(success_at=1, rows=[1])
    envs.reset(seed=0)
    _, rewards, terminated, truncated, infos = envs.step(np.zeros((3, 2), np.float32))
    assert rewards.tolist() == [0, 1, 0] and terminated.tolist() == [False, True, False]
    assert not truncated.any() and infos["is_success"].tolist() == [False, True, False]
    assert infos["judge"]["name"].tolist() == ["", "scripted", ""]


def test_out_of_range_actions_are_reported_by_row(tiny_model):
    envs = make(tiny_model, 2)
    envs.reset(seed=0)
    infos = envs.step(np.array([[0, 0.01], [0, 0.5]], np.float32))[4]
    assert infos["action_clipped"].tolist() == [False, True]


def test_options_hold_for_all_rows_or_one_by_one(tiny_model):
    envs = make(tiny_model, 2)
    infos = envs.reset(seed=0, options={"start": "push-1"})[1]
    assert infos["start"].tolist() == ["push-1", "push-1"]
    infos = envs.reset(seed=np.array([3, 4]), options={"start": ["push-0", "reach-0"]})[1]
    assert infos["start"].tolist() == ["push-0", "reach-0"]
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    observations, _ = envs.reset(seed=0, options={"frames": list(frames)})
    np.testing.assert_array_equal(observations, frames)
    for bad in ({"start": ["push-0"]}, {"start": "push-9"}):
        with pytest.raises(ValueError, match="start"):
            envs.reset(options=bad)


def test_without_stored_starts_an_episode_begins_again_from_its_picture(tiny_model):
    envs = make(tiny_model, 2, horizon=1, autoreset_mode="SameStep")
    envs.engine.starts.pool = []
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    envs.reset(seed=0, options={"frames": list(frames)})
    observations = envs.step(np.zeros((2, 2), np.float32))[0]
    np.testing.assert_array_equal(observations, frames)


def test_dict_observations_are_batched(tiny_model):
    envs = make(tiny_model, 3, obs="dict", horizon=4)
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space
    observations, *_ = envs.step(envs.action_space.sample())
    assert observations["time_left"].tolist() == [[0.75]] * 3
    assert observations in envs.observation_space


def test_an_option_that_is_none_in_a_row_is_not_given_there(tiny_model):
    envs, alone = make(tiny_model, 2), make(tiny_model, 2)
    picture = np.full((32, 32, 3), 7, np.uint8)
    words = "reach the red moon"
    frames, infos = envs.reset(
        seed=[1, 2],
        options={
            "frames": [picture, None],
            "instruction": [words, None],
            "start": [None, "push-1"],
        },
    )
    np.testing.assert_array_equal(frames[0], picture)
    assert infos["instruction"][0] == words and infos["start"][1] == "push-1"
    expected, _ = alone.reset(seed=[1, 2], options={"start": "push-1"})
    np.testing.assert_array_equal(frames[1], expected[1])


def test_attributes_of_rows_can_be_read_and_set(tiny_model):
    envs = make(tiny_model, 2)
    infos = envs.reset(seed=0)[1]
    assert envs.call("task_description") == tuple(infos["instruction"])
    assert envs.get_attr("start") == tuple(infos["start"])
    assert envs.get_attr("np_random_seed") == (0, 1)
    assert envs.get_attr("card") == (tiny_model.spec,) * 2
    assert envs.get_attr("action_space") == (envs.single_action_space,) * 2
    assert [frame.shape for frame in envs.call("render")] == [(32, 32, 3)] * 2
    envs.set_attr("task_description", ["reach the red moon", "reach the blue cube"])
    assert envs.call("task_description") == ("reach the red moon", "reach the blue cube")
    envs.set_attr("horizon", 1)
    infos = envs.step(envs.action_space.sample())
    assert infos[3].all() and infos[4]["instruction"][1] == "reach the blue cube"
    with pytest.raises(ValueError, match="expected 2"):
        envs.set_attr("task_description", ["reach the red moon"])
    with pytest.raises(ValueError, match="shared"):
        envs.set_attr("horizon", [1, 2])
    for horizon in (0, -1, 2.5, "x"):
        with pytest.raises(ValueError, match="whole number of at least 1"):
            envs.set_attr("horizon", horizon)
    assert envs.get_attr("horizon") == (1, 1)
    with pytest.raises(ValueError, match="coffee"):
        envs.set_attr("task_description", "make coffee")
    with pytest.raises(AttributeError):
        envs.get_attr("nothing")


def test_a_restored_snapshot_continues_identically(any_model):
    envs = make(any_model, 3, horizon=4)
    envs.reset(seed=0)
    actions = actions_of(envs.single_action_space, 3, 12)
    for step in range(6):  # one autoreset lies behind
        before = envs.step(actions[step])[0]
    content = envs.snapshot()
    expected = [envs.step(action)[0] for action in actions[6:]]
    other = make(any_model, 3, horizon=4)
    np.testing.assert_array_equal(other.restore(content), before)
    np.testing.assert_array_equal([other.step(action)[0] for action in actions[6:]], expected)
    with pytest.raises(ValueError, match="3 rows, this environment has 2"):
        make(any_model, 2).restore(content)


def test_make_vec_uses_the_batched_engine(tiny_checkpoint):
    envs = gymnasium.make_vec(
        "WM-LangTable-VAE-v0", num_envs=3, checkpoint=tiny_checkpoint, reward="none", horizon=2
    )
    assert isinstance(envs.unwrapped, WorldModelVectorEnv) and envs.num_envs == 3
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    assert envs.step(envs.action_space.sample())[3].all()  # the horizon truncates inside
    assert envs.render_grid().shape == (66, 66, 3)


def test_gymnasiums_sync_vector_env_agrees(tiny_checkpoint):
    kwargs = {"checkpoint": tiny_checkpoint, "reward": "none", "horizon": 3, "obs": "latents"}
    envs = [
        gymnasium.make_vec("WM-LangTable-VAE-v0", 2, vectorization_mode=mode, **kwargs)
        for mode in ("vector_entry_point", "sync")
    ]
    results = [[env.reset(seed=9)] for env in envs]
    for actions in actions_of(envs[0].single_action_space, 2, 8):
        for env, result in zip(envs, results, strict=True):
            result.append(env.step(actions))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
        for one, other in zip(ours[1:-1], theirs[1:-1], strict=True):
            np.testing.assert_array_equal(one, other)
        assert ours[-1].keys() == theirs[-1].keys()


def test_the_grid_recorder_writes_a_video_per_reset(tiny_model, tmp_path):
    envs = RecordGrid(make(tiny_model, 5, horizon=3), tmp_path)
    for _ in range(2):
        envs.reset(seed=0)
        for _ in range(3):
            envs.step(envs.action_space.sample())
    envs.close()
    assert [path.name for path in envs.videos] == ["grid-0.mp4", "grid-1.mp4"]
    video = imageio.imread(envs.videos[0])
    assert video.shape[0] == 4 and min(video.shape[1:3]) >= 192


def test_gymnasiums_vector_recorder_works(tiny_model, tmp_path):
    envs = gymnasium.wrappers.vector.RecordVideo(make(tiny_model, 4, horizon=3), str(tmp_path))
    envs.reset(seed=0)
    for _ in range(5):
        envs.step(envs.action_space.sample())
    envs.close()
    assert list(tmp_path.glob("*.mp4"))


def test_tiles_stand_where_they_belong(tmp_path):
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    grid = tile(frames)
    assert grid.shape == (2 * 6 - 2, 3 * 8 - 2, 3)
    assert grid[0, 0, 0] == 0 and grid[0, 8, 0] == 1 and grid[6, 8, 0] == 4
    path = write_strip(tmp_path / "strips" / "one.png", [frames, frames], count=3)
    strip = imageio.imread(path)
    assert strip.shape == (10, 22, 3) and strip[0, 16, 0] == 4


@pytest.mark.slow
def test_memory_is_flat_over_1000_steps_with_resets(tiny_model):
    envs = make(tiny_model, 4, horizon=7)
    envs.reset(seed=0)

    def resident_bytes(steps: int) -> int:
        for _ in range(steps):
            envs.step(envs.action_space.sample())
        gc.collect()
        return psutil.Process().memory_info().rss  # what is held now, not the largest ever

    before = resident_bytes(300)
    assert resident_bytes(1000) - before < 8 * 2**20
