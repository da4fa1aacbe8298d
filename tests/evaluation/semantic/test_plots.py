"""`wm-gym plot …`: what is drawn is what the model and the planner did."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.semantic.conftest import tiny_semantic_model
from tests.semantic.episodes import write_episodes
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.envs.sims.langtable.view import path, places
from wm_gym.evaluation.semantic.plot_plan import evolution
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.planner import plan
from wm_gym.semantic.attention_maps import attention_maps
from wm_gym.semantic.world_model import save_semantic_model

WORDS = "Is the red moon touching the green star?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    write_episodes(folder / "episodes", ["expert", "random"])
    model = tiny_semantic_model()
    save_semantic_model(folder / "model", model.spec, model.network, model.tokenizer)
    return folder


@pytest.mark.parametrize("attention", ["full", "block_causal"])
def test_attention_is_the_networks_own(attention):
    """Shares are shares, and looking does not change what the model says."""
    model = tiny_semantic_model(attention)
    frame = torch.randint(0, 256, (24, 24, 3), dtype=torch.uint8)
    actions = 0.01 * torch.randn(5, 2)
    asked = model.ask([(WORDS, 5)])
    before = model.look(frame[None]).probabilities(actions[None], asked)
    maps = attention_maps(model, frame, actions, WORDS)
    after = model.look(frame[None]).probabilities(actions[None], asked)
    assert torch.equal(before, after)
    assert maps.words == ("<bos>", *WORDS.lower().replace("?", " ?").split(), "\n")
    assert maps.weights.shape == (2, len(maps.words), 3, 3)
    shares = maps.weights.sum((-1, -2))
    assert (maps.weights >= 0).all() and (shares > 0).all() and (shares < 1).all()
    assert maps.weights.std() > 1e-3


def test_attention_moves_with_what_moves_in_the_picture():
    model = tiny_semantic_model()
    frame = torch.zeros(24, 24, 3, dtype=torch.uint8)
    frame[:8, :8, 0] = 255
    one = attention_maps(model, frame, torch.zeros(0, 2), WORDS).weights
    two = attention_maps(model, frame.flip(1), torch.zeros(0, 2), WORDS).weights
    assert (one - two).abs().max() > 1e-3


def test_the_effectors_way_begins_where_it_is_seen():
    state = np.concatenate([[0.05, -0.1], np.zeros(24)])
    actions = np.tile(np.array([0.01, 0.02], np.float32), (3, 4, 1))
    ways = path(state, actions)
    assert ways.shape == (3, 5, 2)
    np.testing.assert_allclose(ways[0, 0], places(state[None])[0, 0])
    moved = np.concatenate([[0.05 + 4 * 0.01, -0.1 + 4 * 0.02], np.zeros(24)])
    np.testing.assert_allclose(ways[1, -1], places(moved[None])[0, 0], atol=1e-6)


@pytest.mark.parametrize("select, steps", [("after_last_step", 7), ("before_last_step", 6)])
def test_the_evolution_is_the_planners(select, steps):
    def value(actions):
        return -(actions - 0.02).square().sum((-1, -2)) * 1e3

    box = ActionBox(torch.tensor([-0.03, -0.03]), torch.tensor([0.03, 0.03]))
    settings = GradientConfig(iterations=6, learning_rate=1e-4, clip=100, select=select)
    found = plan(value, box, 4, [3], settings)
    actions, values = evolution(found)
    assert actions.shape == (steps, 4, 2)
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values, value(torch.from_numpy(actions)), rtol=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ["plot", "attention", "--question", WORDS, "--horizon", "4"],
        ["plot", "plan", "--horizon", "5", "--gradient.iterations", "2"],
        ["plot", "plan", "--planner", "mppi", "--horizon", "5", "--mppi.iterations", "2"],
    ],
)
def test_the_commands_write_a_picture(folder, tmp_path, words):
    out = tmp_path / "sub" / "picture.png"
    common = ["--checkpoint", str(folder / "model"), "--data", str(folder / "episodes")]
    assert main([*words, *common, "--out", str(out)]) == 0
    assert np.asarray(Image.open(out).convert("RGB")).std() > 5


@pytest.mark.parametrize(
    "words, said",
    [
        (["attention", "--question", "Is the red lorry there?"], "lorry"),
        (["attention", "--question", WORDS, "--horizon", "21"], "trained with 0 to 20"),
        (["attention", "--question", WORDS, "--frame", "90"], "has frames 0 to 24"),
        (["plan", "--episode", "7"], "holds episodes 0 to 1"),
        (["plan", "--instruction", "dance"], "'dance' is not understood"),
        (["plan", "--out", "p.foo"], "out='p.foo' does not say which kind"),
        (["attention", "--question", WORDS, "--out", "p"], "out='p' does not say which kind"),
    ],
)
def test_what_cannot_be_drawn_is_refused(folder, tmp_path, capsys, words, said):
    common = ["--checkpoint", str(folder / "model"), "--data", str(folder / "episodes")]
    if "--out" not in words:
        words = [*words, "--out", str(tmp_path / "p.png")]
    assert main(["plot", *words, *common]) == 2
    assert said in capsys.readouterr().err
    assert EpisodeDataset(folder / "episodes").lengths.tolist() == [24, 24]
