"""Labelled pictures: whatever the labels and sizes, no text leaves its column or row."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.evaluation.captions import ELLIPSIS, text_width, wrap
from wm_gym.evaluation.strips import (
    GAP_PX,
    frame_strip,
    of_one_length,
    side_by_side,
    write_pictures,
)

LONG = "recorded: separate the red pentagon from the blue cube"
TILE = np.array([10, 200, 30], np.uint8)
"""A colour that no letter has."""
texts = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=60)


@given(text=texts, width=st.integers(0, 200), count=st.integers(1, 4))
def test_a_wrapped_text_fits_and_says_where_something_is_missing(text, width, count):
    lines = wrap(text, width, count)
    assert len(lines) <= count
    assert all(text_width(line) <= width for line in lines)
    if " ".join(lines) != " ".join(text.split()) and any(lines):
        assert ELLIPSIS in "".join(lines)


def test_a_text_with_room_is_whole_and_one_without_is_not_drawn():
    assert wrap(LONG, 1000, 3) == [LONG]
    assert " ".join(wrap(LONG, 120, 5)) == LONG
    assert wrap(LONG, 120, 1)[0].startswith("recorded: ")
    assert wrap(LONG, 3, 2) == ["", ""]
    assert wrap("0 :", text_width(":"), 2) == ["", ""]  # ":" alone would look whole


def caption_band(picture: np.ndarray) -> np.ndarray:
    """What is above the frames."""
    return picture[: int(np.argmax((picture == TILE).all(-1).any(1)))]


@settings(deadline=None, max_examples=40)
@given(label=texts, width=st.integers(8, 120), scale=st.integers(1, 3))
def test_a_caption_stays_over_its_video(label, width, scale):
    frames = np.broadcast_to(TILE, (1, 16, width, 3))
    band = caption_band(side_by_side({label: frames, "dreamed ": frames}, scale)[0])
    first, gap = width * scale, slice(width * scale, width * scale + GAP_PX)
    assert (band[:, gap] == 255).all()
    # the caption beside it is drawn as over a video of its own
    alone = caption_band(side_by_side({"dreamed ": frames}, scale)[0])
    beside = band[: len(alone), first + GAP_PX : first + GAP_PX + width * scale]
    np.testing.assert_array_equal(beside, alone[:, : width * scale])
    assert (band[len(alone) :, first + GAP_PX :] == 255).all()


@pytest.mark.parametrize("side", [8, 40, 96, 160])
def test_labels_of_a_strip_stay_beside_their_row_and_over_their_column(side):
    frames = np.broadcast_to(TILE, (2, side, side, 3))
    columns = ["step 0", LONG]
    picture = frame_strip({LONG: frames, f"{LONG} again": frames}, columns, scale=1)
    rows = np.flatnonzero((picture == TILE).all(-1).any(1))
    cells = np.flatnonzero((picture[rows[0]] == TILE).all(-1))
    top, margin = rows[0], cells[0]
    assert (picture[:top, :margin] == 255).all()  # nothing over the labels of rows
    first = picture[:top, margin + side : margin + side + GAP_PX]
    assert (first == 255).all()
    assert (picture[:, margin - 2 : margin][top:] == 255).all()
    between = picture[top + side : top + side + GAP_PX]
    assert (between == 255).all()  # nor between the rows
    for row in range(2):
        above = top + row * (side + GAP_PX)
        written = (picture[above : above + side, :margin] < 255).any()
        assert written == (side >= 16)  # a row lower than a line has no label


def test_a_row_with_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="has 2 frames, expected 1"):
        frame_strip({"truth": np.zeros((2, 8, 8, 3), np.uint8)}, ["start"])


def test_pages_have_even_sides_and_show_the_frames():
    frames = np.arange(3 * 7 * 9 * 3, dtype=np.uint8).reshape(3, 7, 9, 3)
    pages = side_by_side({"one": frames, LONG: frames}, scale=1)
    assert pages.shape[1] % 2 == pages.shape[2] % 2 == 0
    band = pages.shape[1] - 7 - pages.shape[1] % 2
    starts = [top for top in (band, band - 1) if (pages[:, top : top + 7, :9] == frames).all()]
    assert len(starts) == 1
    top = starts[0]
    np.testing.assert_array_equal(pages[:, top : top + 7, 9 + GAP_PX :][:, :, :9], frames)


def test_shorter_videos_stay_at_their_last_frame(tmp_path):
    rng = np.random.default_rng(0)
    short, long = (rng.integers(0, 256, (n, 16, 16, 3), np.uint8) for n in (2, 5))
    padded = of_one_length([short, long])
    assert [len(video) for video in padded] == [5, 5]
    assert (padded[0][2:] == short[-1]).all() and (padded[1] == long).all()
    scenes = [{"a": short, "b": long}, {"a caption " * 12: short, "b": short}]
    video, picture = write_pictures(tmp_path, "both", scenes, fps=5)
    assert len(imageio.imread(video)) == 5 + 2
    assert imageio.imread(picture).ndim == 3
    with pytest.raises(ValueError, match="'a' has kept no frames: run it with keep_frames=True"):
        write_pictures(tmp_path, "none", [{"a": None}], fps=5)
