"""The benchmark of planners: both ways of reading questions give the same values."""

from __future__ import annotations

import json

import pytest

from tests.benchmark_scripts import benchmark_script
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.semantic.world_model import save_semantic_model


def saved(folder, attention):
    model = tiny_semantic_model(attention)
    save_semantic_model(folder, model.spec, model.network, model.tokenizer)
    return str(folder)


def test_both_planners_with_and_without_sharing(tmp_path, capsys):
    folder = saved(tmp_path / "model", "block_causal")
    with benchmark_script("planner_time") as script:
        config = script.PlannerTimeConfig(
            folder, repeats=2, gradient=GradientConfig(iterations=2), mppi=MPPIConfig(3, 1),
            json=tmp_path / "figures.json",
        )  # fmt: skip
        report = script.main(config)
    assert [(row["planner"], row["keys_and_values"]) for row in report["rows"]] == [
        ("gradient", "shared"), ("gradient", "alone"), ("mppi", "shared"), ("mppi", "alone"),
    ]  # fmt: skip
    for name in ("gradient", "mppi"):
        shared, alone = (row for row in report["rows"] if row["planner"] == name)
        assert report["ratios"][name]["largest_value_difference"] < 1e-4
        assert shared["value"] == pytest.approx(alone["value"], abs=1e-4)
        assert len(shared["seconds"]) == 2 and shared["seconds_per_chunk"] > 0
        ratio = alone["seconds_per_chunk"] / shared["seconds_per_chunk"]
        assert report["ratios"][name]["alone_over_shared"] == pytest.approx(ratio)
    assert (
        json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["ratios"]
        == report["ratios"]
    )
    assert "ratio" in capsys.readouterr().out


def test_full_attention_has_nothing_to_share(tmp_path):
    folder = saved(tmp_path / "model", "full")
    with benchmark_script("planner_time") as script, pytest.raises(ValueError, match="block_caus"):
        script.main(script.PlannerTimeConfig(folder))
