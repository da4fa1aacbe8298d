"""What a semantic world model promises: the typed content of its `card.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from wm_gym.spec import ActionSpec, CardError, FrameSpec, read_card

SEMANTIC_CARD_VERSION = 2
"""Layout 1 had no `action.kinds`; it is still read."""


@dataclass(frozen=True)
class SemanticSpec:
    """A semantic world model's card.

    Attributes:
        name: short name.
        description: what it is, in one or two sentences.
        embedded: True for the small models that ship with wm_gym.
        licence: SPDX identifier of the weights.
        training_data: what it was trained on.
        recipe: command, seeds, steps and CPU hours that made it.
        twin: id of the simulator that is its ground truth, or None.
        frame: frames it was trained on; others are resized to the network's image size.
        action: its action language.
        network: fields of `wm_gym.semantic.model.SemanticNetworkConfig`.
        prefix_attention: "full" if all tokens before the answer see each other, as in the published
            weights; "block_causal" if image and actions do not see the question.
        objects: what its questions were trained to be about.
        horizon: the largest number of actions it was trained with, and of an environment's episode.
        answer_threshold: probability above which an answer counts as given, for subgoals and
            environments; calibrated on held-out data.
        tasks: instruction template by task name, with slots {first} and {second}.
        weights_sha256: hash of every safetensors file beside the card.
        data_sha256: hash of every other file beside the card: tokenizer, start states.
        metrics: measured quality, each entry with the command that made it.
        weights: safetensors file beside the card.
        tokenizer: tokenizer file beside the card.
        card_version: layout of this file.
    """

    name: str
    description: str
    embedded: bool
    licence: str
    training_data: str
    recipe: dict[str, Any]
    twin: str | None
    frame: FrameSpec
    action: ActionSpec
    network: dict[str, Any]
    prefix_attention: Literal["full", "block_causal"]
    objects: tuple[str, ...]
    weights_sha256: dict[str, str]
    data_sha256: dict[str, str] = field(default_factory=dict)
    horizon: int = 20
    answer_threshold: float = 0.9
    tasks: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    weights: str = "semantic.safetensors"
    tokenizer: str = "tokenizer.json"
    kind: Literal["semantic"] = "semantic"
    card_version: int = SEMANTIC_CARD_VERSION

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.horizon < 1 or not 0 < self.answer_threshold < 1:
            raise CardError(
                f"horizon {self.horizon} must be at least 1 and answer_threshold "
                f"{self.answer_threshold} between 0 and 1; correct the card"
            )

    @property
    def blind(self) -> Literal["none", "image", "actions"]:
        """What training hid from the model, a control; "none" for one that is to be used."""
        found: Literal["none", "image", "actions"] = self.recipe.get("settings", {}).get(
            "blind", "none"
        )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON-ready dictionaries."""
        return asdict(self)


def semantic_spec_from_dict(card: dict[str, Any], source: str = "card.json") -> SemanticSpec:
    """Build and validate a semantic world model's card.

    Args:
        card: parsed JSON; it states every field, as `spec_from_dict` explains.
        source: path named in errors.

    Raises:
        CardError: if it is of another kind or version, or naming every wrong field.
    """
    if card.get("kind") != "semantic":
        raise CardError(
            f"{source} is the card of a {card.get('kind')!r} model, expected a 'semantic' one; "
            "give a checkpoint made by `wm-gym train semantic`"
        )
    if card.get("card_version") not in range(1, SEMANTIC_CARD_VERSION + 1):
        raise CardError(
            f"{source}: card_version is {card.get('card_version')!r}, this wm_gym reads "
            f"{SEMANTIC_CARD_VERSION}; update wm_gym or the checkpoint"
        )
    if card["card_version"] < 2 and isinstance(card.get("action"), dict):
        card = card | {"action": {"kinds": (), **card["action"]}}
    return read_card(SemanticSpec, card | {"card_version": SEMANTIC_CARD_VERSION}, source)
