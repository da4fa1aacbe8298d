"""PSNR, SSIM and PSNR over changed pixels, against values worked out by hand."""

import math

import pytest
import torch

from wm_gym.metrics.visual import changed_mask, changed_psnr, gap_closed, psnr, ssim


def frames(level: int, count: int = 1) -> torch.Tensor:
    return torch.full((count, 16, 16, 3), level, dtype=torch.uint8)


def test_psnr_of_a_constant_error_is_the_textbook_value():
    found = psnr(frames(110), frames(100))
    assert found.item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)


def test_psnr_of_equal_frames_is_finite_so_that_means_stay_finite():
    found = psnr(frames(7), frames(7)).item()
    assert found == pytest.approx(10 * math.log10(255**2 * 12), abs=1e-3)


def test_rows_of_a_batch_are_scored_apart():
    batch = torch.cat([frames(100), frames(120)])
    scores = psnr(batch, frames(100, 2))
    assert scores.shape == (2,)
    assert scores[0] > scores[1]


def test_ssim_is_one_for_equal_frames_and_falls_with_noise():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8)
    noisy = truth.clone()
    noisy[1] = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
    found = ssim(noisy, truth)
    assert found[0].item() == pytest.approx(1.0, abs=1e-5)
    assert found[1].item() < 0.2


def test_a_pixel_changed_if_one_channel_moved_more_than_eight_levels():
    start, truth = frames(100), frames(100)
    truth[0, 0, 0, 2] = 108
    truth[0, 0, 1, 2] = 109
    truth[0, 0, 2, 0] = 91
    assert changed_mask(truth, start)[0].nonzero().tolist() == [[0, 1], [0, 2]]


def test_changed_psnr_looks_at_changed_pixels_only():
    start, truth = frames(100), frames(100)
    truth[0, :5, :5] = 200  # 25 pixels
    rollout = frames(0)  # wrong everywhere else
    rollout[0, :5, :5] = 190
    found = changed_psnr(rollout, truth, start)
    assert found.item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)


def test_changed_psnr_says_nothing_where_hardly_anything_changed():
    start, truth = frames(100, 2), frames(100, 2)
    truth[0, 0, :16] = 200
    truth[0, 1, :3] = 200  # 19 pixels
    truth[1, 0, :16] = 200
    truth[1, 1, :4] = 200  # 20 pixels
    found = changed_psnr(truth, truth, start)
    assert found[0].isnan()
    assert found[1] > 50


@pytest.mark.parametrize(
    ("rollout", "expected"), [(10.0, 0.0), (30.0, 1.0), (20.0, 0.5), (5.0, -0.25)]
)
def test_gap_closed_by_hand(rollout, expected):
    assert gap_closed(rollout, copy_first=10.0, reconstruction=30.0) == pytest.approx(expected)


def test_gap_closed_is_undefined_for_a_decoder_no_better_than_copying():
    assert math.isnan(gap_closed(20.0, copy_first=30.0, reconstruction=30.0))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 16, 16, 3), frames(0)[0], torch.zeros(1, 16, 16, 1).byte(), frames(0)[:, :8]],
    ids=["float", "no batch", "grey", "other size"],
)
def test_other_shapes_and_dtypes_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match="frames"):
        psnr(wrong, frames(0))
