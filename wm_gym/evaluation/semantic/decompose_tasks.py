"""`wm-gym decompose-task`: instructions to subgoals by a language model, checked by the simulator.

A task that a model made up ends when the answers under `done` of its last subgoal hold. On recorded
episodes these are answered by the simulator and held against its own success.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.chat.choice import ChatChoice
from wm_gym.checkpoints import write_atomically
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import domain_of
from wm_gym.envs.sims.predicates import success_predicate
from wm_gym.errors import UserError
from wm_gym.evaluation.output_files import check_file, check_folder
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.evaluation.semantic.exact_answers import holds_exactly
from wm_gym.instructions import InstructionError, InstructionSet
from wm_gym.metrics.statistics import balanced_accuracy
from wm_gym.semantic.decompose import DecompositionError, decompose, read_task
from wm_gym.semantic.question_sets import QUESTION_SETS
from wm_gym.semantic.questions import QuestionSet
from wm_gym.semantic.tasks import SemanticTask
from wm_gym.training.saqa import objects_of, simulator_of_start

MADE = "made.json"
"""File beside the tasks: what each of them was made of, and by which model."""


@dataclass(frozen=True)
class DecomposeTaskConfig:
    """Divide instructions into subgoals, stated as questions and desired answers."""

    instruction: tuple[str, ...]
    """What to do, in words; several are possible."""
    out: Path
    """Folder for the tasks, task_0.json and so on; `wm_gym.semantic.tasks.task_from_dict` reads
    them. Tasks that the same model made of the same words are kept."""
    chat: ChatChoice
    """Who is asked."""
    env_id: str = "LangTable-v0"
    """Simulator whose question types may be asked."""
    attempts: int = 3
    """How often the model may correct itself."""
    data: Path | None = None
    """Folder of episodes on which the simulator checks what the tasks call done; instructions that
    state no task of the simulator are not checked."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Check names and numbers before anything is asked."""
        if self.env_id not in QUESTION_SETS:
            raise UserError(
                f"env_id={self.env_id!r} has no questions; expected one of {list(QUESTION_SETS)}"
            )
        if not self.instruction or self.attempts < 1:
            raise UserError(
                f"instruction={self.instruction!r} and attempts={self.attempts}; expected at "
                "least one each"
            )
        if not all(words.strip() for words in self.instruction):
            raise UserError(
                f"instruction={self.instruction!r} holds an empty one; say what to do, e.g. 'push "
                "the red moon'"
            )

    def origin(self, instruction: str) -> dict[str, str]:
        """What a task depends on, JSON-ready."""
        return {
            "instruction": instruction,
            "env_id": self.env_id,
            "model": self.chat.model,
            "revision": self.chat.revision,
        }


def decompose_tasks(config: DecomposeTaskConfig) -> dict[str, Any]:
    """Run `wm-gym decompose-task`: ask, store, check, print and write.

    Returns:
        What `--json` writes; `tasks` holds for each instruction the number of subgoals, or what
        went wrong, and with `data` the agreement with the simulator.

    Raises:
        ChatError: if the model cannot be asked at all; tasks that came are stored.
        EpisodeError: if the episodes cannot be read.
        ValueError: if they are of another simulator, a stored task is damaged, or a file cannot be
            written; nothing is asked then.
    """
    check_folder("out", config.out)
    check_file("json", config.json)
    data = None if config.data is None else EpisodeDataset(config.data)
    if data is not None and simulator_of_start(data[0].start_state) != config.env_id:
        raise UserError(
            f"{config.data} holds episodes of {simulator_of_start(data[0].start_state)}, and "
            f"env_id={config.env_id!r}; give episodes of that, or the other env_id"
        )
    domain, questions = domain_of(config.env_id), QUESTION_SETS[config.env_id]
    assert domain is not None  # every question set belongs to a domain
    made = config.out / MADE
    known = _read_made(made)
    kept: dict[int, SemanticTask] = {}
    for number, words in enumerate(config.instruction):
        path = config.out / f"task_{number}.json"
        if path.exists() and known.get(path.name) == config.origin(words):
            kept[number] = _read_kept(path, domain.objects, questions)
    chat = config.chat.make()
    instructions = InstructionSet(domain.tasks, domain.objects)
    rows: list[dict[str, Any]] = []
    for number, words in enumerate(config.instruction):
        row: dict[str, Any] = {"instruction": words}
        rows.append(row)
        path = config.out / f"task_{number}.json"
        task = kept.get(number)
        if task is None:
            try:
                task = decompose(words, domain.objects, questions, chat, attempts=config.attempts)
            except DecompositionError as error:
                row["error"] = str(error)
                print(f"{words}: {error}")
                continue
            # forgotten first: a kill in between must not leave words beside another one's task
            known.pop(path.name, None)
            write_atomically(made, json.dumps(known, indent=1).encode())
            write_atomically(path, json.dumps(task.to_dict(), indent=1).encode())
            known[path.name] = config.origin(words)
            write_atomically(made, json.dumps(known, indent=1).encode())
        row |= {"file": path.name, "subgoals": [subgoal.name for subgoal in task.subgoals]}
        print(f"{words}: {len(task.subgoals)} subgoals in {path}")
        try:
            instructions.parse(words)
        except InstructionError:
            continue
        if data is not None:
            row |= agreement(task, words, data, config.env_id)
            if not row["states"]:
                print(f"  not checked: no episode of {config.data} has what the task is about")
                continue
            print(
                f"  done as the simulator says: balanced accuracy "
                f"{100 * row['balanced_accuracy']:.1f} % over {row['states']} states, "
                f"{row['successes']} of them successes"
            )
    usable = sum("error" not in row for row in rows)
    print(f"{usable} of {len(rows)} instructions gave a usable task")
    content = {**measurement_header(), "model": config.chat.model, "usable": usable, "tasks": rows}
    if config.json is not None:
        write_json(config.json, content)
    return content


def _read_made(path: Path) -> dict[str, Any]:
    """What the stored tasks were made of, by file name.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise UserError("it is no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and all tasks are made again"
        ) from error
    return known


def _read_kept(path: Path, objects: Sequence[str], questions: QuestionSet) -> SemanticTask:
    """A stored task.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        return read_task(path.read_text(encoding="utf-8"), objects, questions)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and it is made again") from error


def agreement(
    task: SemanticTask, instruction: str, data: EpisodeDataset, simulator: str
) -> dict[str, Any]:
    """How often a task's end, answered by the simulator, is the simulator's success.

    Args:
        task: what a model made of the instruction.
        instruction: one that the simulator understands.
        data: episodes; those without the task's objects are left out.
        simulator: its id.
    """
    done = task.subgoals[-1].done
    parsed = [QUESTION_SETS[simulator].parse(desired.question) for desired in done]
    named = {name for question in parsed for name in question.blocks}
    said, true = [], []
    for episode in range(len(data)):
        objects = objects_of(data[episode].start_state)
        reached = success_predicate(simulator, objects)
        if not named <= set(objects):
            continue
        states, _ = data.labels(episode)
        try:
            true.append(np.array([reached(state, instruction) for state in states]))
        except ValueError:  # the instruction is about things that are not on this table
            continue
        said.append(holds_exactly(done, states, objects, simulator))
    if not said:
        return {"states": 0, "successes": 0, "balanced_accuracy": float("nan")}
    over, success = np.concatenate(said), np.concatenate(true)
    return {
        "states": len(success),
        "successes": int(success.sum()),
        "balanced_accuracy": balanced_accuracy(over, success),
        "missed": int((success & ~over).sum()),
        "too_early": int((over & ~success).sum()),
    }
