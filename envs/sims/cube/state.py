"""Cube's privileged state: one flat float64 array, and the names of its parts.

`[x, y, z, yaw, closed, force]` of the hand, its position that of the point between the pads;
`[x, y, z, qw, qx, qy, qz, left_gap, right_gap]` of every cube; then the gap of every pair of cubes,
in the order (0, 1), (0, 2), … (1, 2), …. Metres, radians and unit quaternions. A gap is the
distance of two surfaces: below 0 where they press into each other, at most `GAP_LIMIT_M`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_gym.errors import UserError

EFFECTOR_SIZE = 6
CUBE_SIZE = 9
CUBE_HALF_M = 0.02
GAP_LIMIT_M = 0.1
"""Gaps are measured up to here."""


def state_size(cubes: int) -> int:
    """Length of the privileged state with this many cubes."""
    return EFFECTOR_SIZE + CUBE_SIZE * cubes + cubes * (cubes - 1) // 2


_CUBES = {state_size(cubes): cubes for cubes in range(1, 5)}


@dataclass(frozen=True)
class CubeState:
    """Privileged states with names; any number of leading axes.

    Attributes:
        hand_m: (..., 3) the point between the pads.
        hand_yaw_rad: (...) direction of the hand, seen from above.
        closed: (...) of the gripper, 0 open to 1 closed.
        force: (...) on the right pad, 0 to 1 at 50 N or more.
        cubes_m: (..., n, 3) centres, in the order of the simulator's `objects`.
        cubes_quaternion: (..., n, 4), scalar first.
        pad_gaps_m: (..., n, 2) from the left and from the right pad to every cube.
        cube_gaps_m: (..., n, n) from cube to cube; infinite on the diagonal.
    """

    hand_m: np.ndarray
    hand_yaw_rad: np.ndarray
    closed: np.ndarray
    force: np.ndarray
    cubes_m: np.ndarray
    cubes_quaternion: np.ndarray
    pad_gaps_m: np.ndarray
    cube_gaps_m: np.ndarray

    @classmethod
    def from_array(cls, states: np.ndarray) -> CubeState:
        """Names the parts of flat states (..., S).

        Raises:
            ValueError: if the last axis fits no number of cubes.
        """
        states = np.asarray(states, np.float64)
        if states.shape[-1] not in _CUBES:
            raise UserError(
                f"states have shape {states.shape}; expected a last axis of one of "
                f"{sorted(_CUBES)}, for one to four cubes"
            )
        n = _CUBES[states.shape[-1]]
        pairs = EFFECTOR_SIZE + CUBE_SIZE * n
        cubes = states[..., EFFECTOR_SIZE:pairs].reshape(*states.shape[:-1], n, CUBE_SIZE)
        gaps = np.full((*states.shape[:-1], n, n), np.inf)
        first, second = np.triu_indices(n, 1)
        gaps[..., first, second] = gaps[..., second, first] = states[..., pairs:]
        return cls(
            hand_m=states[..., :3],
            hand_yaw_rad=states[..., 3],
            closed=states[..., 4],
            force=states[..., 5],
            cubes_m=cubes[..., :3],
            cubes_quaternion=cubes[..., 3:7],
            pad_gaps_m=cubes[..., 7:],
            cube_gaps_m=gaps,
        )

    def to_array(self) -> np.ndarray:
        """The flat states (..., S)."""
        n = self.cubes_m.shape[-2]
        first, second = np.triu_indices(n, 1)
        scalars = np.stack([self.hand_yaw_rad, self.closed, self.force], -1)
        cubes = np.concatenate([self.cubes_m, self.cubes_quaternion, self.pad_gaps_m], -1)
        parts = (
            self.hand_m,
            scalars,
            cubes.reshape(*cubes.shape[:-2], n * CUBE_SIZE),
            self.cube_gaps_m[..., first, second],
        )
        return np.concatenate(parts, -1)

    @property
    def cubes_yaw_rad(self) -> np.ndarray:
        """(..., n) direction of every cube's x axis, seen from above."""
        w, x, y, z = np.moveaxis(self.cubes_quaternion, -1, 0)
        return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
