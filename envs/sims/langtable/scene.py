"""The MuJoCo scene of LangTable: table, peg, blocks and the camera, as an MJCF text."""

from __future__ import annotations

import numpy as np

from wm_gym.envs.sims.langtable.shapes import (
    BLOCK_BOUND_M,
    BLOCK_HEIGHT_M,
    COLOURS,
    PEG_HEIGHT_M,
    PEG_RADIUS_M,
    geometry,
)

TIMESTEP_S = 0.001
PEG_STIFFNESS_N_PER_M = 80_000.0
PEG_MASS_KG = 1.0
PEG_DAMPING_N_S_PER_M = 2.0 * (PEG_STIFFNESS_N_PER_M * PEG_MASS_KG) ** 0.5  # critical
PEG_FORCE_N = 40.0  # a peg that would squeeze blocks against the bound stalls here
BLOCK_MASS_KG = 0.02
CAMERA_TILT_DEG = 12.0
CAMERA_DISTANCE_M = 1.2
VIEW_HEIGHT_M = 0.515  # extent of the table across the frame's shorter side

# A block drags over the table like one on a film of oil: viscous, hence the same in all
# directions, with a trace of dry friction that holds it once it rests. It stops within 5 ms.
_SLIDE = 'damping="4" frictionloss="0.03" limited="true"'
_HINGE = 'damping="0.0010" frictionloss="0.00001"'
_INERTIA = 0.5 * BLOCK_MASS_KG * 0.022**2


def _block(name: str) -> tuple[str, str]:
    """Assets and body of one block."""
    colour, shape = name.split(" ")
    key = name.replace(" ", "_")
    rgba = " ".join(f"{value:g}" for value in COLOURS[colour]) + " 1"
    assets, geoms = "", ""
    for number, part in enumerate(geometry(shape)[0]):
        if shape == "cube":
            half = np.abs(part).max()
            geoms += (
                f'<geom class="block" type="box" size="{half:g} {half:g} {BLOCK_HEIGHT_M / 2:g}" '
                f'rgba="{rgba}"/>'
            )
            continue
        half = BLOCK_HEIGHT_M / 2
        corners = [(x, y, z) for z in (-half, half) for x, y in part]
        text = " ".join(f"{value:.6f}" for corner in corners for value in corner)
        assets += f'<mesh name="{key}_{number}" vertex="{text}"/>'
        geoms += f'<geom class="block" type="mesh" mesh="{key}_{number}" rgba="{rgba}"/>'
    body = f"""
    <body name="{key}" pos="0 0 {BLOCK_HEIGHT_M / 2:g}">
      <inertial pos="0 0 0" mass="{BLOCK_MASS_KG}" diaginertia="{_INERTIA} {_INERTIA} {_INERTIA}"/>
      <joint type="slide" axis="1 0 0" range="-{BLOCK_BOUND_M} {BLOCK_BOUND_M}" {_SLIDE}/>
      <joint type="slide" axis="0 1 0" range="-{BLOCK_BOUND_M} {BLOCK_BOUND_M}" {_SLIDE}/>
      <joint type="hinge" axis="0 0 1" {_HINGE}/>
      {geoms}
    </body>"""
    return assets, body


def scene_xml(objects: tuple[str, ...], height_px: int, width_px: int) -> str:
    """Writes the scene.

    The joints are the peg's x and y, then x, y and angle of every block: qpos has the layout of
    the privileged state.

    Args:
        objects: names of the blocks.
        height_px: height of the frame, for the camera's field of view and the framebuffer.
        width_px: width of the frame.

    Returns:
        MJCF text.
    """
    parts = [_block(name) for name in objects]
    tilt = np.deg2rad(CAMERA_TILT_DEG)
    eye = CAMERA_DISTANCE_M * np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    up = np.array([0.0, np.cos(tilt), np.sin(tilt)])
    extent = VIEW_HEIGHT_M * max(1.0, height_px / width_px)
    fovy = np.rad2deg(2 * np.arctan(0.5 * extent / CAMERA_DISTANCE_M))
    return f"""
<mujoco model="langtable">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" gravity="0 0 0" integrator="implicitfast" cone="elliptic"
          iterations="30" tolerance="1e-10"/>
  <size memory="4M"/>
  <statistic extent="1"/>
  <visual>
    <global offwidth="{width_px}" offheight="{height_px}"/>
    <quality shadowsize="0" offsamples="4"/>
    <headlight ambient="0.46 0.46 0.46" diffuse="0.24 0.24 0.24" specular="0 0 0"/>
    <map znear="0.1" zfar="20"/>
  </visual>
  <default>
    <geom solref="0.002 1" solimp="0.99 0.999 0.001" friction="0.3 0 0" condim="3"/>
    <joint solreflimit="0.002 1" solimplimit="0.99 0.999 0.001"
           solreffriction="0.002 1" solimpfriction="0.99 0.999 0.001"/>
    <default class="block"><geom margin="0.0006" contype="1" conaffinity="3"/></default>
    <default class="paint"><geom type="plane" contype="0" conaffinity="0"/></default>
  </default>
  <asset>
    {"".join(assets for assets, _ in parts)}
  </asset>
  <worldbody>
    <light pos="-0.5 0.6 1.5" dir="0.3 -0.4 -1" directional="true" castshadow="false"
           diffuse="0.32 0.32 0.32" ambient="0 0 0" specular="0 0 0"/>
    <camera name="top" pos="{eye[0]:g} {eye[1]:.6f} {eye[2]:.6f}"
            xyaxes="1 0 0 {up[0]:g} {up[1]:.6f} {up[2]:.6f}" fovy="{fovy:.6f}"/>
    <geom class="paint" size="2 2 1" rgba="0.80 0.77 0.72 1"/>
    <geom class="paint" size="0.2 0.2 1" pos="0 0 0.001" rgba="0.95 0.93 0.90 1"/>
    <body name="peg" pos="0 0 {PEG_HEIGHT_M / 2 + 0.002:g}">
      <inertial pos="0 0 0" mass="{PEG_MASS_KG}" diaginertia="0.01 0.01 0.01"/>
      <joint name="peg_x" type="slide" axis="1 0 0"/>
      <joint name="peg_y" type="slide" axis="0 1 0"/>
      <geom name="peg" type="cylinder" size="{PEG_RADIUS_M} {PEG_HEIGHT_M / 2:g}"
            rgba="0.07 0.07 0.09 1" contype="2" conaffinity="0"/>
    </body>
    {"".join(body for _, body in parts)}
  </worldbody>
  <actuator>
    <general joint="peg_x" biastype="affine" gainprm="1"
             biasprm="0 -{PEG_STIFFNESS_N_PER_M} -{PEG_DAMPING_N_S_PER_M}"
             forcerange="-{PEG_FORCE_N} {PEG_FORCE_N}"/>
    <general joint="peg_y" biastype="affine" gainprm="1"
             biasprm="0 -{PEG_STIFFNESS_N_PER_M} -{PEG_DAMPING_N_S_PER_M}"
             forcerange="-{PEG_FORCE_N} {PEG_FORCE_N}"/>
  </actuator>
</mujoco>"""
