"""Where in the picture a question looks: attention from its words to image tokens, by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wm_gym.semantic.world_model import SemanticWorldModel


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of one question about one frame.

    Attributes:
        words: the question's tokens as text, T; the answer is read at the last one.
        weights: (layers, T, side, side), the mean over heads of what each token gives each image
            token, row by row from the top left. What is missing to 1 goes to actions and words.
    """

    words: tuple[str, ...]
    weights: Tensor


@torch.no_grad()
def attention_maps(
    model: SemanticWorldModel, frame: Tensor, actions: Tensor, question: str
) -> AttentionMaps:
    """Attention of a question after all of the actions.

    Args:
        model: the model.
        frame: uint8 (H, W, 3).
        actions: physical units, (n, A); n may be 0.
        question: in words.

    Raises:
        QuestionError: for words that the model never saw.
        ValueError: for more actions than the model was trained with.
    """
    asked = model.ask([(question, len(actions))]).to(model.device)
    network = model.network
    image = network.image_features(frame[None].to(model.device))
    scaled = model.spec.action.normalise(actions[None].to(model.device))
    with _recorded(network.decoder) as layers:
        network.read(image, scaled, asked)
    length = int(asked.lengths[0, 0])
    side = network.config.image_size // network.config.patch
    start = image.shape[1] + scaled.shape[1]
    weights = torch.stack(
        [w[0, :, start : start + length, : image.shape[1]].float().mean(0) for w in layers]
    )
    words = model.tokenizer.words(asked.tokens[0, 0, :length].tolist())
    return AttentionMaps(words, weights.unflatten(-1, (side, side)).cpu())


@contextmanager
def _recorded(decoder: Any) -> Iterator[list[Tensor]]:
    """Collects each layer's attention, (rows, heads, queries, keys), by the plain implementation.

    The fused ones never hold the weights.
    """
    found: list[Tensor] = []
    usual = decoder.config._attn_implementation
    hooks = [
        layer.self_attn.register_forward_hook(lambda _, __, output: found.append(output[1]))
        for layer in decoder.layers
    ]
    decoder.config._attn_implementation = "eager"
    try:
        yield found
    finally:
        decoder.config._attn_implementation = usual
        for hook in hooks:
            hook.remove()
