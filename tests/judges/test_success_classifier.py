"""The success classifier: vocabulary, goals, and the reward model beside a card."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.instructions import Goal, InstructionError
from wm_gym.judges.success_classifier import (
    POSITION_SCALE_M,
    SPREAD_M,
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
        network.get_parameter("answer.4.bias")[1] = -100.0
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


def test_cells_start_where_the_frame_shows_them(network: SuccessClassifier):
    network.place_cells((-0.3, 0.3, 0.3, -0.3))
    places = network.cell_places.detach().reshape(3, 3, 2) * POSITION_SCALE_M
    torch.testing.assert_close(places[0, 0], torch.tensor([-0.2, 0.2]))  # top left
    torch.testing.assert_close(places[0, 2], torch.tensor([0.2, 0.2]))
    torch.testing.assert_close(places[1, 1], torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(places[2, 1], torch.tensor([0.0, -0.2]))


def test_the_likelihood_of_positions_is_that_of_a_gaussian_mixture(network: SuccessClassifier):
    with torch.no_grad():
        reading = network.read(torch.randn(2, 3, 3, 4))
    positions = torch.rand(2, 3, 2) * 0.2 - 0.1
    got = reading.negative_log_likelihood(positions)
    # the same by torch.distributions, in units of POSITION_SCALE_M
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=reading.logits),
        torch.distributions.Independent(
            torch.distributions.Normal(
                reading.places / POSITION_SCALE_M,
                (reading.spreads / POSITION_SCALE_M)[..., None].expand(-1, -1, -1, 2),
            ),
            1,
        ),
    )
    wanted = -mixture.log_prob(positions / POSITION_SCALE_M) - math.log(2 * math.pi)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    low, high = SPREAD_M
    assert (reading.spreads >= low).all() and (reading.spreads <= high).all()


def test_positions_are_learned_from_their_likelihood(network: SuccessClassifier):
    """One bright cell says where the first object is; a short training must find it."""
    network.train().place_cells((-0.3, 0.3, 0.3, -0.3))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    cells = torch.cartesian_prod(torch.tensor([0.2, 0.0, -0.2]), torch.tensor([-0.2, 0.0, 0.2]))
    noise = torch.Generator().manual_seed(0)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        where = torch.randint(9, (count,), generator=noise)
        latents = torch.zeros(count, 9, 4)
        latents[torch.arange(count), where] = 2.0
        return latents.reshape(count, 3, 3, 4), cells[where].flip(-1)

    for _ in range(150):
        latents, place = batch(32)
        loss = network.read(latents).negative_log_likelihood(place[:, None].expand(-1, 3, -1))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    latents, place = batch(64)
    with torch.no_grad():
        error = (network.positions(latents)[:, 0] - place).norm(dim=-1)
    assert error.median() < 0.02
