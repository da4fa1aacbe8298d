"""The training example, end to end at tiny size, with either algorithm."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import imageio.v3 as imageio
import pytest
import torch
import tyro

from wm_gym.instructions import InstructionError
from wm_gym.policies.base import PolicyError, load_policy

OTHER = "wm_gym.policies.random_policy:RandomPolicy"
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 4, "batch_size": 8, "epochs": 2},
    "sac": {"learning_starts": 4, "batch_size": 4, "buffer_size": 40, "gradient_steps": 1},
}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "train_in_imagination.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("algorithm", SMALL)
def test_an_agent_learns_in_imagination_and_acts_in_the_simulator(
    example, algorithm, tiny_checkpoint, tmp_path, monkeypatch
):
    acted, run = [], example.run_in_simulator
    monkeypatch.setattr(
        example,
        "run_in_simulator",
        lambda card, policy, *rest, **more: (
            acted.append(policy) or run(card, policy, *rest, **more)
        ),
    )
    args = example.Args(
        algorithm, tiny_checkpoint, tmp_path, rows=2, horizon=4, steps=16, report_every=8,
        beside=(OTHER,), test_episodes=2, test_steps=2, **SMALL[algorithm],
    )  # fmt: skip
    report = example.main(args)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["true_success"] == report["true_success"]
    untrained, _, trained, filmed = acted
    assert filmed is trained
    before, after = untrained.weights(), trained.weights()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert report["imagined_steps"] == 16 and [p["steps"] for p in report["history"]] == [8, 16]
    assert all(point["surprise"] > 0 for point in report["history"])
    assert list(report["true_success"]) == ["untrained", OTHER.replace(":", "."), "trained"]
    for found in report["true_success"].values():
        assert found["episodes"] == 2 and found["errors"] == 0
        assert found["interval"][0] <= found["success_rate"] <= found["interval"][1]
    assert load_policy(tmp_path / "agent").kind == "sb3"
    assert imageio.imread(tmp_path / "learning.png").ndim == 3
    assert (tmp_path / "episodes.mp4").stat().st_size > 1000


def test_the_goal_of_the_agent_is_its_instruction(example, tiny_checkpoint, tmp_path):
    words = "push the red moon to the green star"
    args = example.Args(checkpoint=tiny_checkpoint, out=tmp_path / "o", rows=2, instruction=words)
    envs = example.make_imagined(args, 2)
    envs.reset()
    assert envs.get_attr("instruction") == [words] * 2
    with pytest.raises(InstructionError, match="juggle"):
        example.main(replace(args, instruction="juggle the red moon"))
    assert not (tmp_path / "o").exists()


def test_policies_of_one_name_are_refused_before_anything_runs(example, tiny_checkpoint, tmp_path):
    for beside in ((OTHER, OTHER), ("runs/trained",)):
        out = tmp_path / "o"
        with pytest.raises(PolicyError, match=r"trained.*expected different names"):
            example.main(example.Args("ppo", tiny_checkpoint, out, rows=1, beside=beside))
        assert not out.exists()


def test_both_commands_of_the_docstring_are_understood(example):
    lines = example.__doc__.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip().startswith("python examples/")]
    full, small = (
        tyro.cli(example.Args, args=shlex.split(re.sub(r"#.*", "", command))[2:])
        for command in commands
    )
    assert full == example.Args("ppo")
    assert (small.steps, small.rows, small.test_episodes) == (256, 8, 4)
