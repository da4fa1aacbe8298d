"""What a world model promises: the typed content of a checkpoint's `card.json`.

Every number a user needs to drive a model correctly stands here: units, rates, normalisation, null
action, alignment of actions and frames, context, frame size, licence, weight hashes and measured
quality.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

import numpy as np

from wm_gym.errors import UserError

if TYPE_CHECKING:
    import gymnasium
    import torch

_CardClass = TypeVar("_CardClass")

CARD_VERSION = 4
"""Layout 1 had no `data_sha256`, layout 3 no `action.kinds` and no
`dynamics.unchanged_threshold`; both are still read."""


class CardError(UserError):
    """A card.json that is missing a field, has an unknown one, or contradicts itself."""


@dataclass(frozen=True)
class ActionSpec:
    """The action language of a model or a policy.

    A physical action `a` becomes the network's input `a * gain + bias`, zero-padded to `width`. The
    null action ("no action is known") is all zeros with the last component 1, the convention of the
    code published with arXiv:2605.06388.

    Attributes:
        names: one name per physical component.
        units: one unit per physical component, e.g. "m", "rad", "open fraction".
        low: lower bound per component, physical units.
        high: upper bound per component, physical units.
        gain: multiplier per component.
        bias: offset per component, added after the gain.
        width: width of the network's action input, at least `len(names)`.
        control_hz: actions per second of the robot; 0 where the recordings do not say.
        frame_skip: raw control steps that one model step spans.
        alignment: "target" if a frame's slot holds the action that produced it, "source" if the
            one taken at it.
        kinds: per component "delta" (a displacement, relative to where the robot is) or "absolute"
            (a target or command that does not depend on it); empty where nobody stated it.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    gain: tuple[float, ...]
    bias: tuple[float, ...]
    width: int
    control_hz: float
    frame_skip: int = 1
    alignment: Literal["target", "source"] = "target"
    kinds: tuple[Literal["delta", "absolute"], ...] = ()

    def __post_init__(self) -> None:
        """Check that every per-component field has one entry per component."""
        if self.kinds and len(self.kinds) != self.size:
            raise CardError(
                f"action.kinds has {len(self.kinds)} entries, expected {self.size}, one of 'delta' "
                f"and 'absolute' for each of {list(self.names)}, or none; correct the card"
            )
        if unknown := set(self.kinds) - {"delta", "absolute"}:
            raise CardError(
                f"action.kinds holds {sorted(unknown)}, expected 'delta' or 'absolute' for each of "
                f"{list(self.names)}; correct the card"
            )
        for name in ("units", "low", "high", "gain", "bias"):
            if len(getattr(self, name)) != self.size:
                raise CardError(
                    f"action.{name} has {len(getattr(self, name))} entries, expected "
                    f"{self.size}, one for each of "
                    f"{list(self.names)}; correct the card"
                )
        if not all(map(math.isfinite, (*self.gain, *self.bias))):
            raise CardError(
                f"action.gain {self.gain} and action.bias {self.bias} must be finite numbers; "
                "correct the card"
            )
        if not all(lo < hi for lo, hi in zip(self.low, self.high, strict=True)):  # nor NaN
            raise CardError(
                f"action.low {self.low} must lie below action.high {self.high}; correct the card"
            )
        if not 0 <= self.control_hz < float("inf") or self.frame_skip < 1:
            raise CardError(
                f"action.control_hz {self.control_hz} must be 0 (not known) or more actions per "
                f"second and action.frame_skip {self.frame_skip} at least 1; correct the card"
            )
        if self.width < self.size:
            raise CardError(
                f"action.width {self.width} is smaller than the {self.size} components "
                f"{list(self.names)}"
            )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ActionSpec:
        """Build a spec from its JSON form, in which tuples are lists.

        Raises:
            CardError: if it contradicts itself.
            TypeError: if a field is unknown or missing.
        """
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        return cls(**fields)

    @property
    def size(self) -> int:
        """Number of physical components."""
        return len(self.names)

    def space(self) -> gymnasium.spaces.Box:
        """The Gymnasium space of one physical action, float32, shape (A,)."""
        from gymnasium.spaces import Box

        return Box(
            np.asarray(self.low, np.float32), np.asarray(self.high, np.float32), dtype=np.float32
        )

    def normalise(self, actions: torch.Tensor) -> torch.Tensor:
        """Map physical actions (..., A) to network inputs (..., width), float32.

        Raises:
            ValueError: if the last axis is not A.
        """
        import torch

        if actions.shape[-1] != self.size:
            raise UserError(
                f"action has shape {tuple(actions.shape)}, expected (..., {self.size}) with "
                f"components {list(self.names)}"
            )
        scaled = actions.to(torch.float32) * actions.new_tensor(self.gain, dtype=torch.float32)
        scaled = scaled + actions.new_tensor(self.bias, dtype=torch.float32)
        return torch.nn.functional.pad(scaled, (0, self.width - self.size))

    def physical(self, inputs: np.ndarray) -> np.ndarray:
        """Inverse of `normalise`: network inputs (..., width) to physical actions (..., A)."""
        scaled = inputs[..., : self.size] - np.asarray(self.bias)
        return (scaled / np.asarray(self.gain)).astype(np.float32)

    def null_action(self) -> torch.Tensor:
        """The network input (width,) that says "no action is known": zeros, last component 1."""
        import torch

        null = torch.zeros(self.width)
        null[-1] = 1.0
        return null

    def differences(self, other: ActionSpec) -> list[str]:
        """Fields in which two action languages differ; the network's scaling is none."""
        fields = ("names", "units", "low", "high", "control_hz", "frame_skip")
        return [f for f in fields if getattr(self, f) != getattr(other, f)]


@dataclass(frozen=True)
class FrameSpec:
    """Frames a model reads and writes: uint8 RGB of (height, width), seen by `camera`."""

    height: int
    width: int
    camera: str = "default"


@dataclass(frozen=True)
class LatentSpec:
    """The latent space of one frame.

    Attributes:
        space: name in `wm_gym.latents.registry`.
        grid: (h, w) latent rows and columns.
        channels: D.
        mean: per-channel mean over the training data, subtracted before the network sees a latent.
        std: per-channel standard deviation, divided by.
        config: constructor arguments of the latent space.
    """

    space: str
    grid: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the normalisation against the channel count."""
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise CardError(
                f"latent.mean and latent.std have {len(self.mean)} and {len(self.std)} entries, "
                f"expected {self.channels}"
            )
        if min(self.std, default=1.0) <= 0:
            raise CardError("latent.std must be positive in every channel")


@dataclass(frozen=True)
class ContextSpec:
    """How much past a model sees.

    Attributes:
        kind: "window" (positions restart in every window; the published models) or "banded"
            (temporal attention is a causal band, so keys and values may persist for ever).
        length: frames in the window or band, the new one included.
        history: clean frames a rollout starts from.
        label: flow time written on context frames (they are not noised).
    """

    kind: Literal["window", "banded"] = "window"
    length: int = 10
    history: int = 2
    label: float = 0.01


@dataclass(frozen=True)
class DynamicsSpec:
    """The transition network and how it is sampled.

    Attributes:
        network: fields of `wm_gym.dynamics.dit.DiTConfig`.
        objective: "flow" (flow matching) or "ddpm" (v-prediction).
        shift: noise-schedule shift s of t' = s t / (1 + (s - 1) t).
        denoising_steps: steps per frame the model is meant to be sampled with.
        weights: safetensors file beside the card.
        unchanged_threshold: mean absolute change of a cell, in standard deviations, below which a
            rollout leaves it exactly as it was; 0 takes every cell as it was sampled.
    """

    network: dict[str, Any]
    objective: Literal["flow", "ddpm"] = "flow"
    shift: float = 1.0
    denoising_steps: int = 10
    weights: str = "dynamics.safetensors"
    unchanged_threshold: float = 0.0


@dataclass(frozen=True)
class RewardSpec:
    """The success classifier and distance regressor on latents.

    Attributes:
        network: constructor arguments.
        threshold: probability above which a frame counts as success, by task; calibrated on
            held-out real clips.
        weights: safetensors file beside the card.
        window: steps over which the probability is averaged where every step of an episode is
            asked about, see `EpisodeRule`.
        episode_threshold: mean probability above which success is seen there, by task; empty is
            `threshold`.
    """

    network: dict[str, Any]
    threshold: dict[str, float]
    weights: str = "reward.safetensors"
    window: int = 1
    episode_threshold: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what episodes go by."""
        if self.window < 1:
            raise CardError(
                f"reward.window={self.window} must be at least 1 step; correct the card"
            )
        missing = sorted(self.threshold.keys() - self.episode_threshold.keys())
        if self.episode_threshold and missing:
            raise CardError(
                f"reward.episode_threshold says nothing about {missing}; give every task of "
                "reward.threshold one, or leave it out"
            )


@dataclass(frozen=True)
class WorldModelSpec:
    """A world model's card.

    Attributes:
        name: short name, e.g. "langtable-vae-mini".
        description: what it is, in one or two sentences.
        embedded: True for the small models that ship with wm_gym.
        licence: SPDX identifier of the weights.
        training_data: what it was trained on.
        recipe: command, seeds, steps and CPU hours that made it.
        twin: id of the simulator that is its ground truth, or None.
        frame: frames.
        action: actions.
        latent: latent space.
        context: context.
        dynamics: transition network.
        distilled: a few-step version of it, or None.
        reward: success classifier, or None.
        tasks: instruction template by task name, with slots {first} and {second}.
        objects: words that may fill the slots.
        horizon: steps after which an episode ends by default.
        metrics: measured quality, each entry with the command that made it.
        weights_sha256: hash of every safetensors file beside the card.
        data_sha256: hash of every other file beside the card: start states, demo clips.
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
    latent: LatentSpec
    context: ContextSpec
    dynamics: DynamicsSpec
    weights_sha256: dict[str, str]
    data_sha256: dict[str, str] = field(default_factory=dict)
    distilled: DynamicsSpec | None = None
    reward: RewardSpec | None = None
    tasks: dict[str, str] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    horizon: int = 120
    metrics: dict[str, Any] = field(default_factory=dict)
    kind: Literal["latent"] = "latent"
    card_version: int = CARD_VERSION

    @property
    def num_views(self) -> int:
        """Cameras that stand side by side in one frame."""
        return int(self.dynamics.network.get("num_views", 1))

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON-ready dictionaries."""
        return asdict(self)


def spec_from_dict(card: dict[str, Any], source: str = "card.json") -> WorldModelSpec:
    """Build and validate a spec from the content of a card.

    A card states every field, also those that have a default in Python: what a model was trained
    with must not be guessed by whatever version of wm_gym reads it.

    Args:
        card: parsed JSON.
        source: path named in errors.

    Raises:
        CardError: naming every missing, unknown or ill-typed field.
    """
    version = card.get("card_version") if isinstance(card, dict) else None
    if version not in range(1, CARD_VERSION + 1):
        raise CardError(
            f"{source}: card_version is {version!r}, this wm_gym reads {CARD_VERSION}; update "
            f"wm_gym or the checkpoint"
        )
    return read_card(WorldModelSpec, _of_today(card), source)


def _of_today(card: dict[str, Any]) -> dict[str, Any]:
    """A card of an earlier layout with the fields that it could not have yet, or as it is."""
    if card["card_version"] < 2:
        card = {"data_sha256": {}, **card}
    if card["card_version"] < 3 and isinstance(card.get("reward"), dict):
        card = card | {"reward": {"window": 1, "episode_threshold": {}, **card["reward"]}}
    if card["card_version"] < 4 and isinstance(card.get("action"), dict):
        card = card | {"action": {"kinds": (), **card["action"]}}
    for part in ("dynamics", "distilled"):
        if card["card_version"] < 4 and isinstance(card.get(part), dict):
            card = card | {part: {"unchanged_threshold": 0.0, **card[part]}}
    return card | {"card_version": CARD_VERSION}


def read_card(cls: type[_CardClass], card: dict[str, Any], source: str) -> _CardClass:
    """Build a card of any kind; every field must be there, at every depth, and no other.

    Args:
        cls: dataclass of the card.
        card: parsed JSON.
        source: path named in errors.

    Raises:
        CardError: naming every missing, unknown or ill-typed field.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    for inner in {cls, *_inner_dataclasses(cls)}:
        setattr(inner, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
    faults = [f"{name}: this field is missing" for name in _missing_fields(cls, card)]
    spec = None
    try:
        spec = TypeAdapter(cls).validate_python(card)
    except ValidationError as error:
        faults += [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error.errors()
            if e["type"] != "missing"
        ]
    if faults or spec is None:
        raise CardError(
            f"{source} is not a valid card: {'; '.join(faults)}. Get the checkpoint again or "
            "correct the card"
        )
    return spec


def _inner_dataclasses(cls: type) -> set[type]:
    """Dataclasses among the types of a dataclass' fields, at every depth."""
    found: set[type] = set()
    for hint in get_type_hints(cls).values():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type) and is_dataclass(inner):
                found |= {inner, *_inner_dataclasses(inner)}
    return found


def _missing_fields(cls: type, card: Any, within: str = "") -> list[str]:
    """Fields of a dataclass, and of the dataclasses in it, that a card does not state."""
    if not isinstance(card, dict):
        return []
    missing: list[str] = []
    types = get_type_hints(cls)
    for entry in fields(cls):
        name = f"{within}{entry.name}"
        if entry.name not in card:
            missing.append(name)
            continue
        for inner in (types[entry.name], *get_args(types[entry.name])):
            if isinstance(inner, type) and is_dataclass(inner):
                missing += _missing_fields(inner, card[entry.name], f"{name}.")
    return missing
