"""Base policy, IDQL and planning from its proposals: the columns of arXiv:2510.19818's Table 6.

The base is a saved policy, or the scripted expert with the noise of `planning_success`. All columns
begin every task from the same seeds in LangTable's simulator, so that differences are paired.
Planning is gradient ascent with a semantic world model from what the base proposes. The tasks with
unseen blocks are those of its Table 4, whose blocks no training of the embedded models has seen.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from experiments.planning_success import PlanningConfig
from experiments.planning_success import make_policy as make_expert_policy
from experiments.planning_tasks import PlanningTask, chosen_tasks
from wm_gym.devices import check_device
from wm_gym.domains import LANGTABLE
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.shapes import parse_blocks
from wm_gym.evaluation.report import measurement_header
from wm_gym.evaluation.run_folder import Clock, claim_folder, policy_bytes
from wm_gym.metrics.statistics import paired_difference, wilson_interval
from wm_gym.planning.gradient import GradientConfig
from wm_gym.policies.base import Observation, Policy, PolicyError
from wm_gym.policies.diffusion_policy.policy import DiffusionPolicy
from wm_gym.policies.idql.policy import IDQLPolicy
from wm_gym.policies.named import open_policy, policy_file
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.policies.rows import SimulatorRows
from wm_gym.policies.runner import BLOCK_ROUNDS, EpisodeRecord, run_policy
from wm_gym.semantic.value import ValueConfig
from wm_gym.semantic.world_model import (
    SemanticWorldModel,
    embedded_semantic_models,
    load_semantic_model,
)

Column = Literal["base", "idql", "planned"]
EXPERT = "expert"
GROUPS = ("push", "push_unseen")
_UNSEEN = (("blue star", "red cube"), ("yellow moon", "purple cube"))


@dataclass(frozen=True)
class ImprovementTask:
    """A push, and which blocks stand on the table."""

    name: str
    group: str
    instruction: str
    blocks: str
    paper: dict[str, float] = field(hash=False)


TASKS = (
    *(
        ImprovementTask(
            task.name, "push", task.instruction, "standard",
            {"base": task.paper["base"], "planned": task.paper["gradient"]},
        )
        for task in chosen_tasks(LANGTABLE.twin, ("push",))
    ),
    *(
        ImprovementTask(
            f"push_{first}_{second}".replace(" ", "_"),
            "push_unseen", f"push the {first} to the {second}", "ood", {},
        )
        for first, second in _UNSEEN
    ),
)  # fmt: skip
"""Table 6's five pushes, then Table 4's two with unseen blocks."""


@dataclass(frozen=True)
class ImprovementConfig:
    """Measure what IDQL and planning add to a base policy in LangTable's simulator."""

    base: str
    """Folder of a saved policy, module:Class, or expert: the scripted expert with noise."""
    idql: str | None = None
    """Folder of an IDQL policy over the same base; without, its column is left out."""
    checkpoint: str = "embedded"
    """Semantic world model to plan with: embedded, a folder, or hf://org/repo@revision."""
    groups: tuple[Literal["push", "push_unseen"], ...] = ("push",)
    """push: the five tasks of Table 6; push_unseen: the two of Table 4, with unseen blocks."""
    episodes: int = 50
    """Episodes of each task and column; their seeds follow each other."""
    seed: int = 6000
    """Seed of the first; models and policies are trained on others."""
    max_steps: int = 120
    """Longest episode."""
    max_minutes: float | None = None
    """Stop beginning further episodes after this time and report those that are there."""
    rows: int = 2
    """Episodes at once."""
    horizon: int = 16
    """Actions of a plan."""
    execute: int = 4
    """Actions of a plan, or of the expert, that are carried out before the next look."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """How answers become a value."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Settings of gradient ascent."""
    out: Path = Path("outputs/policy_improvement")
    """Folder for the episodes' records; the same settings go on in it."""
    device: str = "cpu"
    """Torch device of the semantic world model."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Check the numbers and names."""
        if min(self.episodes, self.max_steps, self.rows) < 1:
            raise ValueError(
                f"episodes={self.episodes}, max_steps={self.max_steps} and rows={self.rows} must "
                "be at least 1"
            )
        if not 1 <= self.execute <= self.horizon or self.seed < 0:
            raise ValueError(
                f"horizon={self.horizon}, execute={self.execute}, seed={self.seed}; expected 1 to "
                "horizon actions to carry out, and a seed of 0 or more"
            )
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes={self.max_minutes}; expected more than 0, or None")
        if self.idql is not None and self.base == EXPERT:
            raise ValueError(f"idql={self.idql!r} stands over a saved policy; name it with base=")
        if not self.groups:
            raise ValueError(f"groups={self.groups}; expected some of {GROUPS}")
        check_device(self.device)

    def settings(self) -> dict[str, Any]:
        """What the records in `out` depend on, besides task, column, policy and seed."""
        free = ("base", "idql", "checkpoint", "groups", "episodes", "max_minutes", "rows", "out")
        free += ("device", "json")
        own = {key: part for key, part in asdict(self).items() if key not in free}
        return own | ({"expert": self.planning.settings()} if self.base == EXPERT else {})

    @property
    def planning(self) -> PlanningConfig:
        """The same plans from the expert's proposals, with the noise that is its default."""
        return PlanningConfig(
            self.checkpoint, max_steps=self.max_steps, horizon=self.horizon, execute=self.execute,
            value=self.value, gradient=self.gradient, device=self.device,
        )  # fmt: skip

    @property
    def columns(self) -> tuple[Column, ...]:
        """Who is tried."""
        return ("base", "planned") if self.idql is None else ("base", "idql", "planned")


Outcomes = dict[tuple[ImprovementTask, Column], list[EpisodeRecord]]


def measure_improvement(
    config: ImprovementConfig, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run the episodes that are missing and report on all that are there.

    Args:
        config: what to measure.
        say: told every line of the report.

    Returns:
        `rows`, by task and column a success rate with its interval; `improvements` over the base
        by group and column; settings and where they come from.

    Raises:
        CheckpointError: if the semantic model cannot be loaded.
        PolicyError: if a policy is not there, or does not understand a task's instruction.
        IncompatiblePolicyError: if one does not fit the simulator.
        ValueError: if `out` holds a run with other settings.
    """
    model = load_semantic_model(
        config.checkpoint, embedded=embedded_semantic_models().get(LANGTABLE.twin),
        env_id="--checkpoint embedded", device=config.device,
    )  # fmt: skip
    tasks = [task for task in TASKS if task.group in config.groups]
    if config.base != EXPERT:
        policy = open_policy(config.base, model.spec.action, model.spec.frame)
        for task in tasks:
            _check_understands(policy, task)
        if config.idql is not None:
            _check_same_base(config, model, policy)
    settings = config.settings() | {"weights_sha256": model.spec.weights_sha256}
    claim_folder(config.out, settings, ())
    clock = Clock(config.out / "seconds.json")
    with clock:
        outcomes = _run_rounds(config, model, tasks)
    rows, improvements = _success_rows(outcomes), _improvements(outcomes)
    for line in table(rows, improvements, config.columns):
        say(line)
    seeds = [config.seed, config.seed + config.episodes - 1]
    return {
        **measurement_header(seeds=seeds, duration_s=clock.total()),
        "model": model.spec.name,
        "policies": {"base": config.base, "idql": config.idql},
        "settings": settings,
        "rows": rows,
        "improvements": improvements,
    }


def _check_understands(policy: Policy, task: ImprovementTask) -> None:
    """Ask it once about a black picture, before anything runs."""
    frame = policy.frame_spec or LANGTABLE.frame
    black = np.zeros((1, frame.height, frame.width, 3), np.uint8)
    none = np.zeros(1, np.int64)
    history = np.zeros((1, policy.frame_history, *black.shape[1:]), np.uint8)
    try:
        policy.reset([0], [0], [task.instruction])
        policy.act(
            Observation(black, (task.instruction,), none, none, history if history.size else None)
        )
    except ValueError as error:
        raise PolicyError(
            f"a {policy.kind or type(policy).__name__} policy does not understand "
            f"{task.instruction!r} ({error}); leave out --groups {task.group}, or take --base "
            f"{EXPERT}"
        ) from error


def _check_same_base(config: ImprovementConfig, model: SemanticWorldModel, base: Policy) -> None:
    over = open_policy(str(config.idql), model.spec.action, model.spec.frame)
    if not isinstance(over, IDQLPolicy):
        raise PolicyError(f"--idql {config.idql} is a {over.kind!r} policy; expected 'idql'")
    mine, theirs = base.weights(), over.base.weights()
    if mine.keys() != theirs.keys() or any(not mine[n].equal(theirs[n]) for n in mine):
        raise PolicyError(
            f"--idql {config.idql} chooses among the samples of another policy than --base "
            f"{config.base}; name the one that it was trained over (`wm-gym train idql --policy`)"
        )


def _run_rounds(
    config: ImprovementConfig, model: SemanticWorldModel, tasks: list[ImprovementTask]
) -> Outcomes:
    """Round after round of a few seeds over every task and column, until the time is up."""
    began = time.monotonic()
    limit_s = float("inf") if config.max_minutes is None else 60 * config.max_minutes
    pairs: list[tuple[ImprovementTask, Column]] = [(t, c) for t in tasks for c in config.columns]
    found: Outcomes = {pair: [] for pair in pairs}
    size = BLOCK_ROUNDS * config.rows  # the runner keeps whole blocks of this many episodes
    simulators = {task.blocks: _simulators(config, model, task.blocks) for task in tasks}
    with tqdm(total=len(pairs) * config.episodes, unit="episode", mininterval=5) as bar:
        for upto in range(size, config.episodes + size, size):
            for task, column in pairs:
                results = _results_file(config, task, column)
                lines = results.read_bytes().count(b"\n") if results.exists() else 0
                count = max(min(upto, config.episodes), lines)
                if time.monotonic() - began >= limit_s:
                    count = lines // size * size if lines < config.episodes else lines
                if not count:
                    continue
                rows = simulators[task.blocks]
                records = run_policy(
                    rows, make_policy(config, model, rows, task, column),
                    [{"instruction": task.instruction}] * count,
                    range(config.seed, config.seed + count), config.max_steps,
                    results=results, progress=False,
                )  # fmt: skip
                bar.update(len(records) - len(found[task, column]))
                found[task, column] = records
    for rows in simulators.values():
        rows.close()
    return found


def _results_file(config: ImprovementConfig, task: ImprovementTask, column: Column) -> Path:
    """Filed under what acts, so that another policy's records are never taken for its own."""
    acting = config.idql if column == "idql" else config.base
    assert acting is not None
    if acting == EXPERT:
        return config.out / f"{task.name}-{column}-{EXPERT}.jsonl"
    digest = hashlib.sha256(policy_bytes(policy_file(acting))).hexdigest()
    return config.out / f"{task.name}-{column}-{digest[:12]}.jsonl"


def _simulators(config: ImprovementConfig, model: SemanticWorldModel, blocks: str) -> SimulatorRows:
    frame = model.spec.frame
    size = (frame.height, frame.width)
    return SimulatorRows.make(
        lambda: LangTableEnv(blocks=blocks, frame_size=size, horizon=config.max_steps),
        config.rows, model.spec.action, frame,
    )  # fmt: skip


def make_policy(
    config: ImprovementConfig,
    model: SemanticWorldModel,
    rows: SimulatorRows,
    task: ImprovementTask,
    column: Column,
) -> Policy:
    """Who acts: the base, IDQL, or a planner that starts from what the base proposes."""
    # the questions are made of words, which are those of all blocks
    spec = replace(model.spec, objects=parse_blocks(task.blocks))
    model = SemanticWorldModel(spec, model.network, model.tokenizer, model.folder)
    if config.base == EXPERT:
        asked = PlanningTask(task.name, task.group, (), task.instruction)
        method = "base" if column == "base" else "gradient"
        return make_expert_policy(config.planning, model, rows, asked, method)
    acting = config.idql if column == "idql" else config.base
    proposing = open_policy(str(acting), model.spec.action, model.spec.frame)
    if column != "planned":
        return proposing
    if isinstance(proposing, DiffusionPolicy):  # all that it predicts from the newest frame on
        sizes = proposing.network.config
        proposing.execute = sizes.horizon - sizes.observations + 1
    return PlannerPolicy(
        model,
        config.gradient,
        config.value,
        horizon=config.horizon,
        execute=config.execute,
        bases=[proposing],
    )


def _success_rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    rows = []
    for (task, column), records in outcomes.items():
        if not records:
            continue
        successes = sum(record.success for record in records)
        rate = wilson_interval(successes, len(records))
        rows.append(
            {
                "task": task.name,
                "group": task.group,
                "column": column,
                "episodes": len(records),
                "successes": successes,
                "success_rate": rate.estimate,
                "interval": [rate.low, rate.high],
                "errors": sum(record.error is not None for record in records),
                "mean_steps": float(np.mean([record.steps for record in records])),
                "paper": task.paper.get(column),
            }
        )
    return rows


def _improvements(outcomes: Outcomes) -> list[dict[str, Any]]:
    """What each column adds to the base, by group, from the seeds that both have."""
    pairs: dict[tuple[str, Column], list[tuple[np.ndarray, np.ndarray]]] = {}
    for (task, column), records in outcomes.items():
        base = outcomes[task, "base"]
        both = min(len(records), len(base))
        if column != "base" and both:
            pair = [np.array([r.success for r in some[:both]]) for some in (records, base)]
            pairs.setdefault((task.group, column), []).append((pair[0], pair[1]))
    rows = []
    for (group, column), found in pairs.items():
        gain = paired_difference([pair[0] for pair in found], [pair[1] for pair in found])
        rows.append(
            {
                "group": group,
                "column": column,
                "tasks": len(found),
                "episodes": sum(len(pair[0]) for pair in found),
                "points": 100 * gain.estimate,
                "interval": [100 * gain.low, 100 * gain.high],
            }
        )
    return rows


def table(
    rows: list[dict[str, Any]], improvements: list[dict[str, Any]], columns: tuple[Column, ...]
) -> list[str]:
    """The figures as lines of text, a task each."""
    lines = [f"{'success %, of episodes':32}" + "".join(f"{name:>26}" for name in columns)]
    by_task: dict[str, dict[str, str]] = {}
    for row in rows:
        low, high = (100 * value for value in row["interval"])
        errors = f", {row['errors']} errors" if row["errors"] else ""
        shown = f"{100 * row['success_rate']:.0f} [{low:.0f}, {high:.0f}] of {row['episodes']}"
        by_task.setdefault(row["task"], {})[row["column"]] = shown + errors
    for task, cells in by_task.items():
        lines.append(f"{task:32}" + "".join(f"{cells.get(name, '-'):>26}" for name in columns))
    for row in improvements:
        low, high = row["interval"]
        lines.append(
            f"{row['column']} over base, mean of {row['tasks']} {row['group']} tasks: "
            f"{row['points']:+.1f} points [{low:.1f}, {high:.1f}], "
            f"{row['episodes']} paired episodes"
        )
    return lines
