"""LangTable's predicates: every question type on hand-made scenes, both ways."""

import numpy as np
import pytest

from wm_gym.envs.sims.langtable.questions import block_gaps, slack, slacks
from wm_gym.envs.sims.langtable.shapes import PEG_RADIUS_M
from wm_gym.envs.sims.langtable.tasks import CONTACT_GAP_M, OBJECTS, Goal, is_success
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS, PEG_CONTACT
from wm_gym.semantic.questions import Question, QuestionError

TABLE = ("green cube", "blue cube", "red moon")  # a cube's half width is 0.02 m
HALF = 0.02


def scene(peg=(0.0, -0.15), green=(-0.1, 0.0), blue=(0.1, 0.0), red=(0.0, 0.15)):
    """A privileged state with cubes that stand straight."""
    return np.array([*peg, *green, 0.0, *blue, 0.0, *red, 0.0])


def test_the_questions_limit_of_touching_is_that_of_the_reach_task():
    assert PEG_CONTACT.threshold == CONTACT_GAP_M


def ask(kind, blocks, value, after, before=None):
    question = Question(kind, blocks, value)
    return slack(question, scene() if before is None else before, after, TABLE)


G, B = ("green cube",), ("blue cube",)
GB = ("green cube", "blue cube")

# type, blocks, value, state before, state after, expected yes; none of these is ambiguous
SCENES = [
    ("block_touching", GB, "", scene(), scene(green=(0.0, 0.0), blue=(0.041, 0.0)), True),
    ("block_touching", GB, "", scene(), scene(green=(0.0, 0.0), blue=(0.046, 0.0)), False),
    # touching is about the future, not about the present
    ("block_touching", GB, "", scene(green=(0.06, 0.0)), scene(), False),
    ("peg_to_block", G, "", scene(), scene(peg=(-0.1, HALF + PEG_RADIUS_M + 0.0005)), True),
    ("peg_to_block", G, "", scene(), scene(peg=(-0.1, HALF + PEG_RADIUS_M + 0.0035)), False),
    ("peg_to_block", B, "", scene(), scene(peg=(-0.1, HALF + PEG_RADIUS_M + 0.0005)), False),
    ("block_board_position", G, "center", scene(), scene(green=(0.04, -0.04)), True),
    ("block_board_position", G, "center", scene(), scene(green=(0.08, 0.0)), False),
    ("block_board_position", G, "left", scene(), scene(green=(-0.1, 0.0)), True),
    ("block_board_position", G, "left", scene(), scene(green=(0.1, 0.0)), False),
    ("block_board_position", G, "right", scene(), scene(green=(0.1, 0.0)), True),
    ("block_board_position", G, "right", scene(), scene(green=(0.0, 0.0)), False),
    ("block_board_position", G, "top", scene(), scene(green=(0.0, 0.1)), True),
    ("block_board_position", G, "top", scene(), scene(green=(0.0, -0.1)), False),
    ("block_board_position", G, "bottom", scene(), scene(green=(0.0, -0.1)), True),
    ("block_board_position", G, "bottom", scene(), scene(green=(0.0, 0.0)), False),
    ("block_board_position", G, "top left", scene(), scene(green=(-0.1, 0.1)), True),
    ("block_board_position", G, "top left", scene(), scene(green=(0.1, 0.1)), False),
    ("block_board_position", G, "bottom right", scene(), scene(green=(0.1, -0.1)), True),
    ("block_board_position", G, "bottom right", scene(), scene(green=(0.1, 0.0)), False),
    ("block_board_position", G, "top right", scene(), scene(green=(0.1, 0.1)), True),
    ("block_board_position", G, "top right", scene(), scene(green=(-0.1, -0.1)), False),
    ("block_board_position", G, "bottom left", scene(), scene(green=(-0.1, -0.1)), True),
    ("block_board_position", G, "bottom left", scene(), scene(green=(0.1, 0.1)), False),
    ("peg_block_direction", G, "above", scene(), scene(peg=(-0.1, 0.1)), True),
    ("peg_block_direction", G, "below", scene(), scene(peg=(-0.1, 0.1)), False),
    ("peg_block_direction", G, "right", scene(), scene(peg=(0.0, 0.03)), True),
    ("peg_block_direction", G, "above", scene(), scene(peg=(0.0, 0.03)), False),
    ("peg_block_direction", G, "left", scene(), scene(peg=(-0.15, 0.0)), True),
    ("peg_block_direction", G, "right", scene(), scene(peg=(-0.15, 0.0)), False),
    ("peg_block_direction", G, "below", scene(), scene(peg=(-0.1, -0.1)), True),
    ("block_block_direction", GB, "left", scene(), scene(), True),
    ("block_block_direction", GB[::-1], "left", scene(), scene(), False),
    ("block_block_direction", GB[::-1], "right", scene(), scene(), True),
    ("block_block_direction", GB, "above", scene(), scene(green=(0.1, 0.1)), True),
    ("block_block_direction", GB, "below", scene(), scene(green=(0.1, 0.1)), False),
    ("block_block_direction", GB, "below", scene(), scene(green=(0.1, -0.1)), True),
    ("block_move_direction", G, "left", scene(), scene(green=(-0.13, 0.0)), True),
    ("block_move_direction", G, "right", scene(), scene(green=(-0.13, 0.0)), False),
    ("block_move_direction", G, "right", scene(), scene(green=(-0.07, 0.01)), True),
    ("block_move_direction", G, "up", scene(), scene(green=(-0.1, 0.03)), True),
    ("block_move_direction", G, "down", scene(), scene(green=(-0.1, 0.03)), False),
    ("block_move_direction", G, "down", scene(), scene(green=(-0.1, -0.03)), True),
    ("block_move_direction", G, "left", scene(), scene(green=(-0.101, 0.0)), False),  # too short
    ("block_move_direction", B, "left", scene(), scene(green=(-0.13, 0.0)), False),
    ("block_moved", G, "", scene(), scene(green=(-0.09, 0.01)), True),
    ("block_moved", G, "", scene(), scene(green=(-0.1, 0.001)), False),
    ("block_moved", B, "", scene(), scene(green=(0.0, 0.0)), False),
    ("peg_move_direction", (), "up", scene(), scene(peg=(0.0, 0.0)), True),
    ("peg_move_direction", (), "down", scene(), scene(peg=(0.0, 0.0)), False),
    ("peg_move_direction", (), "down", scene(), scene(peg=(0.0, -0.17)), True),
    ("peg_move_direction", (), "left", scene(), scene(peg=(-0.1, -0.14)), True),
    ("peg_move_direction", (), "right", scene(), scene(peg=(-0.1, -0.14)), False),
    ("peg_move_direction", (), "right", scene(), scene(peg=(0.1, -0.14)), True),
    ("peg_move_direction", (), "up", scene(), scene(), False),
    ("block_block_closer", GB, "", scene(), scene(green=(-0.05, 0.0)), True),
    ("block_block_closer", GB, "", scene(), scene(green=(-0.15, 0.0)), False),
    ("block_block_closer", GB, "", scene(), scene(), False),
    ("peg_block_closer", G, "", scene(), scene(peg=(0.0, -0.1)), True),
    ("peg_block_closer", G, "", scene(), scene(peg=(0.15, -0.15)), False),
    ("peg_block_closer", G, "", scene(), scene(green=(-0.05, -0.05)), True),  # the block came
]  # fmt: skip


@pytest.mark.parametrize(("kind", "blocks", "value", "before", "after", "yes"), SCENES)
def test_hand_made_scenes(kind, blocks, value, before, after, yes):
    found = ask(kind, blocks, value, after, before)
    assert (found > 0) == yes
    assert abs(found) >= 1, "these scenes are all clear"


def test_the_scenes_cover_every_type_and_value_both_ways():
    shown = {(kind, value, yes) for kind, _, value, _, _, yes in SCENES}
    for kind in LANGTABLE_QUESTIONS:
        assert {yes for name, _, yes in shown if name == kind.name} == {True, False}
        for value in kind.values:
            assert (kind.name, value, True) in shown


AMBIGUOUS = [
    ("block_touching", GB, "", scene(green=(0.0, 0.0), blue=(0.0425, 0.0)), True),
    ("block_touching", GB, "", scene(green=(0.0, 0.0), blue=(0.0435, 0.0)), False),
    ("peg_to_block", G, "", scene(peg=(-0.1, HALF + PEG_RADIUS_M + 0.0015)), True),
    ("block_board_position", G, "left", scene(green=(-0.055, 0.0)), False),
    ("peg_block_direction", G, "above", scene(peg=(-0.1 + 0.05, 0.055)), True),
    ("block_moved", G, "", scene(green=(-0.1, 0.004)), False),
    ("block_move_direction", G, "up", scene(green=(-0.1, 0.006)), True),
    ("block_block_closer", GB, "", scene(green=(-0.096, 0.0)), False),
]


@pytest.mark.parametrize(("kind", "blocks", "value", "after", "yes"), AMBIGUOUS)
def test_scenes_near_a_threshold_are_ambiguous(kind, blocks, value, after, yes):
    found = ask(kind, blocks, value, after)
    assert abs(found) < 1
    assert (found > 0) == yes


def test_many_pairs_at_once_are_answered_like_one_by_one():
    rng = np.random.default_rng(0)
    before, after = rng.uniform(-0.2, 0.2, (2, 4, 2 + 3 * len(TABLE)))
    for kind in LANGTABLE_QUESTIONS:
        every = LANGTABLE_QUESTIONS.instances(kind.name, TABLE)
        found = slacks(kind.name, before, after, TABLE)
        assert found.shape == (4, len(every))
        for row in range(4):
            for number, question in enumerate(every):
                one = slack(question, before[row], after[row], TABLE)
                assert found[row, number] == pytest.approx(one)


def test_symmetric_questions_do_not_depend_on_the_order_of_the_blocks():
    rng = np.random.default_rng(1)
    before, after = rng.uniform(-0.2, 0.2, (2, 5, 2 + 3 * len(TABLE)))
    for name in ("block_touching", "block_block_closer"):
        every = LANGTABLE_QUESTIONS.instances(name, TABLE)
        swapped = [every.index(Question(name, q.blocks[::-1])) for q in every]
        found = slacks(name, before, after, TABLE)
        assert np.allclose(found, found[:, swapped])


def test_exactly_one_of_four_directions_is_yes():
    rng = np.random.default_rng(2)
    after = rng.uniform(-0.2, 0.2, (50, 2 + 3 * len(TABLE)))
    for name in ("peg_block_direction", "block_block_direction"):
        found = slacks(name, after, after, TABLE).reshape(50, -1, 4)
        assert ((found > 0).sum(-1) == 1).all()


def test_nothing_has_moved_or_come_closer_at_horizon_zero():
    state = np.random.default_rng(3).uniform(-0.2, 0.2, (20, 2 + 3 * 8))
    compares = {kind.name for kind in LANGTABLE_QUESTIONS if kind.compares}
    assert compares == {
        "block_moved", "block_move_direction", "peg_move_direction", "block_block_closer",
        "peg_block_closer",
    }  # fmt: skip
    for name in compares:
        assert (slacks(name, state, state, OBJECTS) <= -1).all()


def test_touching_the_peg_is_the_success_of_the_reach_task():
    limit = LANGTABLE_QUESTIONS.types["peg_to_block"].limits["gap"]
    assert limit.threshold == CONTACT_GAP_M
    rng = np.random.default_rng(4)
    for _ in range(200):
        gap = rng.uniform(0.0, 0.004)
        state = scene(peg=(-0.1, HALF + PEG_RADIUS_M + gap))
        reached = is_success(state, Goal("reach", "green cube"), TABLE)
        assert (ask("peg_to_block", G, "", state) > 0) == reached


def test_gaps_of_turned_blocks():
    corner = HALF * np.sqrt(2)  # a cube that stands on its corner reaches farther
    state = scene(green=(0.0, 0.0), blue=(corner + HALF + 0.003, 0.0))
    state[4] = np.pi / 4
    assert block_gaps(state[None], TABLE)[0, 0, 1] == pytest.approx(0.003)


def test_the_blocks_of_a_question_must_be_on_the_table():
    with pytest.raises(QuestionError, match="yellow star; on the table are green cube"):
        ask("block_moved", ("yellow star",), "", scene())
    with pytest.raises(QuestionError, match="cannot answer 'holding'"):
        slacks("holding", scene()[None], scene()[None], TABLE)
