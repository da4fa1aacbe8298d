"""How often a policy succeeds in the simulator, from starts that nobody has trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wm_gym.domains import domain_of
from wm_gym.envs.video import tile, write_mp4
from wm_gym.errors import UserError
from wm_gym.evaluation.strips import of_one_length
from wm_gym.metrics.statistics import Interval, wilson_interval
from wm_gym.policies.base import Policy
from wm_gym.policies.rows import SimulatorRows
from wm_gym.policies.runner import EpisodeRecord, run_policy
from wm_gym.spec import WorldModelSpec

ROWS = 4


@dataclass(frozen=True)
class TrueSuccess:
    """Episodes of a policy in the simulator.

    Attributes:
        rate: success rate with its Wilson interval.
        records: one per start.
    """

    rate: Interval
    records: list[EpisodeRecord]

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            "success_rate": self.rate.estimate,
            "interval": [self.rate.low, self.rate.high],
            "episodes": len(self.records),
            "errors": sum(record.error is not None for record in self.records),
            "mean_steps": float(np.mean([record.steps for record in self.records])),
        }


def true_success(
    spec: WorldModelSpec,
    policy: Policy,
    instruction: str,
    seeds: Sequence[int],
    max_steps: int,
    *,
    results: Path | None = None,
    keep_frames: bool = False,
    description: str = "in the simulator",
) -> TrueSuccess:
    """Run a policy in the simulator of a world model, from random starts of its own.

    Args:
        spec: the world model's card, which names the simulator.
        policy: the policy.
        instruction: what to do in every episode.
        seeds: one per episode; they decide the starts. Those of 6500 to 6549 are the stored starts
            of the dream, take others.
        max_steps: longest episode.
        results: file of records, so that an interrupted measurement goes on.
        keep_frames: keep the frames of episodes that are run now.
        description: of the progress bar.

    Raises:
        ValueError: if the card names no simulator.
    """
    if spec.twin is None:
        raise UserError(f"the card of {spec.name!r} names no simulator; nothing can be measured")
    domain = domain_of(spec.twin)
    keyword = domain.objects_keyword if domain is not None else ""
    arguments: dict[str, Any] = {
        "frame_size": (spec.frame.height, spec.frame.width),
        "horizon": max_steps,
        **({keyword: ",".join(spec.objects)} if keyword else {}),
    }
    twin = spec.twin
    rows = SimulatorRows.make(
        lambda: gymnasium.make(twin, **arguments), ROWS, spec.action, spec.frame
    )
    try:
        records = run_policy(
            rows, policy, [{"instruction": instruction}] * len(seeds), seeds, max_steps,
            results=results, keep_frames=keep_frames, description=description,
        )  # fmt: skip
    finally:
        rows.close()
    succeeded = sum(record.success for record in records)
    return TrueSuccess(wilson_interval(succeeded, len(records)), records)


def write_episodes(path: Path, records: Sequence[EpisodeRecord], fps: float) -> Path:
    """Write episodes side by side as a video; those that end early show their last frame.

    Raises:
        ValueError: if no episode has kept its frames.
    """
    episodes = [record.frames for record in records if record.frames is not None]
    if not episodes:
        raise UserError("no episode has kept its frames: measure with keep_frames=True")
    shown = np.stack(of_one_length(episodes), axis=1)
    return write_mp4(path, [tile(frames) for frames in shown], fps)


def draw_learning(
    path: Path,
    history: Sequence[Mapping[str, float | None]],
    rates: Mapping[str, TrueSuccess],
) -> Path:
    """Plot imagined success while learning, and true success afterwards.

    Args:
        path: PNG file to write.
        history: of `wm_gym.policies.sb3.learning.Progress`.
        rates: true success by label.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    known = [row for row in history if row["success"] is not None]
    left.plot([row["steps"] for row in known], [row["success"] for row in known], marker=".")
    left.set(xlabel="imagined steps", ylabel="imagined success (classifier)", ylim=(-0.03, 1.03))
    for k, (label, found) in enumerate(rates.items()):
        rate = found.rate
        errors = [[rate.estimate - rate.low], [rate.high - rate.estimate]]
        right.bar(k, rate.estimate, yerr=errors, color=f"C{k}", capsize=4, label=label)
    right.set_xticks(range(len(rates)), list(rates))
    right.set(ylabel="true success (simulator)", ylim=(0, 1.03))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def measure_learning(
    out: Path,
    spec: WorldModelSpec,
    policies: Mapping[str, tuple[Policy, int]],
    history: Sequence[Mapping[str, float | None]],
    instruction: str,
    seeds: Sequence[int],
    max_steps: int,
    *,
    shown: int = 9,
) -> dict[str, Any]:
    """Measure an agent before and after its training; writes `episodes.mp4` and `learning.png`.

    Args:
        out: folder to write to; an interrupted measurement goes on there.
        spec: card of the world model.
        policies: by label, a policy and the steps of training behind it; the last one is filmed.
        history: as in `draw_learning`.
        instruction: what to do.
        seeds: of the starts.
        max_steps: longest episode.
        shown: episodes in the video.

    Returns:
        True success by label, for a report.
    """
    rates = {
        label: true_success(
            spec, policy, instruction, seeds, max_steps,
            results=out / f"{label}_after_{steps}.jsonl", description=f"{label}, simulator",
        )
        for label, (policy, steps) in policies.items()
    }  # fmt: skip
    last = list(policies.values())[-1][0]
    filmed = true_success(
        spec, last, instruction, seeds[:shown], max_steps, keep_frames=True, description="video"
    )
    write_episodes(out / "episodes.mp4", filmed.records, spec.action.control_hz)
    draw_learning(out / "learning.png", history, rates)
    for label, found in rates.items():
        rate = found.rate
        print(f"{label}: true success {rate.estimate:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
    return {label: found.to_dict() for label, found in rates.items()}
