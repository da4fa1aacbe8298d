"""Environment steps per second of the simulators, with the picture of every step.

    python benchmarks/simulator_step.py --json benchmarks/results/simulator_step.json

Random actions at the full range, episodes that start anew when they end; resets count. Seconds are
those of the clock. Processor seconds are given beside them, over all threads: on a busy machine
they say what the clock cannot.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import tyro

import wm_gym  # noqa: F401  registers the ids
from wm_gym.evaluation.report import measurement_header, write_json


@dataclass(frozen=True)
class SimulatorStepConfig:
    """Time the simulators."""

    ids: tuple[str, ...] = ("LangTable-v0", "BridgeSim-v0", "Cube-v0")
    """Simulators to time."""
    frame_sizes: tuple[str, ...] = ("64x64", "96x96", "180x320")
    """Pictures to render."""
    steps: int = 600
    """Timed steps per row of the table, after 20 others."""
    json: Path | None = None
    """File for the figures."""


def timed_steps(env_id: str, frame_size: str, steps: int) -> dict[str, Any]:
    """One row of the table."""
    env = gymnasium.make(env_id, frame_size=frame_size, disable_env_checker=True)
    env.action_space.seed(0)
    env.reset(seed=0)
    resets = 0

    def run(count: int) -> None:
        nonlocal resets
        for _ in range(count):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
                resets += 1

    run(20)
    resets = 0
    clock, processor = time.perf_counter(), time.process_time()
    run(steps)
    seconds, processor_s = time.perf_counter() - clock, time.process_time() - processor
    env.close()
    return {
        "simulator": env_id,
        "frame_size": frame_size,
        "steps": steps,
        "resets": resets,
        "steps_per_second": steps / seconds,
        "steps_per_processor_second": steps / processor_s,
    }


def main(config: SimulatorStepConfig) -> dict[str, Any]:
    """Measure, print and write."""
    print(f"{'simulator':16}{'frame':>10}{'steps/s':>10}{'steps/processor s':>20}")
    rows = []
    for env_id in config.ids:
        for frame_size in config.frame_sizes:
            row = timed_steps(env_id, frame_size, config.steps)
            rows.append(row)
            print(
                f"{env_id:16}{frame_size:>10}{row['steps_per_second']:10.1f}"
                f"{row['steps_per_processor_second']:20.1f}",
                flush=True,
            )
    report = {**measurement_header(seeds=0), "rows": rows}
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(SimulatorStepConfig))
