"""Drift under zero actions, and out and back, beside the simulator."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wm_gym.checkpoints import Checkpoint
from wm_gym.evaluation.open_loop import steadiness
from wm_gym.evaluation.open_loop.steadiness import (
    SteadinessConfig,
    evaluate_steadiness,
    measure_steadiness,
)
from wm_gym.world_model import load_world_model

FEW = SteadinessConfig(starts=3, steps=4, out_and_back=2)


@pytest.fixture(scope="module")
def model(embedded_checkpoint: str):
    return load_world_model(embedded_checkpoint)


def test_a_dream_that_is_the_simulator_neither_drifts_nor_gets_lost(model, monkeypatch):
    seeds = range(6000, 6003)

    def perfect(model, frames, actions):
        first, later = steadiness.simulate(model, seeds, actions)
        np.testing.assert_array_equal(first, frames)
        return later

    monkeypatch.setattr(steadiness, "imagine", perfect)
    found = measure_steadiness(model, FEW)
    assert found["still"]["drift_percent_of_width_max"] == 0
    assert found["still"]["simulator_drift_percent_of_width_median"] == 0
    assert found["out_and_back"]["end_percent_of_width_max"] == 0
    assert found["out_and_back"]["farthest_percent_of_width_median"] == 0
    assert found["still"]["lost"] == found["out_and_back"]["lost"] == 0


def test_a_dream_that_stands_still_is_wrong_on_the_way_and_one_without_peg_is_lost(
    model, monkeypatch
):
    def copy(model, frames, actions):
        return np.repeat(frames[:, None], len(actions), 1)

    monkeypatch.setattr(steadiness, "imagine", copy)
    found = measure_steadiness(model, FEW)
    assert found["still"]["drift_percent_of_width_max"] == 0
    assert found["out_and_back"]["farthest_percent_of_width_median"] > 3
    monkeypatch.setattr(steadiness, "imagine", lambda *inputs: copy(*inputs) * 0 + 200)
    found = measure_steadiness(model, FEW)
    assert found["still"]["lost"] == found["out_and_back"]["lost"] == 3
    assert found["still"]["drift_percent_of_width_median"] is None
    assert found["out_and_back"]["end_percent_of_width_max"] is None


def test_the_command_writes_figures_and_card(embedded_checkpoint: str, tmp_path: Path):
    folder = shutil.copytree(embedded_checkpoint, tmp_path / "model")
    path = tmp_path / "figures.json"
    evaluate_steadiness(replace(FEW, checkpoint=str(folder), json=path, write_card=True))
    written = json.loads(path.read_text(encoding="utf-8"))["steadiness"]
    card = Checkpoint.open(folder).spec.metrics["steadiness"]
    assert card["still"] == written["still"] and card["command"]
    assert 0 <= written["still"]["drift_percent_of_width_median"] < 10


def test_what_cannot_be_measured_is_refused(model):
    with pytest.raises(ValueError, match="seeds 5999 to 6018"):
        SteadinessConfig(seed=5999)
    with pytest.raises(ValueError, match="starts=0"):
        SteadinessConfig(starts=0)
    spec = replace(model.spec, twin=None)
    with pytest.raises(ValueError, match="imagines no simulator"):
        measure_steadiness(replace_spec(model, spec), FEW)


def replace_spec(model, spec):
    """The same model under another card."""
    other = object.__new__(type(model))
    vars(other).update(vars(model) | {"spec": spec})
    return other
