"""Questions about the future, as data: types, phrasings, thresholds; and the words of a question.

A type such as "block touching" has slots (two blocks), eight phrasings for training and two that
are never trained on. Its limits say where "yes" begins and how wide the zone around that place is
in which a picture can hardly tell. What a type means in a simulator, its predicate, lives beside
that simulator (`wm_gym.envs.sims.langtable.questions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Literal

from wm_gym.errors import UserError

TRAINED_PHRASINGS, UNTRAINED_PHRASINGS = 8, 2

Unit = Literal["m", "deg"]


class QuestionError(UserError):
    """A question that no type states, or whose slots are filled wrongly."""


@dataclass(frozen=True)
class Limit:
    """Where "yes" begins, and the ambiguity margin around it.

    Attributes:
        threshold: the limit itself, in `unit`.
        margin: a value nearer to the threshold than this is ambiguous.
        unit: metres or degrees.
    """

    threshold: float
    margin: float
    unit: Unit = "m"

    def __post_init__(self) -> None:
        """Check the signs."""
        if self.margin <= 0:
            raise QuestionError(f"margin={self.margin} must be above 0 {self.unit}")


@dataclass(frozen=True)
class QuestionType:
    """A kind of question.

    Attributes:
        name: its name.
        blocks: how many blocks a question names, 0 to 2; they fill {first} and {second}.
        phrasings: eight for training, with the slots {first}, {second}, {value}.
        untrained: two that no training data may contain.
        values: words for {value}, by the value's name; empty if there is no such slot.
        limits: what the predicate compares, by the name of the compared quantity.
        compares: it asks how the future differs from the present, so about the present alone the
            answer is always no.
        predicate: False for types that only people or a VLM can answer.
    """

    name: str
    blocks: int
    phrasings: tuple[str, ...]
    untrained: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    compares: bool = False
    predicate: bool = True

    def __post_init__(self) -> None:
        """Check the number of phrasings, that they differ, and that each has exactly the slots."""
        every = self.phrasings + self.untrained
        if (len(self.phrasings), len(self.untrained)) != (TRAINED_PHRASINGS, UNTRAINED_PHRASINGS):
            raise QuestionError(
                f"question type {self.name!r} has {len(self.phrasings)} + {len(self.untrained)} "
                f"phrasings, expected {TRAINED_PHRASINGS} + {UNTRAINED_PHRASINGS}"
            )
        if len({text.lower() for text in every}) != len(every):
            raise QuestionError(f"question type {self.name!r} has the same phrasing twice")
        wanted = {"first", "second"} if self.blocks == 2 else {"first"} if self.blocks else set()
        wanted |= {"value"} if self.values else set()
        for text in every:
            if set(re.findall(r"\{(\w+)\}", text)) != wanted:
                raise QuestionError(
                    f"phrasing {text!r} of {self.name!r} must have the slots {sorted(wanted)}"
                )

    @property
    def all_phrasings(self) -> tuple[str, ...]:
        """Trained ones, then untrained ones; a phrasing's number counts in this order."""
        return self.phrasings + self.untrained


@dataclass(frozen=True)
class Question:
    """A question without its words.

    Attributes:
        type: name of its type.
        blocks: the blocks it names.
        value: name of the direction or place it names; "" if its type has none.
    """

    type: str
    blocks: tuple[str, ...] = ()
    value: str = ""


class QuestionSet:
    """The question types of a domain.

    Example:
        >>> from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
        >>> question = Question("peg_to_block", ("red moon",))
        >>> LANGTABLE_QUESTIONS.text(question)
        'Is the robotic peg touching the red moon?'
        >>> LANGTABLE_QUESTIONS.parse("is the robotic peg touching the red moon?") == question
        True

    Args:
        types: the types, their names all different.
        noun: regular expression of what a block or object is called, without groups.
    """

    def __init__(self, types: Sequence[QuestionType], noun: str) -> None:
        self.types = {kind.name: kind for kind in types}
        self._patterns = [
            (kind, number, re.compile(_pattern(kind, text, noun), re.IGNORECASE))
            for kind in types
            for number, text in enumerate(kind.all_phrasings)
        ]

    def __iter__(self) -> Iterator[QuestionType]:
        """The types in order."""
        return iter(self.types.values())

    @property
    def present_types(self) -> tuple[str, ...]:
        """Names of the types that a single picture answers; the others compare it with before."""
        return tuple(kind.name for kind in self if not kind.compares)

    def type_of(self, question: Question) -> QuestionType:
        """The type of a question.

        Raises:
            QuestionError: if there is none, or its slots are filled wrongly.
        """
        kind = self.types.get(question.type)
        if kind is None:
            raise QuestionError(
                f"question type {question.type!r} is unknown; expected one of {sorted(self.types)}"
            )
        wrong_value = question.value not in (kind.values or {"": ""})
        blocks = question.blocks
        if len(blocks) != kind.blocks or len(set(blocks)) != len(blocks) or wrong_value:
            raise QuestionError(
                f"{question} does not fit {kind.name!r}: expected {kind.blocks} different blocks "
                f"and a value of {sorted(kind.values) or ['']}"
            )
        return kind

    def text(self, question: Question, phrasing: int = 0) -> str:
        """The question in words.

        Args:
            question: the question.
            phrasing: 0–7 are trained, 8 and 9 are not.

        Raises:
            QuestionError: if the question or the phrasing does not exist.
        """
        kind = self.type_of(question)
        if not 0 <= phrasing < len(kind.all_phrasings):
            raise QuestionError(
                f"phrasing={phrasing} does not exist; expected 0 to {len(kind.all_phrasings) - 1}"
            )
        slots = dict(zip(("first", "second"), question.blocks, strict=False))
        value = kind.values.get(question.value, "")
        return kind.all_phrasings[phrasing].format(**slots, value=value)

    def parse(self, text: str) -> Question:
        """The question that words state; case and spacing do not matter.

        Raises:
            QuestionError: if no phrasing of any type fits.
        """
        return self.parse_phrasing(text)[0]

    def parse_phrasing(self, text: str) -> tuple[Question, int]:
        """The question that words state, and the number of its phrasing; see `parse`."""
        cleaned = " ".join(text.split())
        for kind, number, pattern in self._patterns:
            match = pattern.fullmatch(cleaned)
            if match is None:
                continue
            slots = {name: word.lower() for name, word in match.groupdict().items()}
            named = tuple(slots[slot] for slot in ("first", "second") if slot in slots)
            if len(set(named)) < len(named):
                raise QuestionError(
                    f"question {text!r} names the {named[0]} twice; expected different blocks"
                )
            value = next((n for n, words in kind.values.items() if words == slots.get("value")), "")
            return Question(kind.name, named, value), number
        examples = "; ".join(repr(kind.phrasings[0]) for kind in self)
        raise QuestionError(
            f"question {text!r} fits no phrasing; expected one such as {examples}, blocks named by "
            "colour and shape"
        )

    def instances(self, kind: str, objects: Sequence[str]) -> list[Question]:
        """Every question of a type about these objects, in the order that predicates answer.

        Args:
            kind: name of the type.
            objects: names of the objects that are there.

        Returns:
            Ordered choices of blocks, for each all values.
        """
        of = self.types[kind]
        values = list(of.values) or [""]
        chosen = permutations(objects, of.blocks)
        return [Question(kind, blocks, value) for blocks in chosen for value in values]


def _pattern(kind: QuestionType, phrasing: str, noun: str) -> str:
    """The regular expression of a phrasing."""
    values = "|".join(re.escape(words) for words in kind.values.values())
    slots = {
        "first": f"(?P<first>{noun})",
        "second": f"(?P<second>{noun})",
        "value": f"(?P<value>{values})",
    }
    parts = re.split(r"\{(\w+)\}", phrasing)
    return "".join(slots[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))
