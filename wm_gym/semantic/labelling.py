"""A vision-language model answers questions about pictures, several times; the majority counts.

For pictures that no simulator can answer questions about, such as those of a real robot. A
question about the future is asked about two pictures, the present one and the one to come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wm_gym.chat.requests import ChatModel, ChatReply, ChatRequest
from wm_gym.errors import UserError

_ONE = """\
Look at the picture and answer the question about it. Right and left, up and down are those of the \
picture.

Question: {question}

Say briefly what you see, then end with a line "Answer: yes" or "Answer: no"."""
_TWO = """\
The first picture was taken before, the second one after some motion. Answer the question about \
what holds after it, or what has happened in between. Right and left, up and down are those of the \
pictures.

Question: {question}

Say briefly what you see, then end with a line "Answer: yes" or "Answer: no"."""
_ANSWER = re.compile(r"answer[\s*_]*:\W*\b(yes|no)\b", re.IGNORECASE)
_BARE = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Unlabelled:
    """A question that is to be answered.

    Attributes:
        pictures: the present, or the present and the future; each uint8 (H, W, 3).
        question: in words.
    """

    pictures: tuple[np.ndarray, ...]
    question: str

    def __post_init__(self) -> None:
        """Check the number of pictures."""
        if len(self.pictures) not in (1, 2):
            raise UserError(
                f"{len(self.pictures)} pictures; expected one, or the present and the future"
            )


@dataclass(frozen=True)
class Label:
    """What a model said.

    Attributes:
        yes: the majority's answer; None without one, or where as many say yes as no.
        votes_yes: samples that say yes.
        votes_no: samples that say no.
        error: why there is no answer, or None.
    """

    yes: bool | None
    votes_yes: int = 0
    votes_no: int = 0
    error: str | None = None


def label_questions(
    chat: ChatModel,
    items: Sequence[Unlabelled],
    *,
    samples: int = 5,
    temperature: float = 0.7,
    max_tokens: int = 256,
    seed: int = 0,
    on_label: Callable[[int, Label], None] | None = None,
) -> list[Label]:
    """Answers questions.

    Args:
        chat: the model.
        items: N questions with their pictures.
        samples: answers asked for each.
        temperature: of the sampling; 0 with one sample.
        max_tokens: longest answer.
        seed: of the sampling.
        on_label: called with a question's number and its label as soon as that is there.

    Returns:
        N labels. Trouble with one question is its label's `error`.

    Raises:
        ChatError: if the model cannot be asked at all.
    """
    requests = []
    for item in items:
        words = (_ONE if len(item.pictures) == 1 else _TWO).format(question=item.question)
        parts = (*item.pictures, words)
        requests.append(ChatRequest(parts, samples, temperature, max_tokens, seed))

    def tell(number: int, reply: ChatReply) -> None:
        if on_label is not None:
            on_label(number, majority(reply))

    return [majority(reply) for reply in chat.ask(requests, tell)]


def majority(reply: ChatReply) -> Label:
    """The label that most samples give."""
    if reply.error is not None:
        return Label(None, error=reply.error)
    found = [read_answer(text) for text in reply.texts]
    yes, no = found.count(True), found.count(False)
    if yes == no:
        said = " ".join(reply.texts[0].split())[:120]
        fault = f"{yes} samples say yes and {no} no" if yes else f"no answer in {said!r}"
        return Label(None, yes, no, fault)
    return Label(yes > no, yes, no)


def read_answer(text: str) -> bool | None:
    """The answer a text ends with: its last "Answer: yes" or "no", or that word alone."""
    stated = _ANSWER.findall(text)
    if stated:
        return stated[-1].lower() == "yes"
    bare = _BARE.fullmatch(text)
    return None if bare is None else bare[1].lower() == "yes"
