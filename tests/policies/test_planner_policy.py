"""A planner as a policy: receding horizon, seeds, saving."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.semantic.conftest import tiny_semantic_model
from wm_gym.checkpoints import CheckpointError
from wm_gym.instructions import InstructionError
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.base import Observation, Policy, load_policy, save_policy
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.policies.proposals import fitted
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.semantic.value import ValueConfig
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model

MPPI = MPPIConfig(candidates=4, iterations=1)
WORDS = ["reach the red moon", "push the blue cube to the green star", "MS2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = tiny_semantic_model()
    folder = tmp_path_factory.mktemp("swm") / "model"
    save_semantic_model(folder, made.spec, made.network, made.tokenizer)
    return load_semantic_model(folder)


def see(rows, step=0, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (3, 24, 24, 3), np.uint8)[rows]
    return Observation(
        frames, tuple(WORDS[r] for r in rows), np.full(len(rows), step), np.array(rows)
    )


def begun(policy, seeds=(7, 8, 9)):
    policy.reset([0, 1, 2], list(seeds), WORDS)
    return policy


def test_it_executes_a_part_of_its_plan_within_the_box(model):
    policy = begun(PlannerPolicy(model, MPPI, horizon=16, execute=5))
    actions = policy.act(see([0, 1, 2]))
    assert actions.shape == (3, 5, 2)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 0.03


def test_a_row_acts_the_same_whatever_its_neighbours_do(model):
    together = begun(PlannerPolicy(model, MPPI)).act(see([0, 1, 2], step=4))
    alone = begun(PlannerPolicy(model, MPPI)).act(see([1], step=4))
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    other_step = begun(PlannerPolicy(model, MPPI)).act(see([1], step=8))
    other_seed = begun(PlannerPolicy(model, MPPI), (1, 2, 3)).act(see([1], step=4))
    assert np.abs(other_step - alone).max() > 1e-4
    assert np.abs(other_seed - alone).max() > 1e-4


class Steady(Policy):
    """Always the same chunk."""

    def act(self, observation):
        return np.full((len(observation), 3, 2), 0.011, np.float32)


def test_planning_starts_from_what_the_bases_propose(model):
    still = GradientConfig(iterations=1, learning_rate=1e-9)
    policy = begun(PlannerPolicy(model, still, bases=[Steady(model.spec.action)]))
    np.testing.assert_allclose(policy.act(see([0, 1, 2])), 0.011, atol=1e-6)
    chunk = np.arange(4.0).reshape(2, 2)
    assert fitted(chunk, 4).tolist() == [[0, 1], [2, 3], [2, 3], [2, 3]]
    assert fitted(chunk, 1).tolist() == [[0, 1]]


def test_a_saved_planner_acts_the_same(model, tmp_path):
    base = RandomPolicy(model.spec.action)
    policy = PlannerPolicy(
        model, GradientConfig(iterations=2), ValueConfig(sub_chunk=4), horizon=8, execute=2,
        bases=[base], directed=True, done_threshold=0.9, stays_done=False,
    )  # fmt: skip
    save_policy(policy, tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert isinstance(again, PlannerPolicy)
    assert dataclasses.asdict(again.planner.planner) == dataclasses.asdict(policy.planner.planner)
    assert again.directed
    assert (again.planner.threshold, again.planner.stays_done) == (0.9, False)
    observation = see([0, 1, 2])
    np.testing.assert_array_equal(begun(again).act(observation), begun(policy).act(observation))


def test_directions_are_asked_for_on_request(model):
    plain, directed = (begun(PlannerPolicy(model, MPPI, directed=d)) for d in (False, True))
    ways = {
        p: [[len(step.ways) for step in p._tasks[row].subgoals] for row in range(3)]
        for p in (plain, directed)
    }
    # reach, push, two pushes
    assert ways == {plain: [[0], [0], [0, 0]], directed: [[0], [4], [4, 4]]}
    other = tiny_semantic_model()
    other.spec = dataclasses.replace(other.spec, twin="Cube-v0")
    with pytest.raises(ValueError, match=r"directed=True: .* is of Cube-v0"):
        PlannerPolicy(other, MPPI, directed=True)


def test_what_it_cannot_do_is_refused(model):
    with pytest.raises(ValueError, match="execute=9 must be 1 to horizon=8"):
        PlannerPolicy(model, MPPI, horizon=8, execute=9)
    with pytest.raises(ValueError, match="at most the 20 actions"):
        PlannerPolicy(model, MPPI, horizon=24)
    with pytest.raises(InstructionError, match="not understood"):
        PlannerPolicy(model, MPPI).reset([0], [0], ["juggle the red moon"])
    unsaved = PlannerPolicy(tiny_semantic_model(), MPPI)
    with pytest.raises(ValueError, match="is in no folder"):
        unsaved.config()


def test_a_refused_reset_changes_nothing(model):
    policy = begun(PlannerPolicy(model, MPPI))
    before = policy.act(see([0, 1, 2]))
    with pytest.raises(InstructionError):
        policy.reset([0, 1], [1, 2], ["reach the blue moon", "dance"])
    np.testing.assert_array_equal(policy.act(see([0, 1, 2])), before)


def test_a_saved_planner_knows_its_model(tmp_path, monkeypatch):
    made = tiny_semantic_model()
    monkeypatch.chdir(tmp_path)
    save_semantic_model(Path("model"), made.spec, made.network, made.tokenizer)
    save_policy(PlannerPolicy(load_semantic_model("model"), MPPI), tmp_path / "policy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert isinstance(load_policy(tmp_path / "policy"), PlannerPolicy)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.add_(0.01)
    save_semantic_model(tmp_path / "model", made.spec, made.network, made.tokenizer)
    with pytest.raises(CheckpointError, match="other weights than when this policy was saved"):
        load_policy(tmp_path / "policy")


def test_what_is_no_picture_is_refused(model):
    seen = dataclasses.replace(see([0, 1, 2]), frames=np.empty(3, object))
    with pytest.raises(ValueError, match=r"looks at pictures .* dtype object; run it"):
        begun(PlannerPolicy(model, MPPI)).act(seen)
