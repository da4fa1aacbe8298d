"""Question types and the words of questions."""

import re

import pytest

from wm_gym.semantic.cube_question_types import CUBE_QUESTIONS
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS, ROBOT_QUESTIONS
from wm_gym.semantic.questions import Question, QuestionError, QuestionType
from wm_gym.semantic.tokens import words_of

BLOCKS = ("red moon", "blue cube", "purple pentagon")
CUBES = ("red cube", "yellow cube", "blue cube")
SETS = {
    "langtable": (LANGTABLE_QUESTIONS, BLOCKS),
    "cube": (CUBE_QUESTIONS, CUBES),
    "robot": (ROBOT_QUESTIONS, BLOCKS),
}


def test_langtable_has_the_papers_ten_types():
    assert [kind.name for kind in LANGTABLE_QUESTIONS] == [
        "block_touching",
        "peg_to_block",
        "block_board_position",
        "peg_block_direction",
        "block_block_direction",
        "block_move_direction",
        "block_moved",
        "peg_move_direction",
        "block_block_closer",
        "peg_block_closer",
    ]
    assert all(kind.predicate and kind.limits for kind in LANGTABLE_QUESTIONS)
    assert not any(kind.predicate for kind in ROBOT_QUESTIONS)


def test_what_compares_is_always_no_at_horizon_zero():
    """The types that a single picture answers; predicates are tested beside the simulators."""
    assert LANGTABLE_QUESTIONS.present_types == (
        "block_touching",
        "peg_to_block",
        "block_board_position",
        "peg_block_direction",
        "block_block_direction",
    )
    assert CUBE_QUESTIONS.present_types == (
        "cube_grasped",
        "gripper_touching_block",
        "block_touching_block",
        "block_on_top_of_block",
    )
    assert len(ROBOT_QUESTIONS.present_types) == 3


def test_cube_has_ogbenchs_six_types():
    assert [kind.name for kind in CUBE_QUESTIONS] == [
        "cube_grasped",
        "gripper_touching_block",
        "block_touching_block",
        "block_on_top_of_block",
        "gripper_closer_to_block",
        "block_closer_to_block",
    ]
    assert all(kind.predicate and kind.limits for kind in CUBE_QUESTIONS)
    units = {limit.unit for kind in CUBE_QUESTIONS for limit in kind.limits.values()}
    assert units == {"m"}


def test_untrained_phrasings_of_cube_are_made_of_trained_words():
    assert words_of(CUBE_QUESTIONS, untrained=True) <= words_of(CUBE_QUESTIONS)


@pytest.mark.parametrize("name", SETS)
def test_every_phrasing_leads_back_to_its_question(name):
    questions, objects = SETS[name]
    for kind in questions:
        for question in questions.instances(kind.name, objects):
            for number in range(10):
                text = questions.text(question, number)
                assert questions.parse_phrasing(text) == (question, number), text
                assert questions.parse(f"  {text.upper()} ") == question


@pytest.mark.parametrize("name", SETS)
def test_no_two_questions_share_their_words(name):
    questions, objects = SETS[name]
    texts = [
        questions.text(question, number).lower()
        for kind in questions
        for question in questions.instances(kind.name, objects)
        for number in range(10)
    ]
    assert len(set(texts)) == len(texts)


def test_instances_are_ordered_choices_times_values():
    counts = {
        k.name: len(LANGTABLE_QUESTIONS.instances(k.name, BLOCKS)) for k in LANGTABLE_QUESTIONS
    }
    assert counts["block_touching"] == counts["block_block_closer"] == 6
    assert counts["block_board_position"] == 3 * 9
    assert counts["block_block_direction"] == 6 * 4
    assert counts["peg_move_direction"] == 4


@pytest.mark.parametrize(
    "text", ["", "Is it raining?", "Is the robotic peg touching the red blue moon cube?"]
)
def test_words_of_no_type_are_refused(text):
    with pytest.raises(QuestionError, match="fits no phrasing"):
        LANGTABLE_QUESTIONS.parse(text)


def test_questions_with_wrong_slots_are_refused():
    refuse = LANGTABLE_QUESTIONS.text
    with pytest.raises(QuestionError, match="unknown"):
        refuse(Question("block_flying", ("red moon",)))
    with pytest.raises(QuestionError, match="2 different blocks"):
        refuse(Question("block_touching", ("red moon",)))
    with pytest.raises(QuestionError, match="2 different blocks"):
        refuse(Question("block_touching", ("red moon", "red moon")))
    with pytest.raises(QuestionError, match="above"):
        refuse(Question("peg_block_direction", ("red moon",), "sideways"))
    with pytest.raises(QuestionError, match="0 to 9"):
        refuse(Question("block_moved", ("red moon",)), 10)
    with pytest.raises(QuestionError, match="names the red moon twice"):
        LANGTABLE_QUESTIONS.parse("Is the red moon touching the red moon?")


def test_a_type_needs_its_ten_different_phrasings_with_all_slots():
    kind = LANGTABLE_QUESTIONS.types["block_moved"]
    with pytest.raises(QuestionError, match=re.escape("expected 8 + 2")):
        QuestionType("x", 1, kind.phrasings[:7], kind.untrained)
    with pytest.raises(QuestionError, match="twice"):
        QuestionType("x", 1, kind.phrasings, ("did the {first} MOVE?", "b {first}"))
    with pytest.raises(QuestionError, match="must have the slots"):
        QuestionType("x", 2, kind.phrasings, kind.untrained)
