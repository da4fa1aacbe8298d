"""`wm-gym calibrate-semantic`: above which probability an answer counts as given.

Subgoals, environments and rewards end when every desired answer about the present is likelier than
the card's `answer_threshold`. Here it is chosen by the simulator's own success on held-out
episodes: frames in which a goal is reached and frames in which it is not, in equal numbers, for
every task. Half of the episodes choose the threshold, the other half say how good it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.devices import check_device
from wm_gym.envs.sims.predicates import success_predicate
from wm_gym.errors import UserError
from wm_gym.evaluation.output_files import check_file
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.evaluation.semantic.exact_answers import holds_exactly
from wm_gym.instructions import Goal, InstructionSet
from wm_gym.judges.semantic import SemanticJudge
from wm_gym.metrics.statistics import balanced_accuracy, wilson_interval
from wm_gym.semantic.tasks import semantic_task
from wm_gym.semantic.world_model import load_semantic_model
from wm_gym.training.saqa import objects_of, simulator_of_start


@dataclass(frozen=True)
class CalibrateSemanticConfig:
    """Choose the probability above which a semantic world model's answers count."""

    checkpoint: str
    """Semantic checkpoint: a folder, or hf://org/repo@revision."""
    data: Path
    """Folder of held-out episodes, made by `wm-gym collect --held-out --seed 6000`."""
    per_task: int = 200
    """Frames with and frames without success, each, per task."""
    batch: int = 50
    """Frames at once."""
    seed: int = 0
    """Seed of the sample."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write threshold and figures into the checkpoint's card.json."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.per_task, self.batch) < 1 or self.seed < 0:
            raise UserError(
                f"per_task={self.per_task} and batch={self.batch} must be at least 1, and "
                f"seed={self.seed} at least 0"
            )


@dataclass(frozen=True)
class Case:
    """A frame, a goal, and whether the simulator says that it is reached.

    Attributes:
        episode: number of the episode.
        frame: number of its state.
        goal: what is asked about.
        success: the truth.
        exact: whether the simulator gives the answers that end the task; what a model that is
            always right would say.
    """

    episode: int
    frame: int
    goal: Goal
    success: bool
    exact: bool


def choose_cases(
    data: EpisodeDataset, twin: str | None, tasks: dict[str, str], config: CalibrateSemanticConfig
) -> list[Case]:
    """Frames with and without success, `per_task` each for every task, from random episodes.

    Raises:
        ValueError: if the episodes show no success, or no failure, at some task.
    """
    rng = np.random.default_rng([config.seed, 3])
    states = [(e, f) for e, length in enumerate(data.lengths) for f in range(length + 1)]
    found: list[Case] = []
    for task, template in tasks.items():
        slots = 2 if "{second" in template else 1
        kept: dict[bool, list[Case]] = {True: [], False: []}
        for place in rng.permutation(len(states)):
            if all(len(cases) >= config.per_task for cases in kept.values()):
                break
            episode, frame = states[place]
            objects = objects_of(data[episode].start_state)
            instructions = InstructionSet(tasks, objects)
            reached = success_predicate(twin, objects)
            state = data.labels(episode)[0][frame]
            goals = [Goal(task, chosen) for chosen in permutations(objects, slots)]
            truth = np.array([reached(state, instructions.render(goal)) for goal in goals])
            for success, cases in kept.items():  # at most one of each from a frame
                fitting = np.flatnonzero(truth == success)
                if len(fitting) and len(cases) < config.per_task:
                    goal = goals[int(rng.choice(fitting))]
                    done = semantic_task(twin, task, goal.objects).subgoals[-1].done
                    exact = holds_exactly(done, state[None], objects, str(twin))
                    cases.append(Case(episode, frame, goal, success, bool(exact[0])))
        for success, cases in kept.items():
            if not cases:
                raise UserError(
                    f"the episodes show no {'success' if success else 'failure'} at task {task!r}; "
                    "collect more of them, of all behaviours"
                )
        found += kept[True] + kept[False]
    return found


def best_threshold(score: np.ndarray, success: np.ndarray, task: np.ndarray) -> float:
    """The threshold with the best mean over tasks of the balanced accuracy.

    Args:
        score: probability of the least likely desired answer, (N,).
        success: the truth, bool (N,).
        task: name of each case's task, (N,).

    Returns:
        The middle between the two scores that bound the best place, so that none lies on it.
    """
    ordered = np.unique(np.concatenate([[0.0], score, [1.0]]))
    places = 0.5 * (ordered[1:] + ordered[:-1])
    names = np.unique(task)
    quality = [
        np.mean([balanced_accuracy(score[task == n] > place, success[task == n]) for n in names])
        for place in places
    ]
    return float(places[int(np.argmax(quality))])


def calibrate_semantic(config: CalibrateSemanticConfig) -> dict[str, Any]:
    """Run `wm-gym calibrate-semantic`: choose, measure, print and write.

    Returns:
        What `--json` writes; `answer_threshold` holds the threshold, the one before, and under
        `by_task` what both give on the other half of the episodes, beside `exact_answers`, the
        balanced accuracy of a model that is always right: what is missing to 1 there is the
        questions', not the model's.

    Raises:
        CheckpointError: if the model cannot be loaded.
        EpisodeError: if the episodes cannot be read.
        ValueError: if half of them shows no success or no failure at a task, they are of another
            simulator than the model, or the figures cannot be written.
    """
    check_device(config.device)
    check_file("json", config.json)
    data = EpisodeDataset(config.data)
    model = load_semantic_model(config.checkpoint, device=config.device)
    simulator = simulator_of_start(data[0].start_state)
    if model.spec.twin not in (None, simulator):
        raise UserError(
            f"{config.data} holds episodes of {simulator}, and {model.spec.name} is a model of "
            f"{model.spec.twin}; give episodes of that"
        )
    judge = SemanticJudge(model)
    cases = choose_cases(data, model.spec.twin, model.spec.tasks, config)
    scores = []
    for start in tqdm(range(0, len(cases), config.batch), desc="asking", mininterval=5):
        part = cases[start : start + config.batch]
        frames = [data.frames(case.episode, slice(case.frame, case.frame + 1))[0] for case in part]
        scores += [answer.score for answer in judge.answers(frames, [case.goal for case in part])]
    score, success = np.array(scores), np.array([case.success for case in cases])
    task = np.array([case.goal.task for case in cases])
    exact = np.array([case.exact for case in cases])
    fitted = np.array([case.episode % 2 == 0 for case in cases])
    _check_halves(fitted, task, success)
    threshold = best_threshold(score[fitted], success[fitted], task[fitted])
    before = model.spec.answer_threshold
    report = {"threshold": threshold, "threshold_before": before, "by_task": {}}
    for name in model.spec.tasks:
        kept = ~fitted & (task == name)
        report["by_task"][name] = {
            "frames": int(kept.sum()),
            "balanced_accuracy": balanced_accuracy(score[kept] > threshold, success[kept]),
            "balanced_accuracy_before": balanced_accuracy(score[kept] > before, success[kept]),
            "exact_answers": balanced_accuracy(exact[kept], success[kept]),
            "false_negatives": rate(score[kept & success] <= threshold),
            "false_positives": rate(score[kept & ~success] > threshold),
        }
    print("\n".join(table(model.spec.name, report)))
    header = measurement_header(seeds=config.seed)
    content = {**header, "model": model.spec.name, "answer_threshold": report}
    if config.json is not None:
        write_json(config.json, content)
    if config.write_card:
        assert model.folder is not None
        opened = Checkpoint.open_semantic(model.folder)
        write_metric(opened, "answer_threshold", report, header, answer_threshold=threshold)
    return content


def _check_halves(fitted: np.ndarray, task: np.ndarray, success: np.ndarray) -> None:
    """Refuse a sample in which a half of the episodes misses an answer to some task."""
    for name in np.unique(task):
        for half in (fitted, ~fitted):
            found = success[half & (task == name)]
            if found.all() or not found.any():  # also where there are none at all
                raise UserError(
                    f"task {name!r} needs successes and failures in both halves of the episodes; "
                    "raise per_task, or collect more episodes"
                )


def rate(wrong: np.ndarray) -> dict[str, Any]:
    """How often, with its Wilson interval."""
    found = wilson_interval(int(wrong.sum()), len(wrong))
    return {"rate": found.estimate, "low": found.low, "high": found.high, "frames": len(wrong)}


def table(name: str, report: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""
    lines = [
        f"{name}: an answer counts above {report['threshold']:.3f} (before: "
        f"{report['threshold_before']:.3f}); on the other half of the episodes"
    ]
    for task, row in report["by_task"].items():
        lines.append(
            f"  {task:12} balanced accuracy {100 * row['balanced_accuracy']:5.1f} % (before: "
            f"{100 * row['balanced_accuracy_before']:.1f} %, by exact answers "
            f"{100 * row['exact_answers']:.1f} %), successes missed "
            f"{100 * row['false_negatives']['rate']:.1f} %, failures taken for successes "
            f"{100 * row['false_positives']['rate']:.1f} %, of {row['frames']}"
        )
    return lines
