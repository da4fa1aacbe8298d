"""Seconds that a semantic world model takes to plan a chunk of 16 actions for one picture.

    python benchmarks/planner_time.py --checkpoint runs/langtable-swm/checkpoint --threads 1 \
        --json benchmarks/results/planner_time.json

Gradient ascent of 10 steps from one proposal, and MPPI of 16 candidates and 8 iterations, as the
paper times them, for a push (two questions after two prefixes). `shared`: keys and values of
picture and actions are computed once and serve every question and prefix (block-causal attention).
`alone`: every question after every prefix is a sequence of its own, picture included, as full
attention needs it; the weights, and the plans, are the same. The paper: 1.56 s and 4.48 s for a
model of 3 billion parameters on an A100.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from wm_gym.envs.registration import SEMANTIC_MODELS
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox, Plan
from wm_gym.planning.planner import plan
from wm_gym.semantic.tasks import langtable_task
from wm_gym.semantic.value import TaskValue, ValueConfig
from wm_gym.semantic.world_model import SemanticWorldModel, View, load_semantic_model

ENV_ID = "WM-LangTable-SWM-v0"
OBJECTS = ("green cube", "blue moon")


@dataclass(frozen=True)
class PlannerTimeConfig:
    """Time planners with a semantic world model of block-causal attention."""

    checkpoint: str = "embedded"
    """Semantic checkpoint: embedded, a folder, or hf://org/repo@revision."""
    horizon: int = 16
    """Actions of a plan."""
    repeats: int = 5
    """Timed plans of each row, after one other; the median counts."""
    max_seconds: float = 60.0
    """Time for one row; at least one plan is timed."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Settings of gradient ascent."""
    mppi: MPPIConfig = field(default_factory=MPPIConfig)
    """Settings of MPPI."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """How answers become a value."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the figures."""


def look(model: SemanticWorldModel, frames: torch.Tensor, shared: bool) -> View:
    """Frames that were read, with or without keys and values that all questions share."""
    if shared:
        return model.look(frames)
    with torch.no_grad():
        return View(model, model.network.image_features(frames.to(model.device)), None)


def timed(make: Callable[[], Plan], config: PlannerTimeConfig) -> tuple[list[float], Plan]:
    """Seconds of every timed plan, and the last plan."""
    found, seconds = make(), []
    began = time.perf_counter()
    while len(seconds) < config.repeats:
        start = time.perf_counter()
        found = make()
        found.actions.cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - began > config.max_seconds:
            break
    return seconds, found


def main(config: PlannerTimeConfig) -> dict[str, Any]:
    """Measure, print and write."""
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_semantic_model(
        config.checkpoint,
        embedded=SEMANTIC_MODELS[ENV_ID],
        env_id=ENV_ID,
        device=config.device,
    )
    if model.spec.prefix_attention != "block_causal":
        raise ValueError(
            f"{model.spec.name} has prefix_attention={model.spec.prefix_attention!r}: nothing can "
            "be shared between its questions; give a block_causal checkpoint"
        )
    frame = model.spec.frame
    env = LangTableEnv(frame_size=(frame.height, frame.width))
    step = langtable_task("push", OBJECTS)
    picture, _ = env.reset(seed=6000, options={"instruction": step.name})
    env.close()
    frames, box = torch.from_numpy(picture.copy())[None], ActionBox.of(model.spec.action)
    rows, ratios = [], {}
    for name, planner in (("gradient", config.gradient), ("mppi", config.mppi)):
        plans, medians = {}, {}
        for way in ("shared", "alone"):

            def make(way: str = way, planner: GradientConfig | MPPIConfig = planner) -> Plan:
                view = look(model, frames, way == "shared")
                value = TaskValue(view, step.subgoals[0], config.value)
                return plan(value, box, config.horizon, [0], planner)

            seconds, plans[way] = timed(make, config)
            medians[way] = statistics.median(seconds)
            rows.append(
                {
                    "planner": name,
                    "keys_and_values": way,
                    "seconds_per_chunk": medians[way],
                    "seconds": seconds,
                    "value": float(plans[way].values[0]),
                }
            )
            print(f"{name:10}{way:8}{medians[way]:9.3f} s, of {len(seconds)}", flush=True)
        first = [plans[way].batch_values[0] for way in ("shared", "alone")]
        ratios[name] = {
            "alone_over_shared": medians["alone"] / medians["shared"],
            "largest_value_difference": float((first[0] - first[1]).abs().max()),
        }
        print(f"{name:10}{'ratio':8}{ratios[name]['alone_over_shared']:9.2f}", flush=True)
    parameters = sum(p.numel() for p in model.network.parameters())
    report = {
        **measurement_header(seeds=0),
        "model": model.spec.name,
        "parameters": parameters,
        "horizon": config.horizon,
        "rows": rows,
        "ratios": ratios,
    }
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(PlannerTimeConfig))
