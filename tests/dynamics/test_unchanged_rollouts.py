"""Rollouts that leave little-changed cells as they were: cache modes, rows and snapshots agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wm_gym.dynamics.rollout import Rollout
from wm_gym.world_model import LatentWorldModel

STEPS = 5


@pytest.fixture(scope="module")
def settled(tiny_model) -> LatentWorldModel:
    """The tiny model with a threshold that some cells reach and others do not."""
    free = run(tiny_model, cache="off")
    change = (free[1:] - free[:-1]).abs().mean(-1)
    dynamics = replace(tiny_model.spec.dynamics, unchanged_threshold=float(change.median()))
    return LatentWorldModel(
        replace(tiny_model.spec, dynamics=dynamics), tiny_model.latent_space, tiny_model.network
    )


def begin(model: LatentWorldModel, rows: int = 3, cache: str = "auto") -> Rollout:
    noise = torch.Generator().manual_seed(0)
    shape = (3, model.spec.frame.height, model.spec.frame.width, 3)
    frames = torch.randint(0, 256, shape, generator=noise, dtype=torch.uint8)
    return model.begin(frames[:rows], seeds=range(rows), cache=cache)


def actions(model: LatentWorldModel) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    high = torch.tensor(model.spec.action.high)
    return (2 * torch.rand(STEPS, 3, len(high), generator=noise) - 1) * high


def run(model: LatentWorldModel, rows: int = 3, cache: str = "auto") -> torch.Tensor:
    """Latents of the start and of every step, (1 + STEPS, rows, h, w, C)."""
    rollout = begin(model, rows, cache)
    shown = [rollout.latents]
    shown += [rollout.step(action[:rows]) for action in actions(model)]
    return torch.stack(shown)


def test_some_cells_stay_to_the_bit_and_others_move(settled):
    latents = run(settled)
    stays = (latents[1:] == latents[:-1]).all(-1)
    assert 0.05 < stays.float().mean() < 0.95


@pytest.mark.parametrize("cache", ["exact", "rolling"])
def test_every_cache_mode_gives_the_same_dream(settled, cache):
    torch.testing.assert_close(
        run(settled, cache=cache), run(settled, cache="off"), rtol=1e-3, atol=1e-4
    )


def test_a_row_does_not_depend_on_the_others(settled):
    torch.testing.assert_close(run(settled, rows=1), run(settled)[:, :1], rtol=1e-3, atol=1e-4)


def test_a_snapshot_goes_on_to_the_bit(settled):
    rollout, steps = begin(settled), actions(settled)
    for action in steps[:2]:
        rollout.step(action)
    stored = rollout.snapshot()
    straight = [rollout.step(action) for action in steps[2:]]
    again = Rollout.restore(settled, stored)
    for expected, action in zip(straight, steps[2:], strict=True):
        assert again.step(action).equal(expected)
