"""Tasks and their value: Eq. 1, Eq. 2, weights, completion."""

import json

import pytest
import torch

from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.tasks import (
    LANGTABLE_MULTI_STEP,
    LANGTABLE_TASKS,
    DesiredAnswer,
    SemanticTask,
    Subgoal,
    TaskError,
    langtable_task,
    task_from_dict,
)
from wm_gym.semantic.value import (
    TaskValue,
    ValueConfig,
    answers_hold,
    present_probabilities,
    value_of,
)

PUSH = langtable_task("push", ("red moon", "green star"))
REACH = langtable_task("reach", ("blue cube",))


@pytest.fixture(scope="module")
def view(swm):
    generator = torch.Generator().manual_seed(0)
    return swm.look(torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8, generator=generator))


@pytest.fixture(scope="module")
def actions():
    return 0.03 * (2 * torch.rand(2, 3, 16, 2, generator=torch.Generator().manual_seed(1)) - 1)


def test_table_five():
    def table(task):
        (step,) = task.subgoals
        return [(a.question, a.weight, a.answer) for a in step.answers]

    assert table(LANGTABLE_TASKS["reach"].named("red moon")) == [
        ("Is the robotic peg touching the red moon?", 0.8, "yes"),
        ("Is the robotic peg closer to the red moon?", 0.2, "yes"),
    ]
    assert table(LANGTABLE_TASKS["separate"].named("red moon", "blue cube")) == [
        ("Is the robotic peg touching the red moon?", 0.6, "yes"),
        ("Is the red moon touching the blue cube?", 0.4, "no"),
    ]
    assert table(LANGTABLE_TASKS["push"].named("red moon", "blue cube")) == [
        ("Is the red moon touching the blue cube?", 0.8, "yes"),
        ("Are the red moon and the blue cube closer together?", 0.2, "yes"),
    ]
    assert [s.name for s in LANGTABLE_MULTI_STEP["MS2"].subgoals] == [
        "push the yellow star to the blue cube",
        "push the yellow pentagon to the red moon",
    ]


def test_every_question_of_a_task_is_a_trained_phrasing():
    tasks = [REACH, PUSH, langtable_task("separate", ("red moon", "blue cube"))]
    for task in [*tasks, *LANGTABLE_MULTI_STEP.values()]:
        for step in task.subgoals:
            for answer in (*step.answers, *step.done):
                _, phrasing = LANGTABLE_QUESTIONS.parse_phrasing(answer.question)
                assert phrasing < 8


def test_equation_two_by_hand():
    answers = [DesiredAnswer("a", "yes", 0.8), DesiredAnswer("b", "no", 0.2)]
    # (Q, P, 2): two questions, prefixes 8 and 16
    found = torch.tensor([[[0.5, 0.1], [0.9, 0.05]], [[0.3, 0.6], [0.2, 0.7]]])
    expected = 0.8 * (0.5 + 0.9) + 0.2 * (0.6 + 0.7)
    assert value_of(found, answers, 16, ValueConfig(8)).item() == pytest.approx(expected)
    often = value_of(found, answers, 16, ValueConfig(8, count="per_action"))
    assert often.item() == pytest.approx(8 * expected)
    equal = value_of(found, answers, 16, ValueConfig(8, weighted=False))
    assert equal.item() == pytest.approx(0.5 * (0.5 + 0.9 + 0.6 + 0.7))
    last = value_of(found[:, 1:], answers, 16, ValueConfig(0))  # Eq. 1
    assert last.item() == pytest.approx(0.8 * 0.9 + 0.2 * 0.7)


def test_prefixes_end_with_the_whole_sequence():
    assert ValueConfig(8).prefixes(16) == [8, 16]
    assert ValueConfig(8).prefixes(20) == [8, 16, 20]
    assert ValueConfig(0).prefixes(16) == [16]
    assert ValueConfig(1).prefixes(3) == [1, 2, 3]
    short = value_of(
        torch.ones(1, 3, 2), [DesiredAnswer("a", "yes")], 20, ValueConfig(8, "per_action")
    )
    assert short.item() == 20  # 8 + 8 + 4


def test_the_value_of_candidates_is_eq_two_of_the_models_answers(swm, view, actions):
    value = TaskValue(view, [PUSH.subgoals[0], REACH.subgoals[0]])
    found = value(actions)
    assert found.shape == (2, 3)
    for b, task in enumerate((PUSH, REACH)):
        for k in range(3):
            expected = 0.0
            for answer in task.subgoals[0].answers:
                for prefix in (8, 16):
                    asked = swm.ask([(answer.question, prefix)])
                    one = view.probabilities(actions[b, k][None], asked, torch.tensor([b]))
                    expected += answer.weight * one[0, 0, 0].item()
            assert found[b, k].item() == pytest.approx(expected, abs=1e-5)


def test_the_value_has_a_gradient_in_every_action(view, actions):
    variable = actions.clone().requires_grad_()
    TaskValue(view, PUSH.subgoals[0])(variable).sum().backward()
    assert (variable.grad.abs().amax((0, 1, 3)) > 0).all()


def test_what_is_done_is_asked_about_the_present(swm, view):
    wanted = [
        PUSH.subgoals[0].done,
        langtable_task("separate", ("red moon", "blue cube")).subgoals[0].done,
    ]
    present = present_probabilities(view, wanted)
    assert [len(row) for row in present] == [1, 2]
    asked = swm.ask([(wanted[1][1].question, 0)])
    alone = view.probabilities(torch.zeros(1, 0, 2), asked, torch.tensor([1]))
    assert present[1][1].item() == pytest.approx(alone[0, 0, 1].item(), abs=1e-6)  # desired: no
    least = torch.stack([row.min() for row in present])
    for threshold in (least.min() - 1e-4, (least.min() + least.max()) / 2, least.max() + 1e-4):
        expected = least > threshold
        assert torch.equal(answers_hold(view, wanted, float(threshold)), expected)


def test_json_leads_back_and_malformed_json_is_refused():
    content = json.loads(json.dumps(PUSH.to_dict()))
    assert task_from_dict(content) == PUSH
    step = content["subgoals"][0]
    for broken, said in (
        ({**content, "extra": 1}, "extra"),
        ({"name": "x"}, "subgoals"),
        ({**content, "subgoals": []}, "no subgoals"),
        ({**content, "subgoals": [{**step, "answers": []}]}, "at least one desired answer"),
        (
            {**content, "subgoals": [{**step, "done": [{"question": "a", "answer": "maybe"}]}]},
            "answer",
        ),
        (
            {**content, "subgoals": [{**step, "done": [{"question": " ", "answer": "yes"}]}]},
            "empty",
        ),
    ):
        with pytest.raises(TaskError, match=said):
            task_from_dict(broken)


def test_bad_tasks_are_refused():
    with pytest.raises(TaskError, match="'push' with two"):
        langtable_task("push", ("red moon",))
    with pytest.raises(TaskError, match="above 0"):
        DesiredAnswer("a", "yes", 0.0)
    with pytest.raises(TaskError, match="no subgoals"):
        SemanticTask("x", ())
    with pytest.raises(TaskError, match="one that says it is done"):
        Subgoal("x", (DesiredAnswer("a", "yes"),), ())


def test_numbers_that_do_not_fit_are_refused(view, actions):
    with pytest.raises(ValueError, match="2 frames"):
        TaskValue(view, [PUSH.subgoals[0]])
    with pytest.raises(ValueError, match="1 problems for 2 frames"):
        TaskValue(view, PUSH.subgoals[0])(actions[:1])
    with pytest.raises(ValueError, match="trained with 0 to 20"):
        TaskValue(view, PUSH.subgoals[0])(torch.zeros(2, 1, 24, 2))
    with pytest.raises(ValueError, match="at least 1 action"):
        TaskValue(view, PUSH.subgoals[0])(torch.zeros(2, 1, 0, 2))


def test_tasks_about_blocks_that_do_not_exist_are_refused():
    with pytest.raises(TaskError, match="block 'red moo' is unknown; expected one of red"):
        langtable_task("push", ("red moo", "green star"))
    with pytest.raises(TaskError, match="must be different blocks"):
        langtable_task("push", ("red moon", "red moon"))
    with pytest.raises(ValueError, match="count='foo' is unknown"):
        ValueConfig(count="foo")
