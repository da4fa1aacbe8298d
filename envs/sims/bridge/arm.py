"""The arm of BridgeSim as MJCF: the WidowX-250's public link lengths and joint limits.

Primitives only. All zeros is the arm stretched forwards (x) with its elbow up; `HOME_RAD` holds the
gripper over the table, fingers down.
"""

from __future__ import annotations

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
FINGERS = ("left_finger", "right_finger")
RANGES_RAD = (
    (-3.14158, 3.14158),
    (-1.88496, 1.98968),
    (-2.14675, 1.60570),
    (-3.14158, 3.14158),
    (-1.74533, 2.14675),
    (-3.14158, 3.14158),
)
HOME_RAD = (0.0, -0.35, 0.45, 0.0, 1.4708, 0.0)
PINCH_M = 0.093575  # from the last joint to the point between the fingers
FINGER_TRAVEL_M = 0.037  # of each finger from closed to open
FINGER_BELOW_M = 0.012  # how far the finger tips reach beyond the point between them

# position servos: stiff enough that the hand rests at the end of an action, 0.1 mm from its target;
# torques of the size of the real motors'
_STIFFNESS = (1500, 2200, 1500, 400, 400, 160)
_DAMPING = (30, 38, 30, 8, 8, 3)
_TORQUE_NM = (18, 24, 18, 8, 8, 5)
_ARMATURE = (0.08, 0.08, 0.08, 0.02, 0.02, 0.008)
GRIP_FORCE_N = 12.0

_DARK = "0.13 0.13 0.15 1"
_STEEL = "0.26 0.26 0.30 1"
_FINGER = "0.07 0.07 0.08 1"


def _joint(number: int, axis: str) -> str:
    low, high = RANGES_RAD[number]
    return (
        f'<joint name="{JOINTS[number]}" axis="{axis}" range="{low} {high}" '
        f'armature="{_ARMATURE[number]}"/>'
    )


def _link(
    kind: str,
    end: str,
    radius_m: float,
    mass_kg: float,
    rgba: str = _DARK,
    start: str = "0 0 0",
) -> str:
    return (
        f'<geom class="link" type="{kind}" fromto="{start} {end}" size="{radius_m}" '
        f'mass="{mass_kg}" rgba="{rgba}"/>'
    )


def _finger(name: str, side: int) -> str:
    # the pad's inner face lies on the hand's middle plane when closed
    return f"""
    <body name="{name}" pos="0.066 0 0" gravcomp="1">
      <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {FINGER_TRAVEL_M}"
             armature="0.1" damping="4"/>
      <geom class="finger" type="box" size="0.0255 0.005 0.010"
            pos="{PINCH_M + FINGER_BELOW_M - 0.066 - 0.0255:.6f} {side * 0.005} 0" mass="0.03"/>
    </body>"""


def arm_body(fingers: bool = True, wrist_camera: str = "") -> str:
    """Writes the arm's bodies, its base at the origin.

    Args:
        fingers: False leaves out the moving fingers, for inverse kinematics.
        wrist_camera: MJCF text of a camera in the hand's frame, or nothing.

    Returns:
        MJCF text of one body with everything that hangs on it; the site `pinch` is the point
        between the finger tips, its x axis along the fingers and its y axis across them.
    """
    hands = _finger(FINGERS[0], 1) + _finger(FINGERS[1], -1) if fingers else ""
    return f"""
    <geom class="link" type="cylinder" size="0.055 0.036" pos="0 0 0.036" rgba="{_DARK}"/>
    <body name="shoulder_link" pos="0 0 0.072" gravcomp="1">
      {_joint(0, "0 0 1")}
      {_link("cylinder", "0 0 0.055", 0.042, 0.48, _STEEL)}
      <body name="upper_arm_link" pos="0 0 0.03865" gravcomp="1">
        {_joint(1, "0 1 0")}
        {_link("capsule", "0 0 0.25", 0.024, 0.43)}
        {_link("capsule", "0.04975 0 0.25", 0.018, 0.10, start="0 0 0.25")}
        <body name="forearm_link" pos="0.04975 0 0.25" gravcomp="1">
          {_joint(2, "0 1 0")}
          {_link("capsule", "0.175 0 0", 0.021, 0.23)}
          <body name="lower_forearm_link" pos="0.175 0 0" gravcomp="1">
            {_joint(3, "1 0 0")}
            {_link("capsule", "0.075 0 0", 0.020, 0.22, _STEEL)}
            <body name="wrist_link" pos="0.075 0 0" gravcomp="1">
              {_joint(4, "0 1 0")}
              {_link("capsule", "0.065 0 0", 0.018, 0.16)}
              <body name="gripper_link" pos="0.065 0 0" gravcomp="1">
                {_joint(5, "1 0 0")}
                <geom class="hand" type="box" size="0.014 0.046 0.014" pos="0.046 0 0"
                      mass="0.10" rgba="{_STEEL}"/>
                <geom class="link" type="cylinder" fromto="0 0 0 0.035 0 0" size="0.020"
                      mass="0.08" rgba="{_DARK}"/>
                <site name="pinch" pos="{PINCH_M} 0 0" size="0.004" rgba="0 0 0 0"/>
                {hands}{wrist_camera}
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def arm_defaults() -> str:
    """Writes the default classes that `arm_body` uses."""
    return f"""
    <default class="link"><geom contype="0" conaffinity="0"/></default>
    <default class="hand"><geom contype="2" conaffinity="1" condim="3"/></default>
    <default class="finger">
      <geom contype="2" conaffinity="1" condim="4" friction="1.6 0.02 0.001" rgba="{_FINGER}"/>
    </default>"""


def arm_actuators() -> str:
    """Writes the servos: one per joint (rad), then the opening of the gripper (m per finger)."""
    servos = "".join(
        f'<position joint="{joint}" kp="{kp}" kv="{kv}" forcerange="-{torque} {torque}"/>'
        for joint, kp, kv, torque in zip(JOINTS, _STIFFNESS, _DAMPING, _TORQUE_NM, strict=True)
    )
    return f"""
  <tendon><fixed name="grip">
    <joint joint="{FINGERS[0]}" coef="0.5"/><joint joint="{FINGERS[1]}" coef="0.5"/>
  </fixed></tendon>
  <equality>
    <joint joint1="{FINGERS[0]}" joint2="{FINGERS[1]}" polycoef="0 1 0 0 0"
           solimp="0.95 0.99 0.001" solref="0.008 1"/>
  </equality>
  <actuator>{servos}
    <position name="grip" tendon="grip" kp="2500" kv="60"
              forcerange="-{2 * GRIP_FORCE_N} {2 * GRIP_FORCE_N}"/>
  </actuator>"""
