import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.policies.line_world import ACTIONS, FRAMES, LineEnv, LineVectorEnv
from wm_gym.envs.start_states import StartStates
from wm_gym.evaluation.compare_real import run as module
from wm_gym.evaluation.compare_real.policies import (
    EMBEDDED_POLICIES,
    EMBEDDED_TASKS,
    FewEpisodesWarning,
    open_policies,
)
from wm_gym.evaluation.compare_real.run import CompareRealConfig, compare_real
from wm_gym.evaluation.models import open_by_id
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.instructions import InstructionSet
from wm_gym.judges.registry import JUDGES
from wm_gym.judges.verdicts import Verdict, no_verdict
from wm_gym.policies.action_replay import ActionReplayPolicy
from wm_gym.policies.base import PolicyError, save_policy
from wm_gym.policies.compatibility import IncompatiblePolicyError
from wm_gym.policies.recordings import read_recording
from wm_gym.spec import RewardSpec

TEMPLATES = {"reach": "reach the {first}", "leave": "leave the {first}"}
STARTS = 12


def start_states():
    names = [f"s{5 * k}" for k in range(STARTS)] + [f"s0{5 * k}" for k in range(STARTS)]
    texts = ["reach the end"] * STARTS + ["leave the end"] * STARTS
    frames = np.zeros((2 * STARTS, 4, 20, 3), np.uint8)
    return StartStates(tuple(names), tuple(texts), frames, ({},) * (2 * STARTS))


@dataclass(frozen=True)
class DotJudgeConfig:
    cell: int

    def make(self, context):
        return DotJudge(self.cell)


class DotJudge:
    """Sees success where the dot ends in one cell."""

    name, frames = "dot", 1

    def __init__(self, cell):
        self.cell = cell

    def judge(self, clips, instructions):
        scores = [float(clip.frames[-1][0, self.cell, 0] > 0) for clip in clips]
        return [Verdict(score, score > 0, "", self.name, 0.0) for score in scores]


@dataclass(frozen=True)
class MuteJudgeConfig:
    def make(self, context):
        return MuteJudge()


class MuteJudge:
    """Comes to no verdict on the first clip of every batch."""

    name, frames = "mute", 1

    def judge(self, clips, instructions):
        seen = [Verdict(1.0, True, "", self.name, 0.0) for _ in clips[1:]]
        return [no_verdict(self.name, "refused", 0.0), *seen]


class FakeDream(LineVectorEnv):
    """A dream whose dot moves `gain` times as far as the true one."""

    def __init__(self, rows, horizon, gain=1.0, stored=True):
        super().__init__(rows, horizon)
        self.gain = gain
        self.card = SimpleNamespace(
            name="line-mini", action=ACTIONS, frame=FRAMES, weights_sha256={"w": str(gain)},
            reward=None,
        )  # fmt: skip
        starts = SimpleNamespace(
            stored=start_states() if stored else None,
            instructions=InstructionSet(TEMPLATES, ("end",)),
        )
        self.engine = SimpleNamespace(starts=starts, model=SimpleNamespace(denoising_steps=2))

    def step(self, actions):
        return super().step(self.gain * actions)


class UnjudgedDream(FakeDream):
    """As with `reward="none"`: nothing says that an episode succeeded, and none ends there."""

    def step(self, actions):
        frames, rewards, terminated, truncated, infos = super().step(actions)
        self.ended = truncated.tolist()
        infos["is_success"] = np.zeros(len(frames), bool)
        return frames, 0 * rewards, np.zeros_like(terminated), truncated, infos


@pytest.fixture
def worlds(monkeypatch):
    gains = {"good": 1.0, "bad": 0.0}
    monkeypatch.setattr(
        module,
        "open_dream",
        lambda config, checkpoint: FakeDream(
            config.rows, config.max_steps, gains[checkpoint], stored=checkpoint == "good"
        ),
    )
    monkeypatch.setattr(module, "make_twin", lambda dream: LineEnv(dream.envs[0].horizon))
    return gains


@pytest.fixture
def config(tmp_path):
    folders = []
    for k, pace_m in enumerate((0.01, 0.03, 0.05, 0.1)):
        policy = ActionReplayPolicy(ACTIONS, sequences=[np.full((20, 1), pace_m)])
        folders.append(str(save_policy(policy, tmp_path / f"pace_{k}")))
    return CompareRealConfig(
        checkpoint="good",
        policies=tuple(folders),
        noise=(0.0, 0.3),
        tasks=("reach", "leave"),
        starts=STARTS,
        max_steps=15,
        rows=5,
        resamples=100,
        out=tmp_path / "out",
    )


def test_a_perfect_dream_agrees_perfectly(worlds, config):
    report = compare_real(config)
    assert report["pearson"] == pytest.approx(1.0)
    assert report["spearman"] == pytest.approx(1.0)
    assert report["mmrv"] == 0.0
    assert report["episode_agreement"] == 1.0
    assert len(report["policies"]) == 8
    best = report["policies"][-2]
    assert best["true_episodes"] == best["imagined_episodes"] == 2 * STARTS
    assert best["true_success_rate"] == best["imagined_success_rate"] == 1.0
    assert len({p["true_success_rate"] for p in report["policies"]}) > 3
    written = json.loads((config.out / "imagined_vs_real_line.json").read_text(encoding="utf-8"))
    assert written["policies"][0]["tasks"]["reach"]["true_episodes"] == STARTS
    for name in ("command", "versions", "seeds", "machine", "duration_s"):
        assert written[name] is not None
    assert (config.out / "imagined_vs_real_line.png").stat().st_size > 10_000


def test_what_undermines_a_comparison_is_said_and_stored(worlds, config, monkeypatch, capsys):
    """The dot begins at its goal twice, and drifts there by itself in the dream."""

    class Near(LineEnv):
        def reset(self, **given):
            frame, info = super().reset(**given)
            return frame, info | {"is_success": abs(self.x - 0.8) < 0.3}

    class Drifting(FakeDream):
        def step(self, actions):
            return super().step(actions + 0.1)

    monkeypatch.setattr(module, "make_twin", lambda dream: Near(dream.envs[0].horizon))
    monkeypatch.setattr(module, "open_dream", lambda c, _: Drifting(c.rows, c.max_steps))
    report = compare_real(config)
    assert report["starts_held_at_reset"] == ["s55", "s055"]
    assert report["policies"][0]["imagined_episodes"] == 2 * STARTS - 2
    assert report["null_control"]["imagined_success_rate"] == 1.0
    assert report["null_control"]["true_success_rate"] == 0.0
    assert "null policy" not in [entry["name"] for entry in report["policies"]]
    held, idle = report["undermined_by"]
    assert "2 of 24 starts" in held and "in 100% of the imagined episodes" in idle
    written = json.loads((config.out / "imagined_vs_real_line.json").read_text(encoding="utf-8"))
    assert written["undermined_by"] == report["undermined_by"]
    assert f"undermined: {idle}" in capsys.readouterr().out


def test_nothing_undermines_a_sound_comparison(worlds, config):
    report = compare_real(replace(config, starts=2, noise=(0.0,)))
    assert report["undermined_by"] == [] and report["starts_held_at_reset"] == []
    assert {entry["clipped_share"] for entry in report["policies"]} == {0.0}
    alone = compare_real(replace(config, starts=2, noise=(0.0,), null_control=False))
    assert alone["null_control"] is None and alone["policies"] == report["policies"]


def test_a_bad_dream_is_reported_as_worse(worlds, config):
    report = compare_real(replace(config, bad_checkpoint="bad"))
    bad = report["bad_world_model"]
    assert bad["mmrv"] > 0.1 > report["mmrv"]
    assert bad["mean_rate_difference"] < -0.2
    assert all(p["imagined_success_rate"] == 0 for p in bad["policies"])
    assert np.isnan(bad["pearson"])  # constant rates have no correlation
    written = json.loads((config.out / "imagined_vs_real_line.json").read_text(encoding="utf-8"))
    assert written["bad_world_model"]["pearson"] is None


def test_an_interrupted_comparison_goes_on(worlds, config, monkeypatch):
    calls = []
    real_run = module.run_policy

    def counted(*args, **kwargs):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(kwargs["description"])
        return real_run(*args, **kwargs)

    monkeypatch.setattr(module, "run_policy", counted)
    with pytest.raises(KeyboardInterrupt):
        compare_real(config)
    before = {p.name: p.read_bytes() for p in (config.out / "true").glob("*.jsonl")}
    assert len(before) == 5
    monkeypatch.setattr(module, "run_policy", real_run)
    report = compare_real(config)
    assert report["pearson"] == pytest.approx(1.0)
    assert all((config.out / "true" / name).read_bytes() == b for name, b in before.items())


def test_true_episodes_serve_several_world_models(worlds, config, monkeypatch, tmp_path):
    shared = tmp_path / "true"
    first = compare_real(replace(config, true_records=shared))
    ran = []
    real_run = module.run_policy

    def seen(*args, **kwargs):
        if not kwargs["results"].exists():
            ran.append(kwargs["description"])
        return real_run(*args, **kwargs)

    monkeypatch.setattr(module, "run_policy", seen)
    other = replace(config, checkpoint="good", out=tmp_path / "other", true_records=shared)
    second = compare_real(other)
    assert len(ran) == 18 and all(text.startswith("imagined") for text in ran)
    truths = [[p["true_success_rate"] for p in report["policies"]] for report in (first, second)]
    assert truths[0] == truths[1]
    with pytest.raises(ValueError, match=r"true holds a run with other settings.*max_steps: 15"):
        compare_real(replace(other, out=tmp_path / "third", max_steps=9))


def test_a_judge_decides_afterwards_about_the_episodes_as_they_were_recorded(
    worlds, config, monkeypatch
):
    monkeypatch.setitem(JUDGES, "dot", (__name__, "DotJudgeConfig"))
    report = compare_real(replace(config, judge="dot?cell=16"))
    assert report["judge"] == "dot?cell=16"
    imagined = config.out / "imagined_to_judge"
    for entry in report["policies"]:
        for task in config.tasks:
            cell = imagined / f"{entry['name'].replace(' ', '_')}-{task}"
            clips = [read_recording(cell, index) for index in range(STARTS)]
            said = [bool(clip[-1][0, 16, 0]) for clip in clips]
            stored = json.loads(Path(f"{cell}.dot_cell=16.json").read_text(encoding="utf-8"))[
                "verdicts"
            ]
            assert [verdict["success"] for verdict in stored] == said
            assert entry["tasks"][task]["imagined_success_rate"] == np.mean(said)
    ran = []
    real_run = module.run_policy

    def seen(*args, **kwargs):
        records = real_run(*args, **kwargs)
        ran.append(kwargs["results"].stat().st_mtime_ns)
        return records

    before = {path: path.stat().st_mtime_ns for path in imagined.glob("*.jsonl")}
    monkeypatch.setattr(module, "run_policy", seen)
    other = compare_real(replace(config, judge="dot?cell=0"))
    assert {path: path.stat().st_mtime_ns for path in imagined.glob("*.jsonl")} == before
    rates = [[p["imagined_success_rate"] for p in r["policies"]] for r in (report, other)]
    assert rates[0] != rates[1] and len(ran) == 36
    with pytest.raises(ValueError, match="judge 'vibes' does not exist"):
        replace(config, judge="vibes")


def test_episodes_without_a_verdict_are_told_of(worlds, config, monkeypatch, capsys):
    monkeypatch.setitem(JUDGES, "mute", (__name__, "MuteJudgeConfig"))
    report = compare_real(replace(config, judge="mute", noise=(0.0,), starts=10))
    assert [entry["imagined_errors"] for entry in report["policies"]] == [2] * 4  # one of each task
    assert [entry["imagined_success_rate"] for entry in report["policies"]] == [0.9] * 4
    said = capsys.readouterr().out
    assert said.count("20 episodes each), 2 imagined ones with an error count as failures") == 4
    assert "true ones with an error" not in said


def test_the_split_tells_the_judges_error_from_the_dreams(worlds, config, monkeypatch):
    monkeypatch.setitem(JUDGES, "dot", (__name__, "DotJudgeConfig"))
    monkeypatch.setattr(
        module,
        "open_dream",
        lambda config, checkpoint: UnjudgedDream(
            config.rows, config.max_steps, worlds[checkpoint], stored=True
        ),
    )
    config = replace(config, judge="dot?cell=16", judge_recorded=True)
    report = compare_real(config)
    split, missed, invented, judged_all = report["split"], [], [], []
    for entry in report["policies"]:
        for task in config.tasks:
            name = f"{entry['name'].replace(' ', '_')}-{task}"
            folder = config.out / "true_to_judge" / name
            clips = [read_recording(folder, index) for index in range(STARTS)]
            assert {len(clip) for clip in clips} == {config.max_steps + 1}  # past their success
            judged = [bool(clip[-1][0, 16, 0]) for clip in clips]
            lines = (config.out / "true" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            true = [json.loads(line)["success"] for line in lines]
            missed += [not j for j, t in zip(judged, true, strict=True) if t]
            invented += [j for j, t in zip(judged, true, strict=True) if not t]
            judged_all.append(judged)
    assert split["judge"]["missed"] == pytest.approx(np.mean(missed))
    assert split["judge"]["invented"] == pytest.approx(np.mean(invented))
    assert np.mean(missed) > 0
    rates = list(split["policies"].values())
    assert rates == pytest.approx(np.reshape(judged_all, (len(rates), -1)).mean(1))
    # the dream moves as the simulator does, so all of the error is the judge's
    assert split["dream"]["missed"] == split["dream"]["invented"] == 0.0
    assert split["dream"]["pearson"] == pytest.approx(1.0)
    worse = compare_real(replace(config, checkpoint="bad", out=config.out / "bad"))["split"]
    assert worse["judge"] == split["judge"] and worse["dream"]["missed"] == 1.0


def test_other_settings_are_refused_in_the_same_folder(worlds, config):
    compare_real(config)
    compare_real(replace(config, resamples=50))
    with pytest.raises(ValueError, match="max_steps: 15 there, 9 now"):
        compare_real(replace(config, max_steps=9))


def test_another_rule_for_success_is_another_setting(worlds, config, monkeypatch):
    """Recalibrating changes the card alone, and with it every imagined success."""
    compare_real(config)
    usual = module.open_dream

    def recalibrated(config, checkpoint):
        dream = usual(config, checkpoint)
        dream.card.reward = RewardSpec({}, {"reach": 0.5}, window=3)
        return dream

    monkeypatch.setattr(module, "open_dream", recalibrated)
    with pytest.raises(ValueError, match=r"success_rule: None there, \[3, \{'reach': 0.5\}"):
        compare_real(config)


def test_too_few_starts_and_missing_policies_name_the_remedy(worlds, config):
    with pytest.raises(ValueError, match="make-start-states --count 99"):
        compare_real(replace(config, starts=99))
    with pytest.raises(PolicyError, match="at least two"):
        compare_real(replace(config, policies=config.policies[:1], noise=(0.0,)))
    with pytest.raises(PolicyError, match="written by save_policy"):
        compare_real(replace(config, policies=("nowhere",)))


def test_an_own_policy_is_compared_and_its_source_belongs_to_the_records(
    worlds, config, tmp_path, monkeypatch
):
    source = """
import numpy as np
from wm_gym.policies.base import Policy

class Right(Policy):
    def act(self, observation):
        return np.full((len(observation), 1, 1), PACE)
"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "line_policies.py").write_text(source.replace("PACE", "0.1"), encoding="utf-8")
    own = replace(config, policies=(config.policies[0], "line_policies:Right"))
    try:
        with pytest.warns(FewEpisodesWarning, match="4 policies .* 12 starts per task"):
            report = compare_real(own)
        last = report["policies"][2]
        assert (last["name"], last["folder"]) == ("line_policies.Right", "line_policies:Right")
        assert last["true_success_rate"] == last["imagined_success_rate"] == 1.0
        assert (config.out / "true" / "line_policies.Right-reach.jsonl").exists()
        (tmp_path / "line_policies.py").write_text(source.replace("PACE", "0.05"), encoding="utf-8")
        with pytest.raises(ValueError, match=r"other settings .the policy line_policies:Right"):
            compare_real(own)
    finally:
        sys.modules.pop("line_policies", None)


def test_a_policy_that_does_not_fit_is_refused_before_anything_runs(worlds, config, tmp_path):
    slow = replace(ACTIONS, control_hz=5.0)
    policy = ActionReplayPolicy(slow, sequences=[np.zeros((20, 1))])
    folder = str(save_policy(policy, tmp_path / "slow"))
    with pytest.raises(IncompatiblePolicyError, match="control_hz is 5"):
        compare_real(replace(config, policies=(*config.policies, folder)))
    assert not config.out.exists()


def test_policies_of_one_name_are_told_apart_and_gone_on_with(worlds, config, tmp_path):
    other = ActionReplayPolicy(ACTIONS, sequences=[np.full((20, 1), 0.07)])
    folder = str(save_policy(other, tmp_path / "second" / "pace_0"))
    both = replace(config, policies=(config.policies[0], folder))
    report = compare_real(both)
    names = [entry["name"] for entry in report["policies"] if " noise" not in entry["name"]]
    assert names == [f"{Path(config.policies[0]).parent.name}.pace_0", "second.pace_0"]
    assert compare_real(both)["policies"] == report["policies"]
    with pytest.raises(ValueError, match="filed under the same name"):
        compare_real(replace(both, policies=(folder, config.policies[1])))


def test_another_policy_of_the_same_name_does_not_take_over_the_records(worlds, config, tmp_path):
    compare_real(config)
    other = ActionReplayPolicy(ACTIONS, sequences=[np.full((20, 1), 0.07)])
    folder = str(save_policy(other, tmp_path / "second" / "pace_0"))
    with pytest.raises(ValueError, match=r"pace_0, filed under the same name as .*second/pace_0"):
        compare_real(replace(config, policies=(folder, *config.policies[1:])))


def test_policies_without_noise_stand_once_beside_those_with(worlds, config):
    alone, *others = config.policies
    asked = replace(config, policies=tuple(others), without_noise=(alone,), noise=(0.3,))
    named = [entry["name"] for entry in compare_real(asked)["policies"]]
    assert named == [*(f"{Path(other).name} noise 0.3" for other in others), Path(alone).name]


@pytest.mark.parametrize(("starts", "noise", "warns"), [(10, (0.0, 0.3), 0), (9, (0.0, 0.3), 1)])
def test_few_starts_are_warned_of(worlds, config, starts, noise, warns, recwarn):
    compare_real(replace(config, starts=starts, noise=noise))
    assert sum(w.category is FewEpisodesWarning for w in recwarn) == warns


@pytest.mark.parametrize(
    "changes",
    [
        {"resamples": 0},
        {"seed": -1},
        {"rows": 0},
        {"noise": (float("nan"),)},
        {"tasks": ("reach", "reach")},
    ],
)
def test_numbers_without_meaning_are_refused_before_anything_runs(changes):
    with pytest.raises(ValueError, match="; expected"):
        CompareRealConfig(**changes)


def test_an_unknown_task_lists_the_tasks(worlds, config):
    with pytest.raises(ValueError, match=r"task 'sort' is unknown .* some of reach, leave"):
        compare_real(replace(config, tasks=("reach", "sort")))


def test_reports_are_json_that_any_reader_accepts(tmp_path):
    content = {**measurement_header(seeds=range(3)), "value": np.float32(0.5), "none": np.nan}
    path = write_json(tmp_path / "a" / "report.json", content)
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read["value"] == 0.5
    assert read["none"] is None
    assert read["seeds"] == [0, 1, 2]
    assert {"python", "wm_gym", "numpy"} <= set(read["versions"])
    with pytest.raises(TypeError, match="cannot hold"):
        write_json(tmp_path / "b.json", {"x": object()})


@pytest.mark.parametrize("env_id", EMBEDDED_POLICIES)
def test_policies_that_ship_fit_the_models_that_ship(env_id):
    spec = open_by_id(env_id).spec
    chosen = [(("embedded",), (0.0, 0.2))]
    named = open_policies(chosen, env_id, spec.action, spec.frame)
    assert len(named) >= 6 and {policy.noise for policy in named} == {0.0, 0.2}
    assert set(EMBEDDED_TASKS.get(EMBEDDED_POLICIES[env_id], spec.tasks)) <= set(spec.tasks)
