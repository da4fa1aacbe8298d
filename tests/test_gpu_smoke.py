"""`make gpu-smoke`: every check runs on the CPU, can fail, and says so without a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_smoke.py"


@pytest.fixture(scope="module")
def smoke():
    spec = importlib.util.spec_from_file_location("gpu_smoke", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_smoke"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_smoke"]


def settings(smoke, **changes):
    return smoke.GPUSmokeConfig(**{"device": "cpu", "size": "tiny", "steps": 40, **changes})


def test_every_check_passes_on_the_cpu(smoke, tmp_path: Path, capsys):
    report = tmp_path / "smoke.json"
    assert smoke.main(settings(smoke, compile=False, json=report)) == 0
    checks = json.loads(report.read_text(encoding="utf-8"))["checks"]
    assert set(checks) == set(smoke.CHECKS) - {"compile"}
    assert all(check["passed"] for check in checks.values())
    assert checks["memory"]["bytes_at_the_end"] == checks["memory"]["bytes_after_20_steps"] > 0
    # a check that compares something with itself would show nothing
    assert 0 < checks["autocast"]["relative_error"] < smoke.HALF
    shown = capsys.readouterr().out
    assert "all checks passed" in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_line_says_so_and_the_status_is_not_zero(smoke, capsys):
    assert smoke.main(smoke.GPUSmokeConfig()) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("gpu-smoke: no CUDA device")
    assert "\n" not in said
    assert "--device cpu" in said


def test_a_device_that_computes_something_else_fails(smoke, monkeypatch, capsys):
    denoise = smoke.Rollout._denoise

    def wrong(self, rows, noisy, slot):
        latents, surprise = denoise(self, rows, noisy, slot)
        return latents + (0.1 if self.cache_mode == "exact" else 0.0), surprise

    monkeypatch.setattr(smoke.Rollout, "_denoise", wrong)
    monkeypatch.setattr(smoke, "CHECKS", {"rollout": smoke.check_rollout})
    assert smoke.main(settings(smoke)) == 1
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert "expected at most 1e-03" in shown
    assert "gpu-smoke: rollout failed" in shown


def test_a_check_that_crashes_does_not_hide_the_others(smoke, monkeypatch, capsys):
    def crash(config):
        raise RuntimeError("CUDA error: device-side assert triggered")

    checks = {"forward": crash, "autocast": smoke.check_autocast}
    monkeypatch.setattr(smoke, "CHECKS", checks)
    assert smoke.main(settings(smoke)) == 1
    shown = capsys.readouterr().out
    assert "device-side assert" in shown
    assert "autocast       ok" in shown


def test_growing_memory_fails(smoke, monkeypatch):
    sizes = iter((100, 200))
    monkeypatch.setattr(smoke.Rollout, "nbytes", lambda self: next(sizes))
    with pytest.raises(smoke.CheckFailed, match="100 bytes after 20 steps, 200 after 40"):
        smoke.check_memory(settings(smoke))


def test_nan_is_never_within_a_bound(smoke):
    with pytest.raises(smoke.CheckFailed, match="NaN"):
        smoke.relative(torch.tensor([float("nan")]), torch.ones(1))
    with pytest.raises(smoke.CheckFailed):
        smoke.within(float("nan"), 1.0)
