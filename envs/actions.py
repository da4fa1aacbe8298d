"""Actions as an imagined environment receives them: checked, in physical units, errors by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.spec import ActionSpec

UNREADABLE = (TypeError, ValueError, OverflowError, RuntimeError)
"""What numpy and torch raise for what is no numbers: RuntimeError for a tensor with a gradient."""


def check_batch(actions: Any, rows: int, spec: ActionSpec) -> None:
    """Refuse a batch in which no row has an action of the right shape.

    One odd row among good ones is that row's own error; a whole batch of another width or axis is a
    mistake of whoever calls, and must not pass for B episodes that end.

    Args:
        actions: B actions (A,), physical units.
        rows: B.
        spec: the action language.

    Raises:
        ValueError: if there are not B actions, or none of them has the shape (A,).
    """
    expected = f"expected shape ({rows}, {spec.size}): one action per row, each {described(spec)}"
    try:
        found = len(actions)
    except TypeError:
        raise UserError(
            f"actions are {actions!r}, {expected}; pass np.stack of one action per row"
        ) from None
    if found != rows:
        raise UserError(
            f"{found} actions, expected {rows}, one per row; they have shape {shape_of(actions)}, "
            f"{expected}"
        )
    if all(shape_of(action) != str((spec.size,)) for action in actions):
        raise UserError(
            f"actions have shape {shape_of(actions)}, {expected}; reshape them, or convert the "
            "policy's actions with wm_gym.policies.compatibility.check_compatible"
        )


def read_actions(
    actions: Sequence[Any], idle: np.ndarray, spec: ActionSpec
) -> tuple[np.ndarray, dict[int, str]]:
    """Read the actions of the rows that act.

    Args:
        actions: B actions (A,), physical units.
        idle: (B,) bool, rows whose action is not looked at.
        spec: the action language.

    Returns:
        Actions (B, A) float32, as near to zero as bounds allow where useless, and errors by row.
    """
    low, high = np.asarray(spec.low, np.float32), np.asarray(spec.high, np.float32)
    nothing = np.clip(np.zeros(spec.size, np.float32), low, high)
    physical = np.tile(nothing, (len(idle), 1))
    errors: dict[int, str] = {}
    for row in np.flatnonzero(~idle).tolist():
        try:
            action = np.asarray(actions[row], np.float32)
            found = f"shape {action.shape}"
        except UNREADABLE as error:
            action, found = np.empty(0), f"no shape ({error})"
        if action.shape != (spec.size,):
            errors[row] = f"action has {found}, expected shape ({spec.size},): {described(spec)}"
        elif not np.isfinite(action).all():
            errors[row] = (
                f"action is {action.tolist()}, expected finite numbers for "
                f"{', '.join(spec.names)}; look for a division by zero in the policy"
            )
        else:
            physical[row] = action
    return physical, errors


def described(spec: ActionSpec) -> str:
    """Components and units in words."""
    return f"{', '.join(spec.names)} in {', '.join(spec.units)}"


def shape_of(actions: Any) -> str:
    """The shape in words; that nothing has one if numbers cannot be made of it."""
    try:
        return str(np.asarray(actions, np.float32).shape)
    except UNREADABLE as error:
        return f"none ({error})"
