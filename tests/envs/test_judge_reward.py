"""reward="judge:<name>": asked once, in the step in which rows end, about whole episodes."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from tests.chat.chat_server import ScriptedServer
from tests.judges.colour_judges import COLOUR_ENTRY
from wm_gym.envs.episode_clips import EpisodeClips
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.envs.info import UNKNOWN
from wm_gym.judges.classifier import ClassifierJudge
from wm_gym.judges.registry import JUDGES, judge_name
from wm_gym.judges.verdicts import Clip, JudgeError, evenly


@pytest.fixture(autouse=True)
def colour_judge(monkeypatch):
    monkeypatch.setitem(JUDGES, "colour", COLOUR_ENTRY)


def make(model, reward="judge:colour", horizon=4, **kwargs) -> WorldModelEnv:
    return WorldModelEnv(model=model, reward=reward, horizon=horizon, **kwargs)


def make_vec(model, rows=3, horizon=4, **kwargs) -> WorldModelVectorEnv:
    settings = {"reward": "judge:colour", "autoreset_mode": "Disabled", **kwargs}
    return WorldModelVectorEnv(rows, model=model, horizon=horizon, **settings)


def play(env, seed=0, options=None):
    """Frames of an episode, and its results."""
    frame, info = env.reset(seed=seed, options=options)
    rng = np.random.default_rng(seed)
    frames, results, infos = [frame], [], [info]
    while not results or not (results[-1][1] or results[-1][2]):
        frame, *result, info = env.step(rng.uniform(-0.03, 0.03, 2).astype(np.float32))
        frames.append(frame)
        results.append(result)
        infos.append(info)
    return np.stack(frames), results, infos


@pytest.mark.parametrize("count", [1, 3, 0])
def test_the_reward_is_the_score_of_the_frames_that_were_observed(tiny_model, count):
    env = make(tiny_model, f"judge:colour?frames={count}")
    frames, results, infos = play(env)
    expected = frames[evenly(5, count)][..., 0].mean() / 255
    assert [reward for reward, _, _ in results] == [0.0, 0.0, 0.0, pytest.approx(expected)]
    assert [(end, cut) for _, end, cut in results] == [(False, False)] * 3 + [(True, False)]
    verdict = infos[-1]["judge"]
    assert verdict["score"] == results[-1][0] and verdict["name"].startswith("judge:colour")
    assert verdict["rationale"] == f"{infos[0]['instruction']}: {expected:.3f}"
    assert infos[-1]["is_success"] is bool(expected >= 0.5)
    for info in infos[:-1]:
        assert info["judge"]["name"] == "" and info["success_probability"] == UNKNOWN
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.float32))


def test_without_pixels_only_what_the_judge_looks_at_is_decoded(tiny_model, monkeypatch):
    decoded = []
    decode = type(tiny_model).decode

    def counted(self, latents):
        decoded.append(len(latents))
        return decode(self, latents)

    reference = play(make(tiny_model, "judge:colour?frames=3"), seed=3)[1][-1][0]
    monkeypatch.setattr(type(tiny_model), "decode", counted)
    _, results, _ = play(make(tiny_model, "judge:colour?frames=3", obs="latents"), seed=3)
    assert decoded == [2]  # of steps 0, 2 and 4 the start is a picture already
    assert results[-1][0] == pytest.approx(reference, abs=1 / 255)


def test_rows_that_end_together_are_judged_in_one_batch(tiny_model):
    envs = make_vec(tiny_model)
    judge = envs.engine.reward.asked
    envs.reset(seed=0)
    action = np.zeros((3, 2), np.float32)
    envs.step(action)
    envs.reset(seed=7, options={"reset_mask": np.array([False, True, False])})
    for _ in range(2):
        _, rewards, terminated, _, _ = envs.step(action)
        assert not terminated.any() and not rewards.any()
    assert judge.batches == []
    _, rewards, terminated, truncated, infos = envs.step(action)
    assert judge.batches == [2]
    assert terminated.tolist() == [True, False, True] and not truncated.any()
    assert [bool(name) for name in infos["judge"]["name"]] == [True, False, True]
    assert rewards[[0, 2]].tolist() == infos["judge"]["score"][[0, 2]].tolist()
    assert rewards[1] == 0 and rewards[0] > 0


def test_a_row_gets_the_verdict_that_it_would_get_alone(tiny_model):
    actions = np.random.default_rng(0).uniform(-0.03, 0.03, (4, 3, 2)).astype(np.float32)
    envs = make_vec(tiny_model, reward="judge:colour?frames=0")
    envs.reset(seed=5)
    for step in actions:
        _, rewards, _, _, _ = envs.step(step)
    for row in range(3):
        env = make(tiny_model, "judge:colour?frames=0")
        env.reset(seed=5 + row)
        alone = [env.step(step[row])[1] for step in actions][-1]
        assert rewards[row] == pytest.approx(alone, abs=2e-3)


def test_a_row_that_broke_down_is_not_judged(tiny_model):
    envs = make_vec(tiny_model)
    envs.reset(seed=0)
    actions = np.zeros((3, 2), np.float32)
    for step in range(4):
        actions[1] = np.nan if step == 3 else 0
        _, rewards, terminated, truncated, infos = envs.step(actions)
    assert (terminated.tolist(), truncated.tolist()) == ([True, False, True], [False, True, False])
    assert envs.engine.reward.asked.batches == [2] and rewards[1] == 0
    assert "NaN" in infos["error"][1] or "finite" in infos["error"][1]


def test_an_episode_without_a_verdict_has_no_reward_but_an_error(tiny_model):
    env = make(tiny_model, "judge:colour?silent_about=reach the red moon", horizon=2)
    options = {"frames": np.zeros((32, 32, 3), np.uint8), "instruction": "reach the red moon"}
    env.reset(seed=0, options=options)
    env.step(np.zeros(2, np.float32))
    with pytest.raises(JudgeError, match=r"no verdict on 1 of 1 .*no opinion.*reset to go on"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.float32))
    env.reset(seed=0, options=options | {"instruction": "reach the blue cube"})
    env.step(np.zeros(2, np.float32))
    assert env.step(np.zeros(2, np.float32))[2]


def test_a_model_behind_a_server_rewards_the_rows_that_end_together(tiny_model, tmp_path):
    with ScriptedServer(lambda request: "It is near. Score: 0.5") as server:
        where = {"base_url": server.base_url, "cache": str(tmp_path), "retries": 0}
        name = judge_name("api", model="m", frames=2, **where)
        envs = make_vec(tiny_model, reward=f"judge:{name}", horizon=1)
        envs.reset(seed=0)
        _, rewards, terminated, _, infos = envs.step(np.zeros((3, 2), np.float32))
        assert rewards.tolist() == [0.5] * 3 and terminated.all() and infos["is_success"].all()
        assert len(server.requests) == 3 and infos["judge"]["rationale"][0].startswith("It is near")
        facts = json.loads(infos["judge"]["facts"][0])
        assert facts["model"] == "m" and facts["prompt"] == "success-1"
        envs.reset(seed=7)
    with pytest.raises(JudgeError, match=r"cannot be reached .*reset to go on"):
        envs.step(np.zeros((3, 2), np.float32))


def test_a_judge_needs_an_instruction(tiny_model):
    with pytest.raises(ValueError, match="reward 'judge:colour' scores an instruction"):
        make(tiny_model).reset(options={"frames": np.zeros((32, 32, 3), np.uint8)})


def test_judges_that_cannot_be_made_are_refused(tiny_model):
    with pytest.raises(JudgeError, match="a dream has no state"):
        make(tiny_model, "judge:oracle")
    with pytest.raises(ValueError, match="threshold: Input should be a valid number"):
        make(tiny_model, "judge:semantic?checkpoint=x&threshold=y")


def test_a_snapshot_carries_what_the_judge_will_see(tiny_model):
    env, other = (make(tiny_model, "judge:colour?frames=0") for _ in range(2))
    rng = np.random.default_rng(1)
    actions = rng.uniform(-0.03, 0.03, (4, 2)).astype(np.float32)
    env.reset(seed=2)
    for action in actions[:2]:
        env.step(action)
    content = env.snapshot()
    other.reset(seed=9)
    other.restore(content)
    ends = [[e.step(action) for action in actions[2:]][-1] for e in (env, other)]
    assert ends[0][1] == ends[1][1] > 0 and ends[1][2]
    unjudged = make(tiny_model, "none")
    unjudged.reset(seed=2)
    other.reset(seed=9)
    before = other.engine.episodes[0].instruction
    with pytest.raises(ValueError, match="same judge and horizon"):
        other.restore(unjudged.snapshot())
    assert other.engine.episodes[0].instruction == before
    with pytest.raises(ValueError, match="same judge and horizon"):
        make(tiny_model, "judge:colour?frames=3").restore(content)
    unjudged.restore(content)  # who needs no pictures leaves them


def test_the_horizon_of_a_judged_episode_stays(tiny_model):
    envs = make_vec(tiny_model)
    envs.reset(seed=0)
    for horizon in (2, 8):
        with pytest.raises(ValueError, match="episodes of 4 steps; make another environment"):
            envs.set_attr("horizon", horizon)
    envs.set_attr("horizon", 4)
    for _ in range(4):
        _, rewards, terminated, *_ = envs.step(np.zeros((3, 2), np.float32))
    assert terminated.all() and (rewards > 0).all()


def test_only_wanted_pictures_are_kept():
    clips = EpisodeClips(1, 10, 3, lambda latents: latents)
    frame = np.zeros((4, 4, 3), np.uint8)
    clips.begin(0, frame)
    for step in range(1, 11):
        clips.show(0, step, frame + step)
    assert sorted(clips.shown[0]) == [0, 5, 10]
    assert clips.clips([0])[0].frames[:, 0, 0, 0].tolist() == [0, 5, 10]
    clips.begin(0, frame)
    assert sorted(clips.shown[0]) == [0]


def test_the_classifier_judge_in_step_is_the_one_asked_about_the_saved_episode(tiny_model):
    env = make(tiny_model, "judge:classifier")
    frames, results, infos = play(env, seed=4)
    (after,) = ClassifierJudge(tiny_model).judge([Clip(frames)], [infos[0]["instruction"]])
    assert results[-1][0] == after.score
    assert infos[-1]["judge"]["rationale"] == after.rationale
    assert json.loads(infos[-1]["judge"]["facts"])["model"] == "tiny"


def test_gymnasium_accepts_a_judged_environment(tiny_model, tiny_checkpoint):
    check_env(make(tiny_model, horizon=3), skip_render_check=True)
    env = gymnasium.make(
        "WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, reward="judge:classifier", horizon=2
    )
    assert env.spec.kwargs["reward"] == "judge:classifier"
    _, results, _ = play(env)
    assert results[-1][1]
