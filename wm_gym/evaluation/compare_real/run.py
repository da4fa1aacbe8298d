"""Imagined against true success: the same policies from the same starts, in the dream and its twin.

Every policy acts from every start in both worlds, with the same seeds. What is reported is whether
success in the dream predicts success in truth: Pearson, Spearman and the mean maximum rank
violation over policies, each with an interval that counts the choice of policies and episodes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.envs.twin import make_twin
from wm_gym.errors import UserError
from wm_gym.evaluation.compare_real.controls import NULL, findings, held_at_reset, null_report
from wm_gym.evaluation.compare_real.judge_episodes import judge_episodes
from wm_gym.evaluation.compare_real.policies import (
    EMBEDDED_POLICIES,
    EMBEDDED_TASKS,
    NamedPolicy,
    null_control,
    open_policies,
    warn_of_few,
)
from wm_gym.evaluation.compare_real.split import UnendingRows, describe_split, split_report
from wm_gym.evaluation.compare_real.summary import STATISTICS, Bootstrap, summarise
from wm_gym.evaluation.models import embedded_folder
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.evaluation.run_folder import Clock, claim_folder
from wm_gym.judges.registry import JudgeContext, judge_name, make_judge, read_judge_name
from wm_gym.policies.rows import EpisodeRows, SimulatorRows, VectorRows
from wm_gym.policies.runner import EpisodeRecord, run_policy
from wm_gym.run_lock import one_writer

if TYPE_CHECKING:
    from wm_gym.envs.start_states import StartStates
    from wm_gym.judges.verdicts import Judge


@dataclass(frozen=True)
class CompareRealConfig:
    """Compare success of policies in the dream with success in the simulator."""

    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    bad_checkpoint: str | None = None
    """A deliberately bad world model, e.g. an early checkpoint, to be measured beside it."""
    policies: tuple[str, ...] = ("embedded",)
    """Folders of saved policies, or module:Class of your own; embedded: those that ship."""
    noise: tuple[float, ...] = (0.0, 0.6)
    """Action noise levels of each policy, as fractions of half the action range."""
    without_noise: tuple[str, ...] = ()
    """More policies, tried without noise only, e.g. planners, which take long."""
    tasks: tuple[str, ...] = ()
    """Tasks; by default those that the policies that ship for this id were trained for, or all of
    the card's."""
    starts: int = 50
    """Start states per task, the same for all policies and both worlds."""
    max_steps: int = 60
    """Longest episode, in both worlds."""
    rows: int = 16
    """Episodes at once."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    cache: str = "auto"
    """Cache mode of the rollouts: auto, off, exact or rolling."""
    judge: str | None = None
    """Judge of the imagined episodes (docs/judges.md), asked after they have run to their end;
    the success classifier, which ends them, by default."""
    judge_recorded: bool = False
    """Let the judge see the simulator's episodes too, so that its own error can be told from the
    dream's: they are run once more, to `max_steps`, and recorded."""
    device: str = "cpu"
    """Torch device."""
    seed: int = 0
    """Seed of episodes, policies and resampling; episode i has seed + i."""
    null_control: bool = True
    """Also run a policy that does nothing, in both worlds; it is reported apart."""
    resamples: int = 2000
    """Bootstrap resamples."""
    out: Path = Path("outputs/compare_real")
    """Folder for the episodes' records, the plot and the report; the same settings go on in it."""
    true_records: Path | None = None
    """Folder of the true episodes, to share them between world models; out/true by default."""
    json: Path | None = None
    """Another place for the report; out/imagined_vs_real_<domain>.json by default."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if not self.noise or not all(level >= 0 for level in self.noise):
            raise UserError(f"noise={self.noise}; expected levels of 0 or more")
        if min(self.starts, self.max_steps, self.rows, self.resamples) < 1 or self.seed < 0:
            raise UserError(
                f"starts={self.starts}, max_steps={self.max_steps}, rows={self.rows}, "
                f"resamples={self.resamples}, seed={self.seed}; expected at least 1 each, and a "
                "seed of 0 or more"
            )
        if len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"tasks={self.tasks}; expected each task once")
        if self.judge is not None:
            read_judge_name(self.judge)


@dataclass(frozen=True)
class Starts:
    """The K·N starts that all share: options of `reset` by task, and their seeds."""

    by_task: dict[str, list[dict[str, Any]]]
    seeds: list[int]


def compare_real(config: CompareRealConfig) -> dict[str, Any]:
    """Run the comparison, or finish one that was interrupted.

    Args:
        config: what to compare.

    Returns:
        The report, which is also written as JSON beside a scatter plot.

    Raises:
        PolicyError: if a policy is not there or is none.
        IncompatiblePolicyError: if one does not fit the world model; nothing has run then.
        ValueError: if there are too few start states.
        RunSettingsError: if `out` holds a run with other settings.
        InUseError: if another process writes to `out` or to its true records.
    """
    with one_writer(config.out):
        return _compare_real(config)


def _compare_real(config: CompareRealConfig) -> dict[str, Any]:
    from wm_gym.evaluation.compare_real.figures import draw_comparison

    embedded_folder(config.id)  # refuses what is no world model in words that name its kind
    dream = open_dream(config, config.checkpoint)
    if not config.tasks:
        folder = EMBEDDED_POLICIES.get(config.id, "")
        tasks = EMBEDDED_TASKS.get(folder) or tuple(dream.card.tasks)
        config = replace(config, tasks=tasks)
    chosen = [(config.policies, config.noise), (config.without_noise, (0.0,))]
    policies = open_policies(chosen, config.id, dream.card.action, dream.card.frame)
    warn_of_few(len(policies), config.starts)
    stored = dream.engine.starts.stored
    starts = choose_starts(config, stored, dream.engine.starts.instructions)
    bad = None if config.bad_checkpoint is None else open_dream(config, config.bad_checkpoint)
    claim_folder(config.out, _settings(config, dream, bad), policies)
    true_folder = config.true_records or config.out / "true"
    claim_folder(true_folder, _true_settings(config, starts, dream), policies)
    clock = Clock(config.out / "seconds.json")
    twins = [make_twin(dream) for _ in range(config.rows)]
    spec = dream.card
    true_rows = SimulatorRows(twins, spec.action, spec.frame)
    acting = [*policies, null_control(spec)] if config.null_control else policies
    true = run_cells(config, true_rows, acting, starts, "true", clock, true_folder)
    recorded = None
    if config.judge_recorded:
        recorded = judge_recorded(config, dream, true_rows, policies, starts, clock)
    true_rows.close()
    imagined = run_dream(config, dream, acting, starts, "imagined", clock)
    held, null = held_at_reset(true), None
    if config.null_control:
        null = null_report(imagined.pop(), true.pop(), held)
    domain = spec.name.split("-")[0]
    bootstrap = Bootstrap(config.resamples, config.seed)
    report: dict[str, Any] = {
        "domain": domain,
        "world_model": _describe(dream, config.checkpoint),
        "max_steps": config.max_steps,
        "starts_per_task": config.starts,
        "judge": config.judge or "classifier",
        **summarise(policies, config.tasks, imagined, true, held, bootstrap),
        "starts_held_at_reset": [
            options["start"]
            for of_task, row in zip(starts.by_task.values(), held, strict=True)
            for options, holds in zip(of_task, row, strict=True)
            if holds
        ],
        "null_control": null,
        "undermined_by": findings([entry.name for entry in policies], imagined, true, held, null),
    }
    if recorded is not None:
        report["split"] = split_report(policies, imagined, recorded, true, bootstrap)
    if bad is not None and config.bad_checkpoint is not None:
        bad.engine.starts.stored = bad.engine.starts.stored or stored
        records = run_dream(config, bad, policies, starts, "imagined_bad", clock)
        report["bad_world_model"] = {
            "world_model": _describe(bad, config.bad_checkpoint),
            **summarise(policies, config.tasks, records, true, held, bootstrap),
        }
    header = measurement_header(seeds=starts.seeds, duration_s=clock.total())
    report = {**header, **report}
    name = f"imagined_vs_real_{domain}"
    draw_comparison(report, config.out / f"{name}.png")
    path = write_json(config.json or config.out / f"{name}.json", report)
    _tell(report, path, config.out / f"{name}.png")
    return report


def open_dream(config: CompareRealConfig, checkpoint: str) -> WorldModelVectorEnv:
    """The world model's vector environment, as the runner wants it."""
    return WorldModelVectorEnv(
        config.rows,
        config.id,
        autoreset_mode="Disabled",
        checkpoint=checkpoint,
        cache=config.cache,
        denoising_steps=config.denoising_steps,
        device=config.device,
        horizon=config.max_steps,
        reward="classifier" if config.judge is None else "none",
    )


def choose_starts(
    config: CompareRealConfig, stored: StartStates | None, instructions: Any
) -> Starts:
    """The first `config.starts` stored starts of every task.

    Raises:
        ValueError: if there is no such task, or there are not so many.
    """
    by_task: dict[str, list[dict[str, Any]]] = {}
    for task in config.tasks:
        if task not in instructions.templates:
            raise UserError(
                f"task {task!r} is unknown to {config.id}; --tasks takes some of "
                f"{', '.join(instructions.templates)}"
            )
        names = [] if stored is None else stored.names
        texts = [] if stored is None else stored.instructions
        of_task = [
            name
            for name, text in zip(names, texts, strict=True)
            if instructions.parse(text).task == task
        ]
        if len(of_task) < config.starts:
            raise UserError(
                f"{config.checkpoint} stores {len(of_task)} start states of task {task!r}, "
                f"expected at least {config.starts}: make more with `wm-gym make-start-states "
                f"--count {config.starts}`, or ask for fewer with --starts"
            )
        by_task[task] = [{"start": name} for name in of_task[: config.starts]]
    return Starts(by_task, [config.seed + k for k in range(config.starts)])


def run_cells(
    config: CompareRealConfig,
    rows: EpisodeRows,
    policies: Sequence[NamedPolicy],
    starts: Starts,
    world: str,
    clock: Clock,
    folder: Path | None = None,
    judge: Judge | None = None,
) -> list[list[list[EpisodeRecord]]]:
    """Episodes of one world, policies × tasks × starts, from files where they are there already.

    With a judge, their frames are kept and success is its word.
    """
    table, folder = [], folder or config.out / world
    for entry in policies:
        table.append([])
        for task, options in starts.by_task.items():
            results = folder / f"{entry.name.replace(' ', '_')}-{task}.jsonl"
            with clock:
                records = run_policy(
                    rows,
                    entry.policy,
                    options,
                    starts.seeds,
                    config.max_steps,
                    results=results,
                    description=f"{world}, {entry.name}, {task}",
                    recordings=None if judge is None else results.with_suffix(""),
                )
                if judge is not None:
                    asked = re.sub(r"[^\w.=-]+", "_", config.judge or judge.name)
                    verdicts = results.with_suffix(f".{asked}.json")  # with its parameters
                    recordings = results.with_suffix("")
                    records = judge_episodes(records, recordings, judge, verdicts)
            table[-1].append(records)
    return table


def run_dream(
    config: CompareRealConfig,
    dream: WorldModelVectorEnv,
    policies: Sequence[NamedPolicy],
    starts: Starts,
    world: str,
    clock: Clock,
) -> list[list[list[EpisodeRecord]]]:
    """Imagined episodes; those for a judge have a folder of their own, which judges share."""
    if config.judge is None:
        return run_cells(config, VectorRows(dream), policies, starts, world, clock)
    context = JudgeContext(lambda: dream.engine.model, device=config.device)
    judge, world = make_judge(config.judge, context), f"{world}_to_judge"
    return run_cells(config, VectorRows(dream), policies, starts, world, clock, judge=judge)


def judge_recorded(
    config: CompareRealConfig,
    dream: WorldModelVectorEnv,
    rows: EpisodeRows,
    policies: Sequence[NamedPolicy],
    starts: Starts,
    clock: Clock,
) -> list[list[list[EpisodeRecord]]]:
    """The simulator's episodes as the judge sees them, the classifier in any of their frames."""
    context = JudgeContext(lambda: dream.engine.model, device=config.device)
    judge = make_judge(config.judge or judge_name("classifier", every_frame=True), context)
    unending = UnendingRows(rows, config.max_steps)
    return run_cells(config, unending, policies, starts, "true_to_judge", clock, judge=judge)


def _describe(dream: WorldModelVectorEnv, checkpoint: str) -> dict[str, Any]:
    spec, model = dream.card, dream.engine.model
    return {
        "name": spec.name,
        "checkpoint": checkpoint,
        "denoising_steps": model.denoising_steps,
        "weights_sha256": spec.weights_sha256,
    }


def _settings(
    config: CompareRealConfig, dream: WorldModelVectorEnv, bad: WorldModelVectorEnv | None
) -> dict[str, Any]:
    """What imagined episodes depend on, policies apart."""
    settings = json.loads(json.dumps(asdict(config), default=str))
    unrelated = (
        "out",
        "json",
        "resamples",
        "device",
        "policies",
        "noise",
        "without_noise",
        "true_records",
        "judge",
        "judge_recorded",
        "null_control",
    )
    for name in unrelated:
        del settings[name]
    if bad is not None:
        settings["bad_weights_sha256"] = bad.card.weights_sha256
    # what ends an episode stands in the card, not in a weights file
    reward = dream.card.reward
    rule = None if reward is None else [reward.window, reward.threshold, reward.episode_threshold]
    return settings | {"weights_sha256": dream.card.weights_sha256, "success_rule": rule}


def _true_settings(
    config: CompareRealConfig, starts: Starts, dream: WorldModelVectorEnv
) -> dict[str, Any]:
    """What true episodes depend on, policies apart: no world model."""
    stored = dream.engine.starts.stored
    assert stored is not None  # choose_starts found starts in it
    names = [options["start"] for of_task in starts.by_task.values() for options in of_task]
    chosen = [(name, stored.states[stored.index(name)]) for name in names]
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()
    return {
        "tasks": list(config.tasks),
        "starts": config.starts,
        "max_steps": config.max_steps,
        "seed": config.seed,
        "start_states_sha256": digest,
        "frame": [dream.card.frame.height, dream.card.frame.width],
    }


def _tell(report: dict[str, Any], path: Path, plot: Path) -> None:
    for entry in report["policies"]:
        print(
            f"{entry['name']:28s} imagined {entry['imagined_success_rate']:.2f}   "
            f"true {entry['true_success_rate']:.2f}   ({entry['true_episodes']} episodes each)"
            + "".join(
                f", {entry[f'{world}_errors']} {world} ones with an error count as failures"
                for world in ("imagined", "true")
                if entry[f"{world}_errors"]
            )
        )
    for block, label in ((report, "world model"), (report.get("bad_world_model"), "bad model")):
        if block is None:
            continue
        figures = ", ".join(
            f"{name} {block[name]:.3f} [{block[f'{name}_interval'][0]:.3f}, "
            f"{block[f'{name}_interval'][1]:.3f}]"
            for name in STATISTICS
        )
        print(f"{label}: {figures}")
    if "split" in report:
        print(describe_split(report["split"]))
    if (null := report["null_control"]) is not None:
        print(
            f"{NULL:28s} imagined {null['imagined_success_rate']:.2f}   "
            f"true {null['true_success_rate']:.2f}   (a control, in no figure above)"
        )
    for finding in report["undermined_by"]:
        print(f"undermined: {finding}")
    print(f"report {path}\nplot   {plot}")
