"""The success classifier: vocabulary, goals, and the reward model beside a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.instructions import Goal, InstructionError
from wm_gym.judges.success_classifier import (
    RewardModel,
    SuccessClassifier,
    SuccessClassifierConfig,
)

CONFIG = SuccessClassifierConfig(
    (3, 3),
    4,
    ("reach", "push"),
    ("red moon", "blue cube"),
    dim=16,
    depth=1,
    trunk_dim=16,
    trunk_depth=1,
    trunk_heads=2,
)


@pytest.fixture
def network() -> SuccessClassifier:
    torch.manual_seed(0)
    return SuccessClassifier(CONFIG).eval()


def test_goals_become_task_and_slot_numbers(network: SuccessClassifier):
    goals = [Goal("reach", ("blue cube",)), Goal("push", ("red moon", "blue cube"))]
    assert network.goal_numbers(goals).tolist() == [[0, 1, 2], [1, 0, 1]]


@pytest.mark.parametrize(
    "goal",
    [
        Goal("fly", ("red moon",)),
        Goal("reach", ("pink cube",)),
        Goal("push", ("red moon", "blue cube", "red moon")),
    ],
)
def test_words_outside_the_vocabulary_are_refused(network: SuccessClassifier, goal: Goal):
    with pytest.raises(InstructionError, match="unknown to the success classifier; expected"):
        network.goal_numbers([goal])


def test_the_order_of_objects_and_the_task_matter(network: SuccessClassifier):
    latents = torch.randn(1, 3, 3, 4).expand(3, -1, -1, -1)
    goals = [
        Goal("push", ("red moon", "blue cube")),
        Goal("push", ("blue cube", "red moon")),
        Goal("reach", ("red moon",)),
    ]
    probability = RewardModel(network, {}).probability(latents, goals)
    assert len(set(probability.tolist())) == 3


def test_rows_do_not_depend_on_each_other(network: SuccessClassifier):
    model = RewardModel(network, {})
    latents = torch.randn(5, 3, 3, 4)
    goals = [Goal("push", ("red moon", "blue cube"))] * 5
    whole = model.probability(latents, goals)
    rows = torch.cat([model.probability(latents[i : i + 1], goals[:1]) for i in range(5)])
    torch.testing.assert_close(whole, rows, atol=1e-6, rtol=0)
    assert ((whole > 0) & (whole < 1)).all()


def test_distances_are_never_negative(network: SuccessClassifier):
    with torch.no_grad():
        network.answer[-1].bias[1] = -100.0
    distance = RewardModel(network, {}).distance(
        torch.randn(2, 3, 3, 4), [Goal("reach", ("red moon",))] * 2
    )
    assert distance.tolist() == [0.0, 0.0]


def test_a_card_without_reward_model_says_what_to_do(tiny_checkpoint: str):
    opened = Checkpoint.open(Path(tiny_checkpoint))
    bare = replace(opened, spec=replace(opened.spec, reward=None))
    with pytest.raises(CheckpointError, match="reward='none'"):
        RewardModel.from_checkpoint(bare)


def test_weights_of_another_size_are_refused(tiny_checkpoint: str):
    opened = Checkpoint.open(Path(tiny_checkpoint))
    assert opened.spec.reward is not None
    reward = replace(opened.spec.reward, network={**opened.spec.reward.network, "dim": 32})
    with pytest.raises(CheckpointError, match="does not fit its card"):
        RewardModel.from_checkpoint(replace(opened, spec=replace(opened.spec, reward=reward)))
