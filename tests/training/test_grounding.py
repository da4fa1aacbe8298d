"""The auxiliary loss: words and actions say where things are and will be."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.semantic.conftest import TINY, tiny_semantic_model
from tests.semantic.episodes import write_episodes
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.envs.sims.langtable.view import places as places_of
from wm_gym.semantic.model import SemanticNetwork
from wm_gym.semantic.tokens import QuestionTokenizer
from wm_gym.training.grounding import GroundingLoss, Heard, attention_of_words, listening
from wm_gym.training.saqa import SAQADataset

DEEPER = replace(TINY, depth=3)
NAMES = ("peg", "red moon", "blue moon", "blue cube")
QUESTIONS = [
    ("Is the red moon touching the blue cube?", 2),
    ("Is the blue moon next to the peg?", 0),
]


@dataclass
class Model:
    """A network that is deep enough, and the words it knows."""

    network: SemanticNetwork
    tokenizer: QuestionTokenizer


@pytest.fixture
def grounding():
    torch.manual_seed(0)
    model = Model(SemanticNetwork(DEEPER), tiny_semantic_model().tokenizer)
    return GroundingLoss(DEEPER, model.tokenizer), model


def test_last_words_of_names_are_found(grounding):
    loss, model = grounding
    asked = model.tokenizer.asked([QUESTIONS])
    number, back = (found[0] for found in loss.mentions(asked, [NAMES]))
    for m, (text, _) in enumerate(QUESTIONS):
        words = model.tokenizer.words(asked.tokens[0, m].tolist())
        named = {words[t]: int(number[m, t]) for t in (number[m] >= 0).nonzero().flatten().tolist()}
        assert named == ({"moon": 1, "cube": 3} if "cube" in text else {"moon": 2, "peg": 0})
    assert (back == (number > 0).long()).all()


def heard(model, asked, actions: int) -> Heard:
    """Random hidden states of image, actions and questions."""
    places = 9 + actions + asked.tokens.shape[1] * asked.tokens.shape[2]
    found = Heard()
    found.inputs = {layer: torch.randn(1, places, TINY.width) for layer in (0, 1)}
    found.after_saying = torch.randn(1, places, TINY.width, requires_grad=True)
    return found


def test_places_can_be_learned_now_and_after_the_actions(grounding):
    loss, model = grounding
    asked = model.tokenizer.asked([QUESTIONS])
    torch.manual_seed(1)
    paths = torch.rand(1, 3, len(NAMES), 2) * 2 - 1
    said = heard(model, asked, 2)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.03)
    for _ in range(300):
        _, parts = found = loss(model.network, said, asked, paths, [NAMES])
        optimiser.zero_grad()
        found[0].backward()
        optimiser.step()
    assert parts["named_loss"] < 0.01 and parts["moved_loss"] < 0.01
    with torch.no_grad():
        number, _ = loss.mentions(asked, [NAMES])
        questions = said.after_saying[:, 11:].unflatten(1, asked.tokens.shape[1:])
        places = loss.named(loss.norm(questions[0, 0][number[0, 0] == 1]))[0] / 1.5
        torch.testing.assert_close(places[:2], paths[0, 0, 1], atol=0.1, rtol=0)
        torch.testing.assert_close(places[2:], paths[0, 2, 1], atol=0.1, rtol=0)
        moved = loss.moved(loss.norm(said.after_saying[0, 9:11])) / 1.5
        torch.testing.assert_close(moved, paths[0, 1:, 0], atol=0.1, rtol=0)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 0), (2, 1)])
def test_attention_is_that_of_the_layer(grounding, layer, head):
    """What is trained is the attention that transformers computes in that head."""
    loss, model = grounding
    network = model.network
    for block in network.decoder.layers:
        block.self_attn.config._attn_implementation = "eager"
    asked = model.tokenizer.asked([QUESTIONS])
    image = network.image_features(torch.randint(0, 255, (1, 24, 24, 3), dtype=torch.uint8))
    kept = []
    attention = network.decoder.layers[layer].self_attn
    handle = attention.register_forward_hook(lambda _m, _i, output: kept.append(output[1]))
    with listening(network, loss) as found:
        network.read(image, torch.zeros(1, 2, TINY.action_width), asked)
    handle.remove()
    weights = kept[0][0, head, 11:].unflatten(0, asked.tokens.shape[1:])  # (M, T, L)
    hidden = found.inputs[layer] if layer < 2 else found.after_saying
    ours = attention_of_words(network, layer, hidden, asked, head).exp()[0]
    for m, length in enumerate(asked.lengths[0].tolist()):
        own = weights[m, :length, 11:].unflatten(-1, asked.tokens.shape[1:])[:, m]
        expected = torch.cat([weights[m, :length, :11], own], -1)
        torch.testing.assert_close(ours[m, :length], expected, atol=1e-6, rtol=1e-4)


def test_a_network_learns_to_look(grounding):
    loss, model = grounding
    network = model.network
    asked = model.tokenizer.asked([QUESTIONS])
    image = torch.randn(1, 9, TINY.width)
    paths = torch.full((1, 3, len(NAMES), 2), torch.nan)
    for thing, corner in enumerate([(-0.9, 0.9), (0.9, 0.9), (-0.9, -0.9), (0.9, -0.9)]):
        paths[:, :, thing] = torch.tensor(corner)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    lines = []
    for _ in range(80):
        with listening(network, loss) as found:
            network.read(image, torch.zeros(1, 2, TINY.action_width), asked)
        total, parts = loss(network, found, asked, paths, [NAMES])
        lines.append({name: loss.item() for name, loss in parts.items()})
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    for part in ("looking_loss", "reading_loss", "asking_loss"):
        assert lines[-1][part] < 0.2 < 1 < lines[0][part]


def test_unknown_places_do_not_count(grounding):
    loss, model = grounding
    asked = model.tokenizer.asked([QUESTIONS])
    said = heard(model, asked, 2)
    nowhere = torch.full((1, 3, len(NAMES), 2), torch.nan)
    _, parts = loss(model.network, said, asked, nowhere, [NAMES])
    assert all(parts[f"{name}_loss"].item() == 0 for name in ("looking", "named", "moved"))
    paths = torch.zeros(1, 3, len(NAMES), 2)
    paths[:, 2] = torch.nan  # the episode ended
    total, parts = loss(model.network, said, asked, paths, [NAMES])
    total.backward()
    assert said.after_saying.grad is not None and said.after_saying.grad.isfinite().all()
    for token, counts in ((10, False), (9, True)):  # the second and the first action
        other = heard(model, asked, 2)
        other.after_saying = said.after_saying.detach().clone()
        other.after_saying[0, token] += torch.randn(TINY.width)
        _, found = loss(model.network, other, asked, paths, [NAMES])
        assert (found["moved_loss"] != parts["moved_loss"]) == counts


def test_nobody_listens_after_the_context(grounding):
    loss, model = grounding
    with listening(model.network, loss):
        pass
    for layer in model.network.decoder.layers:
        assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_questions_carry_where_things_will_be(tmp_path):
    episodes = write_episodes(tmp_path / "episodes", ["expert", "random", "near_miss"])
    saqa = SAQADataset(collect_qa(CollectQAConfig((tmp_path / "episodes",), tmp_path / "qa")))
    rows = saqa.sampler().draw(20, 2, np.random.default_rng(0))
    batch = saqa.batch(rows, np.zeros_like(rows))
    ahead = batch.actions.shape[1]
    assert batch.paths.shape[:2] == (20, ahead + 1)
    for r in range(20):
        episode, frame = (int(saqa.records[name][rows[r, 0]]) for name in ("episode", "frame"))
        states, _ = episodes.labels(episode)
        known = places_of(states[frame : frame + ahead + 1])
        np.testing.assert_allclose(batch.paths[r, : len(known)], known, atol=1e-3)
        assert np.isnan(batch.paths[r, len(known) :]).all()
        for place in range(2):
            assert batch.horizons[r, place] < len(known)


def test_a_shallow_decoder_is_refused():
    with pytest.raises(
        ValueError, match="depth=2 and heads=2: grounding needs a decoder of at least 3 layers"
    ):
        GroundingLoss(TINY, tiny_semantic_model().tokenizer)
