"""How a policy uses the range of its actions: what the environment clips, and what moves nothing.

A policy in the wrong units fails silently: actions a thousand times too large are clipped, and
those a thousand times too small leave the robot where it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from wm_gym.policies.records import EpisodeRecord, share_of
from wm_gym.policies.run_identity import rows_environments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wm_gym.policies.rows import EpisodeRows

NULL_FRACTION = 0.01
"""An action is nearly null if no displacement in it exceeds this fraction of its largest."""
WARN_SHARE = 0.2
"""Share of clipped, or of nearly null steps, above which a run warns."""
_TOLERANCE = 1e-5


class ActionUseWarning(UserWarning):
    """Many of a policy's actions are clipped or nearly null: units, scale or rate may be wrong."""


class ActionUse:
    """Tells clipped and nearly null actions of a range.

    Args:
        low: least action (A,).
        high: largest action (A,).
        kinds: per component "delta" or "absolute"; where nobody says, components whose range lies
            on both sides of zero count as displacements.
    """

    def __init__(self, low: ArrayLike, high: ArrayLike, kinds: Sequence[str] = ()) -> None:
        self.low, self.high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._slack = _TOLERANCE * (self.high - self.low)
        # an absolute command, such as a gripper's, says nothing about whether the robot moves
        around_zero = (self.low < 0) & (self.high > 0)
        delta = [kind == "delta" for kind in kinds] or around_zero
        self._moving = np.asarray(delta, bool)
        self._least = NULL_FRACTION * np.maximum(np.abs(self.low), np.abs(self.high))

    @classmethod
    def of_rows(cls, rows: EpisodeRows) -> ActionUse | None:
        """That of rows, by their action language or else their action space; None of no range."""
        spec = rows.action_spec
        if spec is not None:
            return cls(spec.low, spec.high, spec.kinds)
        for env in rows_environments(rows):
            space: Any = getattr(env, "single_action_space", None) or env.action_space
            if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
                return cls(space.low, space.high)
        return None

    def clipped(self, action: np.ndarray) -> bool:
        """Whether a component of an action (A,) lies outside its range."""
        over, under = action > self.high + self._slack, action < self.low - self._slack
        return bool((over | under).any())

    def nearly_null(self, action: np.ndarray) -> bool:
        """Whether all displacements of an action (A,) are below 1 % of the largest possible."""
        if not self._moving.any():
            return False
        return bool((np.abs(action) < self._least)[self._moving].all())


def warn_of_action_use(records: Sequence[EpisodeRecord], policy: str) -> None:
    """Warn if more than a fifth of the steps of episodes had clipped or nearly null actions."""
    for line in action_use_findings(records, policy):
        warnings.warn(line, ActionUseWarning, stacklevel=3)


def action_use_findings(records: Sequence[EpisodeRecord], policy: str) -> list[str]:
    """A sentence for each share above `WARN_SHARE`."""
    found = []
    clipped, null = share_of(records, "clipped_share"), share_of(records, "null_share")
    if clipped is not None and clipped > WARN_SHARE:
        found.append(
            f"{clipped:.0%} of the actions of {policy} lie outside the environment's range and are "
            "clipped: check the units in its action_spec, and its scale"
        )
    if null is not None and null > WARN_SHARE:
        found.append(
            f"{null:.0%} of the actions of {policy} are nearly null (no displacement above "
            f"{NULL_FRACTION:.0%} of the largest): check the units in its action_spec, and its "
            "scale"
        )
    return found
