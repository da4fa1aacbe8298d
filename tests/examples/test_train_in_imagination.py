"""Both training examples, end to end at tiny size, stopped and continued."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import imageio.v3 as imageio
import pytest
import tyro

from wm_gym.evaluation.learn_in_imagination import (
    ImaginedTraining,
    make_dream,
    train_in_imagination,
)
from wm_gym.instructions import InstructionError
from wm_gym.policies.base import PolicyError

OTHER = "wm_gym.policies.random_policy:RandomPolicy"
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 4, "batch_size": 8, "epochs": 2},
    "sac": {"learning_starts": 4, "batch_size": 4, "buffer_size": 40, "gradient_steps": 1},
}


def load(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"train_{name}_in_imagination.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_agent_learns_in_the_dream_and_acts_in_the_simulator(name, tiny_checkpoint, tmp_path):
    from wm_gym.policies.base import load_policy
    from wm_gym.policies.sb3.learning import PROGRESS
    from wm_gym.run_settings import RunSettingsError

    example = load(name)
    given = {
        "checkpoint": tiny_checkpoint, "out": tmp_path, "rows": 2, "horizon": 4, "save_every": 8,
        "test_episodes": 3, "test_steps": 3, **SMALL[name],
    }  # fmt: skip
    first = train_in_imagination(example.Args(steps=16, **given), example.make_agent)
    assert first["imagined_steps"] == 16 and [r["steps"] for r in first["history"]] == [8, 16]
    assert all(row["surprise"] > 0 for row in first["history"])
    given["beside"] = (OTHER,)
    second = train_in_imagination(example.Args(steps=32, **given), example.make_agent)
    assert second["imagined_steps"] == 32
    assert second["history"][:2] == first["history"], "it goes on instead of starting anew"
    assert not (tmp_path / "agent_16.zip").exists() and (tmp_path / "agent_32.zip").exists()
    assert json.loads((tmp_path / PROGRESS).read_text(encoding="utf-8"))["steps"] == 32
    for label in ("untrained", OTHER.replace(":", "."), "trained"):
        found = second["true_success"][label]
        assert found["episodes"] == 3 and found["errors"] == 0
        assert found["interval"][0] <= found["success_rate"] <= found["interval"][1]
    lines = (tmp_path / "trained_after_32.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [8000, 8001, 8002]
    assert load_policy(tmp_path / "agent").kind == "sb3"
    assert imageio.imread(tmp_path / "learning.png").ndim == 3
    assert (tmp_path / "episodes.mp4").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").rglob("events.*"))
    with pytest.raises(RunSettingsError, match=r"gamma: 0\.95 there, 0\.5 now"):
        train_in_imagination(example.Args(steps=32, **given | {"gamma": 0.5}), example.make_agent)
    with pytest.raises(ValueError, match=r"test_steps: 3 there, 4 now"):
        train_in_imagination(
            example.Args(steps=32, **given | {"test_steps": 4}), example.make_agent
        )


def test_another_task_is_learned_from_its_instruction(tiny_checkpoint, tmp_path):
    example = load("ppo")
    args = example.Args(checkpoint=tiny_checkpoint, out=tmp_path, rows=2)
    assert args.words == "reach the red moon" and "instruction" not in args.settings()
    push = dataclasses.replace(args, instruction="push the red moon to the green star")
    assert push.settings() == args.settings() | {"instruction": push.words}
    envs = make_dream(push)
    envs.reset()
    assert envs.get_attr("instruction") == [push.words] * 2
    with pytest.raises(InstructionError, match="juggle"):
        train_in_imagination(
            dataclasses.replace(args, instruction="juggle the red moon"), example.make_agent
        )
    assert not list(tmp_path.iterdir())


def test_policies_of_one_name_are_refused_before_anything_runs(tiny_checkpoint, tmp_path):
    example = load("ppo")
    for beside in ((OTHER, OTHER), ("runs/trained",)):
        args = example.Args(checkpoint=tiny_checkpoint, out=tmp_path, rows=1, beside=beside)
        with pytest.raises(PolicyError, match="expected different names"):
            train_in_imagination(args, example.make_agent)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_episodes", "test_steps", "rows", "horizon", "save_every"])
def test_numbers_without_meaning_are_refused_before_anything_is_learned(name):
    with pytest.raises(ValueError, match=f"{name}=0; expected at least 1 each"):
        ImaginedTraining(**{name: 0})


def test_a_continued_sac_remembers(tiny_checkpoint, tmp_path):
    import numpy as np

    from wm_gym.policies.sb3.learning import learn

    example = load("sac")
    args = example.Args(checkpoint=tiny_checkpoint, out=tmp_path, rows=2, horizon=4, **SMALL["sac"])
    agents = [example.make_agent(args, make_dream(args)) for _ in range(2)]
    learn(agents[0], tmp_path, 12, {})
    learn(agents[1], tmp_path, 12, {})
    for one, other in zip(
        *(agent.get_parameters()["policy"].values() for agent in agents), strict=True
    ):
        assert one.equal(other)
    assert agents[0].log_ent_coef.equal(agents[1].log_ent_coef)
    assert agents[1].num_timesteps == 12 and agents[1].replay_buffer.pos == 6
    for part in ("observations", "next_observations", "actions", "rewards", "dones"):
        buffers = [getattr(agent.replay_buffer, part)[:6] for agent in agents]
        np.testing.assert_array_equal(*buffers)
    assert agents[1].replay_buffer.observations[:6].any()


@pytest.mark.parametrize("name", SMALL)
def test_the_small_setting_of_the_docstring_is_understood(name):
    example = load(name)
    lines = example.__doc__.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip().startswith("python examples/")]
    assert len(commands) == 2
    small = shlex.split(re.sub(r"#.*", "", commands[-1]))[2:]
    args = tyro.cli(example.Args, args=small)
    assert args.steps == 256 and args.rows == 8 and args.test_episodes == 4
