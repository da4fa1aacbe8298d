"""The table of data mixtures: means over training seeds, and models that do not compare."""

from __future__ import annotations

import json

import pytest

from tests.benchmark_scripts import benchmark_script


def measured(run, name, inside, outside, *, steps=900, questions=4000):
    folder = run / "mixtures" / name
    (folder / "checkpoint").mkdir(parents=True)
    found = {
        place: {"accuracy": value, "questions": questions}
        for place, value in (("in_distribution", inside), ("out_of_distribution", outside))
    }
    (folder / "future_qa.json").write_text(json.dumps({"future_qa": found}), encoding="utf-8")
    card = {"recipe": {"settings": {"loop": {"steps": steps}}}}
    (folder / "checkpoint" / "card.json").write_text(json.dumps(card), encoding="utf-8")


def collected(run, file=None):
    with benchmark_script("data_mixtures") as script:
        return script.main(script.DataMixturesConfig(run, file))


def test_means_and_deviations_over_training_seeds(tmp_path, capsys):
    for name, inside in (("suboptimal", 0.7), ("expert", 0.75), ("combined", 0.8)):
        for seed in range(3):
            measured(tmp_path, f"{name}-{seed}", inside + 0.01 * seed, inside - 0.1)
    report = collected(tmp_path, tmp_path / "figures.json")
    rows = {row["mixture"]: row for row in report["rows"]}
    assert list(rows) == ["suboptimal", "expert", "combined"]
    combined = rows["combined"]
    assert combined["in_distribution"]["mean"] == pytest.approx(81)
    assert combined["in_distribution"]["deviation"] == pytest.approx(1)
    assert combined["out_of_distribution"]["deviation"] == pytest.approx(0)
    assert combined["in_distribution"]["paper"] == 92.92
    assert (report["training_steps"], report["questions"]) == (900, 4000)
    assert report["seeds"] == [0, 1, 2]
    assert (
        json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["rows"]
        == report["rows"]
    )
    assert "combined    in distribution 81.0 ± 1.0 % (paper 92.9)" in capsys.readouterr().out


def test_what_is_missing_or_does_not_compare_is_named(tmp_path):
    measured(tmp_path, "expert-0", 0.7, 0.6)
    measured(tmp_path, "combined-0", 0.7, 0.6)
    with pytest.raises(FileNotFoundError, match="no measured model of suboptimal"):
        collected(tmp_path)
    measured(tmp_path, "suboptimal-0", 0.7, 0.6, steps=300)
    with pytest.raises(ValueError, match=r"different steps of training do not compare.*300"):
        collected(tmp_path)
    (tmp_path / "other").mkdir()
    for name, questions in (("suboptimal", 64), ("expert", 4000), ("combined", 4000)):
        measured(tmp_path / "other", f"{name}-0", 0.7, 0.6, questions=questions)
    with pytest.raises(ValueError, match="different questions do not compare"):
        collected(tmp_path / "other")
