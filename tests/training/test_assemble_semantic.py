"""`wm-gym train assemble-semantic`: the same answers from half the bytes, and a card for users."""

from __future__ import annotations

import torch

from tests.semantic.conftest import tiny_semantic_model
from wm_gym.checkpoints import Checkpoint
from wm_gym.cli import main
from wm_gym.evaluation.semantic.answers import trained_blind
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model

TRAINED = {
    "command": "wm-gym train semantic",
    "settings": {"blind": "none", "qa": "/somebodys/folder"},
    "steps": 20,
    "hours": 0.5,
    "init": {"command": "wm-gym train semantic", "steps": 10, "hours": 0.25, "init": None},
}


def saved(folder, **changes):
    model = tiny_semantic_model(metrics={"future_qa": {"accuracy": 1.0}}, **changes)
    save_semantic_model(folder, model.spec, model.network, model.tokenizer)
    return folder


def test_it_halves_the_weights_and_says_where_they_come_from(tmp_path, capsys):
    source = saved(tmp_path / "trained", recipe=TRAINED, answer_threshold=0.8)
    arguments = ["train", "assemble-semantic", "--checkpoint", str(source), "--name", "mini-swm",
                 "--out", str(tmp_path / "mini")]  # fmt: skip
    assert main(arguments) == 0
    card = Checkpoint.open_semantic(tmp_path / "mini").spec
    assert (card.name, card.embedded, card.answer_threshold) == ("mini-swm", True, 0.8)
    assert card.metrics == {}
    assert "LangTable-v0" in card.description and "not one of the published" in card.description
    assert card.recipe["commands"].count("wm-gym train semantic") == 2
    assert (card.recipe["steps"], card.recipe["hours"]) == ([10, 20], [0.25, 0.5])
    assert trained_blind(load_semantic_model(tmp_path / "mini")) == "none"
    assert "somebodys" not in (tmp_path / "mini" / "card.json").read_text(encoding="utf-8")
    sizes = [(f / card.weights).stat().st_size for f in (tmp_path / "mini", source)]
    assert sizes[0] < 0.6 * sizes[1]
    shown = capsys.readouterr().out
    assert "MB of weights" in shown and f"wrote {tmp_path / 'mini'}\n" in shown
    frames = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8)
    said = []
    for folder in (source, tmp_path / "mini"):
        model = load_semantic_model(folder)
        asked = model.ask([("Did the red moon move left?", 3)])
        said.append(model.look(frames).probabilities(torch.full((2, 3, 2), 0.01), asked))
    torch.testing.assert_close(said[0], said[1], atol=0.03, rtol=0)


def test_what_must_not_ship_is_refused(tmp_path, capsys):
    blind = {**TRAINED, "settings": {"blind": "image"}}
    source = saved(tmp_path / "blind", recipe=blind)
    arguments = ["train", "assemble-semantic", "--checkpoint", str(source), "--name", "mini-swm"]
    assert main([*arguments, "--out", str(tmp_path / "mini")]) == 2
    assert "trained without image, as a control" in capsys.readouterr().err
    assert main([*arguments, "--out", str(source)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert Checkpoint.open_semantic(source).spec.embedded is False


def test_a_model_that_went_on_from_one_that_ships_tells_of_all_stages(tmp_path):
    source = saved(tmp_path / "trained", recipe=TRAINED)
    arguments = ["train", "assemble-semantic", "--name", "mini-swm"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*arguments, "--checkpoint", str(source), "--out", str(first)]) == 0
    assert main([*arguments, "--checkpoint", str(first), "--out", str(tmp_path / "again")]) == 0
    shipped = Checkpoint.open_semantic(first).spec.recipe
    longer = {"command": "wm-gym train semantic", "steps": 30, "hours": 1.0, "init": shipped}
    went_on = saved(tmp_path / "longer", recipe=longer)
    assert main([*arguments, "--checkpoint", str(went_on), "--out", str(second)]) == 0
    for folder, steps in ((tmp_path / "again", [10, 20]), (second, [10, 20, 30])):
        recipe = Checkpoint.open_semantic(folder).spec.recipe
        assert recipe["steps"] == steps and len(recipe["hours"]) == len(steps)
        assert recipe["commands"].count("wm-gym train semantic") == len(steps)


def test_start_states_of_another_simulator_do_not_stay(tmp_path, capsys):
    source = saved(tmp_path / "table", recipe=TRAINED)
    other = saved(tmp_path / "cube", recipe=TRAINED, twin="Cube-v0")
    before = (other / "card.json").read_bytes()
    arguments = ["train", "assemble-semantic", "--checkpoint", str(source), "--name", "mini-swm"]
    assert main([*arguments, "--out", str(other)]) == 2
    assert "holds a model of Cube-v0, whose start states would stay" in capsys.readouterr().err
    assert (other / "card.json").read_bytes() == before
