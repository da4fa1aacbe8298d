"""The single imagined environment: what an episode is, and what it refuses."""

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence

import wm_gym
from tests.envs.scripted_reward import ScriptedReward
from wm_gym.checkpoints import Checkpoint
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.info import UNKNOWN
from wm_gym.envs.reward_registry import make_reward
from wm_gym.envs.start_states import FILENAME, StartStateError, StartStates, make_start_states
from wm_gym.judges.success_classifier import EpisodeRule


def make(model, **kwargs) -> WorldModelEnv:
    return WorldModelEnv(model=model, **{"reward": "none", **kwargs})


def rollout(env, seed: int, steps: int = 5) -> list:
    """Observations of a seeded episode with seeded actions."""
    observations = [env.reset(seed=seed)[0]]
    observations += [env.step(action)[0] for action in actions_of(env, steps, seed)]
    return observations


def actions_of(env, steps: int, seed: int = 0) -> np.ndarray:
    """Seeded actions (steps, A) over the whole range."""
    space = env.action_space
    draws = np.random.default_rng(seed).uniform(space.low, space.high, (steps, *space.shape))
    return draws.astype(np.float32)


def test_spaces_and_card_come_from_the_checkpoint(tiny_model):
    env = make(tiny_model)
    assert env.card is tiny_model.spec
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    assert env.action_space == gymnasium.spaces.Box(-0.03, 0.03, (2,), np.float32)
    assert env.metadata["render_fps"] == 10.0


def test_the_same_seed_gives_the_same_episode_bit_for_bit(any_model):
    env = make(any_model)
    first = rollout(env, 7)
    for again in (rollout(env, 7), rollout(make(any_model), 7)):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, rollout(env, 8))


def test_the_same_seed_gives_the_same_episode_in_another_process(any_model):
    code = (
        "import hashlib, sys, numpy as np\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.envs.test_imagined import make, rollout\n"
        "from wm_gym.world_model import load_world_model\n"
        "env = make(load_world_model(sys.argv[1]), obs='latents')\n"
        "print(hashlib.sha256(np.stack(rollout(env, 7)).tobytes()).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(any_model.folder)]
    root = Path(__file__).parents[2]
    hashes = {
        subprocess.run(command, check=True, capture_output=True, cwd=root).stdout for _ in range(2)
    }
    assert len(hashes) == 1


def test_actions_and_noise_both_matter(tiny_model):
    env = make(tiny_model, obs="latents")

    def after(seed, action):
        env.reset(seed=seed, options={"start": "push-0"})
        return env.step(np.float32(action))[0]

    assert not np.allclose(after(0, [0.03, 0]), after(0, [-0.03, 0]))
    assert not np.allclose(after(0, [0.03, 0]), after(1, [0.03, 0]))


def test_a_reset_shows_the_start_itself_and_names_it(tiny_model, tiny_checkpoint):
    env = make(tiny_model)
    starts = StartStates.read(f"{tiny_checkpoint}/{FILENAME}")
    frame, info = env.reset(seed=0, options={"start": "reach-1"})
    index = starts.index("reach-1")
    np.testing.assert_array_equal(frame, starts.frames[index])
    assert info["start"] == "reach-1" and info["instruction"] == starts.instructions[index]
    assert env.unwrapped.task_description == starts.instructions[index]


def test_random_starts_are_of_the_task_and_vary(tiny_model):
    env = make(tiny_model, task="push")
    found = {env.reset(seed=seed)[1]["start"] for seed in range(20)}
    assert found == {"push-0", "push-1", "push-2"}


def test_noise_does_not_depend_on_how_the_episode_begins(tiny_model):
    env = make(tiny_model, obs="latents")
    _, info = env.reset(seed=5)
    drawn = env.step(np.zeros(2, np.float32))[0]
    env.reset(seed=5, options={"start": info["start"]})
    np.testing.assert_array_equal(drawn, env.step(np.zeros(2, np.float32))[0])


def test_an_episode_can_begin_from_one_picture_or_a_history(tiny_model):
    env = make(tiny_model)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    frame, info = env.reset(seed=0, options={"frames": frames[-1]})
    np.testing.assert_array_equal(frame, frames[-1])
    assert info["start"] == ""
    one = env.step(np.zeros(2, np.float32))[0]
    actions = np.full((2, 2), 0.01, np.float32)
    env.reset(seed=0, options={"frames": frames, "actions": actions})
    assert not np.array_equal(one, env.step(np.zeros(2, np.float32))[0])


def test_actions_of_a_history_are_clipped_and_reported(tiny_model):
    env = make(tiny_model, obs="latents")
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    seen = []
    for action, clipped in ((env.action_space.high, False), (env.action_space.high * 40, True)):
        _, info = env.reset(seed=0, options={"frames": frames, "actions": action[None]})
        assert info["action_clipped"] is clipped
        seen.append(env.step(np.zeros(2, np.float32))[0])
    np.testing.assert_array_equal(*seen)


def test_the_horizon_truncates_and_the_episode_then_needs_a_reset(tiny_model):
    env = make(tiny_model, horizon=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros(2, np.float32))
    env.reset()
    env.step(np.zeros(2, np.float32))


def test_success_terminates_with_a_judgement(tiny_model):
    env = make(tiny_model)
    env.engine.reward = ScriptedReward(success_at=2)
    env.reset(seed=0, options={"instruction": "reach the red moon"})
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated, info["is_success"]) == (0.0, False, False, False)
    assert info["judge"]["name"] == ""
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)
    assert info["judge"] == {"score": 1.0, "rationale": "call 2", "name": "scripted", "facts": ""}
    assert info["instruction"] == "reach the red moon"


def test_success_at_the_horizon_terminates_and_does_not_truncate(tiny_model):
    env = make(tiny_model, horizon=2)
    env.engine.reward = ScriptedReward(success_at=2)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert env.step(np.zeros(2, np.float32))[2:4] == (True, False)


@pytest.mark.parametrize("success_at", [1, 99])
def test_an_episode_judged_at_its_horizon_terminates_there(tiny_model, success_at):
    env = make(tiny_model, horizon=3)
    env.engine.reward = ScriptedReward(success_at=success_at, judged_at_horizon=True)
    env.reset(seed=0)
    results = [env.step(np.zeros(2, np.float32)) for _ in range(3)]
    assert [r[2:4] for r in results] == [(False, False), (False, False), (True, False)]
    assert [r[1] for r in results] == [0.0, 0.0, float(success_at == 1)]
    assert [bool(r[4]["judge"]["name"]) for r in results] == [False, False, True]
    assert results[-1][4]["judge"]["rationale"] == "call 1"


def test_out_of_range_actions_are_clipped_and_reported(any_model):
    env = make(any_model, obs="latents")

    def after(action):
        env.reset(seed=0)
        observation, *_, info = env.step(action)
        return observation, info["action_clipped"]

    inside, clipped = after(env.action_space.high)
    assert clipped is False
    outside, clipped = after(env.action_space.high + np.float32(9.0))
    assert clipped is True
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([np.nan, 0], "finite"),
        ([np.inf, 0], "finite"),
        ([0.0, 0, 0], r"shape \(3,\), expected shape \(2,\): x, y in m, m"),
        (0.0, "expected"),
        ("left", "expected"),
        ([[0.0], [0.0, 1.0]], "no shape"),
        ([[0.0, 0.0]], "expected"),
        ([10**400, 0], "no shape"),
        (torch.zeros(2, requires_grad=True), "detach"),
    ],
)
def test_a_bad_action_raises_and_the_episode_goes_on_unharmed(tiny_model, action, message):
    env = make(tiny_model, obs="latents")
    env.reset(seed=0)
    expected = env.step(np.zeros(2, np.float32))[0]
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    np.testing.assert_array_equal(env.step(np.zeros(2, np.float32))[0], expected)


def test_whatever_the_model_what_is_wrong_is_refused_and_the_episode_goes_on(any_model):
    env, spec = make(any_model, obs="latents"), any_model.spec
    size, frame = spec.action.size, spec.frame
    first, second = actions_of(env, 2)
    env.reset(seed=0)
    expected = [env.step(action)[0] for action in (first, second)]
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(first)[0], expected[0])
    for action, message in (
        (np.full(size, np.nan), "finite"),
        (np.zeros(size + 1), rf"shape \({size + 1},\), expected shape \({size},\)"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(action)
    for frames, message in (
        (np.zeros((16, 16, 3), np.uint8), rf"\({frame.height}, {frame.width}, 3\)"),
        (np.zeros((frame.height, frame.width, 3)), "float64"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options={"frames": frames})
    np.testing.assert_array_equal(env.step(second)[0], expected[1])


def test_a_model_that_diverges_raises_and_a_reset_repairs(tiny_model, monkeypatch):
    env = make(tiny_model)
    frame, _ = env.reset(seed=0)
    original = env.engine._rollout.step
    monkeypatch.setattr(env.engine._rollout, "step", lambda action: original(action) * np.nan)
    with pytest.raises(RuntimeError, match="NaN"):
        env.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(env.render(), frame)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": 1}, "unknown"),
        ({"start": "nowhere-0"}, "nowhere-0"),
        ({"frames": np.zeros((16, 16, 3), np.uint8)}, r"\(32, 32, 3\)"),
        ({"frames": np.zeros((32, 32, 3))}, "float64.*multiply by 255"),
        ({"frames": np.zeros((32, 32, 3), int)}, r"int64.*; use .astype\(np.uint8\)"),
        ({"frames": np.zeros((2, 3, 32, 32), np.uint8)}, "channels come last"),
        ({"frames": np.zeros((32, 32, 3), np.uint8), "start": "push-0"}, "both"),
        ({"actions": np.zeros((1, 2))}, "without 'frames'"),
        (
            {"frames": np.zeros((2, 32, 32, 3), np.uint8), "actions": np.zeros((2, 2))},
            r"expected \(1, 2\)",
        ),
        ({"instruction": "make coffee"}, "coffee.*push the"),
    ],
)
def test_a_bad_option_says_so_and_the_episode_goes_on_unharmed(tiny_model, options, message):
    env = make(tiny_model, obs="latents")
    env.reset(seed=0)
    expected = env.step(np.zeros(2, np.float32))[0]
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    np.testing.assert_array_equal(env.step(np.zeros(2, np.float32))[0], expected)


def test_a_reward_that_judges_needs_an_instruction_with_a_picture(tiny_model):
    env = make(tiny_model)
    env.engine.reward = ScriptedReward()
    env.engine.starts.judged_by = "scripted"
    frame = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="give options\\['instruction'\\]"):
        env.reset(options={"frames": frame})
    env.reset(options={"frames": frame, "instruction": "reach the red moon"})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": "dense"}, "'classifier', 'distance', 'none', 'judge:'.* or 'semantic:<task>"),
        ({"reward": "semantic:push"}, r"'semantic:push\?checkpoint=FOLDER'"),
        ({"reward": "judge:vibes"}, "judge 'vibes' does not exist; expected one of classifier"),
        ({"obs": "sound"}, "'pixels', 'latents', 'dict'"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"task": "sort"}, "reach"),
        ({"horizon": 0}, "horizon"),
        ({"cache": "sometimes"}, "cache"),
        ({"env_id": "WM-X-v0"}, "WM-LangTable-VAE-v0"),
    ],
)
def test_arguments_that_do_not_exist_name_those_that_do(tiny_model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_model, **kwargs).reset(seed=0)


def test_a_checkpoint_without_reward_model_asks_for_another_reward(tiny_checkpoint):
    opened = Checkpoint.open(Path(tiny_checkpoint))
    bare = Checkpoint(opened.folder, replace(opened.spec, reward=None))
    for checkpoint in (bare, None):
        with pytest.raises(ValueError, match=r"reward='none'.*wm-gym train reward"):
            make_reward("classifier", checkpoint)


def test_the_classifier_decides_success_by_the_threshold_of_the_task(tiny_model):
    env = make(tiny_model, reward="classifier")
    thresholds = env.engine.reward.model.thresholds
    env.reset(seed=0, options={"instruction": "reach the red moon"})
    thresholds["push"] = 0.0  # of another task
    _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert 0 < info["success_probability"] < 1 and info["distance"] == UNKNOWN
    assert (reward, terminated, info["is_success"]) == (0.0, False, False)
    thresholds["reach"] = 0.0
    _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, info["is_success"]) == (1.0, True, True)
    assert info["judge"]["name"] == "classifier" and "'reach'" in info["judge"]["rationale"]
    assert info["judge"]["score"] == info["success_probability"]


def test_the_classifier_averages_over_the_steps_of_its_rule(tiny_model):
    actions = [np.zeros(2, np.float32)] * 7
    single = make(tiny_model, reward="classifier", horizon=20)
    single.engine.reward.model.rule = EpisodeRule(1, {"reach": 1.0})
    single.reset(seed=3, options={"instruction": "reach the red moon"})
    alone = np.array([single.step(action)[-1]["success_probability"] for action in actions])
    rule = EpisodeRule(3, {"reach": 1.0})
    expected = rule.smoothed(alone)
    env = make(tiny_model, reward="classifier", horizon=20)
    env.engine.reward.model.rule = rule
    env.reset(seed=3, options={"instruction": "reach the red moon"})
    found = [env.step(action)[-1]["success_probability"] for action in actions[:4]]
    content = env.snapshot()
    found += [env.step(action)[-1]["success_probability"] for action in actions[4:]]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    env.restore(content)
    again = [env.step(action)[-1]["success_probability"] for action in actions[4:]]
    assert again == found[4:]
    env.engine.instruct(["reach the blue cube"])  # another goal: what was seen of the old is over
    after = env.step(actions[0])[-1]["success_probability"]
    single.engine.instruct(["reach the blue cube"])
    assert after == pytest.approx(single.step(actions[0])[-1]["success_probability"] / 3, abs=1e-9)
    env.engine.reward.model.rule = EpisodeRule(3, {"reach": expected[1] + 1e-6})
    env.reset(seed=3, options={"instruction": "reach the red moon"})
    ended = [env.step(action)[2] for action in actions[:3]]
    assert ended == [False, False, True]


def test_the_distance_reward_is_progress_in_metres(tiny_model):
    env = make(tiny_model, reward="distance", obs="latents", horizon=20)
    instruction = "push the red moon to the blue cube"
    latents, _ = env.reset(seed=0, options={"instruction": instruction})
    goal = [env.engine.starts.instructions.parse(instruction)]

    def distance(latents):
        return env.engine.reward.model.distance(torch.from_numpy(latents)[None], goal).item()

    before = distance(latents)
    for _ in range(6):
        latents, reward, terminated, _, info = env.step(env.action_space.sample())
        after = distance(latents)
        assert info["distance"] == pytest.approx(after, abs=1e-6)
        assert reward == pytest.approx(before - after, abs=1e-6)
        assert not terminated
        before = after


def test_latents_as_observation_are_never_decoded(tiny_model, monkeypatch):
    env = make(tiny_model, obs="latents")
    decode, calls = tiny_model.decode, []
    monkeypatch.setattr(tiny_model, "decode", lambda x: calls.append(1) or decode(x))
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(env.action_space.sample())
    env.snapshot()
    assert observation.shape == (4, 4, 4) and observation.dtype == np.float32
    assert not calls
    frame = env.render()
    np.testing.assert_array_equal(frame, env.render())
    assert frame.shape == (32, 32, 3) and len(calls) == 1


def test_pixels_are_decoded_once_a_step(tiny_model, monkeypatch):
    env = make(tiny_model)
    decode, calls = tiny_model.decode, []
    monkeypatch.setattr(tiny_model, "decode", lambda x: calls.append(1) or decode(x))
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(frame, env.render())
    assert not calls  # the start needs no decoding
    frame, *_ = env.step(env.action_space.sample())
    np.testing.assert_array_equal(frame, env.render())
    assert len(calls) == 1


def test_the_dict_observation_carries_goal_and_time_left(tiny_model):
    env = make(tiny_model, obs="dict", horizon=4)
    observation, _ = env.reset(
        seed=0, options={"instruction": "push the red moon to the blue cube"}
    )
    tasks, objects = list(tiny_model.spec.tasks), list(tiny_model.spec.objects)
    expected = np.zeros(len(tasks) + 2 * len(objects), np.float32)
    expected[tasks.index("push")] = 1
    expected[len(tasks) + objects.index("red moon")] = 1
    expected[len(tasks) + len(objects) + objects.index("blue cube")] = 1
    np.testing.assert_array_equal(observation["goal"], expected)
    assert observation["time_left"] == 1.0
    observation, *_ = env.step(env.action_space.sample())
    assert observation["time_left"] == 0.75 and observation in env.observation_space


@pytest.mark.parametrize("obs", ["pixels", "latents", "dict"])
def test_a_restored_snapshot_continues_identically(any_model, obs):
    env = make(any_model, obs=obs, horizon=20)
    env.reset(seed=0)
    actions = actions_of(env, 12)
    for action in actions[:6]:
        before = env.step(action)[0]
    content = env.snapshot()
    expected = [env.step(action)[0] for action in actions[6:]] + [env.reset()[0]]
    for other in (env, make(any_model, obs=obs, horizon=20)):
        same = other.restore(content)
        assert data_equivalence(same, before, exact=True)
        found = [other.step(action)[0] for action in actions[6:]] + [other.reset()[0]]
        for one, two in zip(expected, found, strict=True):
            assert data_equivalence(one, two, exact=True)


def test_a_snapshot_of_something_else_is_refused(tiny_model):
    env = make(tiny_model)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not a snapshot"):
        env.restore(b"nonsense")
    other = make(tiny_model)
    with pytest.raises(ValueError, match="reset"):
        other.snapshot()
    env.step(np.zeros(2, np.float32))


def test_surprise_is_a_finite_number_after_every_step(tiny_model):
    env = make(tiny_model)
    env.reset(seed=0)
    for _ in range(3):
        surprise = env.step(env.action_space.sample())[4]["surprise"]
        assert isinstance(surprise, float) and np.isfinite(surprise)


def test_record_video_writes_the_episode(tiny_checkpoint, tmp_path):
    import imageio.v3 as imageio

    env = gymnasium.make(
        "WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, reward="none", horizon=4
    )
    env = gymnasium.wrappers.RecordVideo(env, str(tmp_path / "videos"))
    env.reset(seed=0)
    truncated = False
    while not truncated:
        *_, truncated, _ = env.step(env.action_space.sample())
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert imageio.imread(video).shape == (5, 32, 32, 3)
    assert imageio.immeta(video)["fps"] == 10


def test_a_checkpoint_without_starts_asks_for_a_picture(tiny_model):
    env = make(tiny_model)
    env.engine.starts.pool = []
    with pytest.raises(ValueError, match="begin from a picture"):
        env.reset(seed=0)
    env.reset(seed=0, options={"frames": np.zeros((32, 32, 3), np.uint8)})


def test_start_states_survive_writing_and_damage_is_reported(tmp_path):
    state = {"positions": [0.1, 1 / 3], "instruction": "reach the red moon"}
    starts = StartStates(("a",), ("reach the red moon",), np.ones((1, 8, 8, 3), np.uint8), (state,))
    starts.write(tmp_path / "one.npz")
    starts.write(tmp_path / "two.npz")
    content = (tmp_path / "one.npz").read_bytes()
    assert content == (tmp_path / "two.npz").read_bytes()
    again = StartStates.read(tmp_path / "one.npz")
    assert again.states == (state,) and again.names == ("a",)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x21
        try:
            found = StartStates.from_bytes(bytes(damaged), tmp_path / "damaged.npz")
        except StartStateError:
            continue
        assert found.states == (state,) and found.names == ("a",)
        assert (found.frames == starts.frames).all()
    (tmp_path / "one.npz").write_bytes(content[:-40])
    with pytest.raises(StartStateError, match="get the checkpoint again"):
        StartStates.read(tmp_path / "one.npz")
    with pytest.raises(StartStateError, match="get the checkpoint again"):
        StartStates.read(tmp_path / "none.npz")


def test_start_states_are_made_from_the_simulator(tmp_path):
    path = tmp_path / FILENAME
    starts = make_start_states([5, 6], ["reach", "push"], frame_size=(32, 48), path=path)
    assert starts.names == ("reach-5", "reach-6", "push-5", "push-6")
    assert starts.frames.shape == (4, 32, 48, 3)
    again = StartStates.read(path)
    assert again.states == starts.states and again.instructions == starts.instructions
    env = gymnasium.make("LangTable-v0", frame_size=(32, 48))
    for index, name in enumerate(starts.names):
        frame, info = env.reset(options={"state": again.states[again.index(name)]})
        assert info["instruction"] == starts.instructions[index]
        np.testing.assert_array_equal(frame, again.frames[index])


def test_the_twin_shares_spaces_and_begins_where_the_dream_begins(tiny_model):
    env = make(tiny_model, task="push", horizon=5)
    twin = wm_gym.make_twin(env)
    assert twin.observation_space == env.observation_space
    assert twin.action_space == env.action_space
    _, dream = env.reset(seed=3)
    frame, truth = twin.reset(options={"start": dream["start"]})
    assert frame.shape == (32, 32, 3)
    assert truth["start"] == dream["start"] and truth["instruction"] == dream["instruction"]
    stored = env.engine.starts.stored
    positions = stored.states[stored.index(dream["start"])]["positions"]
    np.testing.assert_array_equal(twin.unwrapped.privileged_state(), positions)
    for seed in range(4):  # the same seeds draw the same starts
        assert twin.reset(seed=seed)[1]["start"] == env.reset(seed=seed)[1]["start"]
    ends = [twin.step(np.zeros(2, np.float32))[2:4] for _ in range(5)]
    assert ends[-1] == (False, True)


def test_only_imagined_environments_have_a_twin():
    with pytest.raises(TypeError, match="not an imagined environment"):
        wm_gym.make_twin(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("dtype", ["bfloat16", "autocast"])
def test_half_precision_is_close_to_float32(tiny_checkpoint, dtype):
    one, other = (
        np.stack(
            rollout(
                WorldModelEnv(
                    checkpoint=tiny_checkpoint, reward="none", obs="latents", dtype=arithmetic
                ),
                seed=0,
                steps=1,
            )
        )
        for arithmetic in ("float32", dtype)
    )
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one, other, atol=0.1 * np.abs(one).max())


@pytest.mark.slow
def test_memory_is_flat_over_1000_steps(any_model):
    env = make(any_model, horizon=10_000)
    env.reset(seed=0)

    def resident_bytes(steps: int) -> int:
        for _ in range(steps):
            env.step(env.action_space.sample())
        gc.collect()
        return psutil.Process().memory_info().rss  # what is held now, not the largest ever

    before, size = resident_bytes(300), len(env.snapshot())
    assert resident_bytes(1000) - before < 8 * 2**20
    assert abs(len(env.snapshot()) - size) < 128


@pytest.mark.filterwarnings("ignore::wm_gym.envs.settings.EmbeddedModelWarning")
def test_a_model_that_ships_classifies_and_measures(shipped_id):
    for reward, key in (("classifier", "success_probability"), ("distance", "distance")):
        env = WorldModelEnv(env_id=shipped_id, reward=reward, denoising_steps=1)
        assert env.card.embedded
        for task in env.card.tasks:
            start = next(n for n in env.engine.starts.stored.names if n.startswith(task))
            env.reset(seed=0, options={"start": start})
            *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
            assert np.isfinite(info[key])
