"""A language model divides an instruction into subgoals, stated as questions and desired answers.

It answers in JSON, which is checked against the fields of `SemanticTask`, and every question
against the question types and the objects that are there. What is wrong is told to the model, which
may try again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from wm_gym.chat.requests import ChatModel, ChatRequest
from wm_gym.errors import UserError
from wm_gym.semantic.questions import QuestionError, QuestionSet
from wm_gym.semantic.tasks import SemanticTask, TaskError, task_from_dict

_PROMPT = """\
A robot plans by asking a model yes-or-no questions about what a camera will see. Divide the \
instruction below into subgoals, in the order in which they have to be reached; often one is enough.

Instruction: {instruction}

Objects that are there: {objects}

A question must be one of these, with objects (and a value, where there is one) filled in, word \
for word:
{questions}

Answer with one JSON object and nothing else:
{{"name": the instruction, "subgoals": [{{
  "name": what the subgoal is,
  "answers": what planning shall bring about: [{{"question": text, "answer": "yes" or "no", \
"weight": how much it counts, above 0}}],
  "done": what holds in the present once the subgoal is reached, in the same form
}}]}}
The weights of a subgoal's "answers" add up to 1. "done" may only ask about the present, nothing \
that compares with before."""

_AGAIN = """

Your last answer was not usable: {fault}
It was: {answer}
Answer again with the whole JSON object, corrected."""


class DecompositionError(UserError):
    """An instruction for which no usable task came back."""


def decompose(
    instruction: str,
    objects: Sequence[str],
    questions: QuestionSet,
    chat: ChatModel,
    *,
    attempts: int = 3,
    max_tokens: int = 2048,
) -> SemanticTask:
    """Asks a language model for a task.

    Args:
        instruction: what to do, in any words.
        objects: names of what is there.
        questions: the types that may be asked.
        chat: the model.
        attempts: how often it may try.
        max_tokens: longest answer.

    Returns:
        A task whose questions the types state and whose objects are there.

    Raises:
        DecompositionError: if the model refuses or no answer is usable; it names every fault.
        ChatError: if the model cannot be asked at all.
        ValueError: if the instruction is empty.
    """
    if not instruction.strip():
        raise UserError("the instruction is empty; say what to do, e.g. 'push the red moon'")
    asked = _PROMPT.format(
        instruction=" ".join(instruction.split()),
        objects=", ".join(objects),
        questions="\n".join(_types(questions)),
    )
    faults, prompt = [], asked
    for attempt in range(attempts):
        reply = chat.ask([ChatRequest((prompt,), max_tokens=max_tokens, seed=attempt)])[0]
        if reply.error is not None:
            raise DecompositionError(f"{instruction!r}: the model gave no answer: {reply.error}")
        try:
            return read_task(reply.texts[0], objects, questions)
        except (TaskError, QuestionError) as error:
            faults.append(str(error))
            said = " ".join(reply.texts[0].split())[:2000]
            prompt = asked + _AGAIN.format(fault=error, answer=said)
    listed = "; ".join(f"attempt {n}: {fault}" for n, fault in enumerate(faults, start=1))
    raise DecompositionError(f"{instruction!r}: no usable task in {attempts} attempts: {listed}")


def read_task(text: str, objects: Sequence[str], questions: QuestionSet) -> SemanticTask:
    """The task in a model's answer, which may stand in a code fence or between other words.

    Raises:
        TaskError: if there is no JSON object, it is no task, or a subgoal would be done by an
            answer that compares with before: the present alone never gives it.
        QuestionError: if a question fits no type or names an object that is not there.
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        content = json.loads(text[start : end + 1] if start >= 0 else text)
        json.dumps(content, ensure_ascii=False).encode()  # lone surrogates have no UTF-8
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise TaskError(
            f"the answer holds no whole JSON object ({error}): {' '.join(text.split())[:120]!r}"
        ) from error
    task = task_from_dict(content)
    for subgoal in task.subgoals:
        if subgoal.ways:
            raise TaskError(
                f"subgoal {subgoal.name!r} has 'ways'; state what it needs in 'answers' and 'done'"
            )
        for desired in subgoal.done:
            if questions.type_of(questions.parse(desired.question)).compares:
                raise TaskError(
                    f"'done' of subgoal {subgoal.name!r} asks {desired.question!r}, which compares "
                    "with before; ask about the present alone, e.g. whether two things touch"
                )
        for desired in (*subgoal.answers, *subgoal.done):
            question = questions.parse(desired.question)
            absent = sorted(set(question.blocks) - set(objects))
            if absent:
                raise QuestionError(
                    f"question {desired.question!r} is about {', '.join(absent)}; there are "
                    f"{', '.join(objects)}"
                )
    return task


def _types(questions: QuestionSet) -> list[str]:
    """One line per type: its first phrasing, and what may stand for its value."""
    lines = []
    for kind in questions:
        shown = re.sub(r"\{(\w+)\}", r"<\1>", kind.phrasings[0])
        values = ", ".join(kind.values.values())
        lines.append(f"- {shown}" + (f" (value: one of {values})" if values else ""))
    return lines
