"""How an imagined episode begins: from a stored start state or from the caller's frames."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.checkpoints import Checkpoint
from wm_gym.domains import domain_of
from wm_gym.envs.client_arguments import without_marks
from wm_gym.envs.start_states import FILENAME, StartStates
from wm_gym.errors import UserError
from wm_gym.instructions import Goal, InstructionSet, as_text, is_encoded_text
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import WorldModelSpec

NOISE_SEEDS = 2**63
OPTIONS = ("actions", "frames", "instruction", "start")


@dataclass(frozen=True)
class Plan:
    """How one row will begin: history (n, H, W, 3) uint8 and actions (n - 1, A) or None.

    `clipped` says whether an action lay outside the card's bounds; None without actions.
    """

    seed: int
    frames: np.ndarray
    actions: np.ndarray | None
    instruction: str
    goal: Goal | None
    start: str | None
    clipped: bool | None = None


def read_options(options: Any) -> dict[str, Any]:
    """A copy of a reset's options; none at all gives an empty one.

    Raises:
        ValueError: if they are no dictionary.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise UserError(
            f"options are {reprlib.repr(options)}; expected a dict such as "
            f"{{'start': 'push-6500'}}, with keys among {list(OPTIONS)}"
        )
    return without_marks(options)


class EpisodeStarts:
    """Draws and checks the beginnings of episodes.

    Args:
        spec: the card.
        folder: checkpoint folder that may hold start states, or None.
        task: task that random starts are drawn from, or "any".
        judged_by: name of the reward that needs an instruction, or None if none is needed.
        judged_task: the only task that this reward judges, or "any".

    Raises:
        ValueError: if the card does not know the task, another one is judged, or start states do
            not fit the card.

    Attributes:
        own_things: every task brings the things it is about, so a start serves its own task only.
    """

    def __init__(
        self,
        spec: WorldModelSpec | SemanticSpec,
        folder: Path | None,
        task: str,
        judged_by: str | None,
        judged_task: str = "any",
    ) -> None:
        if "any" not in (task, judged_task) and task != judged_task:
            raise UserError(
                f"task={task!r} and reward={judged_by!r}, which judges {judged_task!r}, do not go "
                "together; leave task='any', or name the same in both"
            )
        task = judged_task if task == "any" else task
        self.spec = spec
        self.task = task
        self.judged_by, self.judged_task = judged_by, judged_task
        self.instructions = InstructionSet(spec.tasks, spec.objects)
        domain = domain_of(spec.twin)
        self.own_things = domain is not None and not domain.objects_keyword
        self.stored = _read_starts(folder, spec)
        self.pool = self._starts_of(task)

    def _starts_of(self, task: str) -> list[int]:
        if task != "any" and task not in self.spec.tasks:
            raise UserError(
                f"task={task!r} is unknown; expected 'any' or one of {list(self.spec.tasks)}"
            )
        if task == "any":
            return list(range(len(self.stored.names)))
        count = len(self.stored.names)
        return [i for i in range(count) if self._goal_of_start(i).task == task]

    def _goal_of_start(self, index: int) -> Goal:
        return self.instructions.parse(self.stored.instructions[index])

    def plan(self, generator: np.random.Generator, options: dict[str, Any]) -> Plan:
        """Decide how one row begins.

        Args:
            generator: the row's source of randomness.
            options: see `WorldModelEnv.reset`.

        Raises:
            ValueError: if an option is unknown or does not fit the card.
        """
        unknown = [key for key in options if key not in OPTIONS]
        if unknown:
            raise UserError(f"options {unknown} are unknown; expected {list(OPTIONS)}")
        options = {
            key: as_text(value) if is_encoded_text(value) else value
            for key, value in options.items()
        }
        for key in ("start", "instruction"):
            if not isinstance(text := options.get(key), str | None):
                picture = isinstance(text, Mapping) or hasattr(text, "ndim")
                raise UserError(
                    f"options[{key!r}] is {reprlib.repr(text)} of type {type(text).__name__}; "
                    "expected text, or in a vector environment a list with one per row"
                    + ("; a picture goes into options['frames']" if picture else "")
                )
        if "frames" in options and "start" in options:
            raise UserError("options has both 'frames' and 'start'; give one of them")
        if "actions" in options and "frames" not in options:
            raise UserError("options has 'actions' without 'frames'; give the frames they led to")
        # drawn first, so that the noise does not depend on how the episode begins
        seed = int(generator.integers(NOISE_SEEDS))
        instruction, start, actions = options.get("instruction"), None, None
        clipped = None
        if "frames" in options:
            frames = self._history(options["frames"])
            given = self._history_actions(options.get("actions"), len(frames))
            if given is not None:
                space = self.spec.action.space()
                actions = np.clip(given, space.low, space.high)
                clipped = bool((given != actions).any())
        else:
            index = self.start_index(generator, options.get("start"), instruction)
            start, frames = self.stored.names[index], self.stored.frames[index][None]
            instruction = instruction or self.stored.instructions[index]
        goal = self.goal(instruction)
        return Plan(seed, frames, actions, instruction or "", goal, start, clipped)

    def start_index(
        self, generator: np.random.Generator, name: str | None, instruction: str | None = None
    ) -> int:
        """Position of a stored start: the named one, or one drawn for the task.

        Args:
            generator: the row's source of randomness.
            name: of the start, or None.
            instruction: what to do there, or None for what the start was made for.

        Raises:
            ValueError: if there is no such start, or what the instruction is about is not in it.
        """
        if name is None and not self.pool:
            raise UserError(
                f"{self.spec.name} has no stored start states for task {self.task!r}; "
                "begin from a picture: reset(options={'frames': uint8 (H, W, 3), 'instruction': …})"
            )
        pool = self.pool if name is None else [self.stored.index(name)]
        if instruction is not None and self.own_things:
            wanted = self.instructions.parse(instruction)
            pool = [i for i in pool if self._goal_of_start(i) == wanted]
            if not pool:
                where = f"start {name!r}" if name else f"no stored start of task {self.task!r}"
                raise UserError(
                    f"instruction {instruction!r} is about things that {where} "
                    f"{'does not have' if name else 'has'}; in {self.spec.twin} a task brings its "
                    "own things: leave the start or the task out, or the instruction"
                )
        return pool[int(generator.integers(len(pool)))] if name is None else pool[0]

    def _history(self, frames: Any) -> np.ndarray:
        try:
            frames = np.asarray(frames)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"options['frames'] cannot be read as an array ({error}); expected uint8 pixels of "
                "one picture, or of a history whose frames have one size"
            ) from error
        size = (self.spec.frame.height, self.spec.frame.width, 3)
        if frames.dtype != np.uint8 or frames.shape[-3:] != size or frames.ndim not in (3, 4):
            if frames.shape[-3:] != size:
                advice = "resize with wm_gym.data.frames.resize"
                if frames.shape[-3:] == (3, *size[:2]):
                    advice = "the channels come last: np.moveaxis(frames, -3, -1)"
            elif frames.dtype.kind == "f":
                advice = "multiply by 255 and use .astype(np.uint8)"
            else:
                advice = "use .astype(np.uint8)"
            raise UserError(
                f"options['frames'] has dtype {frames.dtype} and shape {frames.shape}, expected "
                f"uint8 and {size}, or (n, {size[0]}, {size[1]}, 3) for a history; {advice}"
            )
        if not frames.size:
            raise UserError(f"options['frames'] has shape {frames.shape}; expected a frame or more")
        return frames[None] if frames.ndim == 3 else frames

    def _history_actions(self, actions: Any, frames: int) -> np.ndarray | None:
        if actions is None:
            return None
        try:
            actions = np.asarray(actions, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"options['actions'] cannot be read as numbers ({error}); expected shape "
                f"{(frames - 1, self.spec.action.size)}"
            ) from error
        if actions.shape != (frames - 1, self.spec.action.size) or not np.isfinite(actions).all():
            raise UserError(
                f"options['actions'] has shape {actions.shape}, expected "
                f"{(frames - 1, self.spec.action.size)} finite numbers: actions[i] led from frame "
                "i to frame i + 1"
            )
        return actions

    def goal(self, instruction: str | None) -> Goal | None:
        """The goal of an instruction; None if there is nothing to parse and nobody needs one."""
        if instruction:
            goal = self.instructions.parse(instruction) if self.spec.tasks else None
            if goal is not None and self.judged_task not in ("any", goal.task):
                raise UserError(
                    f"instruction {instruction!r} states task {goal.task!r}, and reward "
                    f"{self.judged_by!r} judges {self.judged_task!r}; give one of these, or make "
                    "the environment with reward='semantic:any?…'"
                )
            return goal
        if self.judged_by is not None:
            needed = "scores an instruction: give options['instruction']"
            if isinstance(self.spec, SemanticSpec):
                raise UserError(f"a semantic environment {needed}")
            raise UserError(
                f"reward {self.judged_by!r} {needed}, or make the environment with reward='none'"
            )
        return None


def _read_starts(folder: Path | None, spec: WorldModelSpec | SemanticSpec) -> StartStates:
    """Start states beside the card; none at all if card and folder know of none."""
    size = (spec.frame.height, spec.frame.width)
    if folder is None or not (FILENAME in spec.data_sha256 or (folder / FILENAME).exists()):
        return StartStates((), (), np.zeros((0, *size, 3), np.uint8), ())
    path = folder / FILENAME
    remedy = "get the checkpoint again or write it anew with `wm-gym make-start-states`"
    starts = StartStates.from_bytes(Checkpoint(folder, spec).read(FILENAME, remedy), path)
    if starts.frames.shape[1:3] != size:
        raise UserError(
            f"{path} holds frames of {starts.frames.shape[1:3]}, its card says {size}; {remedy}"
        )
    return starts
