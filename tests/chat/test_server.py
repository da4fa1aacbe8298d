"""A chat model behind HTTP: what is sent, and what becomes of every kind of failure."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.chat.chat_server import GARBAGE, ScriptedServer, images_of, texts_of
from wm_gym.chat.requests import ChatError, ChatReply, ChatRequest
from wm_gym.chat.server import ChatServer, ChatServerConfig

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
HELLO = ChatRequest(("What is this?",))


def client(server: ScriptedServer, **changes) -> ChatServer:
    settings = {"model": "tiny", "timeout_s": 10.0, "retries": 2, **changes}
    return ChatServer(ChatServerConfig(server.base_url, **settings))


def test_texts_images_and_settings_arrive_as_they_are(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    request = ChatRequest(
        ("before", IMAGES[0], "between", IMAGES[1], "after"),
        samples=2, temperature=0.5, max_tokens=7, seed=3,
    )  # fmt: skip
    with ScriptedServer(lambda content: f"seed {content['seed']}") as server:
        (reply,) = client(server, key_variable="MY_KEY").ask([request])
    assert reply.texts == ("seed 3", "seed 4") and reply.error is None and reply.seconds > 0
    for content in server.requests:
        assert texts_of(content) == ["before", "between", "after"]
        kinds = [part["type"] for part in content["messages"][0]["content"]]
        assert kinds == ["text", "image_url", "text", "image_url", "text"]
        np.testing.assert_array_equal(images_of(content), IMAGES)
        assert (content["model"], content["temperature"]) == ("tiny", 0.5)
        assert content["max_tokens"] == 7
    assert server.keys == ["Bearer secret"] * 2


@pytest.mark.parametrize("trouble", ["429", "500", "cut", "drop", "hang"])
def test_passing_trouble_is_tried_again(trouble):
    with ScriptedServer(script=[trouble, trouble, "ok"], hang_s=0.6) as server:
        (reply,) = client(server, timeout_s=0.3).ask([HELLO])
    assert reply.texts == ("It arrived. Score: 1",) and reply.error is None
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("429", "HTTP 429: .*told to say 429"),
        ("500", "HTTP 500: .*told to say 500"),
        ("400", "HTTP 400: .*told to say 400"),
        ("cut", "unreadable answer, 2 times"),
        ("hang", "no answer within 0.2 s, 2 times"),
        ("refuse", "refused: I may not look at robots"),
        ("filter", "refused: content filter"),
        ("empty", "the model said nothing$"),
        ("long", "the model said nothing within max_tokens=512"),
    ],
)
def test_lasting_trouble_is_the_error_of_its_request_alone(trouble, said):
    script = ["ok", *([trouble] * (2 if trouble in ("429", "500", "cut", "hang") else 1)), "ok"]
    with ScriptedServer(script=script, hang_s=0.5) as server:
        chat = client(server, retries=1, timeout_s=0.2 if trouble == "hang" else 10, concurrency=1)
        replies = chat.ask([HELLO] * 3)
    assert [reply.error is None for reply in replies] == [True, False, True]
    assert replies[1].texts == () and re.search(said, replies[1].error)
    assert len(server.requests) == len(script)


@pytest.mark.parametrize("body", GARBAGE)
def test_what_is_no_completion_is_the_error_of_its_request_alone(body):
    with ScriptedServer(script=["ok", body, "ok"]) as server:
        replies = client(server, retries=0, concurrency=1).ask([HELLO] * 3)
    assert [reply.error for reply in replies] == [None, "unreadable answer, 1 times", None]


def test_what_a_model_says_can_be_stored_and_printed():
    with ScriptedServer(lambda request: "\ud800 arrived. Score: 1") as server:
        (reply,) = client(server).ask([HELLO])
    assert reply.texts == ("? arrived. Score: 1",)


@pytest.mark.parametrize("status", ["401", "404"])
def test_a_server_that_refuses_everything_stops_the_run(status):
    seen: list[int] = []
    with ScriptedServer(script=["ok", status]) as server:
        chat = client(server, concurrency=1)
        with pytest.raises(ChatError, match=r"refuses model 'tiny'.*OPENAI_API_KEY"):
            chat.ask([HELLO] * 40, lambda number, reply: seen.append(number))
    assert seen[0] == 0 and len(server.requests) < 40


def test_a_server_that_went_away_loses_no_answer_that_came():
    stored: dict[int, ChatReply] = {}
    server = ScriptedServer(script=["ok", "ok"])
    with server:
        chat = client(server, concurrency=1, retries=0)
        chat.ask([HELLO] * 2, stored.__setitem__)
    with pytest.raises(ChatError, match=r"cannot be reached .*answers that came are stored"):
        chat.ask([HELLO] * 2, stored.__setitem__)
    assert sorted(stored) == [0, 1]


def test_requests_are_under_way_together_up_to_the_limit_and_replies_keep_their_order(capsys):
    requests = [ChatRequest((f"number {n}",)) for n in range(9)]
    arrived: list[int] = []
    with ScriptedServer(lambda content: texts_of(content)[0], pause_s=0.15) as server:
        chat = client(server, concurrency=3)
        replies = chat.ask(requests, lambda number, reply: arrived.append(number))
    assert [reply.texts[0] for reply in replies] == [f"number {n}" for n in range(9)]
    assert server.most_at_once == 3 and sorted(arrived) == list(range(9))
    assert "9/9" in capsys.readouterr().err, "whoever waits for a server sees how long"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "localhost:8000"}, "expected an address such as http://"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout_s": 0.0}, "timeout_s=0.0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
        ({"retries": -1}, "retries=-1"),
    ],
)
def test_settings_without_meaning_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        ChatServerConfig(**{"base_url": "http://x/v1", "model": "m", **changes})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"samples": 2}, "would be the same answer each time"),
        ({"samples": 0}, "samples=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"parts": (np.zeros((4, 4), np.uint8),)}, "an image has dtype uint8 and shape \\(4, 4\\)"),
    ],
)
def test_requests_without_meaning_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        ChatRequest(**{"parts": ("hello",), **fields})
