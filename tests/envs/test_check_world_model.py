"""The checker passes a sound model and finds each fault it promises to find."""

import numpy as np
import pytest
import torch

import wm_gym
from wm_gym.dynamics.acceleration import accelerate
from wm_gym.dynamics.rollout import Rollout
from wm_gym.envs.check_world_model import CHECKS, WorldModelCheckError, check_world_model


def failed(model) -> set[str]:
    report = check_world_model(model, raise_on_failure=False)
    return {check.name for check in report.checks if not check.passed}


def test_a_sound_model_passes(tiny_model):
    report = wm_gym.check_world_model(tiny_model)
    assert report.passed and len(report.checks) == len(CHECKS)
    assert f"tiny: {len(CHECKS)} of {len(CHECKS)} hold" in str(report)


def test_it_takes_frames_of_its_own(tiny_model):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    assert check_world_model(tiny_model, frames=frames).passed
    with pytest.raises(ValueError, match=r"\(3, 32, 32, 3\)"):
        check_world_model(tiny_model, frames=frames[:1])


def faulty_step(monkeypatch, fault):
    original = Rollout.step
    monkeypatch.setattr(Rollout, "step", lambda self, action: fault(original(self, action)))


def test_nondeterminism_is_found(tiny_model, monkeypatch):
    faulty_step(monkeypatch, lambda latents: latents + 1e-3 * torch.randn_like(latents))
    assert "deterministic" in failed(tiny_model)


def test_rows_that_leak_into_each_other_are_found(tiny_model, monkeypatch):
    faulty_step(monkeypatch, lambda latents: latents + 0.01 * latents.mean(0, keepdim=True))
    assert "rows are independent" in failed(tiny_model)


def test_nan_is_found_and_reported(tiny_model, monkeypatch):
    faulty_step(monkeypatch, lambda latents: latents * torch.nan)
    with pytest.raises(WorldModelCheckError, match="FAIL latents stay finite"):
        check_world_model(tiny_model)


def test_memory_that_grows_for_ever_is_found(tiny_model, monkeypatch):
    original, calls = Rollout.snapshot, []

    def growing(self):
        calls.append(0)
        return original(self) + bytes(1000 * len(calls))

    monkeypatch.setattr(Rollout, "snapshot", growing)
    report = check_world_model(tiny_model, raise_on_failure=False)
    (memory,) = (check for check in report.checks if check.name == "memory is bounded")
    assert not memory.passed and "it grows" in memory.detail


def test_a_crash_is_a_failed_check_with_its_message(tiny_model, monkeypatch):
    def broken(self):
        raise RuntimeError("no disk")

    monkeypatch.setattr(Rollout, "snapshot", broken)
    report = check_world_model(tiny_model, raise_on_failure=False)
    assert "RuntimeError: no disk" in str(report)
    assert not report.passed


@pytest.mark.parametrize("arithmetic", ["bfloat16", "autocast"])
def test_a_model_in_bfloat16_is_told_why_it_fails(tiny_model, arithmetic):
    accelerate(tiny_model.network, arithmetic)
    try:
        report = check_world_model(tiny_model, raise_on_failure=False)
    finally:
        accelerate(tiny_model.network, "float32")
    assert f"note: the network computes in {arithmetic}" in str(report)
    assert "check the model with dtype='float32'" in str(report)
    assert "note" not in str(check_world_model(tiny_model))


@pytest.mark.slow
def test_the_models_that_ship_keep_every_promise(shipped_checkpoint):
    assert check_world_model(wm_gym.load_world_model(shipped_checkpoint)).passed
