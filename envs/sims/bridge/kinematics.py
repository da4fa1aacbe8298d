"""Inverse kinematics of the BridgeSim arm: hand poses to joint angles, by mink."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.bridge.arm import JOINTS, arm_body, arm_defaults
from wm_gym.envs.sims.mujoco_import import import_mujoco

_MAX_TURN_RAD = 0.6  # of any joint in one iteration: the arm does not jump between its postures
_ITERATIONS = 6
_POSITION_TOLERANCE_M = 1e-4
_ROTATION_TOLERANCE_RAD = 1e-3


class ArmKinematics:
    """Differential inverse kinematics on a copy of the arm without anything else.

    A hand pose is a position (3,) in metres and a rotation matrix (3, 3): columns are the
    approach (along the fingers), the direction in which they open, and the normal of both.
    """

    def __init__(self) -> None:
        mujoco = import_mujoco()
        import mink

        self._mink, self._mujoco = mink, mujoco
        xml = (
            f'<mujoco><compiler angle="radian" autolimits="true"/>'
            f"<default>{arm_defaults()}</default>"
            f"<worldbody>{arm_body(fingers=False)}</worldbody></mujoco>"
        )
        self._model = mujoco.MjModel.from_xml_string(xml)
        self._configuration = mink.Configuration(self._model)
        self._site = self._model.site("pinch").id
        self._task = mink.FrameTask("pinch", "site", position_cost=1.0, orientation_cost=0.05)
        self._limits = [
            mink.ConfigurationLimit(self._model),
            mink.VelocityLimit(self._model, dict.fromkeys(JOINTS, _MAX_TURN_RAD)),
        ]

    def hand_pose(self, angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the hand's position (3,) m and rotation (3, 3) at joint angles (6,)."""
        self._configuration.update(angles_rad)
        data = self._configuration.data
        return data.site_xpos[self._site].copy(), data.site_xmat[self._site].reshape(3, 3).copy()

    def solve(
        self, angles_rad: np.ndarray, position_m: np.ndarray, rotation: np.ndarray
    ) -> np.ndarray:
        """Returns joint angles (6,) that bring the hand to a pose, or as near as limits allow.

        Args:
            angles_rad: (6,) where the arm is.
            position_m: (3,) wanted.
            rotation: (3, 3) wanted.
        """
        mink = self._mink
        target = mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), position_m)
        self._task.set_target(target)
        self._configuration.update(angles_rad)
        for _ in range(_ITERATIONS):
            error = self._task.compute_error(self._configuration)
            if (
                np.linalg.norm(error[:3]) < _POSITION_TOLERANCE_M
                and np.linalg.norm(error[3:]) < _ROTATION_TOLERANCE_RAD
            ):
                break
            velocity = mink.solve_ik(
                self._configuration, [self._task], 1.0, "daqp", damping=1e-6, limits=self._limits
            )
            self._configuration.integrate_inplace(velocity, 1.0)
        return self._configuration.q.copy()
