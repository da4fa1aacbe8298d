"""`wm-gym evaluate semantic`: what it counts, its controls, and what it writes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.said import said
from tests.semantic.conftest import tiny_semantic_model
from tests.semantic.cube_episodes import write_cube_episodes
from tests.semantic.episodes import write_episodes
from wm_gym.checkpoints import Checkpoint
from wm_gym.cli import main
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.evaluation.reliability import plot_reliability, reliability
from wm_gym.evaluation.semantic.answers import (
    Answered,
    EvaluateSemanticConfig,
    accuracy,
    answer_questions,
    batch_slices,
    blinded,
    describe_answers,
    evaluate_semantic,
)
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model
from wm_gym.training.saqa import SAQADataset

KINDS = [kind.name for kind in LANGTABLE_QUESTIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate_semantic")
    for name, blocks in (("standard", "standard"), ("ood", "ood")):
        write_episodes(folder / name, ["expert", "expert", "random"], blocks=blocks)
        collect_qa(CollectQAConfig((folder / name,), folder / f"qa_{name}", stride=4))
    model = tiny_semantic_model()
    save_semantic_model(folder / "model", model.spec, model.network, model.tokenizer)
    return folder


def made(**changes):
    rng = np.random.default_rng(0)
    n = 4000
    p = rng.random(n)
    fields = {
        "yes": rng.random(n) < p,
        "said": p > 0.5,
        "p_yes": p,
        "mass": np.full(n, 0.9),
        "slack": rng.normal(0, 2, n),
        "types": rng.integers(0, 10, n),
        "horizons": rng.integers(0, 21, n),
    }
    return Answered(**{**fields, **changes})


def test_what_is_calibrated_is_found_calibrated():
    honest = describe_answers(made(), KINDS)["calibration"]
    assert honest["ece"] < 0.03
    assert honest["answer_mass_mean"] == pytest.approx(0.9)
    for row in honest["reliability"]:
        assert row["stated"] == pytest.approx(row["true"], abs=0.08)
    boastful = made()
    boastful = dataclasses.replace(boastful, p_yes=np.where(boastful.p_yes > 0.5, 0.99, 0.01))
    assert describe_answers(boastful, KINDS)["calibration"]["ece"] > 0.15


def test_parts_add_up_to_the_whole():
    answered = made()
    found = describe_answers(answered, KINDS)
    for parts in (
        found["by_type"],
        found["by_horizon"],
        {k: found[k] for k in ("clear", "ambiguous")},
    ):
        assert sum(row["questions"] for row in parts.values()) == found["questions"]
        right = sum(row["accuracy"] * row["questions"] for row in parts.values())
        assert right / found["questions"] == pytest.approx(found["accuracy"])
    assert found["low"] < found["accuracy"] < found["high"]
    truth = dataclasses.replace(answered, said=answered.yes)
    assert accuracy(truth)["accuracy"] == 1.0
    rows = reliability(answered.p_yes, answered.yes)
    assert sum(row["cases"] for row in rows) == len(answered.yes)


def test_controls_take_away_what_they_say(folder):
    saqa = SAQADataset(folder / "qa_standard")
    rows = saqa.sampler().draw(3, 2, np.random.default_rng(0))
    batch = saqa.batch(rows, np.zeros((3, 2), int))
    assert not blinded(batch, "no_actions").actions.any()
    assert len(np.unique(blinded(batch, "no_image").frames)) == 1
    other = blinded(batch, "other_actions").actions
    np.testing.assert_array_equal(other[1], batch.actions[0])
    for control in ("no_actions", "other_actions"):
        np.testing.assert_array_equal(blinded(batch, control).frames, batch.frames)
    assert blinded(batch, "none") is batch


def test_every_row_of_a_control_has_another_ones_actions():
    """A batch of one row would give it its own."""
    for rows, size in ((6, 4), (9, 4), (5, 5), (6, 5), (2, 2), (3, 2), (500, 25)):
        parts = batch_slices(rows, size)
        covered = [row for part in parts for row in range(rows)[part]]
        assert covered == list(range(rows))
        assert all(part.stop - part.start >= 2 for part in parts)
    for wrong in ({"batch": 1}, {"frames": 1}, {"questions": 0}):
        with pytest.raises(ValueError, match="the actions of another"):
            EvaluateSemanticConfig("m", Path("qa"), **wrong)


def test_far_horizons_are_counted_too():
    answered = made(horizons=np.arange(4000) % 31)
    found = describe_answers(answered, KINDS)
    assert list(found["by_horizon"]) == ["0", "1-5", "6-10", "11-15", "16-20", "21-30"]
    assert sum(row["questions"] for row in found["by_horizon"].values()) == 4000


def test_all_controls_answer_the_same_questions(folder):
    config = EvaluateSemanticConfig(
        str(folder / "model"), folder / "qa_standard", frames=6, batch=4
    )
    model, saqa = tiny_semantic_model(), SAQADataset(folder / "qa_standard")
    plain = answer_questions(model, saqa, config)
    other = answer_questions(model, saqa, config, control="no_image")
    worded = answer_questions(model, saqa, config, phrasings="untrained")
    for answered in (other, worded):
        np.testing.assert_array_equal(answered.yes, plain.yes)
        np.testing.assert_array_equal(answered.types, plain.types)
        assert not np.array_equal(answered.p_yes, plain.p_yes)
    once = answer_questions(model, saqa, dataclasses.replace(config, batch=6))
    np.testing.assert_allclose(once.p_yes, plain.p_yes, atol=1e-5)


def test_the_command_writes_figures_card_and_plot(folder, tmp_path, capsys):
    arguments = ["evaluate", "semantic", "--checkpoint", folder / "model",
                 "--qa", folder / "qa_standard", "--qa-ood", folder / "qa_ood",
                 "--frames", 8, "--questions", 5, "--json", tmp_path / "r.json",
                 "--plot", tmp_path / "r.png", "--write-card"]  # fmt: skip
    assert main([str(a) for a in arguments]) == 0
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    found = report["future_qa"]
    assert {"in_distribution", "out_of_distribution", "by_type", "controls"} <= set(found)
    assert found["in_distribution"]["questions"] == 40
    assert set(found["controls"]) == {"no_actions", "other_actions", "no_image"}
    for row in found["controls"].values():
        above = row["model_above"]
        gained = found["in_distribution"]["accuracy"] - row["accuracy"]
        assert above["points"] == pytest.approx(100 * gained)
        assert above["low"] <= above["points"] <= above["high"]
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    card = Checkpoint.open_semantic(folder / "model").spec
    assert card.metrics["future_qa"]["by_type"] == found["by_type"]
    assert card.metrics["future_qa"]["command"]
    shown = capsys.readouterr().out
    assert "in distribution" in shown and "control: no_image" in shown


def test_what_is_not_there_is_named(folder, tmp_path, capsys):
    arguments = ["evaluate", "semantic", "--checkpoint", str(folder / "model"), "--qa"]
    assert main([*arguments, str(tmp_path / "none")]) == 2
    assert "wm-gym collect-qa --out" in capsys.readouterr().err


def test_what_cannot_be_asked_or_written_is_refused_before_the_work(
    folder, tmp_path, capsys, monkeypatch
):
    def refused(*more) -> str:
        words = ["evaluate", "semantic", "--checkpoint", folder / "model",
                 "--qa", folder / "qa_standard", *more]  # fmt: skip
        assert main([str(word) for word in words]) == 2
        return said(capsys)

    monkeypatch.setattr("wm_gym.evaluation.semantic.answers.answer_questions", pytest.fail)
    (tmp_path / "file").touch()
    assert "wm-gym collect-qa --out" in refused("--qa-ood", tmp_path / "none")
    assert "expected a name that ends in" in refused("--plot", "x.foo")
    assert "is a folder; expected the name of a file" in refused("--json", tmp_path)
    assert "is a file, no folder" in refused("--plot", tmp_path / "file" / "sub" / "x.png")
    assert "seed=-1 must be at least 0" in refused("--seed", "-1")
    write_cube_episodes(tmp_path / "cube", 2)
    collect_qa(CollectQAConfig((tmp_path / "cube",), tmp_path / "qa_cube"))
    told = refused("--qa-ood", tmp_path / "qa_cube")
    assert "asks about Cube-v0" in told and "a model of LangTable-v0" in told
    collect_qa(CollectQAConfig((folder / "ood",), tmp_path / "far", max_horizon=24, horizons=24))
    assert "trained with 0 to 20" in refused("--qa-ood", tmp_path / "far")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    rows = [{"stated": 0.5, "true": 0.5, "cases": 3}]
    for name, start in (("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a", b"\x89PNG")):
        plot_reliability({"one": rows}, tmp_path / "sub" / name, "success")
        assert (tmp_path / "sub" / name).read_bytes().startswith(start)

    def full(self, target, **settings):
        target.write(b"half")
        raise OSError("no space left")

    before = (tmp_path / "sub" / "a.png").read_bytes()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="no space"):
        plot_reliability({"one": rows}, tmp_path / "sub" / "a.png", "success")
    assert (tmp_path / "sub" / "a.png").read_bytes() == before
    assert len(list((tmp_path / "sub").iterdir())) == 3


def blind_to(folder, what, seed=5):
    """The folder of a model whose card says that it was trained blind."""
    model = tiny_semantic_model(seed=seed, recipe={"settings": {"blind": what}})
    save_semantic_model(folder / what, model.spec, model.network, model.tokenizer)
    return folder / what


def test_a_control_that_was_trained_blind_stays_blind(folder, tmp_path):
    """Its answers are those that it gives to grey frames, whatever control is asked for."""
    saqa = SAQADataset(folder / "qa_standard")
    config = EvaluateSemanticConfig("", folder / "qa_standard", frames=20, questions=4, batch=10)
    blind = load_semantic_model(blind_to(tmp_path, "image"))
    same = tiny_semantic_model(seed=5)
    always = answer_questions(blind, saqa, config)
    np.testing.assert_allclose(
        always.p_yes, answer_questions(same, saqa, config, control="no_image").p_yes, atol=1e-6
    )
    assert not np.allclose(always.p_yes, answer_questions(same, saqa, config).p_yes, atol=1e-3)


def test_trained_controls_are_reported_beside_the_others(folder, tmp_path):
    one, two = blind_to(tmp_path, "image"), blind_to(tmp_path, "actions", seed=6)
    settings = EvaluateSemanticConfig(
        str(folder / "model"), folder / "qa_standard", frames=10, questions=4,
        blind_trained=(str(one), str(two)),
    )  # fmt: skip
    controls = evaluate_semantic(settings)["future_qa"]["controls"]
    assert list(controls)[-2:] == ["trained_without_image", "trained_without_actions"]
    assert controls["trained_without_image"]["questions"] == 40
    with pytest.raises(ValueError, match="two checkpoints trained_without_image"):
        evaluate_semantic(dataclasses.replace(settings, blind_trained=(str(one), str(one))))
    with pytest.raises(ValueError, match="was not trained blind"):
        evaluate_semantic(dataclasses.replace(settings, blind_trained=(str(folder / "model"),)))
