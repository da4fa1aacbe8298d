"""Seconds and frame passes of one environment step, by cache mode, context and batch.

    python benchmarks/rollout_step.py --json benchmarks/results/rollout_step.json

Times `Rollout.step` alone, without decoding. A step in a context of c frames is timed on a rollout
that has c - 1 finished frames, whose newest one is not yet committed; at the full context a
`window` has slid once. DiT-S has random weights and the shapes of the published models (256 tokens
a frame): arithmetic does not depend on weights. The other model is the embedded one, or, where that
is not there, random weights in its shapes. `frame_passes` counts frames passed through the network
per row.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from wm_gym.dynamics.dit import DIT_SIZES, DiTConfig
from wm_gym.dynamics.rollout import LatentHistory, Rollout
from wm_gym.evaluation.parity.bare_models import bare_card, bare_model, random_network
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.spec import ContextSpec
from wm_gym.world_model import LatentWorldModel

MODES: tuple[Literal["off", "exact", "rolling"], ...] = ("off", "exact", "rolling")


@dataclass(frozen=True)
class RolloutStepConfig:
    """Time one environment step."""

    models: tuple[Literal["DiT-S", "embedded"], ...] = ("DiT-S", "embedded")
    """Models to time."""
    contexts: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10)
    """Frames in the context, the new one included."""
    batches: tuple[int, ...] = (1, 8)
    """Rows at once; the embedded model is also timed at 16 in its full context."""
    denoising_steps: int = 10
    """Denoising steps per frame."""
    repeats: int = 5
    """Timed steps per row of the table, of which the median counts; stops after `max_seconds`."""
    max_seconds: float = 20.0
    """Time for one row of the table, after its first step."""
    memory_steps: int = 1000
    """Length of the rollout whose memory is compared with that of 50 steps; 0 leaves it out."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    json: Path | None = None
    """File for the figures."""


def random_model(
    name: str, network: DiTConfig, grid: tuple[int, int], kind: Literal["window", "banded"]
) -> LatentWorldModel:
    """A world model with random weights and no latent space: it can step, not decode.

    Args:
        name: on its card.
        network: shape of the network.
        grid: (h, w) of the latents.
        kind: of its context of 10 frames.
    """
    return bare_model(bare_card(name, network, grid, ContextSpec(kind)), random_network(network))


def load(name: str, config: RolloutStepConfig) -> LatentWorldModel:
    """The model of a name, with the wanted number of denoising steps."""
    from wm_gym.checkpoints import CheckpointError
    from wm_gym.dynamics.samplers import make_sampler
    from wm_gym.evaluation.models import load_by_id

    if name == "DiT-S":
        shape: dict[str, Any] = {"channels": 16, "patch": 2, "action_width": 10, **DIT_SIZES["S"]}
        network = DiTConfig(**shape)
        model = random_model("DiT-S (random)", network, (32, 32), "window")
    else:
        try:
            model = load_by_id("WM-LangTable-VAE-v0")
        except CheckpointError:
            network = DiTConfig(channels=12, dim=256, depth=4, heads=4, action_width=3, band=10)
            model = random_model("tiny (random)", network, (8, 8), "banded")
    model.network.to(config.device)
    model.denoising_steps = config.denoising_steps
    model.sampler = make_sampler(model.dynamics, config.denoising_steps)
    return model


def begin(model: LatentWorldModel, mode: str, context: int, batch: int) -> Rollout:
    """A rollout whose next step happens in a context of that many frames."""
    latent, action = model.spec.latent, model.spec.action
    past = min(context, model.spec.context.length) - 1
    generator = torch.Generator().manual_seed(context)
    shape = (batch, past, *latent.grid, latent.channels)
    history = LatentHistory(
        torch.randn(shape, generator=generator).to(model.device),
        torch.zeros(batch, past, action.width, device=model.device),
    )
    rollout = Rollout(model, history, seeds=range(batch), cache=mode)  # pyright: ignore[reportArgumentType]
    if context >= model.spec.context.length and model.spec.context.kind == "window":
        rollout.step(torch.zeros(batch, action.size))  # now the window slides
    return rollout


def timed_steps(
    model: LatentWorldModel, mode: str, context: int, batch: int, config: RolloutStepConfig
) -> dict[str, Any]:
    """One row of the table."""
    rollout = begin(model, mode, context, batch)
    action = torch.zeros(batch, model.spec.action.size)
    passes, seconds = 0, []
    began = time.perf_counter()
    while not seconds or (
        len(seconds) < config.repeats and time.perf_counter() - began < config.max_seconds
    ):
        branch = rollout.fork(range(batch))
        before = branch.frame_passes
        _synchronise(config.device)
        started = time.perf_counter()
        branch.step(action)
        _synchronise(config.device)
        seconds.append(time.perf_counter() - started)
        passes = (branch.frame_passes - before) / batch
    median = statistics.median(seconds)
    return {
        "model": model.spec.name,
        "mode": mode,
        "context": context,
        "batch": batch,
        "denoising_steps": config.denoising_steps,
        "seconds_per_step": median,
        "row_steps_per_second": batch / median,
        "frame_passes": passes,
        "repeats": len(seconds),
        "approximate": mode == "rolling" and model.spec.context.kind == "window",
    }


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(name: str, config: RolloutStepConfig) -> Iterator[dict[str, Any]]:
    """Rows of one model, `off` before the others so that ratios are known."""
    model = load(name, config)
    full = model.spec.context.length
    settings = [(c, b) for b in config.batches for c in config.contexts if c <= full]
    if name == "embedded" and full in config.contexts:
        settings.append((full, 16))
    for context, batch in settings:
        off = None
        for mode in MODES:
            row = timed_steps(model, mode, context, batch, config)
            off = off or row
            ratio = off["seconds_per_step"] / row["seconds_per_step"]
            passes = off["frame_passes"] / row["frame_passes"]
            yield {**row, "times_faster_than_off": ratio, "fewer_passes_than_off": passes}


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def measure_memory(config: RolloutStepConfig) -> dict[str, Any]:
    """Memory after 50 steps and after many, of one rollout of the embedded model."""
    model = load("embedded", config)
    rollout = begin(model, "auto", model.spec.context.length, 1)
    action = torch.zeros(1, model.spec.action.size)
    found: dict[str, Any] = {"model": model.spec.name, "cache": rollout.cache_mode}
    for step in range(1, config.memory_steps + 1):
        rollout.step(action)
        if step in (50, config.memory_steps):
            gc.collect()
            found[f"snapshot_bytes_after_{step}_steps"] = len(rollout.snapshot())
            found[f"process_mib_after_{step}_steps"] = round(resident_mib(), 1)
    return found


def main(config: RolloutStepConfig) -> dict[str, Any]:
    """Measure, print and write."""
    if config.threads:
        torch.set_num_threads(config.threads)
    rows = []
    print(
        f"{'model':22}{'mode':9}{'context':>8}{'batch':>6}{'s/step':>10}{'passes':>8}{'× off':>8}"
        f"{'rows/s':>9}"
    )
    for name in config.models:
        for row in measure(name, config):
            rows.append(row)
            print(
                f"{row['model']:22}{row['mode']:9}{row['context']:8d}{row['batch']:6d}"
                f"{row['seconds_per_step']:10.4f}{row['frame_passes']:8.1f}"
                f"{row['times_faster_than_off']:8.2f}{row['row_steps_per_second']:9.3f}",
                flush=True,
            )
    memory = measure_memory(config) if config.memory_steps else None
    print(f"memory: {memory}")
    report = {**measurement_header(seeds=0), "rows": rows, "memory": memory}
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(RolloutStepConfig))
