"""Instructions in words and the goals they state, by declared templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class InstructionError(ValueError):
    """An instruction that no template matches."""


@dataclass(frozen=True)
class Goal:
    """A task and the objects it names, in the order of the template's slots."""

    task: str
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstructionSet:
    """Templates such as "push the {first} to the {second}" and the objects that may fill them."""

    templates: Mapping[str, str]
    objects: Sequence[str]

    def render(self, goal: Goal) -> str:
        """The instruction of a goal."""
        if goal.task not in self.templates:
            raise InstructionError(
                f"task {goal.task!r} is unknown; expected one of {sorted(self.templates)}"
            )
        slots = dict(zip(("first", "second"), goal.objects, strict=False))
        return self.templates[goal.task].format(**slots)

    def parse(self, instruction: str) -> Goal:
        """The goal of an instruction.

        Raises:
            InstructionError: naming the templates and objects that are understood.
        """
        text = " ".join(instruction.lower().strip().rstrip(".").split())
        for task, template in self.templates.items():
            pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
            pattern = pattern.format(first=r"(?P<first>.+)", second=r"(?P<second>.+)")
            match = re.fullmatch(pattern, text)
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
            f"{list(self.templates.values())} with objects "
            f"from {list(self.objects)}"
        )
