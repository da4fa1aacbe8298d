"""Does a policy speak an environment's action language, and can it be translated exactly?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wm_gym.errors import UserError
from wm_gym.policies.base import check_policy

if TYPE_CHECKING:
    from wm_gym.policies.base import Policy
    from wm_gym.spec import ActionSpec, FrameSpec

# unit -> (quantity, scale, offset): value in the quantity's base unit = scale * number + offset
UNITS: dict[str, tuple[str, float, float]] = {
    "m": ("length", 1.0, 0.0),
    "cm": ("length", 1e-2, 0.0),
    "mm": ("length", 1e-3, 0.0),
    "rad": ("angle", 1.0, 0.0),
    "deg": ("angle", math.pi / 180, 0.0),
    "open fraction": ("gripper opening", 1.0, 0.0),  # 1 open, 0 closed
    "closed fraction": ("gripper opening", -1.0, 1.0),  # 1 closed, 0 open
    "open sign": ("gripper opening", 0.5, 0.5),  # +1 open, -1 closed
    "closed sign": ("gripper opening", -0.5, 0.5),  # +1 closed, -1 open
}


class IncompatiblePolicyError(UserError):
    """A policy whose actions or frames cannot be translated exactly into the environment's."""


@dataclass(frozen=True)
class ActionConversion:
    """An exact translation, `actions[..., order] * scale + offset`.

    Attributes:
        order: for each component of the environment, the policy's component.
        scale: multiplier per component of the environment.
        offset: added after it.
    """

    order: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def is_identity(self) -> bool:
        """True if nothing changes."""
        return (
            self.order == tuple(range(len(self.order)))
            and set(self.scale) == {1.0}
            and set(self.offset) == {0.0}
        )

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Translates actions (..., A) of the policy into the environment's, float32."""
        if self.is_identity:
            return np.asarray(actions, np.float32)
        picked = np.asarray(actions, np.float64)[..., list(self.order)]
        return (picked * self.scale + self.offset).astype(np.float32)


def check_compatible(
    policy: Policy, action_spec: ActionSpec, frame_spec: FrameSpec | None = None
) -> ActionConversion:
    """Compares a policy's specs with an environment's.

    Units (mm to m, degrees to radians, the gripper's sign and range) and the order of components
    are translated, because that loses nothing. Another rate or frame skip, other components, a
    range that the environment would clip and another frame size are refused.

    Args:
        policy: the policy.
        action_spec: the environment's action language.
        frame_spec: the frames it gives; None leaves them unchecked.

    Returns:
        The translation of the policy's actions.

    Raises:
        IncompatiblePolicyError: with both specs and what to do.
        PolicyError: if it is no policy.
    """
    check_policy(policy)
    ours = policy.action_spec
    faults = []
    for field in ("control_hz", "frame_skip"):
        mine, theirs = getattr(ours, field), getattr(action_spec, field)
        if not math.isclose(mine, theirs, rel_tol=1e-6):
            faults.append(
                f"{field} is {mine:g} in the policy and {theirs:g} in the environment: resample "
                "the policy's actions by ResampledPolicy(policy, env.unwrapped.card.action, "
                '"hold", "repeat" or "sum"), or make an environment with the policy\'s rate'
            )
    conversion = None
    if sorted(ours.names) != sorted(action_spec.names):
        faults.append(
            f"components are {list(ours.names)} in the policy and {list(action_spec.names)} in the "
            "environment: a component can be reordered but not made up; wrap the policy in one "
            "that returns exactly the environment's components"
        )
    else:
        conversion = _conversion(ours, action_spec, faults)
    if conversion is not None:
        _check_range(ours, action_spec, conversion, faults)
    _check_frames(policy.frame_spec, frame_spec, faults)
    if faults or conversion is None:
        raise IncompatiblePolicyError(
            f"{type(policy).__name__} does not fit the environment: {'; '.join(faults)}.\n"
            f"policy:      {ours}, {policy.frame_spec}\n"
            f"environment: {action_spec}, {frame_spec}"
        )
    return conversion


def _conversion(ours: ActionSpec, theirs: ActionSpec, faults: list[str]) -> ActionConversion | None:
    order, scales, offsets = [], [], []
    for name, unit in zip(theirs.names, theirs.units, strict=True):
        index = ours.names.index(name)
        mine = ours.units[index]
        order.append(index)
        if mine == unit:
            scales.append(1.0)
            offsets.append(0.0)
            continue
        if mine not in UNITS or unit not in UNITS or UNITS[mine][0] != UNITS[unit][0]:
            faults.append(
                f"component {name!r} is in {mine!r} in the policy and in {unit!r} in the "
                f"environment, and no exact conversion is known: expected units from {list(UNITS)}"
            )
            return None
        (_, scale, offset), (_, to_scale, to_offset) = UNITS[mine], UNITS[unit]
        scales.append(scale / to_scale)
        offsets.append((offset - to_offset) / to_scale)
    return ActionConversion(tuple(order), tuple(scales), tuple(offsets))


def _check_range(
    ours: ActionSpec, theirs: ActionSpec, conversion: ActionConversion, faults: list[str]
) -> None:
    ends = np.stack([conversion(np.asarray(ours.low)), conversion(np.asarray(ours.high))])
    low, high = ends.min(axis=0), ends.max(axis=0)
    slack = 1e-5 * (np.asarray(theirs.high) - np.asarray(theirs.low))
    if (low < np.asarray(theirs.low) - slack).any() or (
        high > np.asarray(theirs.high) + slack
    ).any():
        faults.append(
            f"the policy's range, {low.tolist()} to {high.tolist()} in the environment's units, "
            f"exceeds the environment's, {list(theirs.low)} to {list(theirs.high)}, so that "
            "actions would be clipped: if that is meant, clip in the policy and state the smaller "
            "range in its action_spec (dataclasses.replace(spec, low=..., high=...))"
        )


def _check_frames(ours: FrameSpec | None, theirs: FrameSpec | None, faults: list[str]) -> None:
    if ours is None or theirs is None:
        return
    if (ours.height, ours.width) != (theirs.height, theirs.width):
        faults.append(
            f"the policy sees frames of {ours.height}x{ours.width}, the environment gives "
            f"{theirs.height}x{theirs.width}: make the environment with that frame_size, or wrap "
            f"the policy, ResizedPolicy(policy, FrameSpec({theirs.height}, {theirs.width}))"
        )
    if "default" not in (ours.camera, theirs.camera) and ours.camera != theirs.camera:
        faults.append(
            f"the policy sees camera {ours.camera!r}, the environment gives {theirs.camera!r}: "
            "choose the policy's camera in the environment"
        )
