"""BridgeSim's privileged state: one flat float64 array, and the names of its parts.

`[x, y, z, qw, qx, qy, qz, opening]` of the hand, its position that of the point between the finger
tips, then `[x, y, z, qw, qx, qy, qz, speed, touched]` of every thing: metres, unit quaternions,
metres a second, and 1 where the hand touches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_gym.envs.sims.rotations import from_quaternion

EFFECTOR_SIZE = 8
THING_SIZE = 9


def state_size(things: int) -> int:
    """Length of the privileged state with this many things."""
    return EFFECTOR_SIZE + THING_SIZE * things


@dataclass(frozen=True)
class ThingState:
    """One thing: position (3,) m, rotation (3, 3), speed in m/s, whether the hand touches it."""

    position_m: np.ndarray
    rotation: np.ndarray
    speed_m_s: float
    touched: bool

    @property
    def yaw_rad(self) -> float:
        """Direction of its x axis, seen from above."""
        return float(np.arctan2(self.rotation[1, 0], self.rotation[0, 0]))


@dataclass(frozen=True)
class BridgeState:
    """A privileged state with names.

    Attributes:
        hand_m: (3,) the point between the finger tips.
        hand_rotation: (3, 3); columns: along the fingers, across them, and the normal of both.
        opening: of the gripper, 0 closed to 1 open.
        things: in the order of the simulator's `objects`.
    """

    hand_m: np.ndarray
    hand_rotation: np.ndarray
    opening: float
    things: tuple[ThingState, ...]

    @classmethod
    def from_array(cls, state: np.ndarray) -> BridgeState:
        """Names the parts of a flat state (8 + 9n,)."""
        rows = np.asarray(state, np.float64)[EFFECTOR_SIZE:].reshape(-1, THING_SIZE)
        return cls(
            state[:3].copy(),
            from_quaternion(state[3:7]),
            float(state[7]),
            tuple(
                ThingState(row[:3].copy(), from_quaternion(row[3:7]), float(row[7]), row[8] > 0.5)
                for row in rows
            ),
        )
