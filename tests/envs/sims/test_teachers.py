"""Where things of BridgeSim are seen, what its clean expert says, and whether the hand is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_gym.data.episodes import Episode
from wm_gym.domains import BRIDGE
from wm_gym.envs.collect import CollectConfig, collect_episode
from wm_gym.envs.sims.bridge.view import on_table, project
from wm_gym.envs.sims.teachers import TEACHERS
from wm_gym.envs.simulator_factory import SimulatorFactory
from wm_gym.evaluation.open_loop.effectors import locate_gripper
from wm_gym.policies.train_behaviour_cloning import place_loss

TEACHER = TEACHERS["BridgeSim-v0"]
SIDE = 64


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    """A clean and a trembling expert's episodes of every task."""
    behaviours = {"expert": 0.5, "noisy_expert": 0.5}
    config = CollectConfig(tmp_path_factory.mktemp("x"), "BridgeSim-v0", behaviours=behaviours)
    env, makers = SimulatorFactory("BridgeSim-v0", f"{SIDE}x{SIDE}", 50)()
    played = [collect_episode(env, makers, config, seed) for seed in range(12)]
    env.close()
    assert {e.behaviour for e in played} == set(behaviours)
    assert {e.goal.task for e in played} == set(BRIDGE.tasks)
    return played


def test_the_table_is_seen_where_it_is():
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (50, 2))
    points = np.pad(on_table(places), ((0, 0), (0, 1)))
    np.testing.assert_allclose(project(points), places, atol=1e-9)


def test_places_are_those_of_the_picture(episodes: list[Episode]):
    """The green block is the only saturated green thing: its pixels lie around its place."""
    stacked = next(e for e in episodes if e.goal.task == "green_block_on_yellow_block")
    places = TEACHER.places(stacked.privileged, stacked.goal)
    frame = stacked.frames[0].astype(int)
    green = (frame[..., 1] > frame[..., 0] + 40) & (frame[..., 1] > frame[..., 2] + 40)
    y, x = np.nonzero(green)
    seen = np.array([2 * (x.mean() + 0.5) / SIDE - 1, 1 - 2 * (y.mean() + 0.5) / SIDE])
    column = 1 + BRIDGE.objects.index("green block")
    np.testing.assert_allclose(places[0, column], seen, atol=0.06)
    there = np.isfinite(places).all(-1)
    assert there.all(0).sum() == 3 and (there.all(0) == there.any(0)).all()


def test_a_clean_expert_agrees_with_a_trembling_one_on_the_whole(episodes: list[Episode]):
    for episode in episodes:
        labels = TEACHER.labels(episode)
        assert labels.shape == episode.actions.shape
        if episode.behaviour == "expert":
            assert labels is episode.actions
            continue
        way, taken = labels[:, :3], episode.actions[:, :3]
        moved = (way * taken).sum() / (np.linalg.norm(way) * np.linalg.norm(taken))
        assert moved > 0.4
        assert ((labels[:, 6] > 0.5) == (episode.actions[:, 6] > 0.5)).mean() > 0.7


def test_the_hand_is_found_in_the_picture(episodes: list[Episode]):
    errors = []
    for episode in episodes:
        found = locate_gripper(episode.frames)
        expected = (project(episode.privileged[:, :3]) * (1, -1) + 1) * SIDE / 2 - 0.5
        errors.append(np.linalg.norm(found - expected, axis=1))
    every = np.concatenate(errors)
    assert np.isfinite(every).mean() > 0.98
    assert np.nanmedian(every) < 4 and np.nanpercentile(every, 90) < 9
    assert np.isnan(locate_gripper(np.full((1, SIDE, SIDE, 3), 180, np.uint8))).all()


def test_the_hand_is_where_the_dark_is_lowest():
    frame = np.full((SIDE, SIDE, 3), 180, np.uint8)
    frame[0:30, 40:44] = 30  # the arm
    frame[50:, :8] = 20  # the base, which is not the arm
    frame[30:34, 20:36] = (60, 20, 75)  # dark, but not grey
    x, y = locate_gripper(frame)
    assert x == pytest.approx(41.5) and 22 < y < 30


def test_what_is_not_there_has_no_part_in_the_loss():
    logits = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    places = torch.rand(2, 3, 2)
    places[1, 2] = torch.nan
    loss = place_loss(logits, places)
    assert loss.isfinite()
    other = logits.clone()
    other[1, 2] += torch.randn(16)
    assert torch.equal(place_loss(other, places), loss)
