"""The MuJoCo scene of BridgeSim: table, arm, things and cameras, as an MJCF text."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.bridge.arm import arm_actuators, arm_body, arm_defaults
from wm_gym.envs.sims.bridge.objects import Appearance, Thing

TIMESTEP_S = 0.005

# over the robot's right shoulder: eye, the point looked at, vertical field of view of a square
SHOULDER = ((0.0, -0.30, 0.52), (0.275, 0.0, 0.01), 39.0)
_SIDE = ((0.62, -0.34, 0.32), (0.27, 0.0, 0.03), 34.0)
_WRIST_FOVY = 75.0


def camera_axes(eye: tuple, target: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors to the right, up and back, (3,) each, of a camera that looks at a point."""
    back = np.subtract(eye, target)
    back = back / np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    return right, np.cross(back, right), back


def _camera(name: str, eye: tuple, target: tuple, fovy: float) -> str:
    right, up, _ = camera_axes(eye, target)
    axes = " ".join(f"{value:.6f}" for value in (*right, *up))
    place = " ".join(f"{value:g}" for value in eye)
    return f'<camera name="{name}" pos="{place}" xyaxes="{axes}" fovy="{fovy:.6f}"/>'


def _rgba(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{value:g}" for value in colour) + " 1"


def _thing(key: str, thing: Thing, unseen: bool) -> str:
    """Body of one thing; solid parts collide with everything, the others are only seen."""
    colours = thing.unseen_colours if unseen else thing.colours
    geoms = ""
    for part in thing.parts:
        size = " ".join(f"{value:g}" for value in part.size_m)
        place = " ".join(f"{value:g}" for value in part.at_m)
        turn = 'zaxis="1 0 0" ' if part.along_x else ""
        solid = f'class="thing" density="{thing.density:g}"' if part.solid else 'class="paint"'
        geoms += (
            f'<geom {solid} type="{part.kind}" size="{size}" pos="{place}" {turn}'
            f'rgba="{_rgba(colours[part.colour])}"/>'
        )
    return f"""
    <body name="{key}" pos="0 0 {thing.rest_z_m:g}">
      <joint type="free" damping="0.0002"/>
      {geoms}
    </body>"""


def scene_xml(
    things: tuple[Thing, ...], height_px: int, width_px: int, appearance: Appearance
) -> str:
    """Writes the scene.

    The joints are the arm's six, the two fingers', then one free joint per thing; body k of the
    things is named `thing_k`.

    Args:
        things: what lies on the table.
        height_px: height of the frame, for the cameras' field of view and the framebuffer.
        width_px: width of the frame.
        appearance: colours.

    Returns:
        MJCF text.
    """
    stretch = max(1.0, height_px / width_px)  # the shorter side always shows the same

    def fovy(of_square: float) -> float:
        return float(np.rad2deg(2 * np.arctan(np.tan(np.deg2rad(of_square) / 2) * stretch)))

    bodies = "".join(
        _thing(f"thing_{k}", thing, appearance.unseen_things) for k, thing in enumerate(things)
    )
    wrist = (
        f'<camera name="wrist" pos="0.0 0 0.07" xyaxes="0 -1 0 0.35 0 0.94" '
        f'fovy="{fovy(_WRIST_FOVY):.6f}"/>'
    )
    return f"""
<mujoco model="bridge">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"
          iterations="30" tolerance="1e-8"/>
  <size memory="8M"/>
  <statistic extent="1" center="0.2 0 0.1"/>
  <visual>
    <global offwidth="{width_px}" offheight="{height_px}"/>
    <quality shadowsize="0" offsamples="4" numslices="16" numstacks="8" numquads="1"/>
    <headlight ambient="0.42 0.42 0.42" diffuse="0.28 0.28 0.28" specular="0 0 0"/>
    <map znear="0.02" zfar="20"/>
  </visual>
  <default>
    <geom solref="0.01 1" solimp="0.95 0.99 0.001"/>
    {arm_defaults()}
    <default class="thing">
      <geom contype="1" conaffinity="3" condim="4" friction="0.8 0.01 0.001"/>
    </default>
    <default class="paint"><geom contype="0" conaffinity="0" density="0"/></default>
  </default>
  <worldbody>
    <light pos="0.1 -0.6 1.5" dir="0.1 0.4 -1" directional="true" castshadow="false"
           diffuse="0.36 0.36 0.36" ambient="0 0 0" specular="0 0 0"/>
    {_camera("shoulder", SHOULDER[0], SHOULDER[1], fovy(SHOULDER[2]))}
    {_camera("side", _SIDE[0], _SIDE[1], fovy(_SIDE[2]))}
    <geom name="table" type="box" size="0.30 0.36 0.05" pos="0.24 0 -0.05" contype="1"
          conaffinity="3" condim="4" friction="0.8 0.01 0.001" rgba="{_rgba(appearance.table)}"/>
    <geom name="floor" type="plane" size="4 4 1" pos="0 0 -0.2" contype="1" conaffinity="1"
          rgba="{_rgba(appearance.background)}"/>
    {arm_body(wrist_camera=wrist)}
    {bodies}
  </worldbody>
  {arm_actuators()}
</mujoco>"""
