"""Row-steps per second of the evaluation loop, and what it adds to world model and policy.

    python benchmarks/evaluation_throughput.py --json benchmarks/results/evaluation_throughput.json

`run_policy` takes a policy through imagined episodes and writes their records, as `compare-real`
does. All time is given to one of five parts, none of it twice: the world model (dynamics, encoder
and decoder), the reward model, the policy, the environment (everything else in `reset` and `step`)
and the runner (everything else: conversion, bookkeeping, records). The overhead is environment and
runner over the three others. One denoising step makes the model as cheap, and so the overhead as
large a share, as it gets.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import torch
import tyro

import wm_gym  # noqa: F401  registers the ids
from wm_gym.checkpoints import assets_folder
from wm_gym.dynamics.rollout import Rollout
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.policies.base import Policy
from wm_gym.policies.named import open_policy
from wm_gym.policies.runner import run_policy
from wm_gym.world_model import LatentWorldModel

WORK = ("world_model", "reward_model", "policy")
OVERHEAD = ("environment", "runner")


@dataclass(frozen=True)
class EvaluationThroughputConfig:
    """Time the evaluation loop."""

    id: str = "WM-LangTable-VAE-v0"
    """World model."""
    policy: str = str(assets_folder() / "langtable-bc" / "stage_4")
    """Folder of a saved policy, or module:Class."""
    task: str = "push"
    """Task of the stored start states."""
    rows: tuple[int, ...] = (1, 8, 32)
    """Episodes imagined at once."""
    rounds: int = 3
    """Episodes per row."""
    steps: int = 16
    """Longest episode; those that succeed are shorter."""
    denoising_steps: int = 1
    """Denoising steps per frame."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    json: Path | None = None
    """File for the figures."""


class Stopwatch:
    """Gives every moment to the innermost of the parts that are under way.

    Args:
        device: torch device whose work is waited for at the end of each part.

    Attributes:
        seconds: by part, without what the parts inside it took.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = [0.0]  # seconds of inner parts, by nesting

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what is done in its context."""
        self._inside.append(0.0)
        began = time.perf_counter()
        try:
            yield
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
        finally:
            whole = time.perf_counter() - began
            inner = self._inside.pop()
            self._inside[-1] += whole
            self.seconds[name] = self.seconds.get(name, 0.0) + whole - inner

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed as a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


def timed_loop(
    env: WorldModelVectorEnv, policy: Policy, config: EvaluationThroughputConfig
) -> dict[str, Any]:
    """One row of the table."""
    starts = [f"{config.task}-{6500 + k % 50}" for k in range(env.num_envs * config.rounds)]
    seeds = range(len(starts))
    run_policy(env, policy, starts[: env.num_envs], seeds[: env.num_envs], 2, progress=False)
    watch = Stopwatch(config.device)
    parts: list[tuple[Any, str, str]] = [
        (env, "environment", "reset step"),
        (policy, "policy", "reset act"),
        (LatentWorldModel, "world_model", "begin encode decode"),
        (Rollout, "world_model", "step restart frames"),
        (RewardModel, "reward_model", "judge probability distance"),
    ]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for owner, part, names in parts:
            for name in names.split():
                timed = watch.timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
        processor = time.process_time()
        with watch.part("runner"):
            records = run_policy(
                env,
                policy,
                starts,
                seeds,
                config.steps,
                results=Path(folder) / "records.jsonl",
                description=f"{env.num_envs} rows",
            )
        processor = time.process_time() - processor
    if faults := {record.error for record in records if record.error}:
        raise RuntimeError(f"episodes ended with errors, so nothing was measured: {faults}")
    row_steps = sum(record.steps for record in records)
    seconds = sum(watch.seconds.values())
    work = sum(watch.seconds[part] for part in WORK)
    return {
        "rows": env.num_envs,
        "episodes": len(records),
        "row_steps": row_steps,
        "row_steps_per_second": row_steps / seconds,
        "seconds": seconds,
        "processor_seconds": processor,
        "seconds_by_part": {part: watch.seconds[part] for part in (*WORK, *OVERHEAD)},
        "environment_over_work": watch.seconds["environment"] / work,
        "runner_over_work": watch.seconds["runner"] / work,
        "overhead": sum(watch.seconds[part] for part in OVERHEAD) / work,
    }


def main(config: EvaluationThroughputConfig) -> dict[str, Any]:
    """Measure, print and write."""
    if config.threads:
        torch.set_num_threads(config.threads)
    print(
        f"{'rows':>4}{'row-steps':>11}{'per s':>8}{'model s':>10}{'reward s':>10}{'policy s':>10}"
        f"{'env s':>8}{'runner s':>10}{'overhead':>10}"
    )
    found = []
    for count in config.rows:
        env = gymnasium.make_vec(
            config.id,
            num_envs=count,
            task=config.task,
            denoising_steps=config.denoising_steps,
            device=config.device,
            autoreset_mode="Disabled",
        )
        assert isinstance(env, WorldModelVectorEnv)
        policy = open_policy(config.policy, env.card.action, env.card.frame)
        row = timed_loop(env, policy, config)
        found.append(row)
        model, reward, acting, environment, runner = row["seconds_by_part"].values()
        print(
            f"{count:4d}{row['row_steps']:11d}{row['row_steps_per_second']:8.1f}{model:10.3f}"
            f"{reward:10.3f}{acting:10.3f}{environment:8.3f}{runner:10.3f}"
            f"{row['overhead']:10.2%}",
            flush=True,
        )
    report = {
        **measurement_header(seeds=0),
        "id": config.id,
        "policy": Path(config.policy).name,
        "denoising_steps": config.denoising_steps,
        "rows": found,
    }
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(EvaluationThroughputConfig))
