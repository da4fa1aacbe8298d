"""The auxiliary loss: which thing an image token shows, and where its middle is."""

import numpy as np
import pytest
import torch

from tests.semantic.conftest import TINY, tiny_semantic_model
from tests.semantic.episodes import write_episodes
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.envs.sims.langtable.view import places as places_of
from wm_gym.training.saqa import SAQADataset
from wm_gym.training.seeing import SeeingLoss, covering

NAMES = ("peg", "red moon", "blue cube")


@pytest.fixture(scope="module")
def seeing():
    torch.manual_seed(0)
    model = tiny_semantic_model()
    return SeeingLoss(TINY, model.tokenizer), model


def at(*corners: tuple[float, float]) -> torch.Tensor:
    """Places of patch coordinates (right, down) in a picture of 3 x 3 patches."""
    grid = torch.tensor(corners)
    return (torch.stack([grid[:, 0] / 1.5 - 1, 1 - grid[:, 1] / 1.5], -1))[None]


def test_the_nearest_thing_covers_a_token():
    owner, middle = covering(at((0.5, 0.5), (1.2, 0.5), (2.45, 2.6)), 3)
    assert owner.reshape(3, 3).tolist() == [[0, 1, 3], [3, 3, 3], [3, 3, 2]]
    torch.testing.assert_close(middle[0, 1], torch.tensor([1.2, 0.5]))
    torch.testing.assert_close(middle[0, 8], torch.tensor([2.45, 2.6]))


def test_things_that_are_not_there_cover_nothing():
    places = torch.cat([at((0.5, 0.5)), torch.full((1, 1, 2), torch.nan)], 1)
    owner, middle = covering(places, 3)
    assert owner.flatten().tolist() == [0] + [2] * 8
    assert torch.isfinite(middle).all()


def test_it_can_be_learned_and_reads_the_words(seeing):
    """Tokens that tell things apart are told apart; the loss goes to where it is nothing."""
    loss, model = seeing
    torch.manual_seed(1)
    places = at((0.5, 0.5), (2.5, 0.5), (0.5, 2.5))
    image = torch.randn(1, 9, TINY.width)
    words = torch.randn_like(model.network.embeddings)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.03)
    first = loss(image, words, places, [NAMES]).item()
    for _ in range(150):
        found = loss(image, words, places, [NAMES])
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
    assert found.item() < 0.02 < 1 < first
    said = (loss.words(image).unflatten(-1, (2, -1)) @ words.T).argmax(-1)[0, [0, 2, 6]]
    wanted = [model.tokenizer.encode(name)[1:-1] for name in NAMES]
    assert said.tolist() == [[ids[0], ids[-1]] for ids in wanted]


def test_questions_carry_where_things_appear(tmp_path):
    episodes = write_episodes(tmp_path / "episodes", ["expert", "random", "near_miss"])
    saqa = SAQADataset(collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "qa")))
    rows = saqa.sampler().draw(20, 2, np.random.default_rng(0))
    batch = saqa.batch(rows, np.zeros_like(rows))
    for r in range(20):
        episode, frame = (int(saqa.records[name][rows[r, 0]]) for name in ("episode", "frame"))
        states, _ = episodes.labels(episode)
        np.testing.assert_allclose(batch.places[r], places_of(states[[frame]])[0], atol=1e-3)
        assert batch.things[r] == ("peg", *saqa.objects(0, episode))
