from pathlib import Path

import pytest
import torch

from wm_gym.dynamics.flow import FlowSampler
from wm_gym.evaluation.parity.latents import case_paths, read_case

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", case_paths(DATA, "rollout_flow*"), ids=lambda p: p.stem)
def test_the_sampling_schedule_is_the_recorded_one(path):
    config = read_case(path).config
    settings = config["flow_kwargs"]
    sampler = FlowSampler(settings["sampling_timesteps"], settings["time_dist_shift"])
    assert torch.equal(sampler.schedule, torch.tensor(config["schedule_shifted"]))
    assert sampler.context_timestep == pytest.approx(10)
