"""The benchmark of the evaluation loop gives every moment to one part."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "evaluation_throughput.json"


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "evaluation_throughput.py"
    spec = importlib.util.spec_from_file_location("evaluation_throughput", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluation_throughput"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["evaluation_throughput"]


def test_time_belongs_to_the_innermost_part(benchmark, monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0, 14.0, 20.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = benchmark.Stopwatch()
    inner = watch.timed("model", lambda: None)
    with watch.part("runner"):  # 0 to 20
        inner()  # 1 to 3
        inner()  # 10 to 14
    assert watch.seconds == {"model": 6.0, "runner": 14.0}


def test_a_row_of_the_table_adds_up(benchmark, embedded_checkpoint, tmp_path):
    config = benchmark.EvaluationThroughputConfig(
        rows=(1, 2), rounds=1, steps=3, json=tmp_path / "figures.json"
    )
    report = benchmark.main(config)
    assert (
        json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["rows"]
        == report["rows"]
    )
    assert [row["rows"] for row in report["rows"]] == [1, 2]
    for row in report["rows"]:
        parts = row["seconds_by_part"]
        assert all(parts[part] > 0 for part in (*benchmark.WORK, *benchmark.OVERHEAD))
        assert sum(parts.values()) == pytest.approx(row["seconds"])
        assert row["row_steps"] == 3 * row["episodes"] == 3 * row["rows"]
        work = sum(parts[part] for part in benchmark.WORK)
        assert row["overhead"] == pytest.approx(row["seconds"] / work - 1)


def test_the_loop_adds_less_than_a_twentieth():
    """As committed, with the cheapest model, where the share is largest."""
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    assert report["denoising_steps"] == 1
    assert [row["rows"] for row in report["rows"]] == [1, 8, 32]
    assert all(row["overhead"] < 0.05 for row in report["rows"])
    one, eight, many = (f"{100 * row['overhead']:.1f} %" for row in report["rows"])
    said = " ".join((ROOT / "docs" / "policies.md").read_text(encoding="utf-8").split())
    assert f"add {one} at 1 row, {eight} at 8 and {many} at 32" in said
