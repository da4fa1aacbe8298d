"""Facts about the flow-matching path, its times and its sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_gym.dynamics.diffusion import DDPMSampler, velocity
from wm_gym.dynamics.diffusion import add_noise as ddpm_add_noise
from wm_gym.dynamics.flow import (
    FlowSampler,
    add_noise,
    noise_history,
    sample_times,
    schedule_shift,
    shift_time,
    velocity_target,
)
from wm_gym.dynamics.samplers import make_sampler
from wm_gym.spec import DynamicsSpec


@pytest.mark.parametrize(
    ("tokens", "channels", "shift"),
    [(256, 16, 1.0), (256, 32, 1.414), (256, 96, 2.449), (256, 1024, 8.0), (256, 1152, 8.485)],
)
def test_shifts_of_the_published_spaces(tokens, channels, shift):
    assert schedule_shift(tokens, channels) == pytest.approx(shift, abs=1e-3)


def test_a_patch_does_not_change_the_shift_of_a_frame():
    assert schedule_shift(32 * 32, 16) == schedule_shift(16 * 16, 16 * 4)


def test_shifting_keeps_the_ends_and_moves_towards_noise():
    t = torch.linspace(0, 1, 11)
    shifted = shift_time(t, 3.0)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] > t[1:-1]).all()
    assert torch.equal(shift_time(t, 1.0), t)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_training_times_are_logit_normal_and_independent_per_frame(kind):
    generator = torch.Generator().manual_seed(0) if kind == "torch" else np.random.default_rng(0)
    times = sample_times((4000, 2), 1.0, generator)
    logits = times.logit()
    assert logits.mean().abs() < 0.05
    assert (logits.std() - 1).abs() < 0.05
    assert torch.corrcoef(logits.T)[0, 1].abs() < 0.05
    assert times.dtype == torch.float32


def test_euler_steps_with_the_true_velocity_end_at_the_data():
    latents, noise = torch.randn(2, 3, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    for steps in (1, 2, 10):
        sampler = FlowSampler(steps, 2.4)
        x = noise
        for step in range(steps):
            now = sampler.schedule[step].expand(3)
            torch.testing.assert_close(x, add_noise(latents, noise, now), atol=1e-5, rtol=0)
            assert sampler.timestep(step) == pytest.approx(1000 * float(now[0]))
            target = velocity_target(latents, noise)
            torch.testing.assert_close(
                sampler.clean_estimate(x, target, step), latents, atol=1e-5, rtol=0
            )
            x = sampler.advance(x, target, step)
        torch.testing.assert_close(x, latents, atol=1e-5, rtol=0)


def test_ddim_steps_with_the_true_velocity_end_at_the_data():
    latents, noise = torch.randn(2, 3, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    sampler = DDPMSampler(10)
    x = ddpm_add_noise(latents, noise, sampler.signal[999])
    for step in range(10):
        signal = sampler.signal[int(sampler.timestep(step))]
        x = sampler.advance(x, velocity(latents, noise, signal), step)
    torch.testing.assert_close(x, latents, atol=1e-4, rtol=0)


def test_history_noise_keeps_the_variance_and_differs_per_frame():
    latents = torch.randn(400, 4, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    noised = noise_history(latents, torch.Generator().manual_seed(1))
    assert noised.std() == pytest.approx(1.0, abs=0.02)
    changes = (noised - latents).flatten(2).std(-1)
    assert changes.min() < 0.02
    assert changes.max() > 0.5
    assert torch.equal(noise_history(latents, torch.Generator(), sigma=0.0), latents)


def test_the_card_chooses_the_sampler():
    flow = make_sampler(DynamicsSpec({}, shift=2.0, denoising_steps=4), None, 0.02)
    assert flow == FlowSampler(4, 2.0, 0.02)
    assert make_sampler(DynamicsSpec({}, "ddpm"), 5) == DDPMSampler(5)
    with pytest.raises(ValueError, match="objective must be"):
        make_sampler(DynamicsSpec({}, "gan"))
    for bad in (lambda: FlowSampler(0), lambda: DDPMSampler(0), lambda: FlowSampler(2, 0.0)):
        with pytest.raises(ValueError, match=r"step|shift"):
            bad()
