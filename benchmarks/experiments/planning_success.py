"""How often plans of a semantic world model succeed in the simulator, beside their base policy.

The same seeds begin every task for every method, so differences are paired. Episodes are run in
rounds of a few seeds over all tasks and methods: a measurement that is stopped has some of each,
and goes on where it was when it is started again with the same settings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from tqdm import tqdm

from experiments.expert_proposals import ExpertProposals
from experiments.planning_tasks import Method, PlanningTask, chosen_tasks
from wm_gym.checkpoints import Checkpoint
from wm_gym.devices import check_device
from wm_gym.domains import CUBE, LANGTABLE, domain_of
from wm_gym.envs.sims.cube.env import CubeEnv
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.multi_step import LangTableMultiStep
from wm_gym.evaluation.output_files import check_file
from wm_gym.evaluation.report import measurement_header, write_metric
from wm_gym.evaluation.run_folder import Clock, claim_folder
from wm_gym.metrics.statistics import paired_difference, wilson_interval
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.base import Policy
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.policies.rows import SimulatorRows
from wm_gym.policies.runner import BLOCK_ROUNDS, EpisodeRecord, run_policy
from wm_gym.semantic.questions import TRAINED_PHRASINGS, UNTRAINED_PHRASINGS
from wm_gym.semantic.value import ValueConfig
from wm_gym.semantic.world_model import SemanticWorldModel, load_semantic_model

Outcomes = dict[tuple[str, Method], list[EpisodeRecord]]
"""Records by task and method, seeds in order."""


@dataclass(frozen=True)
class PlanningConfig:
    """Measure planning success in the simulator of a model, LangTable's or Cube's."""

    checkpoint: str
    """Semantic checkpoint: a folder, or hf://org/repo@revision."""
    out: Path = Path("outputs/planning_success")
    """Folder for the episodes' records; the same settings go on in it."""
    tasks: tuple[str, ...] = ()
    """Groups (reach, separate, push, multi_step; in Cube reach and stack) or single tasks; all by
    default."""
    methods: tuple[Method, ...] = ()
    """Who is tried; by default those of the paper's experiment with each task."""
    episodes: int = 50
    """Episodes of each task and method; their seeds follow each other."""
    seed: int = 6000
    """Seed of the first; models are trained on others."""
    max_steps: int | None = None
    """Longest episode; a multi-step task has as many for each of its steps. By default the
    simulator's own: 120 in LangTable, 200 in Cube."""
    max_minutes: float | None = None
    """Stop beginning further episodes after this time and report those that are there."""
    rows: int = 2
    """Episodes at once."""
    horizon: int = 16
    """Actions of a plan."""
    execute: int = 4
    """Actions carried out before the next plan."""
    base_noise_m: float = 0.04
    """Standard deviation of the noise on the expert's actions that makes the base policy, metres
    per axis (benchmarks/base_policy_noise.py)."""
    base_correlation: float = 0.9
    """Of that noise with the noise of the step before."""
    proposals: int = 1
    """Action sequences that the base proposes for every plan, or uniform ones."""
    phrasing: int = 0
    """Wording of every question, 0 to 9: 0 is the paper's, 8 and 9 were never trained on."""
    order: Literal["by_value", "given"] = "by_value"
    """Which step of a multi-step task comes next: the one of the highest value (the paper), or the
    first that is not done."""
    done_threshold: float | None = None
    """Probability above which an answer about the present ends a step of a multi-step task; the
    card's by default, 0.9 in the published code."""
    stays_done: bool = True
    """Whether a step that held once is done for good; no-stays-done takes it up again when it does
    not hold any more."""
    directed: bool = False
    """Ask for a move in a direction, too, away from the other block or towards it, in tasks of two
    blocks; the paper's questions do not."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """How answers become a value; --value.no-weighted is the ablation of the weights."""
    mppi: MPPIConfig = field(default_factory=MPPIConfig)
    """Settings of MPPI."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Settings of gradient ascent."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write the figures into the checkpoint's card.json, beside those of other groups."""

    def __post_init__(self) -> None:
        """Check the numbers and names."""
        steps = 1 if self.max_steps is None else self.max_steps
        if min(self.episodes, steps, self.rows, self.proposals) < 1:
            raise ValueError(
                f"episodes={self.episodes}, max_steps={self.max_steps}, rows={self.rows} and "
                f"proposals={self.proposals} must be at least 1"
            )
        if not 1 <= self.execute <= self.horizon:
            raise ValueError(f"execute={self.execute} must be 1 to horizon={self.horizon}")
        wordings = TRAINED_PHRASINGS + UNTRAINED_PHRASINGS
        if not 0 <= self.phrasing < wordings:
            raise ValueError(f"phrasing={self.phrasing} must be 0 to {wordings - 1}")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be at least 0")
        if not 0 <= self.base_noise_m < math.inf or not 0 <= self.base_correlation < 1:
            raise ValueError(
                f"base_noise_m={self.base_noise_m} must be finite and at least 0, and "
                f"base_correlation={self.base_correlation} at least 0 and below 1"
            )
        if self.max_minutes is not None and not self.max_minutes >= 0:
            raise ValueError(f"max_minutes={self.max_minutes} must be at least 0")
        threshold = self.done_threshold
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"done_threshold={threshold} must be at least 0 and below 1")
        check_device(self.device)

    def settings(self) -> dict[str, Any]:
        """What the records in `out` depend on, besides task, method and seed."""
        free = ("checkpoint", "out", "json", "write_card", "tasks", "methods", "episodes")
        free += ("max_minutes", "rows", "device")
        return {key: part for key, part in asdict(self).items() if key not in free}


def measure_planning(config: PlanningConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the episodes that are missing and report on all that are there.

    Args:
        config: what to measure.
        say: told every line of the report.

    Returns:
        `rows`, a success rate with its interval for each task and method; `improvements` over the
        base; the settings and where they come from.

    Raises:
        CheckpointError: if the model cannot be loaded.
        ValueError: if a task or method is none of the simulator's, or `out` holds a run with
            other settings.
    """
    model = load_semantic_model(config.checkpoint, device=config.device)
    tasks = chosen_tasks(model.spec.twin, config.tasks)
    pairs: list[tuple[PlanningTask, Method]] = [
        (task, method) for task in tasks for method in config.methods or task.methods
    ]
    domain = domain_of(model.spec.twin)
    assert domain is not None  # or there would be no tasks
    if domain is not LANGTABLE and {"base", "gradient"} & {method for _, method in pairs}:
        raise ValueError(
            f"methods {list(config.methods)}: {domain.twin} has no base policy to improve; "
            "expected mppi or uniform"
        )
    if config.horizon > model.spec.horizon:
        raise ValueError(
            f"horizon={config.horizon}: {model.spec.name} was trained with at most "
            f"{model.spec.horizon} actions"
        )
    if config.directed and domain is not LANGTABLE:
        raise ValueError(f"directed: only {LANGTABLE.twin} has tasks stated with directions")
    config = replace(config, max_steps=config.max_steps or domain.horizon)
    check_file("json", config.json)
    settings = config.settings() | {
        "weights_sha256": model.spec.weights_sha256,
        "answer_threshold": model.spec.answer_threshold,
    }
    claim_folder(config.out, settings, ())
    clock = Clock(config.out / "seconds.json")
    with clock:
        outcomes = run_rounds(config, model, pairs)
    rows = success_rows(outcomes, tasks)
    improvements = improvements_over_base(outcomes, tasks)
    for line in table(rows, improvements):
        say(line)
    seeds = [config.seed, config.seed + config.episodes - 1]
    header = measurement_header(seeds=seeds, duration_s=clock.total())
    figures = {"rows": rows, "improvements": improvements}
    if config.write_card:
        assert model.folder is not None
        opened = Checkpoint.open_semantic(model.folder)
        write_metric(opened, "planning", beside_other_groups(opened.spec.metrics, figures), header)
    return {**header, "model": model.spec.name, "settings": settings, **figures}


def beside_other_groups(
    metrics: Mapping[str, Any], figures: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Figures with those that a card has of other groups of tasks."""
    measured = {row["group"] for row in figures["rows"]}
    known = metrics.get("planning", {})
    return {
        part: [row for row in known.get(part, []) if row["group"] not in measured] + rows
        for part, rows in figures.items()
    }


def run_rounds(
    config: PlanningConfig, model: SemanticWorldModel, pairs: Sequence[tuple[PlanningTask, Method]]
) -> Outcomes:
    """Round after round of a few seeds over every task and method, until the time is up."""
    assert config.max_steps is not None
    began = time.monotonic()
    limit_s = float("inf") if config.max_minutes is None else 60 * config.max_minutes
    outcomes: Outcomes = {(task.name, method): [] for task, method in pairs}
    size = BLOCK_ROUNDS * config.rows  # the runner keeps whole blocks of this many episodes
    simulators: dict[bool, SimulatorRows] = {}
    total = len(pairs) * config.episodes
    with tqdm(total=total, unit="episode", mininterval=5) as bar:
        for upto in range(size, config.episodes + size, size):
            for task, method in pairs:
                results = config.out / f"{task.name}-{method}.jsonl"
                stored = _stored(results)
                count = max(min(upto, config.episodes), stored)
                if time.monotonic() - began >= limit_s:
                    count = stored
                if not count:
                    continue
                several = task.steps > 1
                if several not in simulators:
                    simulators[several] = make_rows(config, model, several)
                rows = simulators[several]
                found = run_policy(
                    rows, make_policy(config, model, rows, task, method), [task.options()] * count,
                    range(config.seed, config.seed + count), config.max_steps * task.steps,
                    results=results, progress=False,
                )  # fmt: skip
                found = found[: config.episodes]  # there may be more from an earlier run
                bar.update(len(found) - len(outcomes[task.name, method]))
                outcomes[task.name, method] = found
    for rows in simulators.values():
        rows.close()
    return outcomes


def _stored(results: Path) -> int:
    """Episodes that a file of records holds, those of a block that was cut off included."""
    return results.read_bytes().count(b"\n") if results.exists() else 0


def make_rows(config: PlanningConfig, model: SemanticWorldModel, several: bool) -> SimulatorRows:
    """The simulators that episodes run in, for tasks of one or of several steps."""
    frame = model.spec.frame
    size = (frame.height, frame.width)
    assert config.max_steps is not None
    horizon = config.max_steps

    def simulator() -> gymnasium.Env:
        if model.spec.twin == CUBE.twin:
            return CubeEnv(frame_size=size, horizon=horizon)
        if several:
            return LangTableMultiStep(frame_size=size, horizon=2 * horizon)
        return LangTableEnv(frame_size=size, horizon=horizon)

    return SimulatorRows.make(simulator, config.rows, model.spec.action, frame)


def make_policy(
    config: PlanningConfig,
    model: SemanticWorldModel,
    rows: SimulatorRows,
    task: PlanningTask,
    method: Method,
) -> Policy:
    """Who acts: the base itself, or a planner that may start from what the base proposes.

    For a task of several steps there is a base for each, and the model picks step and base by
    value, as in the paper's multi-step setting.
    """
    if method == "base":
        return ExpertProposals(
            rows.envs,
            config.base_noise_m,
            correlation=config.base_correlation,
            chunk=config.execute,
        )
    planner = config.mppi if method == "mppi" else config.gradient
    if method == "uniform":
        planner = replace(config.gradient, candidates=config.proposals)
    bases: list[Policy] = []
    if method == "gradient":
        steps = range(task.steps) if task.steps > 1 else (None,)
        bases = [
            ExpertProposals(
                rows.envs,
                config.base_noise_m,
                correlation=config.base_correlation,
                chunk=config.horizon,
                number=number,
                step=step,
            )
            for step in steps
            for number in range(config.proposals)
        ]
    return PlannerPolicy(
        model,
        planner,
        config.value,
        horizon=config.horizon,
        execute=config.execute,
        order=config.order if len(bases) > config.proposals else "given",
        bases=bases,
        phrasing=config.phrasing,
        done_threshold=config.done_threshold,
        stays_done=config.stays_done,
        directed=config.directed,
    )


def success_rows(outcomes: Outcomes, tasks: Sequence[PlanningTask]) -> list[dict[str, Any]]:
    """Success of each task and method that has episodes, with its Wilson interval."""
    known = {task.name: task for task in tasks}
    rows = []
    for (name, method), records in outcomes.items():
        if not records:
            continue
        successes = sum(record.success for record in records)
        rate = wilson_interval(successes, len(records))
        rows.append(
            {
                "task": name,
                "group": known[name].group,
                "method": method,
                "episodes": len(records),
                "successes": successes,
                "success_rate": rate.estimate,
                "interval": [rate.low, rate.high],
                "errors": sum(record.error is not None for record in records),
                "mean_steps": float(np.mean([record.steps for record in records])),
                "paper": known[name].paper.get(method),
            }
        )
    return rows


def improvements_over_base(
    outcomes: Outcomes, tasks: Sequence[PlanningTask]
) -> list[dict[str, Any]]:
    """What planning adds to the base, by group and method: points, from the seeds both have."""
    found: dict[tuple[str, Method], list[tuple[np.ndarray, np.ndarray]]] = {}
    groups = {task.name: task.group for task in tasks}
    for (name, method), records in outcomes.items():
        base = outcomes.get((name, "base"), [])
        both = min(len(records), len(base))
        if method == "base" or not both:
            continue
        pair = [np.array([r.success for r in some[:both]]) for some in (records, base)]
        found.setdefault((groups[name], method), []).append((pair[0], pair[1]))
    rows = []
    for (group, method), pairs in found.items():
        better, base = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        gain = paired_difference(better, base)
        rows.append(
            {
                "group": group,
                "method": method,
                "tasks": len(pairs),
                "episodes": sum(len(one) for one in better),
                "points": 100 * gain.estimate,
                "interval": [100 * gain.low, 100 * gain.high],
            }
        )
    return rows


def table(rows: list[dict[str, Any]], improvements: list[dict[str, Any]]) -> list[str]:
    """The figures as lines of text."""
    lines = [f"{'task':32}{'method':10}{'success':>9}  {'95 %':16}{'of':>4}{'steps':>7}  paper"]
    for row in rows:
        low, high = (100 * value for value in row["interval"])
        paper = "" if row["paper"] is None else f"{100 * row['paper']:.0f} %"
        errors = f", {row['errors']} errors" if row["errors"] else ""
        lines.append(
            f"{row['task']:32}{row['method']:10}{100 * row['success_rate']:7.1f} %  "
            f"{f'[{low:.1f}, {high:.1f}]':16}{row['episodes']:4}{row['mean_steps']:7.0f}  "
            f"{paper}{errors}"
        )
    for row in improvements:
        low, high = row["interval"]
        lines.append(
            f"{row['method']} over base, mean of {row['tasks']} {row['group']} tasks: "
            f"{row['points']:+.1f} points [{low:.1f}, {high:.1f}], "
            f"{row['episodes']} paired episodes"
        )
    return lines
