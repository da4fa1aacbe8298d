"""Whether recorded actions are those of a model: rate, units, range, finite numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from wm_gym.data.episodes import EpisodeError, EpisodeReader, check_finite
from wm_gym.domains import domain_of
from wm_gym.spec import ActionSpec

RANGE_TOLERANCE = 1e-4
"""How far an action may lie beyond its bounds, as a part of their distance: float32 rounds."""


@dataclass(frozen=True)
class Accepted:
    """Contradictions that the user takes upon himself.

    Attributes:
        rate: whether data at another rate than the spec's are taken as they are.
        range: whether actions beyond the spec's bounds are taken as they are.
    """

    rate: bool = False
    range: bool = False


STRICT = Accepted()


def recorded_action(data: EpisodeReader) -> ActionSpec | None:
    """What the data say of their actions: their own spec, or that of their simulator's domain."""
    metadata = getattr(data, "metadata", {})
    if isinstance(known := metadata.get("action"), dict):
        return ActionSpec.from_dict(known)
    env_spec = metadata.get("env_spec")
    if not env_spec:
        return None
    domain = domain_of(json.loads(env_spec).get("id"))
    return None if domain is None else domain.action


def recorded_rate(data: EpisodeReader) -> float:
    """Rows per second of the data; 0 where nothing says."""
    fps = float(getattr(data, "fps", 0.0))
    known = recorded_action(data)
    return fps or (0.0 if known is None else known.control_hz)


def check_recordings(data: EpisodeReader, action: ActionSpec, accepted: Accepted = STRICT) -> None:
    """Refuse data whose actions are not those that a spec describes.

    Args:
        data: the episodes.
        action: what a model, or the latents to be written, takes actions for.
        accepted: what may contradict it.

    Raises:
        EpisodeError: naming both rates, both units, or the episode, row and component.
    """
    rate = recorded_rate(data)
    unknown = not rate or not action.control_hz
    if not (unknown or accepted.rate or math.isclose(rate, action.control_hz, rel_tol=1e-3)):
        raise EpisodeError(
            f"{data.folder} is recorded at {rate:g} Hz, the action spec says control_hz "
            f"{action.control_hz:g}: resample the recordings, or accept the difference by "
            "any_rate=True (--any-rate)"
        )
    known = recorded_action(data)
    if known is not None and (known.names, known.units) != (action.names, action.units):
        raise EpisodeError(
            f"{data.folder} holds actions {list(known.names)} in {list(known.units)}, the action "
            f"spec says {list(action.names)} in {list(action.units)}; use data of that robot, or "
            "convert them"
        )
    low, high = np.asarray(action.low), np.asarray(action.high)
    margin = RANGE_TOLERANCE * (high - low)
    for episode in range(len(data)):
        rows = data.actions(episode)
        if rows.ndim != 2 or rows.shape[1] != action.size:
            raise EpisodeError(
                f"{data.folder}: episode {episode} has actions of shape {rows.shape}, expected "
                f"(T, {action.size}): {list(action.names)}; use episodes of that robot"
            )
        check_finite(rows, data.folder, episode)
        if accepted.range:
            continue
        beyond = np.argwhere((rows < low - margin) | (rows > high + margin))
        if len(beyond):
            row, component = (int(i) for i in beyond[0])
            raise EpisodeError(
                f"{data.folder}: episode {episode}, row {row} has {action.names[component]} = "
                f"{rows[row, component]:g}, expected {low[component]:g} to {high[component]:g} "
                f"{action.units[component]}: another unit, or a jump; correct the data, or accept "
                "such actions by any_range=True (--any-range)"
            )
