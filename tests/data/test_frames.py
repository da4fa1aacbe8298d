import numpy as np
import pytest

from wm_gym.data.frames import resize


def test_a_reduction_averages_and_keeps_leading_axes():
    frames = np.zeros((2, 3, 64, 64, 3), np.uint8)
    frames[..., ::2, :, 0] = 200
    small = resize(frames, 16, 32)
    assert small.shape == (2, 3, 16, 32, 3) and small.dtype == np.uint8
    assert np.abs(small[..., 0].astype(int) - 100).max() <= 12
    assert not small[..., 1:].any()


def test_the_same_size_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
    assert resize(frames, 8, 9) is frames


@pytest.mark.parametrize("frames", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_anything_but_uint8_rgb_is_refused(frames):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., H, W, 3\) uint8"):
        resize(frames, 2, 2)
