"""`wm-gym calibrate-judge`: how often judges are right, by the simulator's own truth.

A judge whose accuracy is unknown measures nothing: this compares verdicts with the simulator on
recorded clips, near misses among them, and on imagined clips of the same episodes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_cohen_kappa

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.devices import check_device
from wm_gym.envs.sims.predicates import success_predicate
from wm_gym.errors import UserError
from wm_gym.evaluation.models import load_by_id, open_by_id
from wm_gym.evaluation.output_files import check_file, check_picture
from wm_gym.evaluation.reliability import calibration_error, plot_reliability, reliability
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.evaluation.success.judge_clips import (
    KINDS,
    ClipChoice,
    choose_clips,
    imagined_clips,
    real_clips,
)
from wm_gym.judges.registry import JudgeContext, make_judge, read_judge_name
from wm_gym.judges.verdicts import Verdict
from wm_gym.metrics.statistics import balanced_accuracy, resampled_interval, wilson_interval

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class CalibrateJudgeConfig:
    """Compare judges with the simulator's truth, on recorded and on imagined clips."""

    data: Path
    """Folder of held-out episodes, made by `wm-gym collect --held-out --seed 6000`."""
    judge: tuple[str, ...] = ("classifier",)
    """Names of judges, see docs/judges.md; of several, their agreement is measured, too."""
    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """World model that imagines: embedded, a folder, or hf://org/repo@revision."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    imagined: bool = True
    """Also judge imagined clips of the same episodes."""
    horizon: int = 20
    """Steps of a clip."""
    per_kind: int = 60
    """Successes, near misses and other failures, each, per task."""
    near_miss_m: float = 0.02
    """How far outside the threshold a failure still counts as a near miss, in metres."""
    rows: int = 16
    """Clips imagined at once."""
    resamples: int = 1000
    """Bootstrap resamples of the intervals."""
    seed: int = 0
    """Seed of the clips, the noise and the resampling."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the figures."""
    plot: Path | None = None
    """File for the reliability plot, e.g. reliability.png."""
    write_card: bool = False
    """Also write the figures into the world model's card.json."""

    def __post_init__(self) -> None:
        """Check numbers and names before anything is loaded."""
        if min(self.horizon, self.per_kind, self.rows, self.resamples) < 1:
            raise UserError(
                f"horizon={self.horizon}, per_kind={self.per_kind}, rows={self.rows}, "
                f"resamples={self.resamples}; expected at least 1 each"
            )
        if not self.judge or len(set(self.judge)) < len(self.judge):
            raise UserError(f"judge={self.judge!r}; expected at least one name, and each once")
        for name in self.judge:
            read_judge_name(name)


def calibrate_judge(config: CalibrateJudgeConfig) -> dict[str, Any]:
    """Run `wm-gym calibrate-judge`: measure, print and write.

    Returns:
        What `--json` writes; `judges` holds figures by judge under `real` and `imagined`, and
        `agreement` those of every pair of judges.

    Raises:
        EpisodeError: if the episodes cannot be read.
        JudgeError: if a judge needs something that is not there.
        ValueError: if no episode is long enough, or a file cannot be written.
    """
    check_device(config.device)
    check_file("json", config.json)
    check_picture("plot", config.plot)
    spec = open_by_id(config.id, config.checkpoint).spec
    data = EpisodeDataset(config.data)

    @cache
    def world_model() -> LatentWorldModel:
        steps = config.denoising_steps
        return load_by_id(config.id, config.checkpoint, denoising_steps=steps, device=config.device)

    predicate = success_predicate(spec.twin, spec.objects)
    context = JudgeContext(world_model, predicate, config.device)
    judges = {name: make_judge(name, context) for name in config.judge}
    chosen = choose_clips(
        data,
        spec.twin,
        horizon=config.horizon,
        per_kind=config.per_kind,
        near_miss_m=config.near_miss_m,
        seed=config.seed,
    )
    texts = [choice.instruction for choice in chosen]
    worlds = {"real": real_clips(data, chosen, config.horizon)}
    if config.imagined:
        worlds["imagined"] = imagined_clips(
            world_model(), data, chosen, config.horizon, rows=config.rows, seed=config.seed
        )
    found = {
        name: {world: judge.judge(clips, texts) for world, clips in worlds.items()}
        for name, judge in judges.items()
    }
    report = {
        "horizon": config.horizon,
        "near_miss_m": config.near_miss_m,
        "clips": {kind: sum(choice.kind == kind for choice in chosen) for kind in KINDS},
        "judges": {
            name: {world: figures(chosen, got, config) for world, got in by_world.items()}
            for name, by_world in found.items()
        },
        "agreement": [
            {"judges": [one, other], "world": world, **agreement(found[one][world], got)}
            for one, other in combinations(found, 2)
            for world, got in found[other].items()
        ],
    }
    print("\n".join(table(report)))
    header = measurement_header(seeds=config.seed)
    content = {**header, "world_model": spec.name, **report}
    if config.json is not None:
        print(f"report {write_json(config.json, content)}")
    if config.plot is not None:
        curves = {
            f"{label}, {world}": entry["reliability"]
            for label, by_world in zip(labels(found), report["judges"].values(), strict=True)
            for world, entry in by_world.items()
        }
        plot_reliability(curves, config.plot, "success")
        print(f"plot   {config.plot}")
    if config.write_card:
        opened = open_by_id(config.id, config.checkpoint)
        write_metric(Checkpoint.open(opened.folder), "judges", in_short(report), header)
    return content


def labels(names: Collection[str]) -> list[str]:
    """What judges are called in a plot: their kind, or the whole name where two are of a kind."""
    kinds = [name.partition("?")[0] for name in names]
    return [
        kind if kinds.count(kind) == 1 else fill(name, 32)
        for name, kind in zip(names, kinds, strict=True)
    ]


def in_short(report: dict[str, Any]) -> dict[str, Any]:
    """What the card keeps: by judge and world, what `figures` says of all clips together."""
    kept = ("clips", "unanswered", "balanced_accuracy", "kappa", "ece")
    rates = ("false_negative_rate", "false_positive_rate", "near_miss_false_positive_rate")
    return {
        name: {
            world: {
                **{key: entry[key] for key in kept},
                **{key: entry[key]["rate"] for key in rates},
            }
            for world, entry in by_world.items()
        }
        for name, by_world in report["judges"].items()
    }


def figures(
    chosen: Sequence[ClipChoice], verdicts: Sequence[Verdict], config: CalibrateJudgeConfig
) -> dict[str, Any]:
    """How right the verdicts on some clips are, in all and by task.

    Clips without a verdict are counted as `unanswered` and enter no other figure.
    """
    report = _figures(chosen, verdicts, config)
    tasks = dict.fromkeys(choice.task for choice in chosen)
    report["by_task"] = {}
    for task in tasks:
        of_task = [k for k, choice in enumerate(chosen) if choice.task == task]
        part = _figures([chosen[k] for k in of_task], [verdicts[k] for k in of_task], config)
        del part["reliability"]
        report["by_task"][task] = part
    return report


def _figures(
    chosen: Sequence[ClipChoice], verdicts: Sequence[Verdict], config: CalibrateJudgeConfig
) -> dict[str, Any]:
    answered = [k for k, verdict in enumerate(verdicts) if verdict.error is None]
    true = np.array([chosen[k].success for k in answered], bool)
    said = np.array([verdicts[k].success for k in answered], bool)
    scores = np.array([verdicts[k].score for k in answered], np.float64)
    near = np.array([chosen[k].kind == "near miss" for k in answered], bool)
    balanced = resampled_interval(
        lambda rows: balanced_accuracy(said[rows], true[rows]),
        len(answered),
        resamples=config.resamples,
        seed=config.seed,
    ) if answered else None  # fmt: skip
    return {
        "clips": len(verdicts),
        "unanswered": len(verdicts) - len(answered),
        "balanced_accuracy": None if balanced is None else balanced.estimate,
        "balanced_accuracy_interval": None if balanced is None else [balanced.low, balanced.high],
        "false_negative_rate": _rate(~said[true]),
        "false_positive_rate": _rate(said[~true]),
        "near_miss_false_positive_rate": _rate(said[near]),
        "kappa": kappa(true, said),
        "ece": calibration_error(scores, true) if answered else None,
        "reliability": reliability(scores, true),
        "seconds_per_clip": float(np.mean([verdict.seconds for verdict in verdicts])),
    }


def _rate(wrong: np.ndarray) -> dict[str, Any]:
    """A share with its Wilson interval; None without any case."""
    if not len(wrong):
        return {"rate": None, "low": None, "high": None, "cases": 0}
    found = wilson_interval(int(wrong.sum()), len(wrong))
    return {"rate": found.estimate, "low": found.low, "high": found.high, "cases": len(wrong)}


def kappa(one: np.ndarray, other: np.ndarray) -> float | None:
    """Cohen's kappa of two bool (n,); None where chance alone explains all agreement."""
    if not len(one) or (one.all() and other.all()) or not (one.any() or other.any()):
        return None
    return float(
        binary_cohen_kappa(torch.from_numpy(one.astype(int)), torch.from_numpy(other.astype(int)))
    )


def agreement(one: Sequence[Verdict], other: Sequence[Verdict]) -> dict[str, Any]:
    """How far two judges agree on the clips that both have a verdict on."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a.error is None and b.error is None]
    first, second = (np.array([pair[k].success for pair in both], bool) for k in (0, 1))
    share = float((first == second).mean()) if both else None
    return {"clips": len(both), "kappa": kappa(first, second), "agreement": share}


def table(report: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""

    def percent(value: float | None) -> str:
        return "  –  " if value is None else f"{100 * value:5.1f}"

    lines = [f"clips: {', '.join(f'{count} {kind}' for kind, count in report['clips'].items())}"]
    for name, by_world in report["judges"].items():
        for world, entry in by_world.items():
            low, high = entry["balanced_accuracy_interval"] or (None, None)
            lines.append(f"{name}, {world} clips")
            lines.append(
                f"  balanced accuracy {percent(entry['balanced_accuracy'])} % "
                f"[{percent(low).strip()}, {percent(high).strip()}]   kappa "
                + ("–" if entry["kappa"] is None else f"{entry['kappa']:.3f}")
            )
            misses, alarms, near = (
                percent(entry[f"{key}_rate"]["rate"])
                for key in ("false_negative", "false_positive", "near_miss_false_positive")
            )
            lines.append(
                f"  successes missed {misses} %, failures taken for success {alarms} %, near "
                f"misses {near} %"
            )
            if entry["ece"] is not None:
                lines.append(f"  calibration error {entry['ece']:.3f}")
            if entry["unanswered"]:
                lines.append(f"  {entry['unanswered']} of {entry['clips']} without a verdict")
    for row in report["agreement"]:
        shown = "–" if row["kappa"] is None else f"{row['kappa']:.3f}"
        lines.append(f"{' and '.join(row['judges'])}, {row['world']} clips: kappa {shown}")
    return lines
