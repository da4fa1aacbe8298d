"""The benchmark of the simulators counts what it says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.conftest import NEEDS_OGBENCH
from wm_gym.envs.registration import SIMULATORS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "simulator_step.py"
    spec = importlib.util.spec_from_file_location("simulator_step", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulator_step"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["simulator_step"]


@NEEDS_OGBENCH
def test_a_row_for_every_simulator_and_picture(benchmark, tmp_path):
    config = benchmark.SimulatorStepConfig(
        frame_sizes=("16x16", "24x32"), steps=6, json=tmp_path / "figures.json"
    )
    rows = benchmark.main(config)["rows"]
    assert [(row["simulator"], row["frame_size"]) for row in rows] == [
        (name, size) for name in SIMULATORS for size in ("16x16", "24x32")
    ]
    assert all(row["steps_per_second"] > 0 and row["steps"] == 6 for row in rows)
    assert all(row["steps_per_processor_second"] > 0 and row["resets"] == 0 for row in rows)
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["rows"] == rows


def test_cube_is_rendered_cheaply():
    """As committed; at OGBench's own frame size, too."""
    report = json.loads(
        (ROOT / "benchmarks" / "results" / "simulator_step_cube.json").read_text(encoding="utf-8")
    )
    speed = {row["frame_size"]: row["steps_per_processor_second"] for row in report["rows"]}
    assert {row["simulator"] for row in report["rows"]} == {"Cube-v0"}
    assert speed.keys() >= {"96x96", "224x224"} and min(speed.values()) >= 20


@pytest.mark.parametrize(("simulator", "wanted"), [("LangTable-v0", 150), ("BridgeSim-v0", 100)])
def test_simulators_make_enough_steps_in_a_second_of_the_processor(simulator, wanted):
    """As committed; the clock of a busy machine shows less."""
    report = json.loads(
        (ROOT / "benchmarks" / "results" / "simulator_step.json").read_text(encoding="utf-8")
    )
    speed = {(row["simulator"], row["frame_size"]): row for row in report["rows"]}
    assert speed[simulator, "64x64"]["steps_per_processor_second"] >= wanted
