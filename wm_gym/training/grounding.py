"""An auxiliary loss that asks words and actions where things will be.

A vision-language model has learnt to point at what a question names before it is fine-tuned
(PaliGemma: arXiv:2407.07726); a small network that starts from random weights gets one bit a
question to learn it from. So, in the middle of the decoder, the last word of every thing a question
names says where that thing appears now and where it will after the question's actions, and every
action says where the effector will be after it. The answer is left to the layers that follow. The
head that reads the places is not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.semantic.attention import Asked
from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig, question_part
from wm_gym.semantic.tokens import QuestionTokenizer

EFFECTOR = 0
"""Number of the effector among a row's things, see `QABatch.things`."""


class GroundingLoss(nn.Module):
    """Error of the places that words and actions say, in patches.

    Args:
        config: sizes of the network.
        tokenizer: words to tokens.

    Attributes:
        layer: number of the decoder's layer after which tokens are asked; two fifths follow.
    """

    def __init__(self, config: SemanticNetworkConfig, tokenizer: QuestionTokenizer) -> None:
        super().__init__()
        self.patches = config.image_size / config.patch / 2  # a place of 1 in patches
        self.layer = -(-3 * config.depth // 5) - 1
        self.tokenizer = tokenizer
        self.norm = nn.LayerNorm(config.width)
        self.named = nn.Linear(config.width, 4)
        self.moved = nn.Linear(config.width, 2)

    def forward(
        self, hidden: Tensor, asked: Asked, paths: Tensor, things: list[tuple[str, ...]]
    ) -> Tensor:
        """The mean loss.

        Args:
            hidden: of whole sequences after `layer`, (R, N + n + M · T, D).
            asked: R rows of M questions, without suffix.
            paths: where K things are after none to n of the actions, (R, n + 1, K, 2) as in
                `QABatch.paths`.
            things: their names, the effector first.
        """
        count, length = asked.tokens.shape[1:]
        questions = question_part(hidden, asked)
        ahead = paths.shape[1] - 1
        actions = hidden[:, hidden.shape[1] - count * length - ahead :][:, :ahead]
        number = self.mentions(asked, things)  # (R, M, T)
        rows = torch.arange(len(paths), device=paths.device)[:, None, None].expand_as(number)
        after = asked.after[..., None].expand_as(number)
        said = number >= 0
        now = paths[rows[said], 0, number[said]]
        then = paths[rows[said], after[said], number[said]]
        losses = [
            self._error(self.named(self.norm(questions[said])), torch.cat([now, then], -1)),
            self._error(self.moved(self.norm(actions)), paths[:, 1:, EFFECTOR]),
        ]
        return torch.stack(losses).sum()

    def mentions(self, asked: Asked, things: list[tuple[str, ...]]) -> Tensor:
        """Which thing a token is the last word of, (R, M, T) int64, -1 for none."""
        tokens = asked.tokens
        place = torch.arange(tokens.shape[2], device=tokens.device)
        there = place < asked.lengths[..., None]
        found = torch.full_like(tokens, -1)
        for r, row in enumerate(things):
            for k, name in enumerate(row):
                words = self.tokenizer.encode(name)[1:-1]
                hit = there[r].clone()
                for back, word in enumerate(reversed(words)):
                    hit &= F.pad(tokens[r], (back, 0), value=-1)[:, : tokens.shape[2]] == word
                found[r][hit] = k
        return found

    def _error(self, said: Tensor, places: Tensor) -> Tensor:
        """Mean error in patches where places are known; 0 where none is."""
        known = places.isfinite()
        if not known.any():
            return said.sum() * 0
        return F.smooth_l1_loss(said.float()[known], places.float()[known] * self.patches)


@contextmanager
def after_layer(network: SemanticNetwork, layer: int) -> Iterator[list[Tensor]]:
    """Collects what a layer of the decoder puts out while the context lasts, pass by pass."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output if isinstance(output, Tensor) else output[0])

    handle = network.decoder.layers[layer].register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
