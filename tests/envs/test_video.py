"""Animated pictures of rollouts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wm_gym.envs.video import write_gif


def test_a_gif_shows_every_frame_at_the_given_rate(tmp_path):
    frames = [np.full((8, 12, 3), 40 * index, np.uint8) for index in range(5)]
    path = write_gif(tmp_path / "made" / "grey.gif", frames, fps=20)
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size, picture.info["duration"]) == (5, (12, 8), 50)
        for index in range(5):
            picture.seek(index)
            shown = np.asarray(picture.convert("RGB"))
            assert np.array_equal(shown, frames[index])


def test_a_gif_without_frames_names_its_path(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        write_gif(tmp_path / "empty.gif", [], fps=10)
