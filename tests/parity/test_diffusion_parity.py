from pathlib import Path

import pytest
import torch

from wm_gym.dynamics.diffusion import DDPMSampler, sampling_steps
from wm_gym.evaluation.parity.latents import case_paths, read_case

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", case_paths(DATA, "rollout_ddpm*"), ids=lambda p: p.stem)
def test_the_noise_schedule_is_the_recorded_one(path):
    case = read_case(path)
    sampler = DDPMSampler(case.config["diffusion_kwargs"]["sampling_timesteps"])
    reference = case.debug["alphas_cumprod"]
    torch.testing.assert_close(sampler.signal, reference, atol=1e-7, rtol=1e-6)
    assert sampling_steps(sampler.steps) == case.config["sampling_noise_steps"]
