"""Planning in a latent world model: forks under common noise."""

import numpy as np
import pytest
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.dynamics.rollout import Rollout
from wm_gym.instructions import Goal
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.planning.cem import CEMConfig
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.planner import plan
from wm_gym.planning.rollout_value import RolloutValue, candidate_batches, reward_score


@pytest.fixture
def rollout(tiny_model):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return tiny_model.begin(frames, seeds=[3, 4])


def mean_of_first_channel(latents, rows):
    return latents[..., 0].mean((1, 2)) * torch.tensor([1.0, -1.0])[torch.from_numpy(rows)]


def test_equal_candidates_have_equal_values_and_the_dream_stays(rollout):
    value = RolloutValue(rollout, mean_of_first_channel)
    actions = torch.full((2, 3, 2, 2), 0.01)
    actions[:, 2] = -0.02
    untouched = rollout.fork([0, 1])
    found = value(actions)
    assert torch.allclose(found[:, 0], found[:, 1], atol=1e-5)  # common noise
    assert (found[:, 0] - found[:, 2]).abs().min() > 1e-4
    assert torch.allclose(
        rollout.step(actions[:, 0, 0]), untouched.step(actions[:, 0, 0]), atol=1e-4
    )
    assert rollout.steps.tolist() == [1, 1]


def test_the_value_is_the_score_of_the_rollout_itself(rollout):
    actions = 0.02 * torch.rand(2, 1, 3, 2, generator=torch.Generator().manual_seed(1))
    last = RolloutValue(rollout, mean_of_first_channel)(actions)
    mean = RolloutValue(rollout, mean_of_first_channel, "mean")(actions)
    scores = [mean_of_first_channel(rollout.step(actions[:, 0, n]), np.arange(2)) for n in range(3)]
    assert torch.allclose(last[:, 0], scores[-1], atol=1e-4)
    assert torch.allclose(mean[:, 0], torch.stack(scores).mean(0), atol=1e-4)


@pytest.mark.parametrize("most", [2, 5, 7])
def test_batches_of_candidates_have_the_same_values_in_less_memory(rollout, most, monkeypatch):
    actions = 0.02 * torch.rand(2, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    whole = RolloutValue(rollout, mean_of_first_channel)(actions)
    rollout.micro_batch = most
    forks, fork = [], Rollout.fork
    monkeypatch.setattr(Rollout, "fork", lambda self, rows: forks.append(rows) or fork(self, rows))
    parts = RolloutValue(rollout, mean_of_first_channel)(actions)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
    assert [row for rows in forks for row in rows] == [0] * 5 + [1] * 5
    assert max(map(len, forks)) <= most


def test_batches_hold_one_problem_or_whole_ones():
    rows = [list(range(12))[part] for part in candidate_batches(3, 4, 9)]
    assert rows == [list(range(8)), list(range(8, 12))]
    assert [len(range(12)[part]) for part in candidate_batches(3, 4, 3)] == [3, 1, 3, 1, 3, 1]
    assert candidate_batches(3, 4, None) == candidate_batches(3, 4, 12) == [slice(0, 12)]


@pytest.mark.parametrize("config", [MPPIConfig(6, 2, 0.01), CEMConfig(6, 2, 2)])
def test_sampling_planners_improve_in_the_dream(rollout, tiny_model, config):
    box = ActionBox.of(tiny_model.spec.action)
    value = RolloutValue(rollout, mean_of_first_channel)
    found = plan(value, box, 2, [0, 1], config)
    assert (found.values > found.batch_values[0].mean(1)).all()
    assert torch.allclose(
        value(found.batches[-1]).max(1).values, found.batch_values[-1].max(1).values, atol=1e-5
    )


def test_there_is_no_gradient_to_follow(rollout, tiny_model):
    box = ActionBox.of(tiny_model.spec.action)
    with pytest.raises(ValueError, match="need MPPI or CEM"):
        plan(RolloutValue(rollout, mean_of_first_channel), box, 2, [0, 1], GradientConfig())


def test_the_reward_model_scores_every_problem_by_its_own_goal(rollout, tiny_model):
    reward = RewardModel.from_checkpoint(Checkpoint.open(tiny_model.folder))
    goals = [Goal("reach", ("red moon",)), Goal("push", ("blue cube", "green star"))]
    latents = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    rows = np.array([0, 0, 1, 1])
    for kind, direct in (("success", reward.probability), ("distance", reward.distance)):
        found = reward_score(reward, goals, kind)(latents, rows)
        expected = direct(latents, [goals[row] for row in rows])
        assert torch.equal(found, expected if kind == "success" else -expected)


def test_a_problem_for_every_row(rollout):
    with pytest.raises(ValueError, match="1 problems for 2 rows"):
        RolloutValue(rollout, mean_of_first_channel)(torch.zeros(1, 2, 2, 2))
