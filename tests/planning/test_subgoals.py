"""Subgoals: what is done stays done, what comes next, and plans that serve it."""

import pytest
import torch

from tests.semantic.conftest import tiny_semantic_model
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.subgoals import SubgoalPlanner, advanced
from wm_gym.semantic.directed_tasks import DIRECTED_MULTI_STEP, directed_task
from wm_gym.semantic.tasks import LANGTABLE_MULTI_STEP, SemanticTask, langtable_task
from wm_gym.semantic.value import TaskValue, on_their_ways, present_probabilities

MS1 = LANGTABLE_MULTI_STEP["MS1"]
REACH = langtable_task("reach", ("red moon",))
MPPI = MPPIConfig(candidates=4, iterations=2)


@pytest.fixture(scope="module")
def model():
    return tiny_semantic_model()


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("done", "holds", "given", "by_value"),
    [
        ([0, 0], [0, 0], [0, 0], [0, 0]),
        ([0, 0], [1, 0], [1, 0], [1, 0]),
        ([0, 0], [1, 1], [1, 1], [1, 1]),
        ([0, 0], [0, 1], [0, 0], [0, 1]),  # out of order: only by value
        ([1, 0], [0, 0], [1, 0], [1, 0]),  # what is done stays done
        ([1, 0], [0, 1], [1, 1], [1, 1]),
    ],
)
def test_what_counts_as_done(done, holds, given, by_value):
    flags = [bool(x) for x in done], [bool(x) for x in holds]
    assert advanced(*flags, "given") == [bool(x) for x in given]
    assert advanced(*flags, "by_value") == [bool(x) for x in by_value]


def test_the_threshold_decides_when_the_next_subgoal_begins(model, frames):
    tasks = [MS1, MS1]
    view = model.look(frames)
    first = [row.min().item() for row in present_probabilities(view, [MS1.subgoals[0].done] * 2)]
    for threshold in (0.0, min(first) - 1e-4, sum(first) / 2, max(first) + 1e-4):
        planner = SubgoalPlanner(model, MPPI, threshold=threshold)
        found = planner.next(frames, tasks, planner.begin(tasks), [0, 1])
        for row in range(2):
            assert found.done[row][0] == (first[row] > threshold)
            assert found.subgoals[row] > 0 or not found.done[row][0]
    patient = SubgoalPlanner(model, MPPI, threshold=0.999)
    assert patient.next(frames, tasks, [[True, False]] * 2, [0, 1]).subgoals.tolist() == [1, 1]
    assert patient.next(frames, tasks, [[True, True]] * 2, [0, 1]).subgoals.tolist() == [1, 1]


def test_the_plan_is_better_for_its_subgoal_than_where_it_began(model, frames):
    planner = SubgoalPlanner(model, GradientConfig(iterations=10, learning_rate=1e-3),
                             threshold=0.999)  # fmt: skip
    box = ActionBox.of(model.spec.action)
    proposals = box.uniform([5, 6], (1, 16)) / 2
    for subgoal, done in ((0, [False, False]), (1, [True, False])):
        found = planner.next(frames, [MS1, MS1], [done, done], [0, 1], proposals)
        value = TaskValue(model.look(frames), MS1.subgoals[subgoal])
        before = value(proposals)[:, 0]
        after = value(found.plan.actions[:, None])[:, 0]
        assert (after > before).all()


def test_by_value_takes_the_best_pair_of_subgoal_and_proposal(model, frames):
    tasks = [MS1, REACH]  # tasks of different lengths
    proposals = ActionBox.of(model.spec.action).uniform([1, 2], (3, 16))
    planner = SubgoalPlanner(model, GradientConfig(iterations=1, learning_rate=1e-9),
                             threshold=0.999, order="by_value")  # fmt: skip
    found = planner.next(frames, tasks, planner.begin(tasks), [0, 1], proposals)
    view = model.look(frames)
    values = [TaskValue(view, [MS1.subgoals[k], REACH.subgoals[0]])(proposals) for k in (0, 1)]
    table = torch.stack([v[0] for v in values])  # (subgoal, proposal) of the first problem
    best = table.flatten().argmax().item()
    assert (found.subgoals[0].item(), found.proposals[0].item()) == (best // 3, best % 3)
    assert (found.subgoals[1].item(), found.proposals[1].item()) == (0, values[0][1].argmax())
    chosen = proposals[torch.arange(2), found.proposals]
    assert torch.allclose(found.plan.actions, chosen, atol=1e-6)
    only = planner.next(frames, tasks, [[True, False], [False]], [0, 1], proposals)
    assert only.subgoals.tolist() == [1, 0]


def test_what_held_once_is_open_again_on_request(model, frames):
    proposals = ActionBox.of(model.spec.action).uniform([1, 2], (3, 16))
    for order in ("given", "by_value"):
        kept, again = (
            SubgoalPlanner(model, MPPI, threshold=0.999, order=order, stays_done=stays)
            for stays in (True, False)
        )
        before = [[True, False]] * 2
        assert kept.next(frames, [MS1, MS1], before, [0, 1], proposals).done == before
        found = again.next(frames, [MS1, MS1], before, [0, 1], proposals)
        assert found.done == [[False, False]] * 2
    # by value, all are open once all are done
    values = [TaskValue(model.look(frames), MS1.subgoals[k])(proposals) for k in (0, 1)]
    wanted = torch.stack([v.amax(1) for v in values]).argmax(0)
    over = SubgoalPlanner(model, MPPI, threshold=0.0, order="by_value")
    found = over.next(frames, [MS1, MS1], [[True, True]] * 2, [0, 1], proposals)
    assert found.subgoals.tolist() == wanted.tolist()
    with pytest.raises(ValueError, match=r"threshold=1\.5 must be a probability"):
        SubgoalPlanner(model, MPPI, threshold=1.5)


def test_by_value_needs_proposals(model, frames):
    planner = SubgoalPlanner(model, MPPI, order="by_value")
    with pytest.raises(ValueError, match="chooses among proposals"):
        planner.next(frames, [MS1, MS1], planner.begin([MS1, MS1]), [0, 1])


def test_plans_serve_the_way_that_the_picture_says_to_take(model, frames):
    (step,) = directed_task("separate", ("red moon", "blue cube")).subgoals
    view = model.look(frames)
    likely = torch.stack(
        [torch.stack(present_probabilities(view, [way.when] * 2))[:, 0] for way in step.ways], 1
    )
    taken = on_their_ways(view, [step, MS1.subgoals[0]])
    assert taken[1] is MS1.subgoals[0]
    best = step.ways[likely[0].argmax()]
    assert taken[0].answers == step.answers + best.answers and not taken[0].ways
    tasks = [SemanticTask("ways", (step,)), SemanticTask("one way", (taken[0],))]
    planner = SubgoalPlanner(model, MPPI, threshold=0.999)
    same = torch.stack([frames[0]] * 2)
    found = planner.next(same, tasks, planner.begin(tasks), [3, 3])
    torch.testing.assert_close(*found.plan.actions)
    torch.testing.assert_close(*found.plan.values)
    # by value, too, with steps that have ways and steps that have none
    ordered = SubgoalPlanner(model, MPPI, threshold=0.999, order="by_value")
    proposals = ActionBox.of(model.spec.action).uniform([1, 2], (3, 16))
    mixed = [DIRECTED_MULTI_STEP["MS1"], MS1]
    both = ordered.next(frames, mixed, planner.begin(mixed), [0, 1], proposals)
    values = [TaskValue(view, [t.subgoals[k] for t in mixed])(proposals) for k in (0, 1)]
    assert both.subgoals.tolist() == torch.stack([v.amax(1) for v in values]).argmax(0).tolist()
