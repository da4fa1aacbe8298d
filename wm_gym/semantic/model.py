"""The network of a semantic world model: PaliGemma plus one linear projection of actions.

Section 3.2 of arXiv:2510.19818: image tokens, one token per action, then the question; the answer
is read from the next-token distribution after the question. PaliGemma is transformers'; what is
added is the projection, the order of the sequence and who sees whom (`attention`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.errors import UserError
from wm_gym.semantic.attention import Asked, PrefixAttention, positions, visibility

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGE_MEAN = IMAGE_STD = 0.5
LARGEST_SIZE, LARGEST_DEPTH = 1_000_000, 1_000
"""Of any network; a card that states more is damaged."""


@dataclass(frozen=True)
class SemanticNetworkConfig:
    """Sizes of a `SemanticNetwork`; the defaults are those of the embedded models.

    Attributes:
        vocabulary: number of token embeddings.
        action_width: components of an action as the network sees it.
        image_size: height and width of the image in pixels.
        patch: pixels per patch side.
        vision_width: width of the SigLIP encoder.
        vision_depth: its layers.
        vision_heads: its attention heads.
        vision_mlp: width of its MLPs.
        width: token width of the Gemma decoder.
        depth: its layers.
        heads: its attention heads.
        key_value_heads: heads of keys and values.
        head_width: width of one head.
        mlp: width of its MLPs.
        rope_theta: base of the rotary positions.
    """

    vocabulary: int
    action_width: int
    image_size: int = 96
    patch: int = 8
    vision_width: int = 128
    vision_depth: int = 4
    vision_heads: int = 4
    vision_mlp: int = 512
    width: int = 192
    depth: int = 6
    heads: int = 4
    key_value_heads: int = 1
    head_width: int = 48
    mlp: int = 768
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        """Check that sizes are sizes, and what must divide what."""
        for name, size in asdict(self).items():
            most = LARGEST_DEPTH if name.endswith("depth") else LARGEST_SIZE
            if name != "rope_theta" and (type(size) is not int or not 1 <= size <= most):
                raise UserError(f"{name}={size!r} must be a whole number of 1 to {most}")
        if self.image_size % self.patch or self.vision_width % self.vision_heads:
            raise UserError(
                f"image_size={self.image_size} must be a multiple of patch={self.patch}, and "
                f"vision_width={self.vision_width} of vision_heads={self.vision_heads}"
            )
        if self.heads % self.key_value_heads or self.head_width % 2:
            raise UserError(
                f"heads={self.heads} must be a multiple of key_value_heads="
                f"{self.key_value_heads}, and head_width={self.head_width} even"
            )

    @property
    def image_tokens(self) -> int:
        """Number N of image tokens."""
        return (self.image_size // self.patch) ** 2

    def paligemma(self) -> Any:
        """The configuration of transformers' PaliGemma."""
        from transformers import PaliGemmaConfig

        vision = {
            "model_type": "siglip_vision_model",
            "image_size": self.image_size,
            "patch_size": self.patch,
            "hidden_size": self.vision_width,
            "num_hidden_layers": self.vision_depth,
            "num_attention_heads": self.vision_heads,
            "intermediate_size": self.vision_mlp,
            "projection_dim": self.width,
            "vision_use_head": False,
        }
        text = {
            "model_type": "gemma",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.mlp,
            "rope_theta": self.rope_theta,
            "num_image_tokens": self.image_tokens,
        }
        return PaliGemmaConfig(
            vision_config=vision,
            text_config=text,
            projection_dim=self.width,
            image_token_index=self.vocabulary - 1,
        )


PALIGEMMA_3B = SemanticNetworkConfig(
    vocabulary=257_216,
    action_width=2,
    image_size=224,
    patch=14,
    vision_width=1152,
    vision_depth=27,
    vision_heads=16,
    vision_mlp=4304,
    width=2048,
    depth=18,
    heads=8,
    key_value_heads=1,
    head_width=256,
    mlp=16_384,
)
"""Sizes of `google/paligemma-3b-pt-224`, the base of the published models."""


class KeysAndValues:
    """Keys and values of tokens that came before, one pair per layer; handed to Gemma's layers.

    The first pass records; later passes see the recorded tokens before their own and leave the
    record as it is.

    Attributes:
        layers: (keys, values) by layer, each (R, heads, N, head_width).
    """

    def __init__(self, layers: dict[int, tuple[Tensor, Tensor]] | None = None) -> None:
        self.layers = layers or {}
        self._recording = layers is None

    def rows(self, rows: Tensor) -> KeysAndValues:
        """The same for some rows, repeats allowed; only to be read."""
        return KeysAndValues({i: (k[rows], v[rows]) for i, (k, v) in self.layers.items()})

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """What transformers' attention calls: own keys and values in, all of them out."""
        if self._recording:
            self.layers[layer] = (keys, values)
            return keys, values
        before_keys, before_values = self.layers[layer]
        return torch.cat([before_keys, keys], -2), torch.cat([before_values, values], -2)


class SemanticNetwork(nn.Module):
    """Images, actions and questions to next-token logits.

    Args:
        config: sizes.
        prefix_attention: who sees whom, see `PrefixAttention`.
    """

    def __init__(
        self, config: SemanticNetworkConfig, prefix_attention: PrefixAttention = "block_causal"
    ) -> None:
        from transformers import PaliGemmaModel

        super().__init__()
        self.config = config
        self.prefix_attention: PrefixAttention = prefix_attention
        self.paligemma = PaliGemmaModel(config.paligemma())
        self.action_projector = nn.Linear(config.action_width, config.width)
        nn.init.normal_(self.action_projector.weight, std=0.02)
        nn.init.zeros_(self.action_projector.bias)

    @property
    def decoder(self) -> Any:
        """Gemma, without its output layer."""
        return self.paligemma.language_model

    @property
    def embeddings(self) -> Tensor:
        """Token embeddings, (vocabulary, D); the output layer is tied to them."""
        return self.decoder.embed_tokens.weight

    def image_features(self, frames: Tensor) -> Tensor:
        """Image tokens (B, N, D) of uint8 frames (B, H, W, 3) of any size."""
        size = (self.config.image_size, self.config.image_size)
        pixels = frames.permute(0, 3, 1, 2).to(torch.float32)
        if tuple(pixels.shape[-2:]) != size:
            resized = F.interpolate(pixels, size, mode="bicubic", antialias=True)
            pixels = resized.round().clamp(0, 255)
        return self.pixel_features((pixels / 255 - IMAGE_MEAN) / IMAGE_STD)

    def pixel_features(self, pixels: Tensor) -> Tensor:
        """Image tokens (B, N, D) of normalised pixels (B, 3, H, W) of the network's size."""
        vision = self.paligemma.vision_tower
        found = vision(pixels.to(self.embeddings.dtype)).last_hidden_state
        return self.paligemma.multi_modal_projector(found)

    def action_features(self, actions: Tensor) -> Tensor:
        """Action tokens (R, n, D) of actions (R, n, action_width) as the network sees them.

        Gemma multiplies every embedding by √D. Image features are divided by it beforehand in the
        published code, action features are not: these come out larger by √D than their projection.
        """
        return self._scaled(self.action_projector(actions.to(self.embeddings.dtype)))

    def token_features(self, tokens: Tensor) -> Tensor:
        """Embeddings (..., D) of token ids (...)."""
        return self._scaled(F.embedding(tokens, self.embeddings))

    def _scaled(self, features: Tensor) -> Tensor:
        return features * torch.tensor(self.config.width**0.5, dtype=features.dtype)

    def look(self, image: Tensor) -> KeysAndValues:
        """Keys and values of image tokens (B, N, D), for `read_after` with any question.

        Raises:
            ValueError: under full attention, where they would depend on the question.
        """
        if self.prefix_attention == "full":
            raise UserError(
                "prefix_attention='full' lets the image see the question, so its keys and values "
                "cannot be shared; use `read`, or train a model with 'block_causal'"
            )
        record = KeysAndValues()
        rows, tokens = image.shape[:2]
        where = torch.arange(1, tokens + 1, device=image.device).expand(rows, -1)
        self._layers(image, where, None, record)
        return KeysAndValues(record.layers)

    def read(self, image: Tensor, actions: Tensor, asked: Asked) -> Tensor:
        """Hidden states after the last layer of whole sequences.

        Args:
            image: image tokens, (R, N, D).
            actions: (R, n, action_width).
            asked: R rows of questions; under full attention one a row.

        Returns:
            (R, N + n + M · T, D).
        """
        features = [
            image, self.action_features(actions), self.token_features(asked.tokens).flatten(1, 2),
        ]  # fmt: skip
        counts = (image.shape[1], actions.shape[1])
        seen = visibility(*counts, asked, self.prefix_attention)
        return self._layers(torch.cat(features, 1), positions(*counts, asked), seen, None)

    def read_after(self, image: KeysAndValues, actions: Tensor, asked: Asked) -> Tensor:
        """Hidden states (R, n + M · T, D) of actions and questions after images of `look`.

        Equal to the end of `read`; the image is not computed again.
        """
        tokens = self.config.image_tokens
        features = [
            self.action_features(actions), self.token_features(asked.tokens).flatten(1, 2),
        ]  # fmt: skip
        seen = visibility(tokens, actions.shape[1], asked, self.prefix_attention)[:, tokens:]
        where = positions(tokens, actions.shape[1], asked)[:, tokens:]
        return self._layers(torch.cat(features, 1), where, seen, image)

    def answer_logits(self, hidden: Tensor, asked: Asked) -> Tensor:
        """Next-token logits (R, M, vocabulary) where the answers stand.

        Args:
            hidden: (R, …, D), ending with the M · T question tokens.
            asked: the questions that were read.
        """
        questions = question_part(hidden, asked)
        at = asked.answer_at[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
        return self.logits(questions.gather(2, at)[:, :, 0])

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., vocabulary) of hidden states (..., D)."""
        return F.linear(hidden, self.embeddings)

    def loss(self, hidden: Tensor, asked: Asked, answers: Tensor, end: int | None = None) -> Tensor:
        """Mean cross-entropy of the answers.

        Args:
            hidden: as in `answer_logits`.
            asked: the questions that were read; empty places do not count.
            answers: token of each answer, (R, M).
            end: token that must follow the answer, which then stands in the suffix; None trains
                the answer alone. The published loss has it.

        Raises:
            ValueError: if `end` and the suffix do not go together.
        """
        if (end is not None) != (asked.suffix == 1):
            raise UserError(
                f"end={end} with a suffix of {asked.suffix} tokens; an end needs a suffix of 1, "
                "the answer, and no end a suffix of 0"
            )
        there = asked.lengths > 0
        logits = [self.answer_logits(hidden, asked)[there]]
        labels = [answers[there]]
        if end is not None:
            last = (asked.lengths - 1).clamp_min(0)[..., None, None]
            questions = question_part(hidden, asked)
            after = questions.gather(2, last.expand(-1, -1, 1, hidden.shape[-1]))[:, :, 0]
            logits.append(self.logits(after)[there])
            labels.append(torch.full_like(labels[0], end))
        return F.cross_entropy(torch.cat(logits).float(), torch.cat(labels))

    def _layers(
        self, features: Tensor, where: Tensor, seen: Tensor | None, before: KeysAndValues | None
    ) -> Tensor:
        """Gemma's layers with our own mask: None sees everything."""
        mask = None
        if seen is not None:
            hidden = torch.finfo(features.dtype).min
            mask = torch.zeros_like(seen, dtype=features.dtype).masked_fill_(~seen, hidden)[:, None]
        rotary = self.decoder.rotary_emb(features, position_ids=where)
        for layer in self.decoder.layers:
            features = layer(
                features,
                attention_mask=mask,
                position_ids=where,
                past_key_values=before,
                position_embeddings=rotary,
            )
        return self.decoder.norm(features)


def question_part(hidden: Tensor, asked: Asked) -> Tensor:
    """The questions' hidden states (R, M, T, D) at the end of a sequence (R, L, D)."""
    _, count, length = asked.tokens.shape
    return hidden[:, hidden.shape[1] - count * length :].unflatten(1, (count, length))


def to_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `SemanticNetwork`'s weights under the names of the published checkpoints.

    These names are what is stored: they do not change with the version of transformers.
    """
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("action_projector."):
            official = "model." + name.replace("action_projector.", "action_projector.linear.")
        else:
            official = "model." + name.removeprefix("paligemma.")
        if "vision_tower." in official and "vision_tower.vision_model." not in official:
            official = official.replace("vision_tower.", "vision_tower.vision_model.")
        renamed[official] = tensor
    return renamed


def load_published(network: SemanticNetwork, weights: Mapping[str, Tensor]) -> list[str]:
    """Load weights under their published names.

    The output layer, tied to the embeddings, may be there. The action projection may be absent, as
    in the base VLM; everything else must fit.

    Returns:
        Our names of what was absent: nothing, or the action projection.

    Raises:
        RuntimeError: if a tensor is unknown, has another shape or is absent, as torch says it.
    """
    names = {official: own for own, official in _published_names(network).items()}
    unknown = sorted(set(weights) - set(names) - {"lm_head.weight"})
    if unknown:
        raise RuntimeError(f"unknown tensors {unknown[:5]} of {len(unknown)}")
    own = {names[name]: tensor for name, tensor in weights.items() if name in names}
    absent = sorted(set(names.values()) - set(own))
    if any(not name.startswith("action_projector.") for name in absent):
        raise RuntimeError(f"absent tensors {absent[:5]} of {len(absent)}")
    network.load_state_dict(own, strict=not absent)
    return absent


def _published_names(network: SemanticNetwork) -> dict[str, str]:
    """Published name by own name."""
    own = list(network.state_dict())
    return dict(zip(own, to_published({name: torch.empty(0) for name in own}), strict=True))
