"""An auxiliary loss that teaches a question's words where to look, and asks where things will be.

A vision-language model has learnt to point at what a question names before it is fine-tuned
(PaliGemma: arXiv:2407.07726); a small network that starts from random weights gets one bit a
question to learn it from. So the last word of every thing that a question names

- must look at the image tokens that show the thing: one head of the decoder's second layer is
  trained to put its attention there;
- says, in the middle of the decoder, where the thing appears now and where it will after the
  question's actions; every action says where the effector will be after it.

The answer is left to the layers that follow. The heads that read the places are not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

from wm_gym.semantic.attention import Asked, positions
from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig, question_part
from wm_gym.semantic.tokens import QuestionTokenizer
from wm_gym.training.seeing import covering

EFFECTOR = 0
"""Number of the effector among a row's things, see `QABatch.things`."""


class GroundingLoss(nn.Module):
    """Cross-entropy of the looks, plus the error of the places in patches.

    Args:
        config: sizes of the network.
        tokenizer: words to tokens.

    Attributes:
        looking: number of the layer whose first head looks at what is named.
        saying: number of the layer after which tokens say places; about two fifths follow.
    """

    def __init__(self, config: SemanticNetworkConfig, tokenizer: QuestionTokenizer) -> None:
        super().__init__()
        self.side = config.image_size // config.patch
        self.looking = min(1, config.depth - 1)
        self.saying = -(-3 * config.depth // 5) - 1
        self.tokenizer = tokenizer
        self.norm = nn.LayerNorm(config.width)
        self.named = nn.Linear(config.width, 4)
        self.moved = nn.Linear(config.width, 2)

    def forward(
        self,
        network: SemanticNetwork,
        heard: Heard,
        asked: Asked,
        paths: Tensor,
        things: list[tuple[str, ...]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss and its parts.

        Args:
            network: whose tokens are asked.
            heard: what `listening` collected while it read whole sequences,
                (R, N + n + M · T, D).
            asked: R rows of M questions, without suffix.
            paths: where K things are after none to n of the actions, (R, n + 1, K, 2) as in
                `QABatch.paths`.
            things: their names, the effector first.
        """
        number = self.mentions(asked, things)  # (R, M, T)
        looks = self._looks(network, heard.before_looking, asked, number, paths[:, 0])
        ahead = paths.shape[1] - 1
        image = self.side**2
        hidden = heard.after_saying
        said = number >= 0
        rows = torch.arange(len(paths), device=paths.device)[:, None, None].expand_as(number)
        after = asked.after[..., None].expand_as(number)
        now = paths[rows[said], 0, number[said]]
        then = paths[rows[said], after[said], number[said]]
        words = self.named(self.norm(question_part(hidden, asked)[said]))
        actions = self.moved(self.norm(hidden[:, image : image + ahead]))
        named = self._error(words, torch.cat([now, then], -1))
        moved = self._error(actions, paths[:, 1:, EFFECTOR])
        logs = {"looking_loss": looks, "named_loss": named, "moved_loss": moved}
        return looks + named + moved, {name: loss.detach() for name, loss in logs.items()}

    def _looks(
        self,
        network: SemanticNetwork,
        hidden: Tensor,
        asked: Asked,
        number: Tensor,
        places: Tensor,
    ) -> Tensor:
        """Cross-entropy of the share of a head's look at the picture that falls on what is named.

        Args:
            network: whose layer looks.
            hidden: what comes into the layer, (R, N + n + M · T, D).
            asked: the questions.
            number: which thing each token names, (R, M, T).
            places: of things now, (R, K, 2).
        """
        layer: Any = network.decoder.layers[self.looking]
        image = self.side**2
        count, length = asked.tokens.shape[1:]
        normed = layer.input_layernorm(hidden)
        width = layer.self_attn.head_dim
        query = layer.self_attn.q_proj(normed)[..., :width]
        key = layer.self_attn.k_proj(normed)[..., :width]
        actions = hidden.shape[1] - image - count * length
        rotary = network.decoder.rotary_emb(hidden, positions(image, actions, asked))
        query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *rotary)
        words = question_part(query[:, 0], asked).flatten(1, 2)
        looks = words @ key[:, 0, :image].transpose(1, 2) * layer.self_attn.scaling
        looks = looks.unflatten(1, (count, length)).float().log_softmax(-1)  # (R, M, T, N)
        owner, _ = covering(places, self.side)  # (R, N)
        shown = (owner[:, None, None] == number[..., None]) & (number[..., None] >= 0)
        seen = shown.any(-1)
        if not seen.any():
            return looks.sum() * 0
        return -looks.masked_fill(~shown, -torch.inf)[seen].logsumexp(-1).mean()

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
        return F.smooth_l1_loss(said.float()[known], places.float()[known] * self.side / 2)


@dataclass
class Heard:
    """Hidden states of one pass, (R, L, D)."""

    before_looking: Tensor = field(init=False)
    after_saying: Tensor = field(init=False)


@contextmanager
def listening(network: SemanticNetwork, loss: GroundingLoss) -> Iterator[Heard]:
    """Collects what `GroundingLoss` needs of the passes made while the context lasts."""
    heard = Heard()

    def keep_input(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard.before_looking = inputs[0]

    def keep_output(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        heard.after_saying = output

    layers = network.decoder.layers
    handles = (
        layers[loss.looking].register_forward_pre_hook(keep_input),
        layers[loss.saying].register_forward_hook(keep_output),
    )
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
