"""Local spatial attention, crops that equal whole frames, and cells that stay as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_gym.dynamics.attention import neighbours
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.dynamics.flow import FlowSampler, keep_unchanged
from wm_gym.dynamics.samplers import make_sampler
from wm_gym.spec import DynamicsSpec
from wm_gym.training.dynamics_loss import Batch, changed_tokens, crop_clips

FRAMES, SIDE, CHANNELS, ACTION = 5, 9, 3, 2


def network(neighbourhood: int | None, depth: int = 2) -> DiT:
    torch.manual_seed(0)
    config = DiTConfig(
        CHANNELS, 16, depth, 2, action_width=ACTION, band=3, neighbourhood=neighbourhood
    )
    dit = DiT(config).eval()
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return dit


def clip(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, FRAMES, SIDE, SIDE, CHANNELS, generator=noise)
    times = torch.rand(1, FRAMES, generator=noise) * 1000
    return latents, times, torch.randn(1, FRAMES, ACTION, generator=noise)


def test_neighbours_are_at_most_so_many_rows_and_columns_apart():
    near = neighbours(3, 4, 1)
    assert near[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert near.equal(near.T) and near.diagonal().all()
    assert neighbours(3, 4, 3).all()


@torch.no_grad()
def test_a_neighbourhood_as_large_as_the_frame_is_no_neighbourhood():
    wide, whole = network(SIDE), network(None)
    torch.testing.assert_close(wide(*clip()), whole(*clip()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_crop_gives_what_the_whole_frame_gives_inside_the_receptive_field():
    dit, (latents, times, actions) = network(1), clip()
    whole = dit(latents, times, actions)
    rows, columns = slice(1, 8), slice(2, 9)
    part = dit(latents[:, :, rows, columns], times, actions)
    reach = 2  # depth 2, one patch a layer
    expected = whole[:, :, rows, columns]
    # the crop's right edge is the frame's own, so cells there have all they see
    inner = (slice(None), slice(None), slice(reach, -reach), slice(reach, None))
    torch.testing.assert_close(part[inner], expected[inner], rtol=1e-4, atol=1e-5)
    assert (part - expected).abs().max() > 1e-2


@torch.no_grad()
def test_a_cell_depends_on_its_neighbourhood_only():
    dit, (latents, times, actions) = network(1), clip()
    changed = latents.clone()
    changed[:, :, 0, 0] += 1.0
    apart = (dit(changed, times, actions) - dit(latents, times, actions)).abs().amax((0, 1, 4))
    assert apart[3:].max() == 0 and apart[:, 3:].max() == 0
    assert apart[:3, :3].min() > 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"neighbourhood": 0}, "neighbourhood 0"),
        ({"neighbourhood": 1, "num_views": 2}, "2 views"),
        ({"neighbourhood": 1, "temporal": "joint"}, "joint"),
    ],
)
def test_what_a_neighbourhood_does_not_go_with_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        DiTConfig(CHANNELS, 16, 1, 2, **wrong)


def test_crops_hold_what_changes_and_count_no_artificial_edge():
    latents = torch.zeros(40, FRAMES, SIDE, SIDE, CHANNELS)
    rng = np.random.default_rng(0)
    places = rng.integers(SIDE, size=(40, 2))
    for number, (row, column) in enumerate(places):
        latents[number, 2:, row, column] = 5.0
    actions, repeated = torch.zeros(40, FRAMES, ACTION), torch.zeros(40, dtype=torch.long)
    batch = Batch(latents, actions, repeated)
    cropped = crop_clips(batch, changed_tokens(latents, 0.1), 5, 1, rng)
    assert cropped.latents.shape == (40, FRAMES, 5, 5, CHANNELS)
    assert cropped.counted is not None
    for number, (row, column) in enumerate(places):
        found = torch.nonzero(cropped.latents[number, -1, :, :, 0])
        assert len(found) == 1
        inside = tuple(found[0].tolist())
        assert cropped.counted[number][inside]  # the cell that changes carries loss
        # an edge carries loss exactly where it is the frame's own
        top, left = row - inside[0], column - inside[1]
        edges = [
            ((0, slice(1, -1)), top == 0),
            ((-1, slice(1, -1)), top + 5 == SIDE),
            ((slice(1, -1), 0), left == 0),
            ((slice(1, -1), -1), left + 5 == SIDE),
        ]
        for edge, own in edges:
            assert bool(cropped.counted[number][edge].all()) == own
    with pytest.raises(ValueError, match="crop=12"):
        crop_clips(batch, changed_tokens(latents, 0.1), 12, 1, rng)


def test_little_changed_cells_stay_to_the_bit_and_others_are_taken():
    noise = torch.Generator().manual_seed(0)
    previous = torch.randn(2, 4, 4, CHANNELS, generator=noise)
    sampled = previous + 1e-3 * torch.randn(previous.shape, generator=noise)
    sampled[:, 1, 2] += 1.0
    settled = FlowSampler(2, unchanged_threshold=0.1).settle(sampled, previous)
    moved = torch.zeros(4, 4, dtype=torch.bool)
    moved[1, 2] = True
    assert settled[:, moved].equal(sampled[:, moved])
    assert settled[:, ~moved].equal(previous[:, ~moved])
    assert FlowSampler(2).settle(sampled, previous) is sampled
    assert keep_unchanged(settled, previous, 0.1).equal(settled)


def test_the_option_comes_from_the_card_and_is_refused_for_another_objective():
    sampler = make_sampler(DynamicsSpec({}, unchanged_threshold=0.2))
    assert isinstance(sampler, FlowSampler) and sampler.unchanged_threshold == 0.2
    with pytest.raises(ValueError, match=r"unchanged_threshold 0\.2"):
        make_sampler(DynamicsSpec({}, objective="ddpm", unchanged_threshold=0.2))
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="unchanged_threshold"):
            FlowSampler(2, unchanged_threshold=wrong)
