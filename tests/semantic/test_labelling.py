"""A VLM's answers: the majority counts, and what is no answer is said to be none."""

import numpy as np
import pytest

from tests.chat.chat_server import ScriptedServer, images_of, texts_of
from wm_gym.chat.choice import ChatChoice
from wm_gym.chat.requests import ChatReply
from wm_gym.semantic.labelling import Unlabelled, label_questions, majority, read_answer

FRAME = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("It touches it.\nAnswer: yes", True),
        ("**Answer:** No.", False),
        ("Answer: yes? I look again. Answer: no", False),
        ("Yes.", True),
        ("no", False),
        ("Yes, but no.", None),
        ("I cannot tell.", None),
        ("I cannot answer. No block is to be seen.", None),  # a refusal, not a no
        ("I have no answer, yes or no.", None),
    ],
)
def test_the_last_stated_answer_counts(text, expected):
    assert read_answer(text) is expected


@pytest.mark.parametrize(
    "texts, expected",
    [
        (("yes", "yes", "no"), (True, 2, 1)),
        (("no", "perhaps", "no"), (False, 0, 2)),
        (("yes", "no"), (None, 1, 1)),
        (("perhaps",), (None, 0, 0)),
    ],
)
def test_the_majority_of_the_samples(texts, expected):
    label = majority(ChatReply(texts, 0.0))
    assert (label.yes, label.votes_yes, label.votes_no) == expected
    assert (label.error is None) == (label.yes is not None)


def test_the_future_is_shown_where_it_is_asked_about():
    items = [Unlabelled((FRAME,), "Now?"), Unlabelled((FRAME, FRAME + 9), "Then?")]
    told = {}
    with ScriptedServer(lambda request: f"Answer: {'yes' if len(images_of(request)) == 2 else 'no'}"
                        ) as server:  # fmt: skip
        chat = ChatChoice("m", server.base_url, concurrency=1).make()
        labels = label_questions(chat, items, samples=3, on_label=told.__setitem__)
    assert [label.yes for label in labels] == [False, True]
    assert told == dict(enumerate(labels)) and len(server.requests) == 6
    assert {request["seed"] for request in server.requests} == {0, 1, 2}
    assert "Now?" in texts_of(server.requests[0])[0]
    assert images_of(server.requests[-1])[1].max() == 9
    with pytest.raises(ValueError, match="3 pictures"):
        Unlabelled((FRAME,) * 3, "When?")


def test_trouble_with_one_question_is_its_own():
    items = [Unlabelled((FRAME,), str(n)) for n in range(4)]
    script = ["refuse", "429", "ok", "500", "cut", "ok", "400"]
    with ScriptedServer(lambda request: "Answer: yes", script) as server:
        chat = ChatChoice("m", server.base_url, concurrency=1, retries=2).make()
        labels = label_questions(chat, items, samples=1, temperature=0.0)
    assert [label.yes for label in labels] == [None, True, True, None]
    assert "refused" in str(labels[0].error) and "HTTP 400" in str(labels[3].error)
