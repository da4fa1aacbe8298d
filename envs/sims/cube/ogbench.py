"""OGBench's cube environment as Cube uses it: its physics unchanged, its pictures made cheap.

Software rendering pays for every vertex, and the package's arm has a third of a million. The arm is
drawn by the capsules that it collides with, the hand's base by two cylinders; bodies, joints,
contacts and control are the package's own. Only this file touches the package's internals. It
imports the package, which is an extra: import it where a simulator is made.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np

from wm_gym.envs.sims.cube.state import GAP_LIMIT_M, CubeState
from wm_gym.envs.sims.mujoco_import import import_mujoco
from wm_gym.errors import MissingPackageError

mujoco = import_mujoco()  # chooses the renderer; before the package imports MuJoCo
try:
    from ogbench.manipspace.controllers import DiffIKController
    from ogbench.manipspace.envs.cube_env import CubeEnv as OGBenchCubeEnv
except ImportError as error:
    raise MissingPackageError(
        f"Cube-v0 runs on the package ogbench, which cannot be imported ({error}); install it with "
        "`pip install 'wm_gym[ogbench]'`."
    ) from error

CONTROL_S = 0.1
ACTION_LIMIT = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
"""The largest action, (5,): m, m, m, rad and the gripper's whole way; OGBench's 1."""
CUBE_COLOURS: dict[str, tuple[float, float, float]] = {
    "red cube": (0.96, 0.26, 0.33),
    "blue cube": (0.35, 0.55, 0.91),
    "green cube": (0.06, 0.74, 0.21),
    "yellow cube": (0.98, 0.85, 0.12),
}
BACKGROUNDS: dict[str, tuple[float, float, float] | None] = {
    "grid": None,
    "sand": (0.50, 0.44, 0.33),
    "teal": (0.10, 0.45, 0.45),
    "plum": (0.42, 0.20, 0.42),
}
"""Floors by name: OGBench's dark grid, and colours that standard data never show."""

_ENV_TYPES = ("single", "double", "triple", "quadruple")
_ARM_RGBA = (0.7, 0.75, 0.85, 0.3)
_HAND_RGBA = (0.61, 0.28, 0.82, 0.5)
_FINGER_RGBA = (0.61, 0.28, 0.82, 1.0)
_DRAWN, _HIDDEN = 1, 3  # geometry groups: MuJoCo draws 0, 1 and 2
_HAND_SHAPES = {  # radius and half length of what is drawn for a mesh, and its centre's height, m
    "base_mount": (0.038, 0.007, 0.007),
    "base": (0.036, 0.043, 0.043),
}


class CubeScene(OGBenchCubeEnv):
    """OGBench's environment with n cubes at 10 Hz, compiled, and without its episodes.

    Args:
        cubes: 1 to 4.
    """

    def __init__(self, cubes: int) -> None:
        super().__init__(
            _ENV_TYPES[cubes - 1],
            ob_type="states",
            control_timestep=CONTROL_S,
            mode="data_collection",
            visualize_info=False,
        )
        self.cubes = cubes
        self._mjcf_model = self.build_mjcf_model()
        self.compile_model_and_data()

    def fork(
        self, objects: tuple[str, ...], height_px: int, width_px: int, background: str
    ) -> CubeScene:
        """The same scene with its own model, data and looks.

        Args:
            objects: names of the cubes, keys of `CUBE_COLOURS`.
            height_px: height of the frames that will be rendered from `model`.
            width_px: their width.
            background: a key of `BACKGROUNDS`.
        """
        other = copy.copy(self)
        model: Any = copy.copy(self.model)
        other._model = model
        other._data = mujoco.MjData(model)
        other._ik = DiffIKController(self._ik._model, ["attachment_site"])
        model.vis.global_.offheight, model.vis.global_.offwidth = height_px, width_px
        model.vis.quality.offsamples = 0
        for number, name in enumerate(objects):
            model.geom(f"object_{number}").rgba = (*CUBE_COLOURS[name], 1.0)
            model.geom(f"target_object_{number}").rgba = 0.0
        floor = BACKGROUNDS[background]
        if floor is not None:
            model.geom("floor").matid = -1
            model.geom("floor").rgba = (*floor, 1.0)
        other._find_parts()
        return other

    def build_mjcf_model(self) -> Any:
        """The package's scene, drawn cheaply."""
        root = super().build_mjcf_model()
        for geom in root.find_all("geom"):
            name = geom.full_identifier
            mesh = None if geom.mesh is None else geom.mesh.name
            if name.startswith("ur5e/robotiq/"):
                _draw_hand_part(geom, mesh)
            elif mesh is not None:
                geom.remove()
            elif name.startswith("ur5e/"):
                geom.group, geom.rgba = _DRAWN, _ARM_RGBA
        for mesh in root.find_all("mesh"):
            if not mesh.full_identifier.startswith("ur5e/robotiq/"):
                mesh.remove()
        return root

    def _find_parts(self) -> None:
        model: Any = self._model
        self._pads = [
            [model.geom(f"ur5e/robotiq/{side}_pad{k}").id for k in (1, 2)]
            for side in ("left", "right")
        ]
        self._boxes = [model.geom(f"object_{k}").id for k in range(self.cubes)]
        self._fromto = np.zeros(6)

    def place(self, poses: np.ndarray, rng: np.random.Generator) -> None:
        """Puts the cubes down and the open hand somewhere above them, everything at rest.

        Args:
            poses: (n, 7) position in metres and unit quaternion of every cube.
            rng: draws position and turn of the hand.
        """
        data: Any = self.data
        mujoco.mj_resetData(self.model, data)
        for number, pose in enumerate(poses):
            data.joint(f"object_joint_{number}").qpos = pose
            data.mocap_pos[self._cube_target_mocap_ids[number]] = (0, 0, -0.3)
        self.np_random = rng
        self.initialize_arm()
        self.set_control(np.zeros(5))

    def act(self, action: np.ndarray) -> None:
        """Executes an action (5,) in physical units, for a tenth of a second."""
        self.set_control(action / ACTION_LIMIT)
        mujoco.mj_step(self._model, self._data, nstep=self._n_steps)

    def observe(self) -> CubeState:
        """Brings everything that depends on the state up to date, and reads it."""
        model, data = self._model, self._data
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        self.pre_step()
        read = self._prev_ob_info
        each = range(self.cubes)
        pads = [[min(self._gap(p, box) for p in pad) for pad in self._pads] for box in self._boxes]
        gaps = np.full((self.cubes, self.cubes), np.inf)
        for i in each:
            for j in range(i):
                gaps[i, j] = gaps[j, i] = self._gap(self._boxes[i], self._boxes[j])
        return CubeState(
            hand_m=read["proprio/effector_pos"],
            hand_yaw_rad=read["proprio/effector_yaw"][0],
            closed=read["proprio/gripper_opening"][0],  # the package's 1 is a closed gripper
            force=read["proprio/gripper_contact"][0],
            cubes_m=np.stack([read[f"privileged/block_{k}_pos"] for k in each]),
            cubes_quaternion=np.stack([read[f"privileged/block_{k}_quat"] for k in each]),
            pad_gaps_m=np.array(pads),
            cube_gaps_m=gaps,
        )

    def _gap(self, one: int, other: int) -> float:
        distance = mujoco.mj_geomDistance
        return distance(self._model, self._data, one, other, GAP_LIMIT_M, self._fromto)


def _draw_hand_part(geom: Any, mesh: str | None) -> None:
    """Chooses how a part of the hand looks; what it collides with stays."""
    if geom.dclass is None or "visual" not in str(geom.dclass):
        return
    geom.rgba = _FINGER_RGBA
    if mesh not in _HAND_SHAPES:
        return
    radius, half_length, height = _HAND_SHAPES[mesh]
    geom.group = _HIDDEN  # not removed: the mount's mass is that of its meshes
    geom.parent.add(
        "geom",
        type="cylinder",
        size=(radius, half_length),
        pos=(0, 0, height),
        mass=0,
        contype=0,
        conaffinity=0,
        group=_DRAWN,
        rgba=_HAND_RGBA,
    )


@cache
def cube_scene(cubes: int) -> CubeScene:
    """OGBench's environment with this many cubes, made once in a process; `fork` it for use."""
    return CubeScene(cubes)
