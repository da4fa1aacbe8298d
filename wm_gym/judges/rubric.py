"""The rubric 0 / 0.5 / 1: prompts as versioned text files, and scores out of free text."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from wm_gym.errors import UserError

PROMPT = "success-1"
_SLOTS = ("count", "instruction", "pictures")


class PromptError(UserError):
    """A prompt that does not exist or lacks a place for what it is about."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with places for {instruction}, {count} and {pictures}.

    Attributes:
        version: its name; of a file of your own with the beginning of its hash.
        text: the words.
    """

    version: str
    text: str

    def __post_init__(self) -> None:
        """Check that it has a place for everything."""
        missing = [slot for slot in _SLOTS if self.text.count(f"{{{slot}}}") != 1]
        if missing:
            raise PromptError(
                f"prompt {self.version!r} must hold each of {list(_SLOTS)} in braces exactly once; "
                f"see {', '.join(missing)}"
            )

    @property
    def sha256(self) -> str:
        """Hash of the words."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def parts(
        self, instruction: str, pictures: Sequence[np.ndarray]
    ) -> tuple[str | np.ndarray, ...]:
        """Text and pictures in the order in which they are read.

        Args:
            instruction: what was to be done.
            pictures: uint8 (H, W, 3) each.
        """
        before, after = self.text.split("{pictures}")
        shown: list[str | np.ndarray] = []
        for number, picture in enumerate(pictures, 1):
            shown += [f"Picture {number} of {len(pictures)}:", picture]

        def fill(text: str) -> str:
            # one pass, so that an instruction that holds a slot's name stays what it is
            values = {"count": str(len(pictures)), "instruction": " ".join(instruction.split())}
            return re.sub(r"\{(count|instruction)\}", lambda slot: values[slot[1]], text).strip()

        return (fill(before), *shown, fill(after))


def load_prompt(name: str = PROMPT) -> Prompt:
    """A prompt by its version, or from a text file of your own.

    Raises:
        PromptError: naming those that ship.
    """
    folder = files("wm_gym.judges") / "prompts"
    shipped = sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".txt"))
    if name in shipped:
        return Prompt(name, (folder / f"{name}.txt").read_text(encoding="utf-8"))
    path = Path(name)
    if not path.is_file():
        raise PromptError(f"prompt {name!r}: expected one of {shipped}, or a text file")
    text = path.read_text(encoding="utf-8")
    return Prompt(f"{path.stem}@{hashlib.sha256(text.encode()).hexdigest()[:8]}", text)


_OF_ONE = r"\s*(?:/|out of)\s*1(?:\.0+)?(?![\d.,]*\d)"
_NUMBER = rf"(?P<score>1/2|½|0?[.,]50*|[01](?:[.,]0+)?)(?:{_OF_ONE})?"
_CHOICE = r"(?!\s*(?:,|\||/|or\b)\s*(?:0?\.5|½|[01]\b))"  # "0, 0.5 or 1" repeats the question
_OTHER = r"(?![\d%⁄]|[.,]\d|e-?\d|\s*(?:/|out of|of)\s*\d)"  # part of another number or scale
_STATED = re.compile(
    rf"\bscore\b(?:\s+is\b)?[^\w.½]{{0,8}}(?<![:=]-)(?<![:=]\s-){_NUMBER}{_OTHER}{_CHOICE}",
    re.I,
)
_ALONE = re.compile(rf"[\W_]*?{_NUMBER}[\W_]*", re.I)
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.I | re.S)


def read_score(answer: str) -> float | None:
    """The score in an answer: 0, 0.5, 1, or None if it states none of them.

    The last statement counts. Markdown, JSON, "0.5/1", "1/2" and thoughts before the answer are
    understood; any other number is not made to fit.

    Example:
        >>> read_score("The block moved away. **Score: 0.5**"), read_score("I cannot tell.")
        (0.5, None)
    """
    said = _THOUGHT.sub(" ", answer)
    found = list(_STATED.finditer(said))
    match = found[-1] if found else _ALONE.fullmatch(said.strip())
    if match is None:
        return None
    number = match["score"]
    return 0.5 if number in ("1/2", "½") else float(number.replace(",", "."))


def majority_score(scores: Sequence[float]) -> float:
    """The score that most samples gave; of those that as many gave, the highest.

    Raises:
        ValueError: if there is none.
    """
    if not scores:
        raise UserError("there is no score to take the majority of")
    counts = Counter(scores)
    return max(counts, key=lambda score: (counts[score], score))
