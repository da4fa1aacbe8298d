"""What is asked of a chat model and what comes back, wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wm_gym.errors import UserError

PROGRESS_FROM = 4
"""Requests from which on a progress bar is worth showing."""


class ChatError(UserError, RuntimeError):
    """A chat model that cannot be reached, loaded or used at all."""


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model.

    Attributes:
        parts: texts and images, uint8 (H, W, 3), in the order in which they are read.
        samples: how many answers are wanted.
        temperature: of the sampling; 0 takes the likeliest token.
        max_tokens: longest answer.
        seed: of the sampling; sample i has seed + i.
    """

    parts: tuple[str | np.ndarray, ...]
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Check parts and numbers."""
        if min(self.samples, self.max_tokens) < 1 or not 0 <= self.temperature < math.inf:
            raise UserError(
                f"samples={self.samples}, max_tokens={self.max_tokens}, "
                f"temperature={self.temperature}; expected at least 1, 1 and 0"
            )
        if self.samples > 1 and self.temperature == 0:
            raise UserError(
                f"samples={self.samples} with temperature=0 would be the same answer each time; "
                "ask for one, or raise the temperature"
            )
        for part in self.parts:
            if isinstance(part, str):
                continue
            if part.dtype != np.uint8 or part.ndim != 3 or part.shape[-1] != 3:
                raise UserError(
                    f"an image has dtype {part.dtype} and shape {part.shape}; expected uint8 and "
                    "(H, W, 3)"
                )


@dataclass(frozen=True)
class ChatReply:
    """What came back.

    Attributes:
        texts: one answer per sample; empty if there is an `error`.
        seconds: wall time it took.
        error: why there is no answer, or None.
    """

    texts: tuple[str, ...]
    seconds: float
    error: str | None = None


OnReply = Callable[[int, ChatReply], None]


class ChatModel(Protocol):
    """A model that answers questions in words.

    Attributes:
        model: its name.
        revision: its revision, "" if it is not known.
    """

    model: str
    revision: str

    def ask(
        self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None
    ) -> list[ChatReply]:
        """Ask all requests.

        Args:
            requests: N requests.
            on_reply: called with a request's number and its reply as soon as that is there, so
                that a caller can store it.

        Returns:
            N replies in the same order. Trouble with one request is its reply's `error`.

        Raises:
            ChatError: if no request can be answered: the model is not there, refuses the key or
                went away.
        """
        ...
