"""Noise is a pure function of (row seed, step)."""

from __future__ import annotations

import pytest
import torch

from wm_gym.dynamics.noise import row_noise

SHAPE = (4, 4, 16)


def test_a_row_gets_the_same_bits_in_any_batch():
    batch = row_noise([5, 6, 5], [0, 3, 3], SHAPE)
    assert batch.dtype == torch.float32
    for row, (seed, step) in enumerate([(5, 0), (6, 3), (5, 3)]):
        assert torch.equal(batch[row], row_noise([seed], [step], SHAPE)[0])


def test_the_bits_are_pinned():
    """They decide what every seed imagines: a change of these numbers is a breaking change."""
    first = row_noise([1], [0], (3,))[0]
    torch.testing.assert_close(first, torch.tensor(PINNED), atol=0, rtol=0)


def test_seeds_steps_and_streams_are_independent():
    draws = [row_noise([s], [t], (4096,), stream)[0] for s, t, stream in KEYS]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 0.08
    pooled = torch.cat(draws)
    assert pooled.mean().abs() < 0.03
    assert (pooled.std() - 1).abs() < 0.03


def test_a_seed_outside_64_bits_is_refused():
    row_noise([2**64 - 1], [0], (1,))
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="row seed"):
            row_noise([seed], [0], (1,))


KEYS = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1), (2**63, 0, 0)]
PINNED = [1.091689109802246, 0.45582669973373413, 0.7017897367477417]
