"""`wm-gym label-questions`: a VLM answers questions about recorded episodes.

Its answers are held against the simulator's before anything is trained on such labels.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wm_gym.chat.choice import ChatChoice
from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError
from wm_gym.evaluation.output_files import check_file, check_folder
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.judges.language import enlarged
from wm_gym.metrics.statistics import wilson_interval
from wm_gym.run_lock import one_writer
from wm_gym.run_settings import RunSettingsError, check_run_settings, read_run_settings
from wm_gym.semantic.labelling import Label, Unlabelled, label_questions
from wm_gym.training.saqa import SAQADataset, draw_wording

LABELS, SETTINGS = "labels.jsonl", "settings.json"


@dataclass(frozen=True)
class LabelQuestionsConfig:
    """Let a vision-language model answer questions, and count how often it is right."""

    qa: Path
    """Folder of questions, made by `wm-gym collect-qa`."""
    out: Path
    """Folder for the labels; those that are there are kept, failures are asked again."""
    chat: ChatChoice
    """Who is asked."""
    frames: int = 100
    """Frames; every one gets `questions` questions."""
    questions: int = 4
    """Questions about each frame, balanced over types and answers."""
    samples: int = 5
    """Answers asked for each question; the majority counts."""
    temperature: float = 0.7
    """Of the sampling; 0 with one sample."""
    side: int = 448
    """Pictures whose shorter side is smaller are enlarged to this many pixels; 0 leaves them."""
    seed: int = 0
    """Seed of the sample and of the answers."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Check the numbers before anything is asked."""
        if min(self.frames, self.questions, self.samples) < 1 or self.side < 0:
            raise UserError(
                f"frames={self.frames}, questions={self.questions} and samples={self.samples} must "
                f"be at least 1, and side={self.side} at least 0"
            )
        if not 0 <= self.seed < 2**63 or not 0 <= self.temperature < math.inf:
            raise UserError(
                f"seed={self.seed} and temperature={self.temperature}; expected a seed from 0 to "
                "2**63 - 1, and a finite temperature of at least 0"
            )
        if (self.samples > 1) != (self.temperature > 0):
            raise UserError(
                f"samples={self.samples} and temperature={self.temperature} do not go together; "
                "expected several samples above 0, or one at 0"
            )

    def identity(self) -> dict[str, Any]:
        """The settings that the labels depend on, JSON-ready; `asked_sha256` is the rest."""
        kept = ("frames", "questions", "samples", "temperature", "side", "seed")
        return {
            "qa": str(self.qa.resolve()),
            "model": self.chat.model,
            "revision": self.chat.revision,
            **{name: getattr(self, name) for name in kept},
        }


@dataclass(frozen=True)
class Drawn:
    """A question of a dataset.

    Attributes:
        kind: its type.
        words: the question.
        horizon: actions ahead.
        yes: the simulator's answer.
        item: what is shown and asked.
    """

    kind: str
    words: str
    horizon: int
    yes: bool
    item: Unlabelled


def draw_questions(saqa: SAQADataset, config: LabelQuestionsConfig) -> list[Drawn]:
    """A balanced sample; the future is shown where it is asked about."""
    rng = np.random.default_rng([config.seed, 4])
    rows = saqa.sampler().draw(config.frames, config.questions, rng)
    batch = saqa.batch(rows, draw_wording(rows.shape, rng))
    drawn = []
    for r, m in np.ndindex(rows.shape):
        source, episode, frame = (
            int(saqa.records[name][rows[r, m]]) for name in ("source", "episode", "frame")
        )
        words, horizon = batch.questions[r][m]
        states = np.unique([frame, frame + horizon])
        pictures = saqa.sources[source].frames(episode, states)
        item = Unlabelled(tuple(enlarged(picture, config.side) for picture in pictures), words)
        kind = saqa.kinds[int(batch.types[r, m])].name
        drawn.append(Drawn(kind, words, horizon, bool(batch.yes[r, m]), item))
    return drawn


def asked_sha256(drawn: list[Drawn]) -> str:
    """Hash of all questions and pictures, whatever folder they are from."""
    digest = hashlib.sha256()
    for question in drawn:
        pictures = question.item.pictures
        shapes = [picture.shape for picture in pictures]
        digest.update(repr((question.kind, question.words, question.horizon, shapes)).encode())
        for picture in pictures:
            digest.update(picture.tobytes())
    return digest.hexdigest()


def label_dataset(config: LabelQuestionsConfig) -> dict[str, Any]:
    """Run `wm-gym label-questions`: ask, store, measure, print and write.

    Returns:
        What `--json` writes: `labels` holds accuracy and number of unanswered questions, in all
        and by type.

    Raises:
        QAError: if the questions cannot be read.
        ChatError: if the model cannot be asked at all; labels that came are stored.
        RunSettingsError: if the folder holds labels made with other settings or of other questions.
        InUseError: if another process labels into it.
        ValueError: if a stored label is damaged, or a file cannot be written; nothing is asked
            then.
    """
    check_folder("out", config.out)
    check_file("json", config.json)
    drawn = draw_questions(SAQADataset(config.qa), config)
    identity = {**config.identity(), "asked_sha256": asked_sha256(drawn)}
    path = config.out / LABELS
    with one_writer(config.out):
        if path.exists():
            _check_settings(config, identity)
        return _label_missing(config, drawn, identity)


def _label_missing(
    config: LabelQuestionsConfig, drawn: list[Drawn], identity: dict[str, Any]
) -> dict[str, Any]:
    """Label the questions that have no stored label, and report on all."""
    path = config.out / LABELS
    labels = _stored(path, drawn)
    missing = [number for number in range(len(drawn)) if number not in labels]
    chat = config.chat.make()
    write_atomically(config.out / SETTINGS, json.dumps(identity, indent=1).encode())
    bar = tqdm(total=len(drawn), initial=len(labels), desc="labelling", unit="question")
    with path.open("a", encoding="utf-8") as file:

        def store(place: int, label: Label) -> None:
            bar.update()
            labels[missing[place]] = label
            if label.error is None:
                question = drawn[missing[place]]
                line = {"number": missing[place], "question": question.words}
                line |= {"type": question.kind, "horizon": question.horizon, **asdict(label)}
                file.write(json.dumps(line) + "\n")
                file.flush()

        label_questions(
            chat, [drawn[number].item for number in missing], samples=config.samples,
            temperature=config.temperature, seed=config.seed, on_label=store,
        )  # fmt: skip
    bar.close()
    report = figures(drawn, [labels[number] for number in range(len(drawn))])
    print("\n".join(table(config.chat.model, report)))
    content = {**measurement_header(seeds=config.seed), **identity, "labels": report}
    if config.json is not None:
        write_json(config.json, content)
    return content


def figures(drawn: list[Drawn], labels: list[Label]) -> dict[str, Any]:
    """Accuracy of the answered questions, in all and by type, and what went wrong elsewhere."""

    def part(numbers: list[int]) -> dict[str, Any]:
        answered = [n for n in numbers if labels[n].yes is not None]
        right = sum(labels[n].yes == drawn[n].yes for n in answered)
        found: dict[str, Any] = {
            "questions": len(answered),
            "unanswered": len(numbers) - len(answered),
        }
        if answered:
            interval = wilson_interval(right, len(answered))
            found |= {
                "accuracy": interval.estimate,
                "low": interval.low,
                "high": interval.high,
            }
        return found

    kinds = dict.fromkeys(question.kind for question in drawn)
    faults = [label.error for label in labels if label.error is not None]
    return {
        **part(list(range(len(drawn)))),
        "by_type": {
            kind: part([n for n, question in enumerate(drawn) if question.kind == kind])
            for kind in kinds
        },
        "faults": {fault: faults.count(fault) for fault in dict.fromkeys(faults)},
    }


def table(model: str, report: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""

    def line(name: str, row: dict[str, Any]) -> str:
        missing = f", {row['unanswered']} unanswered" if row["unanswered"] else ""
        if not row["questions"]:
            return f"  {name:24} no answers{missing}"
        interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        return (
            f"  {name:24} {100 * row['accuracy']:5.1f} % {interval} of {row['questions']}{missing}"
        )

    lines = [f"{model}: answers held against the simulator's", line("all", report)]
    lines += [line(kind, row) for kind, row in report["by_type"].items()]
    return lines + [f"  {number} x {fault}" for fault, number in report["faults"].items()]


def _check_settings(config: LabelQuestionsConfig, identity: dict[str, Any]) -> None:
    """Refuse a folder whose labels have other settings or answer other questions.

    Args:
        config: names the folder.
        identity: what the labels of this run depend on.
    """
    if not (config.out / LABELS).stat().st_size:
        return  # nothing was answered, so nothing depends on the settings
    found = read_run_settings(config.out / SETTINGS)
    if found is None:
        raise RunSettingsError(
            f"{config.out / SETTINGS} is missing, so nothing says what the labels beside it are; "
            "choose another out"
        )
    # older folders have no hash of what was asked: their lines are compared
    older = {"asked_sha256": identity["asked_sha256"]}
    found = older | found
    check_run_settings(config.out, found, identity, remedy="choose another out")


def _stored(path: Path, drawn: list[Drawn]) -> dict[int, Label]:
    """Labels of earlier runs by number; a line that a kill cut off is asked again.

    Raises:
        ValueError: if a line is damaged or answers another question.
    """
    labels: dict[int, Label] = {}
    if not path.exists():
        return labels
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomically(path, whole)
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            labels |= _read_label(line, drawn)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: {error}; remove that line, and its question is asked "
                "again, or choose another out"
            ) from error
    return labels


def _read_label(line: bytes, drawn: list[Drawn]) -> dict[int, Label]:
    """The label on a line, by the number of its question.

    Raises:
        ValueError: if it is damaged or answers another question.
    """
    row = json.loads(line.decode())
    if not isinstance(row, dict):
        raise UserError("it is no JSON object")
    absent = {"number", "question", "yes", "votes_yes", "votes_no"} - set(row)
    if absent:
        raise UserError(f"{', '.join(sorted(absent))} is absent")
    number, yes, votes = row["number"], row["yes"], (row["votes_yes"], row["votes_no"])
    if type(number) is not int or not 0 <= number < len(drawn):
        raise UserError(f"number is {number!r}; expected 0 to {len(drawn) - 1}")
    if row["question"] != drawn[number].words:
        raise UserError(
            f"it answers {row['question']!r}, and question {number} is {drawn[number].words!r}"
        )
    if type(yes) is not bool or any(type(vote) is not int for vote in votes):
        raise UserError(
            f"yes is {yes!r} with {votes[0]!r} votes for and {votes[1]!r} against; expected true "
            "or false, and whole numbers"
        )
    return {number: Label(yes, *votes)}
