"""Prompts as versioned files, and scores out of free text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.judges.rubric import Prompt, PromptError, load_prompt, majority_score, read_score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Score: 1", 1.0),
        ("Score: 0", 0.0),
        ("score:0.5", 0.5),
        ("The block is half way.\n\nScore: .5.", 0.5),
        ("**Score:** 1", 1.0),
        ("**Score: 0.5**", 0.5),
        ("### Score\n1.0", 1.0),
        ("The score is 0.", 0.0),
        ("SCORE = 1/2", 0.5),
        ("Score: ½", 0.5),
        ("Score: 0.5/1", 0.5),
        ("Score: 1/1", 1.0),
        ("Score: 0 / 1.0", 0.0),
        ('```json\n{"reason": "it moved", "score": 0.50}\n```', 0.5),
        ("First I thought Score: 0, but it arrived.\nScore: 1", 1.0),
        ("Possible scores are 0, 0.5 or 1. Score: 0, 0.5 or 1?\nScore: 0.5", 0.5),
        ("<think>Score: 1 would be wrong</think>It fell.\nScore: 0", 0.0),
        ("<think>Score: 1, no, wait", None),
        ("1", 1.0),
        (" 0.5.\n", 0.5),
        ("**0**", 0.0),
        ("Score: 0, 0.5 or 1", None),
        ("Score: 0/0.5/1", None),
        ("Score: 0.7", None),
        ("Score: 10", None),
        ("Score: 0.25", None),
        ("Score: 1%", None),
        ("Score: 100%", None),
        ("Score: high", None),
        ("Score: 0,5", 0.5),
        ("Score: 1, because it arrived", 1.0),
        ("Score: 1 out of 1", 1.0),
        ("Score - 0.5", 0.5),
        ("Score: 1/3", None),
        ("Score: 1 / 10", None),
        ("Score: 1/20", None),
        ("Score: 1 out of 10", None),
        ("Score: 1 of 5", None),
        ("Score: 0,7", None),
        ("Score: -1", None),
        ("Score: 1e-3", None),
        ("The robot moved 1 block.", None),
        ("There were 0 or 1 blocks, so I cannot tell", None),
        ("underscore: 1", None),
        ("", None),
    ],
)
def test_a_score_is_read_however_it_is_written_and_never_made_up(answer, score):
    assert read_score(answer) == score


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_a_score_of_the_rubric_or_none(text):
    assert read_score(text) in (None, 0.0, 0.5, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="<"), max_size=80), st.sampled_from("01"))
def test_whatever_is_said_before_the_last_line_counts(text, score):
    assert read_score(f"{text}\nScore: {score}") == float(score)


@pytest.mark.parametrize(
    ("scores", "found"),
    [([0.5], 0.5), ([0, 1, 0], 0), ([0, 1], 1), ([0, 0.5, 1], 1), ([0, 0, 0.5, 0.5, 1], 0.5)],
)
def test_the_majority_decides_and_a_tie_goes_to_the_higher_score(scores, found):
    assert majority_score(scores) == found


def test_there_is_no_majority_of_nothing():
    with pytest.raises(ValueError, match="no score"):
        majority_score([])


def test_the_prompt_that_ships_states_the_rubric_and_shows_pictures_in_order():
    prompt = load_prompt()
    assert prompt.version == "success-1"
    assert all(f"Score: {score}" in prompt.text for score in ("0 if", "0.5 if", "1 if"))
    pictures = [np.full((2, 2, 3), n, np.uint8) for n in range(3)]
    parts = prompt.parts("push the {count} moon\n  to {pictures}", pictures)
    assert [p if isinstance(p, str) else int(p[0, 0, 0]) for p in parts[1:-1]] == [
        "Picture 1 of 3:", 0, "Picture 2 of 3:", 1, "Picture 3 of 3:", 2,
    ]  # fmt: skip
    assert isinstance(parts[0], str) and "You see 3 pictures" in parts[0]
    assert 'The robot was told: "push the {count} moon to {pictures}"' in parts[0]


def test_a_prompt_of_ones_own_is_named_after_its_words(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("{count} {instruction} {pictures}", encoding="utf-8")
    first = load_prompt(str(file))
    file.write_text("{count} {instruction} {pictures} now", encoding="utf-8")
    second = load_prompt(str(file))
    assert first.version.startswith("mine@") and first.version != second.version
    assert first.sha256 != second.sha256


def test_prompts_that_cannot_work_are_refused():
    with pytest.raises(PromptError, match="expected one of \\['success-1'\\], or a text file"):
        load_prompt("success-0")
    for text in ("no slots", "{count} {instruction} {pictures} {pictures}"):
        with pytest.raises(PromptError, match="exactly once"):
            Prompt("x", text)
