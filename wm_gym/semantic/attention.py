"""Who sees whom in a semantic world model's sequence: image, actions, then questions.

The sequence is `[image × N][action × n][question 1 × T] … [question M × T]`. A question comes after
the first h actions of its row (h may be 0), so one sequence holds several questions about several
futures. Questions never see each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wm_gym.errors import UserError

PrefixAttention = Literal["full", "block_causal"]
"""`full`: image, actions and question all see each other (the published weights). `block_causal`:
the image sees itself, an action sees the image and the actions up to itself, a question sees the
image, its actions and itself; so keys and values of image and actions serve all questions."""


@dataclass(frozen=True)
class Asked:
    r"""Questions as tokens: M of them for each of R rows.

    Attributes:
        tokens: (R, M, T) token ids, `<bos> question \n`, filled up with anything on the right.
        lengths: (R, M) tokens of each question, the suffix included; 0 for a place left empty.
        after: (R, M) number of actions that come before the question.
        suffix: tokens at the end of each question that only later ones see: 1 if the answer
            follows, to train what comes after it, else 0.
    """

    tokens: Tensor
    lengths: Tensor
    after: Tensor
    suffix: int = 0

    def expand(self, rows: int) -> Asked:
        """The same questions for many rows, if there is one row, else as they are."""
        if len(self.tokens) == rows:
            return self
        return replace(
            self,
            tokens=self.tokens.expand(rows, -1, -1),
            lengths=self.lengths.expand(rows, -1),
            after=self.after.expand(rows, -1),
        )

    def repeat(self, times: int) -> Asked:
        """Every row several times in a row."""
        return replace(
            self,
            tokens=self.tokens.repeat_interleave(times, 0),
            lengths=self.lengths.repeat_interleave(times, 0),
            after=self.after.repeat_interleave(times, 0),
        )

    def one_a_row(self) -> Asked:
        """Every question on a row of its own, (R · M, 1, T)."""
        return replace(
            self,
            tokens=self.tokens.flatten(0, 1)[:, None],
            lengths=self.lengths.reshape(-1, 1),
            after=self.after.reshape(-1, 1),
        )

    def rows(self, which: slice) -> Asked:
        """Some of the rows."""
        return replace(
            self,
            tokens=self.tokens[which],
            lengths=self.lengths[which],
            after=self.after[which],
        )

    def to(self, device: torch.device | str) -> Asked:
        """The same on a device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            lengths=self.lengths.to(device),
            after=self.after.to(device),
        )

    @property
    def answer_at(self) -> Tensor:
        """Index of the token after which the answer stands, (R, M)."""
        return (self.lengths - 1 - self.suffix).clamp_min(0)


def positions(image: int, actions: int, asked: Asked) -> Tensor:
    """Position of every token, from 1; a question counts on from the last action it comes after.

    Args:
        image: number N of image tokens.
        actions: number n of action tokens of a row.
        asked: R rows of M questions.

    Returns:
        (R, N + n + M · T) int64.
    """
    rows, _, length = asked.tokens.shape
    device = asked.tokens.device
    before = torch.arange(1, image + actions + 1, device=device).expand(rows, -1)
    within = torch.arange(1, length + 1, device=device)
    questions = image + asked.after[..., None] + within  # (R, M, T)
    return torch.cat([before, questions.flatten(1)], dim=1)


def visibility(image: int, actions: int, asked: Asked, prefix_attention: PrefixAttention) -> Tensor:
    """Which keys every query sees.

    Args:
        image: number N of image tokens.
        actions: number n of action tokens of a row.
        asked: R rows of M questions.
        prefix_attention: see `PrefixAttention`.

    Returns:
        (R, L, L) bool with L = N + n + M · T, [row, query, key]. Tokens that fill up are seen by
        nobody.

    Raises:
        ValueError: for several questions under full attention.
    """
    rows, count, length = asked.tokens.shape
    if prefix_attention == "full" and count > 1:
        raise UserError(
            f"{count} questions cannot share a sequence under full attention, where the image sees "
            "the question; give each a row of its own (Asked.one_a_row)"
        )
    device = asked.tokens.device
    start = image + actions
    total = start + count * length
    seen = torch.zeros(rows, total, total, dtype=torch.bool, device=device)
    seen[:, :, :image] = True
    number = torch.arange(actions, device=device)
    place = torch.arange(length, device=device)
    there = place < asked.lengths[..., None]  # (R, M, T)
    late = place >= (asked.lengths - asked.suffix)[..., None]  # suffix, and what fills up
    known = number < asked.after[..., None]  # (R, M, n)
    seen[:, start:, image:start] = known.repeat_interleave(length, dim=1)
    own = there[:, :, None] & (~late[:, :, None] | (place[None, :] <= place[:, None]))
    for m in range(count):
        part = slice(start + m * length, start + (m + 1) * length)
        seen[:, part, part] = own[:, m]
    if prefix_attention == "full":
        seen[:, :start, image:start] = known
        seen[:, :start, start:] = (there & ~late).flatten(1)[:, None]
    else:
        seen[:, image:start, image:start] = number[None, :] <= number[:, None]
    return seen
