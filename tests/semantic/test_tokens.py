"""Words to tokens: what is unknown is named, what is known comes back."""

import pytest
import torch

from wm_gym.envs.sims.langtable.shapes import COLOURS, OBJECTS, OOD_OBJECTS, SHAPES
from wm_gym.semantic.question_types import (
    LANGTABLE_COLOURS,
    LANGTABLE_QUESTIONS,
    LANGTABLE_SHAPES,
)
from wm_gym.semantic.questions import QuestionError
from wm_gym.semantic.tokens import QuestionTokenizer, langtable_tokenizer, word_tokenizer, words_of


@pytest.fixture(scope="module")
def tokenizer():
    return langtable_tokenizer()


def test_every_question_about_every_block_can_be_asked(tokenizer):
    assert (tuple(COLOURS), SHAPES) == (LANGTABLE_COLOURS, LANGTABLE_SHAPES)
    for kind in LANGTABLE_QUESTIONS:
        for question in LANGTABLE_QUESTIONS.instances(kind.name, (*OBJECTS[:3], *OOD_OBJECTS[:2])):
            for phrasing in range(10):
                ids = tokenizer.encode(LANGTABLE_QUESTIONS.text(question, phrasing))
                assert 4 < len(ids) < 24


def test_untrained_phrasings_are_new_wordings_of_trained_words():
    assert words_of(LANGTABLE_QUESTIONS, untrained=True) <= words_of(LANGTABLE_QUESTIONS)


def test_a_question_stands_between_begin_and_newline(tokenizer):
    ids = tokenizer.encode("Did the RED moon move?")
    assert ids == tokenizer.encode(" did the red moon move ? ")
    words = {"did", "the", "red", "moon", "move"}
    assert len(ids) == 1 + len(words) + 1 + 1
    assert len(set(ids)) == len(ids)


def test_unknown_words_are_named(tokenizer):
    with pytest.raises(QuestionError, match=r"never saw: fly, hexagon;"):
        tokenizer.encode("Did the red hexagon fly?")
    with pytest.raises(QuestionError, match="is empty"):
        tokenizer.encode("  ")
    with pytest.raises(QuestionError, match="no question"):
        tokenizer.asked([[], []])


def test_json_leads_back(tokenizer):
    again = QuestionTokenizer.from_json(tokenizer.to_json())
    text = "Is the robotic peg touching the purple pentagon?"
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.size, again.answers, again.end) == (
        tokenizer.size, tokenizer.answers, tokenizer.end,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        QuestionTokenizer.from_json(text)


def test_a_tokenizer_without_answers_is_refused(tokenizer):
    broken = tokenizer.to_json().replace('"yes"', '"jawohl"')
    with pytest.raises(ValueError, match="no token 'yes'"):
        QuestionTokenizer.from_json(broken)


def test_rows_of_questions_are_filled_up(tokenizer):
    short, long = "Did the red moon move?", "Is the red moon touching the blue cube?"
    asked = tokenizer.asked([[(short, 0), (long, 8)], [(long, 16)]])
    assert asked.tokens.shape == (2, 2, len(tokenizer.encode(long)))
    assert asked.after.tolist() == [[0, 8], [16, 0]]
    assert asked.lengths.tolist() == [
        [len(tokenizer.encode(short)), len(tokenizer.encode(long))],
        [len(tokenizer.encode(long)), 0],
    ]
    assert asked.tokens[0, 0, : asked.lengths[0, 0]].tolist() == tokenizer.encode(short)
    answers = tokenizer.answer_tokens(torch.tensor([True, False]))
    assert answers.tolist() == [tokenizer.answers["yes"], tokenizer.answers["no"]]


def test_words_are_numbered_the_same_in_any_order():
    assert word_tokenizer(["b", "a"]).to_json() == word_tokenizer(["a", "b", "A"]).to_json()
