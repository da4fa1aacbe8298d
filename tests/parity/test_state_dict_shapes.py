"""Every official key list loads strictly; the meta device keeps the large sizes free of charge."""

import json
from pathlib import Path

import pytest
import torch

from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.latents.pixel_decoder import (
    PixelDecoder,
    PixelDecoderConfig,
    infer_pixel_decoder_config,
)
from wm_gym.latents.svae import SVAE, SVAEConfig, infer_svae_config
from wm_gym.training.import_checkpoint import infer_dit_config

REFERENCE = json.loads(
    (Path(__file__).parent / "data" / "state_dict_shapes.json").read_text(encoding="utf-8")
)
DIT, OTHER = REFERENCE["dit"], REFERENCE["other"]


def load(build, entry):
    with torch.device("meta"):
        network = build()
        weights = {key: torch.empty(shape) for key, shape in entry["shapes"].items()}
        network.load_state_dict(weights, strict=True, assign=True)
    assert sum(p.numel() for p in network.parameters()) == entry["n_params"]
    return weights


@pytest.mark.parametrize("name", DIT)
def test_transition_models_load_and_tell_their_sizes(name):
    entry = DIT[name]
    init = entry["init"]
    cfg = DiTConfig(
        channels=init["in_channels"],
        dim=init["dim"],
        depth=init["num_layers"],
        heads=init["num_heads"],
        patch=init["patch_size"],
        action_width=init["action_dim"],
        head="wide" if init["wide_head"] else "plain",
        wide_dim=init["decoder_dim"] or DiTConfig.wide_dim,
    )
    assert infer_dit_config(load(lambda: DiT(cfg), entry), name) == cfg


@pytest.mark.parametrize("name", [n for n in OTHER if n.startswith("svae")])
def test_adapters_load_and_tell_their_sizes(name):
    cfg = SVAEConfig(**OTHER[name]["init"])
    assert infer_svae_config(load(lambda: SVAE(cfg), OTHER[name])) == cfg


@pytest.mark.parametrize("name", [n for n in OTHER if n.startswith("pixel_decoder")])
def test_pixel_decoders_load_and_tell_their_sizes(name):
    cfg = PixelDecoderConfig.from_released(OTHER[name]["config_for_create_pixel_decoder"])
    weights = load(lambda: PixelDecoder(cfg), OTHER[name])
    assert infer_pixel_decoder_config(weights) == cfg


def test_no_key_list_is_left_out():
    assert all(n.split("/")[0] in ("svae", "pixel_decoder") for n in OTHER)
    assert set(REFERENCE) <= {"dit", "other", "source", "note"}
