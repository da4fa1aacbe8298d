from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_gym.policies.base import Observation, Policy, load_policy, save_policy
from wm_gym.policies.chunks import ChunkError
from wm_gym.policies.compatibility import IncompatiblePolicyError, check_compatible
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.policies.resampled import ResampledPolicy
from wm_gym.spec import ActionSpec, CardError

ARM = ActionSpec(
    names=("dx", "gripper"),
    units=("m", "open fraction"),
    low=(-0.01, 0.0),
    high=(0.01, 1.0),
    gain=(1.0, 1.0),
    bias=(0.0, 0.0),
    width=2,
    control_hz=5.0,
    kinds=("delta", "absolute"),
)
SLOWER = replace(ARM, frame_skip=2, low=(-0.05, 0.0), high=(0.05, 1.0))
FASTER = replace(ARM, control_hz=15.0)
CHUNK = np.array([[0.004, 1.0], [0.006, 0.25], [-0.01, 0.5], [0.002, 0.0]])


class Fixed(Policy):
    """Returns the same chunk and remembers what it was asked."""

    def __init__(self, chunk=CHUNK, spec=ARM, history=0):
        super().__init__(spec)
        self.chunk, self.frame_history = np.asarray(chunk), history

    def act(self, observation):
        self.seen = observation
        return np.repeat(self.chunk[None], len(observation), axis=0)


def observe(steps=0, history=None):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    earlier = None if history is None else np.stack([history] * 2)
    return Observation(frames, ("reach", "push"), np.full(2, steps), np.arange(2), earlier)


@pytest.mark.parametrize(
    ("environment", "method", "expected"),
    [
        (SLOWER, "hold", CHUNK[::2]),
        (SLOWER, "repeat", CHUNK * [2, 1]),
        (SLOWER, "sum", [[0.010, 0.25], [-0.008, 0.0]]),
        (FASTER, "hold", np.repeat(CHUNK, 3, axis=0)),
        (FASTER, "sum", np.repeat(CHUNK / [3, 1], 3, axis=0)),
        (ARM, "sum", CHUNK),
    ],
)
def test_chunks_at_the_environments_rate(environment, method, expected):
    policy = ResampledPolicy(Fixed(), environment, method)
    chunks = policy.act(observe(steps=6))
    np.testing.assert_allclose(chunks, np.stack([expected] * 2), atol=1e-12)
    assert policy.action_spec.control_hz == environment.control_hz
    assert policy.action_spec.frame_skip == environment.frame_skip
    check_compatible(policy, environment)


@pytest.mark.parametrize(("environment", "steps"), [(SLOWER, 12), (ARM, 6), (FASTER, 2)])
def test_the_policy_counts_its_own_steps(environment, steps):
    fixed = Fixed()
    ResampledPolicy(fixed, environment, "hold").act(observe(steps=6))
    np.testing.assert_array_equal(fixed.seen.steps, [steps, steps])


@given(
    st.lists(st.tuples(st.floats(-0.01, 0.01), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_summed_deltas_reach_the_same_place_in_the_same_time(actions, factor):
    chunk = np.repeat(np.array(actions), factor, axis=0)
    for environment in (
        replace(ARM, frame_skip=factor, high=(0.04, 1.0), low=(-0.04, 0.0)),
        replace(ARM, control_hz=5.0 * factor),
    ):
        policy = ResampledPolicy(Fixed(chunk), environment, "sum")
        resampled = np.asarray(policy.act(observe()))[0]
        np.testing.assert_allclose(resampled[:, 0].sum(), chunk[:, 0].sum(), atol=1e-9)
        assert resampled[-1, 1] == chunk[-1, 1]
        period = environment.frame_skip / environment.control_hz
        assert len(resampled) * period == pytest.approx(len(chunk) / 5)


def test_frames_before_come_at_the_policys_own_rate():
    fixed = Fixed(history=2)
    policy = ResampledPolicy(fixed, FASTER, "hold")
    assert policy.frame_history == 6
    numbered = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    policy.act(observe(history=numbered))
    assert fixed.seen.history is not None
    assert fixed.seen.history[0, :, 0, 0, 0].tolist() == [0, 3]  # 6 and 3 frames before the newest


def test_a_chunk_that_cannot_be_summed_ends_its_row_with_both_numbers():
    policy = ResampledPolicy(Fixed(CHUNK[:3]), SLOWER, "sum")
    for chunk in policy.act(observe()):
        assert isinstance(chunk, ChunkError)
        assert "3 actions" in str(chunk) and "multiple of 2" in str(chunk)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: ResampledPolicy(Fixed(), SLOWER, "mean"), ValueError, "'mean'"),
        (lambda: ResampledPolicy(Fixed(), FASTER, "repeat"), ValueError, "repeat"),
        (lambda: ResampledPolicy(Fixed(history=1), SLOWER, "hold"), IncompatiblePolicyError, "2"),
        (
            lambda: ResampledPolicy(Fixed(), replace(ARM, control_hz=7.0), "hold"),
            IncompatiblePolicyError,
            "7 Hz",
        ),
        (
            lambda: ResampledPolicy(Fixed(), replace(ARM, control_hz=0.0), "hold"),
            IncompatiblePolicyError,
            "control_hz",
        ),
        (
            lambda: ResampledPolicy(Fixed(spec=replace(ARM, kinds=())), SLOWER, "sum"),
            ValueError,
            "deltas=",
        ),
        (
            lambda: ResampledPolicy(Fixed(), SLOWER, "sum", deltas=["dz"]),
            ValueError,
            "dz",
        ),
        (lambda: replace(ARM, kinds=("delta",)), CardError, "1 entries"),
        (lambda: replace(ARM, kinds=("delta", "speed")), CardError, "speed"),
    ],
)
def test_what_cannot_be_resampled_is_refused(make, error, named):
    with pytest.raises(error, match=named):
        make()


def test_a_range_that_grows_beyond_the_environments_is_refused():
    policy = ResampledPolicy(Fixed(), replace(ARM, frame_skip=2), "repeat")
    with pytest.raises(IncompatiblePolicyError, match="would be clipped"):
        check_compatible(policy, replace(ARM, frame_skip=2))


def test_the_refusal_of_another_rate_names_the_remedy():
    with pytest.raises(IncompatiblePolicyError, match="ResampledPolicy"):
        check_compatible(Fixed(), SLOWER)


@pytest.mark.parametrize("method", ["hold", "repeat", "sum"])
def test_a_saved_one_acts_the_same(method, tmp_path):
    policy = ResampledPolicy(RandomPolicy(ARM, chunk=4), SLOWER, method)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, ResampledPolicy)
    for each in (policy, loaded):
        each.reset([0, 1], [3, 4], ["reach", "push"])
    np.testing.assert_array_equal(policy.act(observe()), loaded.act(observe()))
    assert loaded.action_spec == policy.action_spec
