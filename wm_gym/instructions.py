"""Instructions in words and the goals they state, by declared templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wm_gym.errors import UserError

_SLOT = re.compile(r"\{(first|second)(?:=([^{}]+))?\}")


class InstructionError(UserError):
    """An instruction that no template matches."""


def as_text(value: object, name: str = "instruction") -> str:
    """Words as text, whatever form a file or an array gives them in.

    Args:
        value: str, UTF-8 bytes, or an array that holds one of them; None is no words.
        name: of the value, for the error.

    Raises:
        InstructionError: naming the value, if it is anything else.

    Example:
        >>> as_text(np.array(b"put it down"))
        'put it down'
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise InstructionError(
                f"{name} is {value!r:.80}, which is no UTF-8 ({error})"
            ) from error
    if isinstance(value, str):
        return str(value)
    raise InstructionError(
        f"{name} is {value!r:.80} of type {type(value).__name__}; expected text (str or UTF-8 "
        "bytes)"
    )


def is_encoded_text(value: object) -> bool:
    """Whether a value is bytes, or an array without axes that holds text, e.g. of an npz file."""
    array = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "SU"
    return array or isinstance(value, bytes)


@dataclass(frozen=True)
class Goal:
    """A task and the objects it names, in the order of the template's slots."""

    task: str
    objects: tuple[str, ...] = ()


def named_objects(goals: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What goals [task, first, second or ""] name: first objects, then the other second ones."""
    firsts, seconds = [goal[1] for goal in goals], [goal[2] for goal in goals if goal[2]]
    return tuple(dict.fromkeys([*firsts, *seconds]))


@dataclass(frozen=True)
class InstructionSet:
    """Templates such as "push the {first} to the {second}" and the objects that may fill them.

    A slot may name what fills it: "put the {first=carrot|spoon} on the {second=plate}". Two tasks
    with the same sentence are told apart that way.
    """

    templates: Mapping[str, str]
    objects: Sequence[str]

    def render(self, goal: Goal) -> str:
        """The instruction of a goal."""
        if goal.task not in self.templates:
            raise InstructionError(
                f"task {goal.task!r} is unknown; expected one of {sorted(self.templates)}"
            )
        slots: dict[str, str] = dict(zip(("first", "second"), goal.objects, strict=False))
        return _SLOT.sub(lambda slot: slots[slot[1]], self.templates[goal.task])

    def parse(self, instruction: str) -> Goal:
        """The goal of an instruction.

        Raises:
            InstructionError: naming the templates and objects that are understood.
        """
        instruction = as_text(instruction)
        text = " ".join(instruction.lower().strip().rstrip(".").split())
        for task, template in self.templates.items():
            match = re.fullmatch(_pattern(template), text)
            if match and all(word in self.objects for word in match.groupdict().values()):
                named = tuple(match.groupdict().values())
                if len(set(named)) < len(named):
                    raise InstructionError(
                        f"instruction {instruction!r} names the {named[0]} twice; expected "
                        f"different objects, from {list(self.objects)}"
                    )
                return Goal(task, named)
        raise InstructionError(
            f"instruction {instruction!r} is not understood; expected one of "
            f"{[_readable(template) for template in self.templates.values()]} with objects "
            f"from {list(self.objects)}"
        )


def _readable(template: str) -> str:
    """A template in plain words: "put the carrot on the plate", "reach the <object>"."""
    return _SLOT.sub(lambda slot: (slot[2] or "<object>").replace("|", " or "), template)


def _pattern(template: str) -> str:
    """The regular expression of a template, with its slots as named groups."""
    text, at = "", 0
    for slot in _SLOT.finditer(template):
        words = "|".join(map(re.escape, slot[2].split("|"))) if slot[2] else ".+"
        text += re.escape(template[at : slot.start()]) + f"(?P<{slot[1]}>{words})"
        at = slot.end()
    return text + re.escape(template[at:])
