"""Counting blocks and locating the peg, on hand-made frames and on LangTable's own."""

import numpy as np
import pytest

from wm_gym.envs.sims.langtable.shapes import COLOURS
from wm_gym.evaluation.open_loop.components import BlockReference, count_blocks, locate_peg

TABLE = (237, 232, 222)
PEG = (18, 18, 23)


def paint(*blocks: tuple[str, int, int, int]) -> np.ndarray:
    """A 48x48 frame with square blocks of (colour, top, left, side); "peg" is a colour, too."""
    frame = np.full((48, 48, 3), TABLE, np.uint8)
    for colour, top, left, side in blocks:
        value = PEG if colour == "peg" else np.multiply(COLOURS[colour], 255).round()
        frame[top : top + side, left : left + side] = value
    return frame


STANDARD = (("red", 4, 4, 7), ("red", 30, 30, 6), ("blue", 4, 30, 7), ("peg", 20, 20, 4))


def test_components_are_counted_by_colour():
    counts = count_blocks(paint(*STANDARD), min_area_px=10)
    assert counts == {"red": 2, "green": 0, "blue": 1, "yellow": 0, "purple": 0}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shade", [1.0, 0.7])
def test_every_colour_is_told_from_the_others_in_light_and_shade(colour, shade):
    frame = paint((colour, 10, 10, 8)).astype(float)
    frame[10:18, 10:18] *= shade
    counts = count_blocks(frame.astype(np.uint8), min_area_px=10)
    assert counts == {name: int(name == colour) for name in COLOURS}


def test_specks_are_no_blocks():
    assert count_blocks(paint(("green", 3, 3, 2)), min_area_px=10)["green"] == 0


def test_the_peg_is_found_at_its_centre():
    found = locate_peg(np.stack([paint(*STANDARD), paint(("peg", 0, 40, 3))]))
    np.testing.assert_allclose(found, [[21.5, 21.5], [41.0, 1.0]])


def test_no_peg_is_nan():
    assert np.isnan(locate_peg(paint(("red", 4, 4, 7)))).all()


def moved(by: int) -> np.ndarray:
    return paint(("red", 4 + by, 4, 7), *STANDARD[1:])


def test_blocks_that_move_persist():
    truth = np.stack([moved(0), moved(5)])
    assert BlockReference(truth).persist(np.stack([moved(2), moved(10)]))
    assert BlockReference(truth).counts == {
        "red": 2, "green": 0, "blue": 1, "yellow": 0, "purple": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("vanished", paint(*STANDARD[1:])),
        ("vanished of its colour", paint(*STANDARD[:2])),
        ("doubled", paint(*STANDARD, ("red", 38, 4, 6))),
        ("grown to twice the size", paint(("red", 2, 2, 11), *STANDARD[1:])),
        ("of a colour that is not there", paint(*STANDARD, ("purple", 38, 4, 6))),
    ],
)
def test_a_block_that_vanishes_or_doubles_is_noticed(name, frame):
    truth = np.stack([moved(0), moved(5)])
    assert not BlockReference(truth).persist(np.stack([moved(0), frame])), name


def test_blocks_of_one_colour_may_touch():
    touching = paint(("red", 4, 4, 7), ("red", 4, 11, 6), *STANDARD[2:])
    assert count_blocks(touching, 10)["red"] == 1
    assert BlockReference(moved(0)[None]).persist(touching[None])
    both = np.stack([moved(0), touching])
    assert BlockReference(both).persist(both)


def test_a_block_half_hidden_by_the_peg_persists():
    hidden = paint(*STANDARD[:3], ("peg", 4, 4, 4))
    assert BlockReference(np.stack([moved(0), moved(1)])).persist(hidden[None])
