"""The measurement of the rolling cache on a window model, and the docs that quote it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.training.test_recipes import latents  # noqa: F401
from wm_gym.training.loop import LoopConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rolling_window():
    path = ROOT / "benchmarks" / "rolling_window.py"
    spec = importlib.util.spec_from_file_location("rolling_window", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rolling_window"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["rolling_window"]


def test_the_modes_differ_from_the_step_on_that_slides_the_window(
    rolling_window,
    latents: Path,  # noqa: F811
    tmp_path: Path,
):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n", encoding="utf-8"
    )
    loop = LoopConfig(steps=30, learning_rate=1e-2, warmup_steps=1, ema=0.5)
    config = rolling_window.RollingWindowConfig(
        latents, tmp_path / "run", dim=16, depth=2, heads=1, patch=1, batch=2, held_out=3,
        loop=loop, steps=13, denoising_steps=2, json=tmp_path / "figures.json", docs=page,
    )  # fmt: skip
    report = rolling_window.main(config)
    assert report["episodes"] == 3
    drift = report["rmse"]["rolling_to_exact"]
    assert max(drift[:8]) < 1e-5
    assert min(drift[8:]) > 10 * max(drift[:8])
    assert report["rmse"]["exact_to_exact_of_another_seed"][0] > 0.1
    assert (
        json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["rmse"]
        == report["rmse"]
    )
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text
    assert f"| {drift[9]:.3f} |" in text
    with pytest.raises(ValueError, match=r"none of the last 3 episodes .* lower --steps"):
        rolling_window.read_held_out(
            rolling_window.RollingWindowConfig(latents, tmp_path, steps=50), 3
        )


def test_the_docs_quote_the_committed_measurement(rolling_window):
    report = json.loads(
        (ROOT / "benchmarks" / "results" / "rolling_window.json").read_text(encoding="utf-8")
    )
    assert rolling_window.docs_table(report) in (ROOT / "docs" / "caches.md").read_text(
        encoding="utf-8"
    )
    assert report["steps"] == 50
