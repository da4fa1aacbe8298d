"""The physics of BridgeSim: one action of the arm, a fifth of a second long, in MuJoCo."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.bridge.arm import FINGER_TRAVEL_M, FINGERS, HOME_RAD, JOINTS
from wm_gym.envs.sims.bridge.kinematics import ArmKinematics
from wm_gym.envs.sims.bridge.objects import Appearance, Thing
from wm_gym.envs.sims.bridge.scene import TIMESTEP_S, scene_xml
from wm_gym.envs.sims.bridge.state import EFFECTOR_SIZE, THING_SIZE, state_size
from wm_gym.envs.sims.mujoco_import import import_mujoco
from wm_gym.envs.sims.rotations import from_rpy, limit_tilt

STEP_S = 0.2
WORKSPACE_M = np.array([[0.18, -0.15, 0.013], [0.37, 0.15, 0.19]])
"""The point between the finger tips stays in this box: lowest and highest x, y, z."""
TILT_LIMIT_RAD = 0.8
_SUBSTEPS = round(STEP_S / TIMESTEP_S)
_RAMP = 10  # the arm's command moves in this many pieces over the first part of the action
_RAMP_SUBSTEPS = 3
_ARM, _HAND = len(JOINTS), len(JOINTS) + len(FINGERS)
_SETTLE_SUBSTEPS = 60


class BridgePhysics:
    """A table with an arm and n things.

    Args:
        things: what lies on the table.
        height_px: height of the frames that will be rendered from `model`.
        width_px: their width.
        appearance: colours.
        kinematics: of the arm; one serves any number of scenes.
    """

    def __init__(
        self,
        things: tuple[Thing, ...],
        height_px: int,
        width_px: int,
        appearance: Appearance,
        kinematics: ArmKinematics,
    ) -> None:
        mujoco = self._mujoco = import_mujoco()
        self._kinematics = kinematics
        text = scene_xml(things, height_px, width_px, appearance)
        model = self.model = mujoco.MjModel.from_xml_string(text)
        self.data = mujoco.MjData(model)
        self._things = len(things)
        self._site = model.site("pinch").id
        self._state = mujoco.mjtState.mjSTATE_INTEGRATION
        self._privileged = np.zeros(state_size(self._things))
        bodies = [model.body(f"thing_{k}").id for k in range(self._things)]
        hands = [model.body(name).id for name in (*FINGERS, "gripper_link")]
        # who a geom belongs to: a thing's number, -1 the hand, -2 anything else
        self._owner = np.full(model.ngeom, -2)
        self._owner[np.isin(model.geom_bodyid, hands)] = -1
        for k, body in enumerate(bodies):
            self._owner[model.geom_bodyid == body] = k

    def place(
        self, hand_m: np.ndarray, hand_yaw_rad: float, poses: np.ndarray, opening: float = 1.0
    ) -> None:
        """Puts the open hand and the things where an episode begins, and lets them settle.

        Args:
            hand_m: (3,) position of the hand, which points straight down.
            hand_yaw_rad: its turn about the vertical.
            poses: (n, 7) position in metres and unit quaternion of every thing.
            opening: of the gripper, 0 to 1.
        """
        data = self.data
        self._mujoco.mj_resetData(self.model, data)
        home = np.array(HOME_RAD)
        _, rotation = self._kinematics.hand_pose(home)
        turned = from_rpy(np.array([0.0, 0.0, hand_yaw_rad])) @ rotation
        angles = self._kinematics.solve(home, hand_m, turned)
        data.qpos[:_ARM] = data.ctrl[:_ARM] = angles
        data.qpos[_ARM:_HAND] = data.ctrl[_ARM] = opening * FINGER_TRAVEL_M
        data.qpos[_HAND:] = poses.ravel()
        self._mujoco.mj_step(self.model, data, _SETTLE_SUBSTEPS)
        self._observe()

    def move(self, action: np.ndarray) -> None:
        """Moves the hand and whatever it pushes or holds.

        Args:
            action: (7,) way of the hand (m), its turn about the world's axes (rad), and how far
                the gripper shall be open (0 to 1); cut where the hand would leave the workspace.
        """
        data, model = self.data, self.model
        start = data.ctrl[:_ARM].copy()
        end = self._target(start, action)
        data.ctrl[_ARM] = action[6] * FINGER_TRAVEL_M
        for piece in range(1, _RAMP + 1):
            data.ctrl[:_ARM] = start + piece / _RAMP * (end - start)
            self._mujoco.mj_step(model, data, _RAMP_SUBSTEPS)
        self._mujoco.mj_step(model, data, _SUBSTEPS - _RAMP * _RAMP_SUBSTEPS)
        self._observe()

    def _target(self, angles: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Commanded joint angles (6,) after an action, from those before."""
        if not action[:6].any():
            return angles
        # from the last command, not from where the arm is: a zero action holds the arm still
        position, rotation = self._kinematics.hand_pose(angles)
        position = np.clip(position + action[:3], *WORKSPACE_M)
        rotation = limit_tilt(from_rpy(action[3:6]) @ rotation, TILT_LIMIT_RAD)
        return self._kinematics.solve(angles, position, rotation)

    def privileged_state(self) -> np.ndarray:
        """Returns the flat privileged state, see `bridge_state`."""
        return self._privileged.copy()

    def _observe(self) -> None:
        """Brings bodies and contacts up to date and reads the privileged state from them."""
        data = self.data
        self._mujoco.mj_fwdPosition(self.model, data)
        state = self._privileged
        state[:3] = data.site_xpos[self._site]
        self._mujoco.mju_mat2Quat(state[3:7], data.site_xmat[self._site])
        state[7] = data.qpos[_ARM:_HAND].mean() / FINGER_TRAVEL_M
        things = state[EFFECTOR_SIZE:].reshape(self._things, THING_SIZE)
        things[:, :7] = data.qpos[_HAND:].reshape(-1, 7)
        things[:, 7] = np.linalg.norm(data.qvel[_HAND:].reshape(-1, 6)[:, :3], axis=1)
        pairs = self._owner[data.contact.geom]  # (contacts, 2)
        touched = pairs.max(1)[(pairs == -1).any(1)]
        things[:, 8] = 0.0
        things[touched[touched >= 0], 8] = 1.0

    def get_state(self) -> np.ndarray:
        """Returns everything that the future depends on, one flat float64 array."""
        state = np.empty(self._mujoco.mj_stateSize(self.model, self._state))
        self._mujoco.mj_getState(self.model, self.data, state, self._state)
        return state

    @property
    def state_length(self) -> int:
        """Length of `get_state`."""
        return self._mujoco.mj_stateSize(self.model, self._state)

    def set_state(self, state: np.ndarray) -> None:
        """Resumes from a result of `get_state`."""
        self._mujoco.mj_setState(self.model, self.data, state, self._state)
        self._observe()
