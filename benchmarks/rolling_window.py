"""How far `rolling` drifts from `exact` where it is an approximation: on a `window` model.

    python benchmarks/rolling_window.py --latents runs/latents \
        --json benchmarks/results/rolling_window.json --docs docs/caches.md

Trains a small window model (10 frames, as the published ones) on a folder of latents, or resumes
the one in --out, and rolls held-out episodes out under their recorded actions with both caches, the
same noise in both. The two are equal until the window first slides. What the difference means is
shown by three others: to the truth, to copying the first frame, and between two `exact` rollouts
that differ in nothing but the noise seed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.dynamics.rollout import LatentHistory, Rollout
from wm_gym.evaluation.parity.bare_models import bare_card, bare_model
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.spec import ActionSpec, ContextSpec, DynamicsSpec
from wm_gym.training.latent_dynamics import LatentDynamicsConfig, train_latent_dynamics
from wm_gym.training.loop import LoopConfig
from wm_gym.world_model import LatentWorldModel

WINDOW, HISTORY, OTHER_SEEDS = 10, 2, 1_000_003
SHOWN_STEPS = (1, 8, 9, 10, 15, 20, 30, 40, 50)
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
ROWS = {
    "rolling_to_exact": "`rolling` to `exact`",
    "exact_to_exact_of_another_seed": "`exact` to `exact` with other noise",
    "exact_to_truth": "`exact` to the truth",
    "rolling_to_truth": "`rolling` to the truth",
    "copy_first_to_truth": "first frame to the truth",
}
"""Rows of the docs' table."""


@dataclass(frozen=True)
class RollingWindowConfig:
    """Measure the drift of the rolling cache on a window model."""

    latents: Path
    """Folder of precomputed latents (`wm-gym train latents`)."""
    out: Path = Path("runs/rolling_window")
    """Run folder of the window model: trained here, or resumed."""
    dim: int = 96
    """Transformer width."""
    depth: int = 3
    """Pairs of a spatial and a temporal block."""
    heads: int = 3
    """Attention heads."""
    patch: int = 2
    """Latent cells per token and axis."""
    batch: int = 6
    """Clips a training step."""
    compile: bool = False
    """Compile the network for training."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=1000, learning_rate=2e-3, warmup_steps=50, ema=0.99, save_every=50
        )
    )
    """Optimisation of the window model; with --loop.max-minutes, what is there then is measured."""
    episodes: int = 24
    """Held-out episodes rolled out, of those that are long enough."""
    steps: int = 50
    """Steps of every rollout."""
    held_out: int = 64
    """Episodes at the end of the latents kept out of training."""
    denoising_steps: int = 10
    """Denoising steps per frame."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    json: Path | None = None
    """File for the figures."""
    docs: Path | None = None
    """Page whose part between the figures' comments is replaced by a table of them."""

    def training(self) -> LatentDynamicsConfig:
        """The recipe of the window model."""
        return LatentDynamicsConfig(
            latents=self.latents,
            out=self.out,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            patch=self.patch,
            band=0,  # a window: every frame of the clip sees all frames before it
            clip_length=WINDOW,
            history=HISTORY,
            context="clean",
            shift=1.0,
            change_weight=6.0,
            batch=self.batch,
            held_out=self.held_out,
            compile=self.compile,
            loop=self.loop,
        )


@dataclass(frozen=True)
class Recorded:
    """Held-out episodes, N of them.

    Attributes:
        latents: (N, history + steps, h, w, D), normalised.
        actions: (N, history - 1 + steps, A), physical; `actions[:, i]` led to frame i + 1.
    """

    latents: Tensor
    actions: Tensor


def read_held_out(config: RollingWindowConfig, held_out: int) -> Recorded:
    """The first frames and actions of held-out episodes that last long enough.

    Raises:
        ValueError: if no held-out episode does.
    """
    bounds = np.load(config.latents / "bounds.npy")
    frames = HISTORY + config.steps
    candidates = range(len(bounds) - 1 - held_out, len(bounds) - 1)
    first = [bounds[e] for e in candidates if bounds[e + 1] - bounds[e] >= frames]
    if not first:
        raise ValueError(
            f"none of the last {held_out} episodes of {config.latents} has the {frames} frames "
            f"that {config.steps} steps need; lower --steps"
        )
    rows = np.asarray(first[: config.episodes])[:, None] + np.arange(frames)
    scale = json.loads((config.latents / "normalisation.json").read_text(encoding="utf-8"))
    stored = np.load(config.latents / "latents.npy", mmap_mode="r")
    latents = torch.from_numpy(np.asarray(stored[rows], np.float32))
    latents = (latents - torch.tensor(scale["mean"])) / torch.tensor(scale["std"])
    actions = np.load(config.latents / "actions.npy")[rows[:, :-1]]
    return Recorded(latents, torch.from_numpy(actions))


def load_trained(config: RollingWindowConfig, weights: Path) -> LatentWorldModel:
    """The trained network as a window model that steps in latents; it cannot decode."""
    from safetensors.torch import load_file

    record = json.loads((config.out / "dynamics.json").read_text(encoding="utf-8"))
    action = ActionSpec(**json.loads((config.latents / "action.json").read_text(encoding="utf-8")))
    grid = np.load(config.latents / "latents.npy", mmap_mode="r").shape[1:3]
    network = DiT(DiTConfig(**record["network"]))
    dynamics = DynamicsSpec({}, shift=record["shift"], denoising_steps=config.denoising_steps)
    card = bare_card(
        "window-mini",
        network.config,
        (grid[0], grid[1]),
        ContextSpec("window", WINDOW, HISTORY),
        action=action,
        dynamics=dynamics,
    )
    network.load_state_dict(load_file(weights))
    return bare_model(card, network)


def imagine(
    model: LatentWorldModel, recorded: Recorded, cache: str, first_seed: int = 0
) -> tuple[Tensor, float]:
    """Roll the episodes out.

    Returns:
        Latents (N, steps, h, w, D) and the seconds per step.
    """
    action = model.spec.action
    slots = action.null_action().expand(len(recorded.latents), HISTORY, -1).clone()
    known = action.normalise(recorded.actions[:, : HISTORY - 1])
    shift = int(action.alignment == "target")
    slots[:, shift : shift + HISTORY - 1] = known
    history = LatentHistory(recorded.latents[:, :HISTORY], slots)
    seeds = range(first_seed, first_seed + len(slots))
    rollout = Rollout(model, history, seeds=seeds, cache=cache)  # pyright: ignore[reportArgumentType]
    began = time.perf_counter()
    imagined = rollout.step(recorded.actions[:, HISTORY - 1 :])
    return imagined, (time.perf_counter() - began) / imagined.shape[1]


def rmse_by_step(a: Tensor, b: Tensor) -> list[float]:
    """Root mean square difference (steps,) of (N, steps, h, w, D), in units of the latents' std."""
    return (a - b).square().mean((0, 2, 3, 4)).sqrt().tolist()


def measure(model: LatentWorldModel, recorded: Recorded) -> dict[str, Any]:
    """All differences by step, and the seconds per step of both caches."""
    exact, exact_s = imagine(model, recorded, "exact")
    rolling, rolling_s = imagine(model, recorded, "rolling")
    reseeded, _ = imagine(model, recorded, "exact", OTHER_SEEDS)
    truth = recorded.latents[:, HISTORY:]
    first = recorded.latents[:, HISTORY - 1 : HISTORY].expand_as(truth)
    return {
        "rmse": {
            "rolling_to_exact": rmse_by_step(rolling, exact),
            "exact_to_exact_of_another_seed": rmse_by_step(reseeded, exact),
            "exact_to_truth": rmse_by_step(exact, truth),
            "rolling_to_truth": rmse_by_step(rolling, truth),
            "copy_first_to_truth": rmse_by_step(first, truth),
        },
        "seconds_per_step": {"exact": exact_s, "rolling": rolling_s},
    }


def docs_table(report: dict[str, Any]) -> str:
    """The figures as they stand in the docs."""
    rmse, steps = report["rmse"], report["steps"]
    shown = [step for step in SHOWN_STEPS if step <= steps]
    model = report["model"]
    network = model["network"]
    lines = [
        f"A window model of {report['window']} frames, width {network['dim']}, {network['depth']} "
        f"pairs, {model['steps']} training steps; {report['episodes']} held-out episodes, "
        f"{report['denoising_steps']} denoising steps. Root mean square difference in units of the "
        "latents' standard deviation:",
        "",
        "| step | " + " | ".join(map(str, shown)) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for name, label in ROWS.items():
        lines.append(f"| {label} | " + " | ".join(f"{rmse[name][s - 1]:.3f}" for s in shown) + " |")
    return "\n".join(lines)


def fill_docs(page: Path, report: dict[str, Any]) -> None:
    """Replace what stands between the figures' comments of a page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{docs_table(report)}\n{END}{after}", encoding="utf-8")


def main(config: RollingWindowConfig) -> dict[str, Any]:
    """Train or resume, measure, print and write."""
    if config.threads:
        torch.set_num_threads(config.threads)
    training = config.training()
    weights = train_latent_dynamics(training)
    recorded = read_held_out(config, training.held_out)
    found = measure(load_trained(config, weights), recorded)
    report = {
        **measurement_header(seeds=0),
        "model": json.loads((config.out / "dynamics.json").read_text(encoding="utf-8")),
        "latents": json.loads((config.latents / "source.json").read_text(encoding="utf-8")),
        "window": WINDOW,
        "episodes": len(recorded.latents),
        "steps": config.steps,
        "denoising_steps": config.denoising_steps,
        **found,
    }
    print(docs_table(report))
    if config.docs is not None:
        fill_docs(config.docs, report)
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(RollingWindowConfig))
