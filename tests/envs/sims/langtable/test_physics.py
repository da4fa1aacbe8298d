"""Contact in LangTable neither tunnels nor jitters."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from wm_gym.envs.sims.langtable.layout import sample_start
from wm_gym.envs.sims.langtable.physics import LangTablePhysics
from wm_gym.envs.sims.langtable.shapes import (
    BLOCK_BOUND_M,
    BLOCK_RADIUS_M,
    PEG_RADIUS_M,
    SHAPES,
    WORKSPACE_M,
    geometry,
    signed_distances,
)
from wm_gym.envs.sims.langtable.tasks import OBJECTS, Goal, peg_gaps, split_state

PHYSICS = LangTablePhysics(OBJECTS)
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
angles = st.floats(-np.pi, np.pi)


def start(seed):
    return sample_start(Goal("push", *OBJECTS[:2]), OBJECTS, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_convex_parts_of_one_outline(shape):
    def area(polygon):
        x, y = polygon.T
        return 0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1))

    parts, outline = geometry(shape)
    assert sum(map(area, parts)) == pytest.approx(area(outline))
    assert 0.040 <= np.ptp(outline, axis=0).max() <= 0.055
    assert np.linalg.norm(outline, axis=1).max() <= BLOCK_RADIUS_M
    for part in parts:
        edge = np.roll(part, -1, axis=0) - part
        after = np.roll(edge, -1, axis=0)
        assert (edge[:, 0] * after[:, 1] - edge[:, 1] * after[:, 0] > 0).all()


@quick
@given(st.sampled_from(SHAPES), angles, st.floats(0.03, 0.2), angles)
def test_distance_to_an_outline_agrees_with_dense_points_on_it(shape, turn, far, direction):
    outline = geometry(shape)[1]
    cos, sin = np.cos(turn), np.sin(turn)
    corners = outline @ np.array([[cos, sin], [-sin, cos]]) + (0.05, -0.02)
    t = np.linspace(0, 1, 200)[:, None, None]
    dense = (corners + t * (np.roll(corners, -1, axis=0) - corners)).reshape(-1, 2)
    point = np.array([0.05, -0.02]) + far * np.array([np.cos(direction), np.sin(direction)])
    pose = np.array([[0.05, -0.02, turn]])
    expected = np.linalg.norm(dense - point, axis=1).min()
    assert signed_distances(point, pose, (f"red {shape}",))[0] == pytest.approx(expected, abs=1e-5)
    assert signed_distances(np.array([0.05, -0.02]) + 1e-4, pose, ("red cube",))[0] < 0


@quick
@given(seeds, st.integers(0, 7), angles, st.floats(-0.4, 0.4))
@example(seed=61821, block=3, angle=3.125, slant=-0.125)
def test_a_pushed_block_moves_and_the_untouched_ones_stay(seed, block, angle, slant):
    state = start(seed)
    peg, poses = split_state(state)
    ahead = np.array([np.cos(angle), np.sin(angle)])
    gap_m = BLOCK_RADIUS_M + PEG_RADIUS_M + 0.001
    peg[:] = poses[block, :2] - gap_m * ahead
    assume(np.abs(peg).max() <= WORKSPACE_M - 0.03 and peg_gaps(state, OBJECTS).min() >= 0)
    push = np.array([np.cos(angle + slant), np.sin(angle + slant)])
    largest = 0.03 / np.abs(push).max()
    PHYSICS.place(state)
    deepest = max(PHYSICS.move(largest * push), PHYSICS.move(np.zeros(2)))
    after_peg, after = split_state(PHYSICS.positions)
    assert deepest < 0.001
    np.testing.assert_allclose(after_peg, peg + largest * push, atol=0.001)
    moved = np.linalg.norm(after[:, :2] - poses[:, :2], axis=1)
    if abs(slant) < 0.15:  # a slanted push may slide by a star's arm
        assert moved[block] > 0.003  # the peg first travels through a moon's hollow
        assert (after[block, :2] - poses[block, :2]) @ ahead > 0
    far = np.linalg.norm(poses[:, :2] - poses[block, :2], axis=1) > 2 * BLOCK_RADIUS_M + 0.05
    assert (moved[far] < 1e-4).all() and (np.abs(after - poses)[far, 2] < 1e-3).all()


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_nothing_penetrates_tunnels_or_leaves_the_table_under_the_wildest_play(seed):
    rng = np.random.default_rng(seed)
    PHYSICS.place(start(seed % 1000))
    for step in range(40):
        before = PHYSICS.positions
        if step % 8 == 0:
            aim = int(rng.integers(8))
        way = split_state(before)[1][aim, :2] - before[:2] + rng.normal(0, 0.01, 2)
        deepest = PHYSICS.move(np.clip(10 * way, -0.03, 0.03))
        after = PHYSICS.positions
        peg, poses = split_state(after)
        assert deepest < 0.001
        assert peg_gaps(after, OBJECTS).min() > -0.001
        assert np.abs(peg).max() <= WORKSPACE_M + 0.001
        assert np.abs(poses[:, :2]).max() <= BLOCK_BOUND_M + 0.001
        # no block is flung, not even one that is wedged out at the edge
        assert np.linalg.norm(poses[:, :2] - split_state(before)[1][:, :2], axis=1).max() < 0.12


def test_blocks_at_rest_stay_while_the_peg_touches_one():
    state = start(0)
    block = split_state(state)[1][0]
    PHYSICS.place(state)
    for _ in range(30):
        way = block[:2] - PHYSICS.positions[:2]
        PHYSICS.move(np.clip(way, -0.03, 0.03) * (np.linalg.norm(way) > 0.04))
    resting = PHYSICS.positions
    for _ in range(50):
        PHYSICS.move(np.zeros(2))
    np.testing.assert_allclose(PHYSICS.positions, resting, atol=1e-4)


def test_a_row_of_blocks_pushed_to_the_edge_stays_in_view():
    state = start(0)
    peg, poses = split_state(state)
    poses[:4] = [(0.02, 0, 0), (0.07, 0, 0), (0.12, 0, 0), (0.17, 0, 0)]
    poses[4:] = [(-0.1, y, 0) for y in (-0.15, -0.05, 0.05, 0.15)]
    peg[:] = (-0.03, 0.0)
    PHYSICS.place(state)
    deepest = max(PHYSICS.move(np.array([0.03, 0.0])) for _ in range(10))
    assert deepest < 0.001
    assert np.abs(split_state(PHYSICS.positions)[1][:, :2]).max() <= BLOCK_BOUND_M + 0.001


def test_free_motion_is_exact_and_ends_at_the_workspace():
    state = start(0)
    peg, poses = split_state(state)
    poses[:, :2] = [(x, -0.1) for x in np.linspace(-0.2, 0.2, 8)]
    peg[:] = (0.0, 0.1)
    PHYSICS.place(state)
    PHYSICS.move(np.array([0.03, -0.02]))
    np.testing.assert_allclose(PHYSICS.positions[:2], (0.03, 0.08), atol=1e-9)
    for _ in range(8):
        PHYSICS.move(np.array([0.03, 0.03]))
    np.testing.assert_allclose(PHYSICS.positions[:2], (WORKSPACE_M, WORKSPACE_M), atol=1e-9)
