"""`wm-gym evaluate semantic`: how often a semantic world model answers right, and where it errs.

Questions are drawn in balance over types and answers from held-out episodes; "yes" counts as said
where it is likelier than "no". Controls blind the model to what it should need: to the actions (no
motion, or those of another episode) and to the image (a grey one); stronger ones were trained blind
(`wm-gym train semantic --blind`), so they guess as well as can be guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.checkpoints import Checkpoint
from wm_gym.devices import check_device
from wm_gym.errors import UserError
from wm_gym.evaluation.output_files import check_file, check_picture
from wm_gym.evaluation.reliability import calibration_error, plot_reliability, reliability
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.metrics.statistics import paired_difference, wilson_interval
from wm_gym.semantic.world_model import SemanticWorldModel, load_semantic_model
from wm_gym.training.saqa import Blind, Group, Phrasings, QABatch, SAQADataset, draw_wording

Control = Literal["none", "no_actions", "other_actions", "no_image"]
CONTROLS: tuple[Control, ...] = ("no_actions", "other_actions", "no_image")
HORIZON_BINS = ((0, 0), (1, 5), (6, 10), (11, 15), (16, 20))


@dataclass(frozen=True)
class EvaluateSemanticConfig:
    """Measure the answers of a semantic world model on held-out episodes."""

    checkpoint: str
    """Semantic checkpoint: a folder, or hf://org/repo@revision."""
    qa: Path
    """Folder of questions about held-out episodes, made by `wm-gym collect-qa`."""
    qa_ood: Path | None = None
    """The same with blocks that were not trained on."""
    blind_trained: tuple[str, ...] = ()
    """Controls that were trained blind: checkpoints of `wm-gym train semantic --blind`."""
    group: Group | None = "expert"
    """Whose episodes: the paper evaluates on the expert's. None takes all."""
    frames: int = 500
    """Frames; every one gets `questions` questions."""
    questions: int = 8
    """Questions about each frame."""
    batch: int = 25
    """Frames at once."""
    seed: int = 0
    """Seed of the sample."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the figures."""
    plot: Path | None = None
    """File for the reliability plot, e.g. reliability.png."""
    write_card: bool = False
    """Also write the figures into the checkpoint's card.json."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.questions < 1 or min(self.frames, self.batch) < 2:
            raise UserError(
                f"questions={self.questions} must be at least 1, and frames={self.frames} and "
                f"batch={self.batch} at least 2: a control gives a frame the actions of another "
                "one in its batch"
            )
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must be at least 0")


@dataclass(frozen=True)
class Answered:
    """Questions and what the model said, each (n,).

    Attributes:
        yes: the truth.
        said: whether "yes" was likelier than "no".
        p_yes: p("yes") / (p("yes") + p("no")).
        mass: p("yes") + p("no"), how much of the whole vocabulary's probability is an answer.
        slack: the predicate's value in ambiguity margins.
        types: number of the question's type.
        horizons: actions ahead.
    """

    yes: np.ndarray
    said: np.ndarray
    p_yes: np.ndarray
    mass: np.ndarray
    slack: np.ndarray
    types: np.ndarray
    horizons: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each answer is right."""
        return self.yes == self.said


def answer_questions(
    model: SemanticWorldModel,
    saqa: SAQADataset,
    config: EvaluateSemanticConfig,
    *,
    control: Control = "none",
    phrasings: Phrasings = "trained",
) -> Answered:
    """Ask the same sample of questions, for any control and wording.

    Args:
        model: the model.
        saqa: the questions.
        config: size and seed of the sample.
        control: what the model is blinded to, besides what it was trained blind to.
        phrasings: trained or untrained ones.

    Raises:
        ValueError: if questions look farther ahead than the model was trained to.
    """
    rng = np.random.default_rng([config.seed, 2])
    rows = saqa.sampler(config.group).draw(config.frames, config.questions, rng)
    wording = draw_wording(rows.shape, rng, phrasings)
    trained = trained_blind(model)
    batches, answers = [], []
    parts = batch_slices(len(rows), config.batch)
    for part in tqdm(parts, desc=f"{phrasings}, {control}", mininterval=5, leave=False):
        batch = blinded(saqa.batch(rows[part], wording[part]).blinded(trained), control)
        asked = model.ask(*batch.questions)
        with torch.inference_mode():
            view = model.look(torch.from_numpy(batch.frames))
            found = view.probabilities(torch.from_numpy(batch.actions), asked)
        batches.append(batch)
        answers.append(found.cpu().numpy())
    p = np.concatenate(answers).reshape(-1, 2)
    mass = p.sum(1)
    columns = {
        name: np.concatenate([getattr(b, name) for b in batches]).ravel()
        for name in ("yes", "slack", "types", "horizons")
    }
    return Answered(said=p[:, 0] > p[:, 1], p_yes=p[:, 0] / mass, mass=mass, **columns)


def batch_slices(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows; a last row alone joins those before it, see `blinded`."""
    starts = list(range(0, rows, size))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    return [slice(*ends) for ends in zip(starts, [*starts[1:], rows], strict=True)]


def trained_blind(model: SemanticWorldModel) -> Blind:
    """What a model's card says that it was trained without."""
    return model.spec.blind


def blinded(batch: QABatch, control: Control) -> QABatch:
    """The batch without what a control takes away; other actions are those of its row before."""
    if control == "no_actions":
        return batch.blinded("actions")
    if control == "other_actions":
        return replace(batch, actions=np.roll(batch.actions, 1, axis=0))
    if control == "no_image":
        return batch.blinded("image")
    return batch


def _blind_models(config: EvaluateSemanticConfig) -> dict[str, SemanticWorldModel]:
    """Models that were trained blind, by the name of the control.

    Raises:
        ValueError: if one of them is not, or two are blind to the same.
    """
    found: dict[str, SemanticWorldModel] = {}
    for checkpoint in config.blind_trained:
        model = load_semantic_model(checkpoint, device=config.device)
        name = f"trained_without_{trained_blind(model)}"
        if trained_blind(model) == "none":
            raise UserError(
                f"blind_trained={checkpoint!r} was not trained blind, as its card says; train a "
                "control with `wm-gym train semantic --blind image`, or actions"
            )
        if name in found:
            raise UserError(f"blind_trained names two checkpoints {name}; give one of each kind")
        found[name] = model
    return found


def _check_questions(
    saqa: SAQADataset, models: Sequence[SemanticWorldModel], group: Group | None
) -> None:
    """Refuse questions that some model cannot be asked, before any is asked anything.

    Raises:
        QAError: if there are none about the group's episodes.
        ValueError: if they are about another simulator, or look farther ahead than a model was
            trained to.
    """
    farthest = int(saqa.records["horizon"][saqa.sampler(group).order].max())
    for model in models:
        if model.spec.twin not in (None, saqa.simulator):
            raise UserError(
                f"{saqa.folder} asks about {saqa.simulator}, and {model.spec.name} is a model of "
                f"{model.spec.twin}; give questions about that"
            )
        if farthest > model.spec.horizon:
            raise UserError(
                f"{saqa.folder} asks about {farthest} actions ahead, and {model.spec.name} was "
                f"trained with 0 to {model.spec.horizon}; collect questions with `wm-gym "
                f"collect-qa --max-horizon {model.spec.horizon}`"
            )


def accuracy(answered: Answered, chosen: np.ndarray | None = None) -> dict[str, Any]:
    """Accuracy with its Wilson interval over some of the questions, `chosen` a mask (n,)."""
    right = answered.right if chosen is None else answered.right[chosen]
    found = wilson_interval(int(right.sum()), len(right))
    return {
        "accuracy": found.estimate,
        "low": found.low,
        "high": found.high,
        "questions": len(right),
    }


def points_above(answered: Answered, without: Answered) -> dict[str, float]:
    """By how many points a model is above a control on the same questions, with an interval."""
    found = paired_difference([answered.right], [without.right], resamples=1000)
    return {"points": 100 * found.estimate, "low": 100 * found.low, "high": 100 * found.high}


def describe_answers(answered: Answered, kinds: list[str]) -> dict[str, Any]:
    """Accuracy in all, by type, horizon and ambiguity, and calibration."""
    clear = np.abs(answered.slack) >= 1
    bins = HORIZON_BINS
    farthest, last = int(answered.horizons.max()), bins[-1][1]
    if farthest > last:
        bins = (*bins, (last + 1, farthest))
    horizons = {
        f"{low}-{high}" if high > low else str(low): (answered.horizons >= low)
        & (answered.horizons <= high)
        for low, high in bins
    }
    return {
        **accuracy(answered),
        "by_type": {
            kind: accuracy(answered, answered.types == number) for number, kind in enumerate(kinds)
        },
        "by_horizon": {name: accuracy(answered, mask) for name, mask in horizons.items()},
        "clear": accuracy(answered, clear),
        "ambiguous": accuracy(answered, ~clear),
        "calibration": {
            "ece": calibration_error(answered.p_yes, answered.yes),
            "answer_mass_mean": float(answered.mass.mean()),
            "reliability": reliability(answered.p_yes, answered.yes),
        },
    }


def evaluate_semantic(config: EvaluateSemanticConfig) -> dict[str, Any]:
    """Run `wm-gym evaluate semantic`: measure, print and write.

    Returns:
        What `--json` writes; `future_qa` holds the figures.

    Raises:
        CheckpointError: if the model cannot be loaded.
        QAError: if the questions cannot be read.
        ValueError: if the questions cannot be asked or the files not be written.
    """
    check_device(config.device)
    check_file("json", config.json)
    check_picture("plot", config.plot)
    folders = {"in_distribution": config.qa, "out_of_distribution": config.qa_ood}
    asked = {name: SAQADataset(folder) for name, folder in folders.items() if folder is not None}
    model = load_semantic_model(config.checkpoint, device=config.device)
    blind = _blind_models(config)
    for name, saqa in asked.items():
        models = (model, *blind.values()) if name == "in_distribution" else (model,)
        _check_questions(saqa, models, config.group)
    report: dict[str, Any] = {"group": config.group or "all"}
    for name, saqa in asked.items():
        kinds = [kind.name for kind in saqa.kinds]
        answered = answer_questions(model, saqa, config)
        report[name] = describe_answers(answered, kinds)
        reworded = answer_questions(model, saqa, config, phrasings="untrained")
        report[name]["untrained_phrasings"] = accuracy(reworded)
        if name == "in_distribution":
            report["by_type"] = report[name]["by_type"]
            blinded_answers = {
                control: answer_questions(model, saqa, config, control=control)
                for control in CONTROLS
            } | {name: answer_questions(other, saqa, config) for name, other in blind.items()}
            report["controls"] = {
                name: {**accuracy(without), "model_above": points_above(answered, without)}
                for name, without in blinded_answers.items()
            }
            if config.plot is not None:
                rows = report[name]["calibration"]["reliability"]
                plot_reliability({name: rows}, config.plot, '"yes"')
    print("\n".join(table(model.spec.name, report)))
    header = measurement_header(seeds=config.seed)
    content = {**header, "model": model.spec.name, "future_qa": report}
    if config.json is not None:
        write_json(config.json, content)
    if config.write_card:
        assert model.folder is not None
        write_metric(Checkpoint.open_semantic(model.folder), "future_qa", report, header)
    return content


def table(name: str, report: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""

    def line(label: str, row: dict[str, Any]) -> str:
        if not row["questions"]:
            return f"  {label:28} no questions"
        interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        return f"  {label:28} {100 * row['accuracy']:5.1f} % {interval:14} of {row['questions']}"

    lines = [f"{name}: answers about the future, {report['group']} episodes"]
    for part in ("in_distribution", "out_of_distribution"):
        if part not in report:
            continue
        rows = report[part]
        lines.append(line(part.replace("_", " "), rows))
        for label in ("clear", "ambiguous", "untrained_phrasings"):
            lines.append(line(f"  {label.replace('_', ' ')}", rows[label]))
        lines += [line(f"  {kind}", row) for kind, row in rows["by_type"].items()]
        lines += [line(f"  horizon {n}", row) for n, row in rows["by_horizon"].items()]
        lines.append(f"    calibration error {rows['calibration']['ece']:.3f}")
    for name, row in report.get("controls", {}).items():
        above = row["model_above"]
        lines.append(
            f"{line(f'control: {name}', row)}; the model {above['points']:+.1f} points "
            f"[{above['low']:.1f}, {above['high']:.1f}]"
        )
    return lines
