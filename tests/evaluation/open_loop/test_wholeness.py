"""Which blocks are whole in a rollout, told by the simulator's own states and pictures."""

from __future__ import annotations

import numpy as np
import pytest

from wm_gym.domains import LANGTABLE
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.evaluation.open_loop.clips import OpenLoopClips
from wm_gym.evaluation.open_loop.wholeness import (
    block_areas,
    block_pixels,
    touched_blocks,
    whole_blocks,
)

COLOURS = [name.split()[0] for name in LANGTABLE.objects]
STEPS = 12
pytestmark = pytest.mark.usefixtures("gl")


@pytest.fixture(scope="module")
def pushed(gl) -> OpenLoopClips:
    """One clip of the simulator: the peg drives into the block that is nearest to it."""
    env = LangTableEnv(frame_size=(96, 96))
    frame, _ = env.reset(seed=6000)
    frames, states = [frame], [env.privileged_state()]
    blocks = states[0][2:].reshape(-1, 3)[:, :2]
    target = int(np.argmin(np.hypot(*(blocks - states[0][:2]).T)))
    for _ in range(40):
        state = env.privileged_state()
        way = state[2:].reshape(-1, 3)[target, :2] - state[:2]
        frame, *_ = env.step((0.03 * way / np.hypot(*way)).astype(np.float32))
        frames.append(frame)
        states.append(env.privileged_state())
    env.close()
    touched = touched_blocks(np.stack(states))[:, target]
    end = int(np.argmax(touched)) + 3
    begin = end - STEPS if end > STEPS else 0
    shown = slice(begin, begin + STEPS + 1)
    history = np.concatenate([frames[begin][None], np.stack(frames[shown])])
    return OpenLoopClips(
        history[None],
        np.zeros((1, STEPS + 1, 2), np.float32),
        np.array([STEPS]),
        2,
        np.stack(states[shown])[None],
    )


def test_middles_of_blocks_lie_on_pixels_of_their_colour(pushed):
    middles = block_pixels(pushed.states[0, 0], 96, 96)
    areas = block_areas(pushed.start[0], middles, COLOURS)
    assert areas.shape == (8,) and areas.min() >= 12
    assert areas.max() < 250


def test_a_block_is_touched_from_the_step_on_that_moves_it(pushed):
    touched = touched_blocks(pushed.states[0])
    assert not touched[0].any() and 1 <= touched[-1].sum() < 8
    assert (np.diff(touched.astype(int), axis=0) >= 0).all()
    turned = np.zeros((2, 5))
    turned[:, 4] = np.pi - 0.01, -np.pi + 0.01  # across the seam: 0.02 rad, not 2 pi
    assert not touched_blocks(turned).any()
    turned[1, 4] += 0.1
    assert touched_blocks(turned)[1].all()


def test_blocks_that_vanish_smear_or_double_are_not_whole(pushed):
    middles = block_pixels(pushed.states[0, STEPS], 96, 96)
    touched = touched_blocks(pushed.states[0])[-1]
    truth = pushed.truth
    versions = {"rollout": truth, "erased": truth.copy(), "smeared": truth.copy()}
    block = int(np.argmin(touched))  # one that stays
    x, y = np.rint(middles[block]).astype(int)
    near = (slice(None), slice(None), slice(max(0, y - 6), y + 7), slice(max(0, x - 6), x + 7))
    versions["erased"][near] = 235
    wide = (slice(None), slice(None), slice(max(0, y - 12), y + 13), slice(max(0, x - 9), x + 10))
    versions["smeared"][wide] = truth[0, -1, y, x]
    found = whole_blocks(pushed, versions, COLOURS, [STEPS])
    assert found is not None
    kinds = found[f"horizon_{STEPS}"]
    assert kinds["touched"]["blocks"] == touched.sum()
    assert kinds["touched"]["rollout"] == kinds["untouched"]["rollout"] == 1.0
    still = kinds["untouched"]["blocks"]
    assert kinds["untouched"]["erased"] <= 1 - 1 / still
    assert kinds["untouched"]["smeared"] <= 1 - 1 / still


def test_a_block_in_another_place_is_whole(pushed):
    versions = {"rollout": np.roll(pushed.truth, 2, axis=3)}  # two pixels to the right
    found = whole_blocks(pushed, versions, COLOURS, [STEPS])
    assert found is not None and found[f"horizon_{STEPS}"]["touched"]["rollout"] == 1.0


def test_without_states_of_these_blocks_nothing_is_said(pushed):
    versions = {"rollout": pushed.truth}
    none = OpenLoopClips(pushed.frames, pushed.actions, pushed.steps, 2)
    assert whole_blocks(none, versions, COLOURS, [1]) is None
    assert whole_blocks(pushed, versions, COLOURS[:3], [1]) is None
