import json
from pathlib import Path

import pytest
import torch

from wm_gym.dynamics.dit import DIT_SIZES, DiT
from wm_gym.evaluation.parity.dynamics import (
    dit_config,
    load_dit,
    run_dit_case,
    run_state_dict_shapes,
)
from wm_gym.evaluation.parity.latents import case_paths, read_case

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", case_paths(DATA, "dit_*"), ids=lambda p: p.stem)
def test_equals_the_authors_network(path):
    result = run_dit_case(path)
    assert result.passed, result


def test_every_published_key_list_loads():
    result = run_state_dict_shapes(DATA / "state_dict_shapes.json")
    assert result.passed, result


@pytest.mark.parametrize("size", DIT_SIZES)
def test_the_named_sizes_are_the_published_ones(size):
    content = json.loads((DATA / "state_dict_shapes.json").read_text(encoding="utf-8"))["dit"]
    entry = content[f"{size}/svae_p1_wide_C96"]
    config = dit_config(entry["init"])
    assert {name: getattr(config, name) for name in DIT_SIZES[size]} == DIT_SIZES[size]
    with torch.device("meta"):
        assert sum(p.numel() for p in DiT(config).parameters()) == entry["n_params"]


def test_a_slip_of_one_action_would_be_seen():
    case = read_case(DATA / "dit_plain.safetensors")
    inputs = case.inputs
    with torch.no_grad():
        slipped = load_dit(case)(inputs["x"], inputs["t"], inputs["action"].roll(1, 1))
    assert (slipped - case.outputs["y"]).abs().max() > 0.1
