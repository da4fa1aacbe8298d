"""An auxiliary loss that teaches a question's words where to look, and asks where things will be.

A vision-language model has learnt to point at what a question names before it is fine-tuned
(PaliGemma: arXiv:2407.07726); a small network that starts from random weights gets one bit a
question to learn it from. So the last word of every thing that a question names

- must look at the first word in the decoder's first layer, and at the image tokens that show the
  thing in the second: one head of each is trained to put its attention there;
- says, in the middle of the decoder, where the thing appears now and where it will after the
  question's actions; every action says where the effector will be after it.

The token after which the answer stands must look, in the layer that follows, at the first and the
last thing named: one head for each. What the answer then is, the loss does not say. The heads that
read the places are not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

from wm_gym.errors import UserError
from wm_gym.semantic.attention import Asked, positions, visibility
from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig, question_part
from wm_gym.semantic.tokens import QuestionTokenizer
from wm_gym.training.seeing import covering

DEPTH = 3
HEADS = 2
"""Layers and attention heads that a decoder needs."""
EFFECTOR = 0
"""Number of the effector among a row's things, see `QABatch.things`."""


class GroundingLoss(nn.Module):
    """Cross-entropy of the looks, plus the error of the places in patches.

    Args:
        config: sizes of the network.
        tokenizer: words to tokens.

    Attributes:
        saying: number of the layer after which tokens say places; about two fifths follow.
    """

    def __init__(self, config: SemanticNetworkConfig, tokenizer: QuestionTokenizer) -> None:
        super().__init__()
        self.side = config.image_size // config.patch
        if config.depth < DEPTH or config.heads < HEADS:
            raise UserError(
                f"depth={config.depth} and heads={config.heads}: grounding needs a decoder of at "
                f"least {DEPTH} layers with {HEADS} heads: one reads a name, one looks, one answers"
            )
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
        number, back = self.mentions(asked, things)  # (R, M, T) each
        reads = self._reading(network, heard, asked, back)
        looks = self._looking(network, heard, asked, number, paths[:, 0])
        ahead = paths.shape[1] - 1
        image = self.side**2
        hidden = heard.after_saying
        said = number >= 0
        rows = torch.arange(len(paths), device=paths.device)[:, None, None].expand_as(number)
        after = asked.after[..., None].expand_as(number)
        now = paths[rows[said], 0, number[said]]
        then = paths[rows[said], after[said], number[said]]
        asks = self._asking(network, heard, asked, said)
        words = self.named(self.norm(question_part(hidden, asked)[said]))
        actions = self.moved(self.norm(hidden[:, image : image + ahead]))
        named = self._error(words, torch.cat([now, then], -1))
        moved = self._error(actions, paths[:, 1:, EFFECTOR])
        parts = {
            "reading": reads, "looking": looks, "named": named, "moved": moved, "asking": asks,
        }  # fmt: skip
        logs = {f"{name}_loss": loss.detach() for name, loss in parts.items()}
        return reads + looks + named + moved + asks, logs

    def _reading(
        self, network: SemanticNetwork, heard: Heard, asked: Asked, back: Tensor
    ) -> Tensor:
        """Cross-entropy of the first layer's attention between a name's last and first word."""
        said = back > 0
        if not said.any():
            return heard.after_saying.sum() * 0
        looks = attention_of_words(network, 0, heard.inputs[0], asked)
        length = asked.tokens.shape[2]
        first = torch.arange(length, device=back.device) - back  # (R, M, T)
        at = looks.shape[-1] - length + first
        return -looks.gather(-1, at[..., None])[..., 0][said].mean()

    def _looking(
        self,
        network: SemanticNetwork,
        heard: Heard,
        asked: Asked,
        number: Tensor,
        places: Tensor,
    ) -> Tensor:
        """Cross-entropy of the second layer's attention between a last word and what it names.

        Args:
            network: whose layer looks.
            heard: what it read.
            asked: the questions.
            number: which thing each token names, (R, M, T).
            places: of things now, (R, K, 2).
        """
        looks = attention_of_words(network, 1, heard.inputs[1], asked)[..., : self.side**2]
        owner, _ = covering(places, self.side)  # (R, N)
        shown = (owner[:, None, None] == number[..., None]) & (number[..., None] >= 0)
        seen = shown.any(-1)
        if not seen.any():
            return looks.sum() * 0
        return -looks.masked_fill(~shown, -torch.inf)[seen].logsumexp(-1).mean()

    def _asking(self, network: SemanticNetwork, heard: Heard, asked: Asked, said: Tensor) -> Tensor:
        """Cross-entropy of the attention between an answer's token and the things named.

        Args:
            network: whose layer after the one that says places looks.
            heard: what it read.
            asked: the questions.
            said: whether a token is the last word of a name, (R, M, T).
        """
        named = said.any(-1)
        if not named.any():
            return heard.after_saying.sum() * 0
        length = said.shape[-1]
        ends = (said.long().argmax(-1), length - 1 - said.flip(-1).long().argmax(-1))  # (R, M)
        losses = []
        for head, end in enumerate(ends):
            looks = attention_of_words(network, self.saying + 1, heard.after_saying, asked, head)
            answer = asked.answer_at[..., None, None].expand(-1, -1, 1, looks.shape[-1])
            own = looks.gather(2, answer)[:, :, 0, -length:]
            losses.append(-own.gather(-1, end[..., None])[..., 0][named].mean())
        return torch.stack(losses).sum()

    def mentions(self, asked: Asked, things: list[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
        """Where names end.

        Returns:
            Which thing a token is the last word of, (R, M, T) int64, -1 for none; and how many
            tokens before it the name begins, 0 for names of one word and where none ends.
        """
        tokens = asked.tokens
        place = torch.arange(tokens.shape[2], device=tokens.device)
        there = place < asked.lengths[..., None]
        found, back = torch.full_like(tokens, -1), torch.zeros_like(tokens)
        for r, row in enumerate(things):
            for k, name in enumerate(row):
                words = self.tokenizer.encode(name)[1:-1]
                hit = there[r].clone()
                for before, word in enumerate(reversed(words)):
                    hit &= F.pad(tokens[r], (before, 0), value=-1)[:, : tokens.shape[2]] == word
                found[r][hit], back[r][hit] = k, len(words) - 1
        return found, back

    def _error(self, said: Tensor, places: Tensor) -> Tensor:
        """Mean error in patches where places are known; 0 where none is."""
        known = places.isfinite()
        if not known.any():
            return said.sum() * 0
        return F.smooth_l1_loss(said.float()[known], places.float()[known] * self.side / 2)


def attention_of_words(
    network: SemanticNetwork, number: int, hidden: Tensor, asked: Asked, head: int = 0
) -> Tensor:
    """What a head pays attention to, with gradients that attention kernels hide.

    Args:
        network: with block-causal attention.
        number: of the decoder's layer.
        hidden: what comes into the layer, (R, N + n + M · T, D).
        asked: R rows of M questions.
        head: of the layer's attention.

    Returns:
        Logarithms of the attention of every question token to image, actions and its own question,
        (R, M, T, N + n + T).
    """
    layer: Any = network.decoder.layers[number]
    image = network.config.image_tokens
    _, count, length = asked.tokens.shape
    before = hidden.shape[1] - count * length  # N + n
    normed = layer.input_layernorm(hidden)
    width = network.config.head_width
    shared = head * network.config.key_value_heads // network.config.heads
    query = layer.self_attn.q_proj(normed)[..., head * width : (head + 1) * width]
    key = layer.self_attn.k_proj(normed)[..., shared * width : (shared + 1) * width]
    rotary = network.decoder.rotary_emb(hidden, positions(image, before - image, asked))
    query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *rotary)
    words = question_part(query[:, 0], asked)  # (R, M, T, d)
    outside = words @ key[:, :, :before].transpose(-1, -2)  # (R, M, T, N + n)
    own = words @ question_part(key[:, 0], asked).transpose(-1, -2)  # (R, M, T, T)
    seen = visibility(image, before - image, asked, network.prefix_attention)[:, before:]
    seen = seen.unflatten(1, (count, length))
    rows = torch.arange(count, device=hidden.device)
    seen_own = seen[..., before:].unflatten(-1, (count, length))[:, rows, :, rows].transpose(0, 1)
    looks = torch.cat([outside, own], -1).float() * layer.self_attn.scaling
    seen = torch.cat([seen[..., :before], seen_own], -1)
    return looks.masked_fill(~seen, torch.finfo(torch.float32).min).log_softmax(-1)


@dataclass
class Heard:
    """Hidden states of one pass, (R, L, D).

    Attributes:
        inputs: what came into the first two layers.
        after_saying: what came out of the layer after which places are said.
    """

    inputs: dict[int, Tensor] = field(default_factory=dict)
    after_saying: Tensor = field(init=False)


@contextmanager
def listening(network: SemanticNetwork, loss: GroundingLoss) -> Iterator[Heard]:
    """Collects what `GroundingLoss` needs of the pass made while the context lasts."""
    heard = Heard()

    def keep_input(number: int, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard.inputs[number] = inputs[0]

    def keep_output(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        heard.after_saying = output

    layers = network.decoder.layers
    handles = [
        layers[number].register_forward_pre_hook(partial(keep_input, number)) for number in (0, 1)
    ]
    handles.append(layers[loss.saying].register_forward_hook(keep_output))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
