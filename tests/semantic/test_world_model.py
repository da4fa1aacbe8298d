"""The semantic world model: checkpoint, answers, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.semantic.conftest import tiny_semantic_model
from wm_gym.checkpoints import Checkpoint, CheckpointError, open_any
from wm_gym.commands.hash_files import HashFilesConfig, hash_files
from wm_gym.semantic.questions import QuestionError
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model
from wm_gym.semantic_card import semantic_spec_from_dict
from wm_gym.spec import CardError

QUESTIONS = [
    ("Is the robotic peg touching the red moon?", 0),
    ("Did the green star move left?", 3),
    ("Are the red moon and the blue cube closer together?", 5),
]


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def actions():
    return 0.03 * torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def test_a_checkpoint_gives_the_same_answers_again(swm, swm_folder, frames, actions):
    loaded = load_semantic_model(swm_folder)
    rows = torch.tensor([0, 1, 1, 0])
    asked = swm.ask(QUESTIONS)
    found, expected = (
        model.look(frames).probabilities(actions, asked, rows) for model in (loaded, swm)
    )
    assert torch.equal(found, expected)
    assert found.shape == (4, 3, 2)
    assert (found > 0).all()
    assert (found.sum(-1) < 1).all()  # over the whole vocabulary, not renormalised


def test_full_attention_answers_through_the_same_door(frames, actions):
    model = tiny_semantic_model("full")
    asked = model.ask(QUESTIONS)
    together = model.look(frames[:1]).probabilities(actions, asked)
    for m, question in enumerate(QUESTIONS):
        alone = model.look(frames[:1]).probabilities(actions, model.ask([question]))
        assert torch.allclose(together[:, m], alone[:, 0], atol=1e-6)


def test_the_two_kinds_of_attention_differ(frames, actions):
    one, two = (tiny_semantic_model(kind) for kind in ("full", "block_causal"))
    asked = one.ask(QUESTIONS)
    answers = [m.look(frames[:1]).probabilities(actions, asked) for m in (one, two)]
    assert (answers[0] - answers[1]).abs().max() > 1e-4


def test_frames_of_another_size_are_resized(swm, frames, actions):
    large = frames.repeat_interleave(2, 1).repeat_interleave(2, 2)
    asked, rows = swm.ask(QUESTIONS), torch.tensor([0, 1, 0, 1])
    small_answers = swm.look(frames).probabilities(actions, asked, rows)
    large_answers = swm.look(large).probabilities(actions, asked, rows)
    assert (small_answers - large_answers).abs().max() < 0.05


def test_no_actions_are_the_present(swm, frames):
    asked = swm.ask([(QUESTIONS[0][0], 0)])
    none = swm.look(frames).probabilities(torch.zeros(2, 0, 2), asked)
    later = swm.look(frames).probabilities(torch.rand(2, 4, 2), asked)
    assert torch.allclose(none, later, atol=1e-5)


def test_bad_questions_and_actions_are_refused(swm, frames, actions):
    view = swm.look(frames)
    with pytest.raises(QuestionError, match="never saw: hexagon"):
        swm.ask([("Did the red hexagon move?", 0)])
    with pytest.raises(QuestionError, match="no question"):
        swm.ask([])
    with pytest.raises(ValueError, match="after 21 actions; tiny-swm was trained with 0 to 20"):
        swm.ask([(QUESTIONS[0][0], 21)])
    with pytest.raises(ValueError, match=r"after 2\.5 actions"):
        swm.ask([(QUESTIONS[0][0], 2.5)])
    asked = swm.ask([(QUESTIONS[0][0], 5)])
    with pytest.raises(ValueError, match="after 5 actions, and there are 0"):
        view.probabilities(torch.zeros(2, 0, 2), asked)
    with pytest.raises(ValueError, match=r"shape \(0,\), expected \(R, n, 2\)"):
        view.probabilities(torch.tensor([]), asked)
    rows = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="after 5 actions, and there are 3"):
        view.probabilities(actions[:, :3], asked, rows)
    with pytest.raises(ValueError, match=r"expected \(R, n, 2\) with \['dx', 'dy'\]"):
        view.probabilities(actions[..., :1], asked, rows)
    with pytest.raises(ValueError, match="NaN"):
        view.probabilities(actions / 0, asked, rows)
    with pytest.raises(ValueError, match="which frame each row looks at"):
        view.probabilities(actions, asked)
    with pytest.raises(ValueError, match="one row for all or one each"):
        view.probabilities(actions, swm.ask(*[QUESTIONS] * 3), rows)
    with pytest.raises(ValueError, match=r"expected uint8 \(B, H, W, 3\)"):
        swm.look(frames.float())


def test_damage_and_wrong_kinds_are_named(swm, swm_folder, tmp_path, tiny_checkpoint):
    folder = tmp_path / "copy"
    save_semantic_model(folder, swm.spec, swm.network, swm.tokenizer)
    with pytest.raises(CardError, match="WM-LangTable-SWM-v0"):
        Checkpoint.open(folder)
    with pytest.raises(CardError, match="card of a 'latent' model"):
        load_semantic_model(tiny_checkpoint)
    assert open_any(folder).spec == Checkpoint.open_semantic(Path(swm_folder)).spec
    assert set(hash_files(HashFilesConfig(str(folder)))) == {"tokenizer.json"}
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has SHA-256"):
        load_semantic_model(folder)
    (folder / "semantic.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        hash_files(HashFilesConfig(str(folder)))


def test_weights_that_do_not_fit_the_card_are_refused(swm, tmp_path):
    other = tiny_semantic_model(seed=1)
    spec = save_semantic_model(tmp_path / "m", other.spec, other.network, other.tokenizer)
    card = {**spec.to_dict(), "network": {**spec.network, "depth": 3}}
    (tmp_path / "m" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not fit the network of its card: absent"):
        load_semantic_model(tmp_path / "m")


@pytest.mark.parametrize("field", ["prefix_attention", "answer_threshold", "action", "horizon"])
def test_a_card_states_every_field(swm, field):
    card = json.loads(json.dumps(swm.spec.to_dict()))
    assert semantic_spec_from_dict(card).to_dict() == swm.spec.to_dict()
    del card[field]
    with pytest.raises(CardError, match=f"{field}: this field is missing"):
        semantic_spec_from_dict(card)


def test_wrong_values_in_a_card_are_named(swm):
    card = json.loads(json.dumps(swm.spec.to_dict()))
    with pytest.raises(CardError, match="prefix_attention"):
        semantic_spec_from_dict({**card, "prefix_attention": "causal"})
    with pytest.raises(CardError, match="extra"):
        semantic_spec_from_dict({**card, "extra": 1})
    with pytest.raises(CardError, match="card_version is 7"):
        semantic_spec_from_dict({**card, "card_version": 7})
    with pytest.raises(CardError, match=r"answer_threshold\W+1"):
        semantic_spec_from_dict({**card, "answer_threshold": 1.0})


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"patch": 0}, "patch=0 must be a whole number of 1"),
        ({"key_value_heads": 0}, "key_value_heads=0 must be"),
        ({"depth": 10_000_000}, "depth=10000000 must be a whole number of 1 to 1000"),
        ({"colour": 3}, "colour"),
        ({"action_width": 3}, "action.width 2 and network.action_width 3 differ"),
    ],
)
def test_a_card_that_states_no_network_is_refused(tmp_path, network, said):
    model = tiny_semantic_model()
    save_semantic_model(tmp_path, model.spec, model.network, model.tokenizer)
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    card["network"] |= network
    (tmp_path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CardError, match=re.escape(said)):
        load_semantic_model(tmp_path)


def test_scaling_that_is_not_finite_is_refused(tmp_path):
    model = tiny_semantic_model()
    save_semantic_model(tmp_path, model.spec, model.network, model.tokenizer)
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    card["action"]["gain"] = [float("nan")] * 2
    (tmp_path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CardError, match=r"action\.gain .*finite"):
        load_semantic_model(tmp_path)


def test_frames_as_arrays_and_rows_and_actions_out_of_range(swm):
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    view, same = swm.look(frames), swm.look(torch.from_numpy(frames))
    asked = swm.ask([("Did the red moon move left?", 1)])
    actions = torch.full((2, 1, 2), 0.01)
    torch.testing.assert_close(
        view.probabilities(actions, asked), same.probabilities(actions, asked)
    )
    for rows in ([0, -1], [0, 2]):
        with pytest.raises(ValueError, match=r"must be 0 to 1, the frames of this view"):
            view.probabilities(actions, asked, torch.tensor(rows))
    with pytest.raises(ValueError, match=r"an action of 1e\+08 is out of any range"):
        view.probabilities(actions * 1e10, asked)


def test_embedded_has_to_say_which():
    with pytest.raises(CheckpointError, match="'langtable-swm' of LangTable-v0"):
        load_semantic_model("embedded")
