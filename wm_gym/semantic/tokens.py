"""Words of questions and answers to token ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from wm_gym.errors import UserError
from wm_gym.semantic.cube_question_types import CUBE_COLOURS, CUBE_QUESTIONS
from wm_gym.semantic.question_types import LANGTABLE_COLOURS, LANGTABLE_QUESTIONS, LANGTABLE_SHAPES
from wm_gym.semantic.questions import QuestionError, QuestionSet

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from wm_gym.semantic.attention import Asked

PAD, END, BEGIN, UNKNOWN, NEWLINE = "<pad>", "<eos>", "<bos>", "<unk>", "\n"
ANSWERS = ("yes", "no")


class QuestionTokenizer:
    """A `tokenizers.Tokenizer` with what a semantic world model asks of it.

    Args:
        tokenizer: knows `<bos>`, `<eos>`, a newline, "yes" and "no".

    Raises:
        ValueError: if it does not.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._newline = self._id(NEWLINE)
        self._begin = self._id(BEGIN)
        self._unknown = tokenizer.token_to_id(UNKNOWN)
        self.end = self._id(END)
        self.answers = {answer: self._id(answer) for answer in ANSWERS}

    @classmethod
    def from_json(cls, text: str) -> QuestionTokenizer:
        """Read what `to_json` wrote, or the tokenizer.json of a published model.

        Raises:
            ValueError: if it is no tokenizer.
        """
        from tokenizers import Tokenizer

        try:
            json.loads(text)
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(
                f"the text is no tokenizer.json ({' '.join(str(error).split())[:120]}); get the "
                "checkpoint again"
            ) from error
        return cls(tokenizer)

    def to_json(self) -> str:
        """The tokenizer as JSON."""
        return self._tokenizer.to_str()

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self._tokenizer.get_vocab_size()

    @property
    def vocabulary(self) -> dict[str, int]:
        """Id of every token."""
        return self._tokenizer.get_vocab()

    def encode(self, question: str) -> list[int]:
        r"""Token ids `<bos> question \n`.

        Raises:
            QuestionError: if the question is empty or holds words that the tokenizer does not know.
        """
        if not question.strip():
            raise QuestionError("the question is empty; ask one such as 'Did the red moon move?'")
        found = self._tokenizer.encode(question.strip(), add_special_tokens=False)
        if self._unknown is not None and self._unknown in found.ids:
            unknown = [
                question.strip()[slice(*place)]
                for number, place in zip(found.ids, found.offsets, strict=True)
                if number == self._unknown
            ]
            raise QuestionError(
                f"question {question!r} has words that this model never saw: "
                f"{', '.join(sorted(set(unknown)))}; use the words of "
                "wm_gym.semantic.question_types"
            )
        return [self._begin, *found.ids, self._newline]

    def asked(self, rows: Sequence[Sequence[tuple[str, int]]]) -> Asked:
        """Questions of many rows as tensors.

        Args:
            rows: for each of R rows its questions, each with the number of actions it comes after;
                rows with fewer than others are filled up with empty places.

        Raises:
            QuestionError: see `encode`; or if there is no question at all.
        """
        import torch

        from wm_gym.semantic.attention import Asked

        encoded = {text: self.encode(text) for row in rows for text, _ in row}
        if not encoded:
            raise QuestionError("no question is asked; give at least one")
        places = max(len(row) for row in rows)
        width = max(map(len, encoded.values()))
        tokens = torch.zeros(len(rows), places, width, dtype=torch.long)
        lengths = torch.zeros(len(rows), places, dtype=torch.long)
        after = torch.zeros(len(rows), places, dtype=torch.long)
        for r, row in enumerate(rows):
            for m, (text, number) in enumerate(row):
                ids = encoded[text]
                tokens[r, m, : len(ids)] = torch.tensor(ids)
                lengths[r, m], after[r, m] = len(ids), number
        return Asked(tokens, lengths, after)

    def words(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token."""
        return tuple(self._tokenizer.id_to_token(number) or UNKNOWN for number in ids)

    def answer_tokens(self, yes: torch.Tensor) -> torch.Tensor:
        """Token ids of answers, given as bool tensor of any shape."""
        import torch

        return torch.where(yes, self.answers["yes"], self.answers["no"])

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise UserError(
                f"the tokenizer has no token {token!r}; a semantic world model's needs "
                f"{BEGIN!r}, {END!r}, {NEWLINE!r}, 'yes' and 'no'"
            )
        return number


def word_tokenizer(words: Iterable[str]) -> QuestionTokenizer:
    """A tokenizer with one token per word; case does not matter, punctuation is its own word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    special = [PAD, END, BEGIN, UNKNOWN, NEWLINE, *ANSWERS]
    rest = sorted({word.lower() for word in words} - set(special))
    vocabulary = {word: number for number, word in enumerate([*special, *rest])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return QuestionTokenizer(tokenizer)


def words_of(questions: QuestionSet, *, untrained: bool = False) -> set[str]:
    """Words and punctuation of a set's trained, or untrained, phrasings and values."""
    texts = []
    for kind in questions:
        texts += [*(kind.untrained if untrained else kind.phrasings), *kind.values.values()]
    bare = (re.sub(r"\{\w+\}", " ", text) for text in texts)
    return {word for text in bare for word in re.findall(r"\w+|[^\w\s]+", text.lower())}


def langtable_tokenizer() -> QuestionTokenizer:
    """The tokenizer of the embedded LangTable models: every word of the trained phrasings.

    The untrained phrasings are made of the same words, so they test wordings, not words.
    """
    return word_tokenizer(words_of(LANGTABLE_QUESTIONS) | {*LANGTABLE_COLOURS, *LANGTABLE_SHAPES})


def cube_tokenizer() -> QuestionTokenizer:
    """The tokenizer of the embedded Cube models, made like LangTable's."""
    return word_tokenizer(words_of(CUBE_QUESTIONS) | {*CUBE_COLOURS, "cube"})


TOKENIZERS = {"LangTable-v0": langtable_tokenizer, "Cube-v0": cube_tokenizer}
"""Simulator id -> makes the tokenizer of its embedded models."""
