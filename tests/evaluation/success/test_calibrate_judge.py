"""`wm-gym calibrate-judge` and `wm-gym judge`: figures that can be computed by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box

from tests.judges.colour_judges import COLOUR_ENTRY
from wm_gym.checkpoints import Checkpoint
from wm_gym.cli import main
from wm_gym.data.episodes import Episode, EpisodeDataset
from wm_gym.data.shards import write_index, write_shard
from wm_gym.domains import LANGTABLE
from wm_gym.envs.video import write_mp4
from wm_gym.evaluation.reliability import calibration_error, reliability
from wm_gym.evaluation.success import calibrate_judge as calibrate
from wm_gym.evaluation.success.calibrate_judge import (
    CalibrateJudgeConfig,
    agreement,
    calibrate_judge,
    kappa,
)
from wm_gym.evaluation.success.judge_clips import choose_clips, imagined_clips, real_clips
from wm_gym.instructions import Goal
from wm_gym.judges.registry import JUDGES
from wm_gym.judges.verdicts import Verdict, no_verdict
from wm_gym.metrics.statistics import balanced_accuracy

STEPS, HORIZON, SIZE = 12, 4, 32
PUSH = Goal("push", ("green cube", "blue cube"))
WORDS = "push the green cube to the blue cube"
ENDS_M = {"arrives": 0.07, "nearly": 0.09, "stays": 0.2}  # success is below 0.075


def write_pushes(folder: Path) -> EpisodeDataset:
    """Two pushes of each kind, 0.2 m to where they end; red pictures are successes.

    Green ones are all those whose blocks are closer than 0.1 m, blue ones say nothing.
    """
    episodes = []
    for number, end_m in enumerate([*ENDS_M.values()] * 2):
        between = np.linspace(0.2, end_m, STEPS + 1)
        states = np.zeros((STEPS + 1, 2 + 3 * len(LANGTABLE.objects)))
        states[:, :2] = 0.5
        states[:, 2::3] = 10.0 + np.arange(len(LANGTABLE.objects))  # the others are far away
        states[:, 2], states[:, 5] = 0.0, between
        frames = np.zeros((STEPS + 1, SIZE, SIZE, 3), np.uint8)
        frames[between < 0.075, ..., 0] = 255
        frames[between < 0.1, ..., 1] = 255
        frames[..., 2] = 100 + number
        episodes.append(
            Episode(
                frames=frames,
                actions=np.full((STEPS, 2), 0.01 * number, np.float32),
                privileged=states,
                success=between < 0.075,
                instruction=WORDS,
                goal=PUSH,
                seed=number,
                behaviour="scripted",
            )
        )
    write_shard(folder / "shards" / "000000.hdf5", episodes, 0)
    write_index(
        folder,
        observation_space=Box(0, 255, (SIZE, SIZE, 3), np.uint8),
        action_space=Box(-0.03, 0.03, (2,), np.float32),
        image_format="exact",
    )
    return EpisodeDataset(folder)


@pytest.fixture(scope="module")
def pushes(tmp_path_factory) -> EpisodeDataset:
    return write_pushes(tmp_path_factory.mktemp("pushes") / "data")


@pytest.fixture(autouse=True)
def colour_judge(monkeypatch):
    monkeypatch.setitem(JUDGES, "colour", COLOUR_ENTRY)


def choose(data, per_kind=9, horizon=HORIZON, seed=0):
    return choose_clips(
        data, "LangTable-v0", horizon=horizon, per_kind=per_kind, near_miss_m=0.03, seed=seed
    )


def test_kinds_are_what_the_states_say(pushes):
    chosen = choose(pushes)
    for choice in chosen:
        states = pushes[choice.episode].privileged
        between = states[choice.end, 5]
        assert choice.success == (between < 0.075)
        # the farthest success is just below 0.075 m, and near misses reach 0.03 m farther
        assert choice.kind != "near miss" or 0.075 <= between < 0.075 + 0.03
        assert choice.kind != "other failure" or between >= 0.07 + 0.03
        assert HORIZON <= choice.end <= STEPS and choice.instruction == WORDS
    kinds = [choice.kind for choice in chosen]
    assert (kinds.count("success"), kinds.count("near miss")) == (2, 4)
    assert kinds.count("other failure") == 6
    assert {choice.kind for choice in choose(pushes, 1)} == set(kinds)
    assert len(choose(pushes, 1)) == 3
    assert choose(pushes) == chosen and choose(pushes, seed=1) != chosen
    with pytest.raises(ValueError, match="no episode of at least 13 steps"):
        choose(pushes, horizon=13)


def test_imagined_clips_begin_where_the_recorded_ones_do(pushes, tiny_model):
    import torch

    chosen = choose(pushes)[:5]
    real = real_clips(pushes, chosen, HORIZON)
    dreams = imagined_clips(tiny_model, pushes, chosen, HORIZON, rows=2, seed=3)
    assert len(dreams) == 5
    for place, (choice, recorded, dream) in enumerate(zip(chosen, real, dreams, strict=True)):
        assert recorded.frames.shape == dream.frames.shape == (HORIZON + 1, SIZE, SIZE, 3)
        assert dream.states is None and recorded.states is not None
        np.testing.assert_array_equal(recorded.frames[0], dream.frames[0])
        episode, start = pushes[choice.episode], choice.end - HORIZON
        first = torch.from_numpy(np.array(episode.frames[start])[None])
        rollout = tiny_model.begin(first, seeds=[3 * 1_000_003 + place])
        for step in range(HORIZON):
            rollout.step(torch.from_numpy(episode.actions[start + step][None]))
        np.testing.assert_allclose(
            rollout.frames()[0].numpy().astype(int), dream.frames[-1].astype(int), atol=1
        )


def run(pushes, checkpoint, **changes):
    settings = {"horizon": HORIZON, "per_kind": 9, "near_miss_m": 0.03, "resamples": 50, "rows": 4}
    return calibrate_judge(
        CalibrateJudgeConfig(data=pushes.folder, checkpoint=checkpoint, **{**settings, **changes})
    )


def test_a_judge_that_sees_the_truth_and_one_that_takes_near_misses_for_success(
    pushes, tiny_checkpoint, tmp_path, capsys, monkeypatch
):
    drawn: dict = {}
    draw = calibrate.plot_reliability
    monkeypatch.setattr(
        calibrate, "plot_reliability", lambda c, *others: (drawn.update(c), draw(c, *others))
    )
    judges = ("colour?channel=0", "colour?channel=1", "oracle", f"colour?silent_about={WORDS}")
    found = run(
        pushes, tiny_checkpoint, judge=judges, json=tmp_path / "out.json", plot=tmp_path / "out.png"
    )
    red, green, oracle, silent = (found["judges"][name] for name in judges)
    assert found["clips"] == {"success": 2, "near miss": 4, "other failure": 6}
    for right in (red["real"], oracle["real"]):
        assert right["balanced_accuracy"] == 1.0 and right["kappa"] == pytest.approx(1.0)
        assert right["ece"] == 0.0 and right["unanswered"] == 0
        assert right["false_negative_rate"]["rate"] == right["false_positive_rate"]["rate"] == 0
    assert green["real"]["near_miss_false_positive_rate"] == pytest.approx(
        {**green["real"]["near_miss_false_positive_rate"], "cases": 4}
    )
    seen = green["real"]["false_positive_rate"]["rate"]
    assert green["real"]["false_negative_rate"]["rate"] == 0 and 0 < seen < 1
    assert green["real"]["balanced_accuracy"] == pytest.approx((1 + 1 - seen) / 2)
    assert green["real"]["by_task"]["push"]["balanced_accuracy"] == pytest.approx(
        green["real"]["balanced_accuracy"]
    )
    # a dream of a model with random weights shows neither, and has no state for the oracle
    assert red["imagined"]["unanswered"] == 0 and red["imagined"]["clips"] == 12
    assert oracle["imagined"]["unanswered"] == 12
    assert oracle["imagined"]["balanced_accuracy"] is None and oracle["imagined"]["ece"] is None
    assert silent["real"]["unanswered"] == 12 and silent["real"]["kappa"] is None
    pairs = {(*row["judges"], row["world"]): row for row in found["agreement"]}
    assert len(pairs) == 12
    assert pairs["colour?channel=0", "oracle", "real"]["kappa"] == pytest.approx(1.0)
    assert pairs["oracle", judges[3], "real"]["clips"] == 0
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["judges"]["colour?channel=1"]["real"]["false_positive_rate"]["rate"] == seen
    assert {"command", "versions", "machine", "seeds"} <= set(written)
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert len(drawn) == 2 * len(judges), "two judges of a kind have a curve each"
    assert {"colour?channel=0, real", "oracle, imagined"} <= set(drawn)
    shown = capsys.readouterr().out
    assert shown.endswith(f"report {tmp_path}/out.json\nplot   {tmp_path}/out.png\n")
    assert "colour?channel=0, real clips\n  balanced accuracy 100.0 %" in shown
    assert "12 of 12 without a verdict" in shown


def test_the_card_keeps_the_figures_of_the_judges(pushes, tiny_checkpoint, tmp_path, capsys):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    found = run(pushes, str(folder), write_card=True, imagined=False)
    kept = Checkpoint.open(folder).spec.metrics["judges"]
    figures = found["judges"]["classifier"]["real"]
    assert kept["classifier"]["real"]["balanced_accuracy"] == figures["balanced_accuracy"]
    assert (
        kept["classifier"]["real"]["false_negative_rate"] == figures["false_negative_rate"]["rate"]
    )
    assert "imagined" not in kept["classifier"] and "command" in kept
    capsys.readouterr()
    assert main(["info", "--checkpoint", str(folder)]) == 0
    assert "judges, classifier: real clips 12, unanswered 0, balanced accuracy 0.5" in (
        capsys.readouterr().out
    )


def test_kappa_and_balanced_accuracy_by_hand():
    one = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    other = np.array([1, 1, 0, 0, 0, 0, 0, 1], bool)
    # they agree on 6 of 8; chance alone gives 3/8 * 3/8 + 5/8 * 5/8 = 34/64
    assert kappa(one, other) == pytest.approx((6 / 8 - 34 / 64) / (1 - 34 / 64))
    assert kappa(one, one) == pytest.approx(1.0)
    assert kappa(np.ones(3, bool), np.ones(3, bool)) is None
    assert kappa(np.zeros(0, bool), np.zeros(0, bool)) is None
    assert balanced_accuracy(other, one) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert np.isnan(balanced_accuracy(np.zeros(3, bool), np.ones(3, bool)))


def test_agreement_counts_only_what_both_have_a_verdict_on():
    yes, no = (Verdict(float(s), bool(s), "", "j", 0.0) for s in (1, 0))
    silent = no_verdict("j", "refused", 0.0)
    found = agreement([yes, no, silent, yes], [yes, no, yes, no])
    assert found["clips"] == 3 and found["agreement"] == pytest.approx(2 / 3)
    assert agreement([silent], [yes]) == {"clips": 0, "kappa": None, "agreement": None}


def test_reliability_and_calibration_error_by_hand():
    stated = np.array([0.05, 0.05, 0.95, 0.95])
    true = np.array([False, False, True, False])
    assert reliability(stated, true) == [
        {"stated": pytest.approx(0.05), "true": 0.0, "cases": 2},
        {"stated": pytest.approx(0.95), "true": 0.5, "cases": 2},
    ]
    assert calibration_error(stated, true) == pytest.approx((0.05 + 0.45) / 2)
    assert sum(row["cases"] for row in reliability(np.array([0.0, 0.5, 1.0]), np.ones(3))) == 3


@pytest.fixture
def videos(tmp_path) -> list[str]:
    paths = []
    for number, level in enumerate((40, 230)):
        frames = [np.full((SIZE, SIZE, 3), value, np.uint8) for value in (90, 120, level)]
        paths.append(str(write_mp4(tmp_path / f"{number}.mp4", frames, 10)))
    return paths


def test_videos_are_judged_by_their_frames(videos, tmp_path, capsys):
    out = tmp_path / "verdicts.json"
    words = ["judge", *videos, "--instruction", "be red", "--judge", "colour", "--json", str(out)]
    assert main(words) == 0
    first, second = json.loads(out.read_text(encoding="utf-8"))["verdicts"]
    assert first["score"] == pytest.approx(40 / 255, abs=0.03) and not first["success"]
    assert second["score"] == pytest.approx(230 / 255, abs=0.03) and second["success"]
    assert first["instruction"] == second["instruction"] == "be red"
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"{videos[0]}: no success, score 0.1")
    assert shown[1].startswith(f"{videos[1]}: success, score 0.9")


def test_the_classifier_takes_videos_of_any_size_and_an_instruction_each(
    videos, tiny_checkpoint, tmp_path
):
    out = tmp_path / "verdicts.json"
    told = ["reach the red moon", "reach the blue cube"]
    words = ["judge", *videos, "--checkpoint", tiny_checkpoint, "--json", str(out)]
    assert main([*words, "--instruction", *told]) == 0
    verdicts = json.loads(out.read_text(encoding="utf-8"))["verdicts"]
    assert [verdict["instruction"] for verdict in verdicts] == told
    assert all(0 < verdict["score"] < 1 and verdict["model"] == "tiny" for verdict in verdicts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["judge", "/nowhere.mp4", "--instruction", "x"], "there is no /nowhere.mp4; check"),
        (["judge", "a", "b", "c", "--instruction", "x", "y"], "expected one for all, or one for"),
        (["judge", "a", "--instruction", "x", "--judge", "vibes"], "judge 'vibes' does not exist"),
        (["calibrate-judge", "--data", "x", "--judge", "vibes"], "judge 'vibes' does not exist"),
        (["calibrate-judge", "--data", "x", "--judge", "oracle", "oracle"], "and each once"),
        (["calibrate-judge", "--data", "x", "--horizon", "0"], "horizon=0"),
    ],
)
def test_what_is_refused_is_said_without_a_traceback(words, said, capsys):
    assert main(words) == 2
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())  # out of tyro's frame
    assert said in message and "Traceback" not in message


def test_a_video_can_be_judged_by_a_server(videos, tmp_path, capsys):
    from tests.chat.chat_server import ScriptedServer
    from wm_gym.judges.registry import judge_name

    with ScriptedServer(lambda request: "It lies there. Score: 0.5") as server:
        judge = judge_name("api", model="m", base_url=server.base_url, cache=str(tmp_path / "c"))
        assert main(["judge", videos[0], "--instruction", "tidy up", "--judge", judge]) == 0
    assert "success, score 0.50: It lies there." in capsys.readouterr().out
    assert len(server.requests) == 1
