"""The columns of Table 6 with whatever policies are given, and true success in policies' cards."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import policy_improvement
from experiments.policy_cards import true_success_of, write_policy_metric
from experiments.policy_improvement import (
    TASKS,
    ImprovementConfig,
    make_policy,
    measure_improvement,
)
from tests.benchmark_scripts import RESULTS, benchmark_script
from tests.policies.diffusion_policy.test_policy import diffusion
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.domains import LANGTABLE
from wm_gym.envs.sims.langtable.shapes import OOD_OBJECTS
from wm_gym.evaluation.run_folder import PolicySource, claim_folder
from wm_gym.planning.gradient import GradientConfig
from wm_gym.policies.base import PolicyError, load_policy, save_policy
from wm_gym.policies.diffusion_policy.network import Vocabulary
from wm_gym.policies.idql.critics import Critics, CriticsConfig
from wm_gym.policies.idql.features import critic_features
from wm_gym.policies.idql.policy import IDQLPolicy
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model
from wm_gym.spec import FrameSpec

FRAME = FrameSpec(24, 24, "near-top-down")


def base_policy():
    policy = diffusion(
        execute=2, steps=1, vocabulary=Vocabulary(LANGTABLE.tasks, LANGTABLE.objects)
    )
    policy.action_spec, policy.frame_spec = LANGTABLE.action, FRAME
    return policy


def idql_over(base):
    frames = torch.zeros(1, 24, 24, 3, dtype=torch.uint8)
    seen = critic_features(base.network, frames, *base.goals(["reach the red moon"])).shape[1]
    critics = Critics(CriticsConfig(seen, 2 * 2, hidden=8, layers=1))
    return IDQLPolicy(base, critics, mean=[0.0] * seen, std=[1.0] * seen, samples=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("improvement")
    model = tiny_semantic_model()
    save_semantic_model(home / "swm", model.spec, model.network, model.tokenizer)
    base = base_policy()
    save_policy(base, home / "base")
    save_policy(idql_over(base), home / "idql")
    with torch.no_grad():
        next(base.network.parameters()).add_(1)
    save_policy(idql_over(base), home / "another")
    return home


@pytest.fixture
def small(folders, tmp_path):
    return ImprovementConfig(
        str(folders / "base"), str(folders / "idql"), str(folders / "swm"), episodes=5,
        max_steps=2, rows=1, horizon=4, execute=2, gradient=GradientConfig(iterations=1),
        out=tmp_path / "out",
    )  # fmt: skip


def only(monkeypatch, *names):
    chosen = tuple(task for task in TASKS if task.name in names)
    assert len(chosen) == len(names)
    monkeypatch.setattr(policy_improvement, "TASKS", chosen)


def test_the_tasks_are_the_papers():
    words = {group: [t.instruction for t in TASKS if t.group == group] for group in ("push",)}
    assert words["push"] == [
        "push the green cube to the blue moon",
        "push the red moon to the green star",
        "push the red pentagon to the blue moon",
        "push the yellow pentagon to the red moon",
        "push the yellow star to the blue cube",
    ]
    assert [t.paper["base"] for t in TASKS[:5]] == [0.06, 0.18, 0.14, 0.18, 0.16]
    assert [(t.name, t.blocks) for t in TASKS[5:]] == [
        ("push_blue_star_red_cube", "ood"),
        ("push_yellow_moon_purple_cube", "ood"),
    ]


def test_three_columns_go_on_where_they_were_stopped(small, monkeypatch, tmp_path):
    only(monkeypatch, "push_red_moon_green_star", "push_yellow_star_blue_cube")
    whole = measure_improvement(replace(small, out=tmp_path / "whole"), lambda line: None)
    run, calls = policy_improvement.run_policy, []

    def killed(*arguments, **settings):
        calls.append(settings["results"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return run(*arguments, **settings)

    monkeypatch.setattr(policy_improvement, "run_policy", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_improvement(small)
    monkeypatch.setattr(policy_improvement, "run_policy", run)
    said = []
    report = measure_improvement(small, said.append)
    assert report["rows"] == whole["rows"] and report["improvements"] == whole["improvements"]
    assert [(row["task"], row["column"]) for row in report["rows"]] == [
        (task, column)
        for task in ("push_red_moon_green_star", "push_yellow_star_blue_cube")
        for column in ("base", "idql", "planned")
    ]
    assert all((row["episodes"], row["errors"]) == (5, 0) for row in report["rows"])
    assert [row["column"] for row in report["improvements"]] == ["idql", "planned"]
    assert {row["episodes"] for row in report["improvements"]} == {10}
    assert "planned" in said[0] and said[1].startswith("push_red_moon_green_star")
    names = sorted(path.name for path in small.out.glob("*.jsonl"))
    assert names == sorted(path.name for path in (tmp_path / "whole").glob("*.jsonl"))
    for name in names:
        lines = [
            [
                {**json.loads(line), "seconds": 0}
                for line in (out / name).read_text(encoding="utf-8").splitlines()
            ]
            for out in (small.out, tmp_path / "whole")
        ]
        assert lines[0] == lines[1] and len(lines[0]) == 5
    before = {path: path.read_bytes() for path in small.out.glob("*.jsonl")}
    # another policy's records are its own
    alone = measure_improvement(replace(small, base=str(small.idql), idql=None), lambda line: None)
    assert len(alone["rows"]) == 4 and len(list(small.out.glob("*.jsonl"))) == 6 + 4
    assert {path: path.read_bytes() for path in before} == before


def test_plans_begin_with_all_that_the_base_predicts(small, folders):
    model = load_semantic_model(folders / "swm")
    rows = policy_improvement._simulators(small, model, "standard")
    planner = make_policy(small, model, rows, TASKS[0], "planned")
    assert isinstance(planner, PlannerPolicy)
    (proposing,) = planner.proposals.bases
    sizes = proposing.network.config
    assert proposing.execute == sizes.horizon - sizes.observations + 1 > 2
    assert make_policy(small, model, rows, TASKS[0], "base").execute == 2
    rows.close()


def test_unseen_blocks_have_the_expert_as_their_base(small, folders, monkeypatch):
    only(monkeypatch, "push_blue_star_red_cube")
    expert = replace(small, base="expert", idql=None, groups=("push_unseen",), episodes=2)
    report = measure_improvement(expert, lambda line: None)
    assert [(row["column"], row["episodes"]) for row in report["rows"]] == [
        ("base", 2),
        ("planned", 2),
    ]
    assert report["settings"]["expert"]["base_noise_m"] > 0
    model = load_semantic_model(folders / "swm")
    task = policy_improvement.TASKS[0]
    rows = policy_improvement._simulators(expert, model, task.blocks)
    assert rows.envs[0].unwrapped.objects == OOD_OBJECTS
    rows.close()
    with pytest.raises(PolicyError, match=r"does not understand 'push the blue star.*--base exper"):
        measure_improvement(replace(small, groups=("push_unseen",)))


def test_what_does_not_belong_together_is_refused(small, folders):
    with pytest.raises(PolicyError, match="the samples of another policy than --base"):
        measure_improvement(replace(small, idql=str(folders / "another")))
    with pytest.raises(PolicyError, match="is a 'diffusion-policy' policy; expected 'idql'"):
        measure_improvement(replace(small, idql=small.base))
    assert not small.out.exists()
    with pytest.raises(ValueError, match="stands over a saved policy"):
        replace(small, base="expert")
    with pytest.raises(ValueError, match="must be at least 1"):
        replace(small, episodes=0)


@pytest.mark.parametrize(
    "changes",
    [{"execute": 0}, {"execute": 17}, {"horizon": 0}, {"max_minutes": float("nan")}, {"seed": -1}],
)
def test_numbers_without_meaning_are_refused(changes):
    with pytest.raises(ValueError, match=r"; expected|expected more than 0"):
        ImprovementConfig("expert", **changes)


def test_the_script_writes_its_figures(small, monkeypatch, tmp_path, capsys):
    only(monkeypatch, "push_red_moon_green_star")
    words = ["--base", small.base, "--checkpoint", small.checkpoint, "--episodes", "1"]
    words += ["--max-steps", "1", "--horizon", "2", "--execute", "1", "--rows", "1"]
    words += ["--gradient.iterations", "1", "--out", str(tmp_path / "o")]
    words += ["--json", str(tmp_path / "figures.json")]
    with benchmark_script("policy_improvement") as script:
        script.main(script.tyro.cli(ImprovementConfig, args=words))
    report = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [row["column"] for row in report["rows"]] == ["base", "planned"]
    assert "wrote" in capsys.readouterr().out


def test_true_success_stands_in_the_policys_card(folders, tmp_path, capsys):
    folder = tmp_path / "stage_2"
    save_policy(load_policy(folders / "base"), folder)
    before = (folder / "policy.json").read_bytes()
    claim_folder(tmp_path / "out", {}, [PolicySource.of(str(folder))])
    report = json.loads((RESULTS / "imagined_vs_real_langtable.json").read_text(encoding="utf-8"))
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    with benchmark_script("policy_cards") as script:
        script.main(script.PolicyCardsConfig(tmp_path / "report.json", (folder,)))
    entry = next(e for e in report["policies"] if e["name"] == "stage_2")
    content = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    found = content["metrics"]["true_success"]
    for task, rates in entry["tasks"].items():
        assert found["tasks"][task]["success_rate"] == rates["true_success_rate"]
        assert found["tasks"][task]["interval"] == rates["true_interval"]
    assert found["command"] == report["command"] and "stage_2: reach" in capsys.readouterr().out
    del content["metrics"]
    assert content == json.loads(before)
    claim_folder(tmp_path / "out", {}, [PolicySource.of(str(folder))])  # its records stay valid
    assert load_policy(folder).kind == "diffusion-policy"
    write_policy_metric(folder, "other", {"a": 1})
    assert set(json.loads((folder / "policy.json").read_text(encoding="utf-8"))["metrics"]) == {
        "true_success", "other",
    }  # fmt: skip
    with pytest.raises(PolicyError, match=r"no policy 'base'; expected one of \['stage_"):
        true_success_of(report, folders / "base")
    weights = np.fromfile(folder / "policy.safetensors", np.uint8)
    assert len(weights)
    with pytest.raises(PolicyError, match="cannot be read as JSON"):
        write_policy_metric(tmp_path / "none", "true_success", {})
