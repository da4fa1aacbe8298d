"""The physics of LangTable: one action of the peg, a tenth of a second long, in MuJoCo.

The motion is planar and quasi-static. Every action starts and ends at rest, so the positions are
the whole physical state, and the same positions and action give the same next positions.
"""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.langtable.scene import (
    PEG_DAMPING_N_S_PER_M,
    PEG_MASS_KG,
    PEG_STIFFNESS_N_PER_M,
    TIMESTEP_S,
    scene_xml,
)
from wm_gym.envs.sims.langtable.shapes import BLOCK_RADIUS_M, PEG_RADIUS_M, WORKSPACE_M
from wm_gym.envs.sims.mujoco_import import import_mujoco

STEP_S = 0.1
_SUBSTEPS = round(STEP_S / TIMESTEP_S)
_REST_SUBSTEPS = 12  # at the end of an action the peg stands, and what it pushed comes to rest
_RAMP_SUBSTEPS = 16
_FREE_M = BLOCK_RADIUS_M + PEG_RADIUS_M + 0.001


def _speed_profile() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fractions of the way, of its speed (1/s) and of its acceleration (1/s²) at each substep."""
    moving = _SUBSTEPS - _REST_SUBSTEPS
    ramp = (np.arange(_RAMP_SUBSTEPS) + 1) / _RAMP_SUBSTEPS
    plateau = np.ones(moving - 2 * _RAMP_SUBSTEPS)
    speed = np.concatenate([ramp, plateau, ramp[::-1] - ramp[0], np.zeros(_REST_SUBSTEPS)])
    speed /= speed.sum() * TIMESTEP_S
    way = np.cumsum(speed) * TIMESTEP_S
    return way, speed, np.diff(speed, prepend=0.0) / TIMESTEP_S


class LangTablePhysics:
    """A table with a peg and blocks.

    Args:
        objects: names of the n blocks.
        height_px: height of the frames that will be rendered from `model`.
        width_px: their width.
    """

    def __init__(self, objects: tuple[str, ...], height_px: int = 64, width_px: int = 64) -> None:
        self._mujoco = import_mujoco()
        self.model = self._mujoco.MjModel.from_xml_string(scene_xml(objects, height_px, width_px))
        self.data = self._mujoco.MjData(self.model)
        self._way, self._speed, self._acceleration = _speed_profile()

    @property
    def positions(self) -> np.ndarray:
        """Privileged state, (2 + 3n,) float64: peg x, y; x, y (m) and angle (rad) per block."""
        return self.data.qpos.copy()

    def place(self, positions: np.ndarray) -> None:
        """Puts peg and blocks where they shall be, at rest.

        Args:
            positions: privileged state, (2 + 3n,).
        """
        self.data.qpos[:] = positions
        self._rest()
        self._mujoco.mj_fwdPosition(self.model, self.data)  # bodies, camera and lights

    def move(self, delta_m: np.ndarray) -> float:
        """Moves the peg and whatever it pushes.

        Args:
            delta_m: (2,) way of the peg; cut where it would leave the workspace.

        Returns:
            The deepest penetration between two bodies at any instant, in metres.
        """
        data, step, model = self.data, self._mujoco.mj_step, self.model
        self._rest()
        start = data.qpos[:2].copy()
        target = np.clip(start + delta_m, -WORKSPACE_M, WORKSPACE_M)
        delta = target - start
        centres = data.qpos[2:].reshape(-1, 3)[:, :2]
        nearest = np.sqrt(((centres - start) ** 2).sum(1).min())
        if nearest > _FREE_M + np.sqrt(delta @ delta):
            # nothing can be touched: the peg's way needs no contact solver (0.03 mm apart from it)
            data.qpos[:2] = target
            self._mujoco.mj_kinematics(model, data)
            return 0.0
        control = (
            PEG_STIFFNESS_N_PER_M * (start + self._way[:, None] * delta)
            + PEG_DAMPING_N_S_PER_M * self._speed[:, None] * delta
            + PEG_MASS_KG * self._acceleration[:, None] * delta
        )
        deepest = 0.0
        for value in control:
            data.ctrl[:] = value
            step(model, data)
            if data.ncon:
                deepest = min(deepest, data.contact.dist.min())
        self._rest()
        self._mujoco.mj_kinematics(model, data)
        return -float(deepest)

    def _rest(self) -> None:
        """Forgets velocities and the solver's warm start, so that positions say everything."""
        self.data.qvel[:] = 0.0
        self.data.qacc_warmstart[:] = 0.0
