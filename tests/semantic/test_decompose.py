"""A language model's tasks: what is usable is used, what is not is told back or refused."""

import json

import pytest

from tests.chat.chat_server import ScriptedServer, texts_of
from wm_gym.chat.choice import ChatChoice
from wm_gym.chat.requests import ChatError
from wm_gym.semantic.decompose import DecompositionError, decompose, read_task
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.questions import QuestionError
from wm_gym.semantic.tasks import TaskError, langtable_task

BLOCKS = ("red moon", "green star")
PUSH = langtable_task("push", BLOCKS)
USABLE = json.dumps(PUSH.to_dict())


def ask(server, **changes):
    timeout = changes.pop("timeout_s", 5.0)
    chat = ChatChoice("m", server.base_url, retries=2, timeout_s=timeout).make()
    return decompose("move the moon next to the star", BLOCKS, LANGTABLE_QUESTIONS, chat, **changes)


def with_question(text: str) -> str:
    content = PUSH.to_dict()
    content["subgoals"][0]["done"][0]["question"] = text
    return json.dumps(content)


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "Here it is:\n{}\nGood luck."])
def test_a_task_is_found_in_the_answer(around):
    assert read_task(around.replace("{}", USABLE), BLOCKS, LANGTABLE_QUESTIONS) == PUSH


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("I would push it.", TaskError, "no whole JSON object"),
        (USABLE[:-20], TaskError, "no whole JSON object"),
        (USABLE.replace('"weight"', '"wait"'), TaskError, "wait"),
        (USABLE.replace('"yes"', '"maybe"'), TaskError, "'yes' or 'no'"),
        (json.dumps({"name": "x", "subgoals": []}), TaskError, "no subgoals"),
        ("[1, 2]", TaskError, "not stated properly"),
        ('{"name": ' * 5000, TaskError, "no whole JSON object"),
        (USABLE.replace("0.8", "9" * 5000), TaskError, "no whole JSON object"),
        (USABLE.replace("push", r"\ud800"), TaskError, "no whole JSON object"),
        (with_question("Did the red moon move?"), TaskError, "compares with before"),
        (with_question("Is the moon happy?"), QuestionError, "fits no phrasing"),
        (with_question("Is the red moon touching the blue cube?"), QuestionError, "blue cube"),
    ],
)
def test_what_is_not_usable_is_named(text, error, words):
    with pytest.raises(error, match=words):
        read_task(text, BLOCKS, LANGTABLE_QUESTIONS)


def test_the_model_is_told_what_it_may_ask_and_what_was_wrong():
    answers = iter([USABLE.replace("red moon", "red sun"), USABLE])
    with ScriptedServer(lambda request: next(answers)) as server:
        assert ask(server) == PUSH
    first, second = ("".join(texts_of(request)) for request in server.requests)
    for kind in LANGTABLE_QUESTIONS:
        assert kind.phrasings[0].split("{")[0] in first
    assert "red moon, green star" in first and "red sun" not in first
    assert second.startswith(first) and "red sun" in second


def test_after_its_attempts_every_fault_is_named():
    answers = iter([USABLE.replace("0.8", "9" * 5000), with_question("Is it done?")])
    with (
        ScriptedServer(lambda request: next(answers)) as server,
        pytest.raises(
            DecompositionError, match=r"attempt 1: .*JSON.*attempt 2: .*fits no phrasing"
        ),
    ):
        ask(server, attempts=2)


@pytest.mark.parametrize("script", [["429"], ["500", "500"], ["cut"], ["hang"]])
def test_trouble_on_the_way_is_overcome(script):
    with ScriptedServer(lambda request: USABLE, script, hang_s=1.5) as server:
        assert ask(server, timeout_s=0.7 if script == ["hang"] else 5.0) == PUSH
    assert len(server.requests) == len(script) + 1


@pytest.mark.parametrize(
    "script, words", [(["refuse"], "I may not look"), (["empty"], "said nothing")]
)
def test_a_refusal_is_an_error(script, words):
    with (
        ScriptedServer(lambda request: USABLE, script) as server,
        pytest.raises(DecompositionError, match=words),
    ):
        ask(server)


def test_a_server_that_is_down_and_an_empty_instruction():
    with ScriptedServer() as server:
        pass
    with pytest.raises(ChatError, match="cannot be reached"):
        ask(server)
    chat = ChatChoice("m", server.base_url).make()
    with pytest.raises(ValueError, match="instruction is empty"):
        decompose("  ", BLOCKS, LANGTABLE_QUESTIONS, chat)
