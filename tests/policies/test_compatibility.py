from dataclasses import replace

import numpy as np
import pytest

from tests.policies.line_world import Walker
from wm_gym.policies.compatibility import IncompatiblePolicyError, check_compatible
from wm_gym.spec import ActionSpec, FrameSpec

ARM = ActionSpec(
    names=("x", "yaw", "gripper"),
    units=("m", "rad", "open fraction"),
    low=(-0.05, -0.5, 0.0),
    high=(0.05, 0.5, 1.0),
    gain=(1.0,) * 3,
    bias=(0.0,) * 3,
    width=3,
    control_hz=5.0,
)
FRAME = FrameSpec(96, 96, "top")


def policy(spec, frame=FRAME):
    return Walker(spec=spec, frame=frame)


def test_equal_specs_change_nothing():
    conversion = check_compatible(policy(ARM), ARM, FRAME)
    assert conversion.is_identity
    actions = np.random.default_rng(0).random((2, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(conversion(actions), actions)


def test_units_gripper_and_order_are_converted_exactly():
    theirs = ActionSpec(
        names=("gripper", "x", "yaw"),
        units=("closed sign", "mm", "deg"),
        low=(-1.0, -50.0, -28.0),
        high=(1.0, 50.0, 28.0),
        gain=(2.0,) * 3,
        bias=(0.5,) * 3,
        width=7,
        control_hz=5.0,
    )
    conversion = check_compatible(policy(theirs), ARM, FRAME)
    # closed (+1) is 0 open; 25 mm is 0.025 m; 9 degrees are pi / 20
    converted = conversion(np.array([[1.0, 25.0, 9.0], [-1.0, -50.0, 0.0], [0.0, 0.0, -9.0]]))
    expected = [[0.025, np.pi / 20, 0.0], [-0.05, 0.0, 1.0], [0.0, -np.pi / 20, 0.5]]
    np.testing.assert_allclose(converted, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control_hz": 10.0}, "resample"),
        ({"frame_skip": 2}, "frame_skip is 2 in the policy and 1 in the environment"),
        ({"names": ("x", "roll", "gripper")}, "can be reordered but not made up"),
        ({"units": ("m", "m", "open fraction")}, "no exact conversion is known"),
        ({"high": (0.08, 0.5, 1.0)}, "would be clipped"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_both_specs(change, message):
    theirs = replace(ARM, **change)
    with pytest.raises(IncompatiblePolicyError, match=message) as refused:
        check_compatible(policy(theirs), ARM, FRAME)
    assert repr(theirs) in str(refused.value)
    assert repr(ARM) in str(refused.value)


def test_frames_of_another_size_or_camera_are_refused():
    with pytest.raises(
        IncompatiblePolicyError, match=r"ResizedPolicy\(policy, FrameSpec\(96, 96\)"
    ):
        check_compatible(policy(ARM, FrameSpec(64, 64)), ARM, FRAME)
    with pytest.raises(IncompatiblePolicyError, match="camera 'wrist'"):
        check_compatible(policy(ARM, FrameSpec(96, 96, "wrist")), ARM, FRAME)
    check_compatible(policy(ARM, FrameSpec(96, 96)), ARM, FRAME)
    check_compatible(policy(ARM, None), ARM, FRAME)
