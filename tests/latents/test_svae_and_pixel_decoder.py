from pathlib import Path

import pytest
import torch

from wm_gym.evaluation.parity.latents import read_case
from wm_gym.latents.pixel_decoder import (
    PixelDecoder,
    PixelDecoderConfig,
    infer_pixel_decoder_config,
)
from wm_gym.latents.svae import SVAE, SVAEConfig, infer_svae_config

DATA = Path(__file__).parents[1] / "parity" / "data"


@pytest.mark.parametrize("name", ["svae", "svae_progressive"])
def test_sizes_inferred_from_shapes_rebuild_the_adapter(name):
    case = read_case(DATA / f"{name}.safetensors")
    svae = SVAE(infer_svae_config(case.weights, num_heads=4))
    svae.load_state_dict(case.weights, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(svae.encode(case.inputs["z"]), case.outputs["encode"])


@pytest.mark.parametrize("name", ["pixel_decoder", "pixel_decoder_legacy_noattn"])
def test_sizes_inferred_from_shapes_rebuild_the_pixel_decoder(name):
    case = read_case(DATA / f"{name}.safetensors")
    decoder = PixelDecoder(infer_pixel_decoder_config(case.weights))
    decoder.load_state_dict(case.weights, strict=True)
    with torch.no_grad():
        colours = decoder(case.inputs["z"])
    torch.testing.assert_close(colours, case.outputs["rgb"], atol=5e-5, rtol=1e-4)


def test_frames_do_not_see_each_other_and_positions_do_not_matter():
    torch.manual_seed(0)
    svae = SVAE(SVAEConfig(32, 4, num_heads=2, num_layers=1, intermediate_size=64)).eval()
    z = torch.randn(2, 3, 4, 4, 32)
    with torch.no_grad():
        whole = svae.encode(z)
        torch.testing.assert_close(svae.encode(z[:, 1:2]), whole[:, 1:2])
        order = torch.randperm(16)
        shuffled = svae.encode(z.flatten(2, 3)[:, :, order].unflatten(2, (4, 4)))
        torch.testing.assert_close(shuffled.flatten(2, 3), whole.flatten(2, 3)[:, :, order])


def test_released_configs_ask_for_attention_by_naming_it():
    legacy = PixelDecoderConfig.from_released({"latent_dim": 96})
    assert (legacy.attn_resolutions, legacy.attn_heads) == ((), 1)
    named = PixelDecoderConfig.from_released({"latent_dim": 96, "attn_heads": 4})
    assert (named.attn_resolutions, named.attn_heads) == ((16,), 4)
    with pytest.raises(ValueError, match="output_activation must be 'sigmoid' or 'tanh'"):
        PixelDecoderConfig(output_activation="relu")


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_colours_lie_in_the_unit_interval(activation):
    cfg = PixelDecoderConfig(8, 8, (1, 2), 1, output_activation=activation)
    with torch.no_grad():
        colours = PixelDecoder(cfg)(100 * torch.randn(1, 4, 4, 8))
    assert colours.shape == (1, 8, 8, 3)
    assert colours.min() >= 0 and colours.max() <= 1


def test_weights_of_another_network_are_named():
    with pytest.raises(ValueError, match=r"no S-VAE: .* found \['x'\]"):
        infer_svae_config({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"no pixel decoder: .* found \['x'\]"):
        infer_pixel_decoder_config({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="give another num_heads"):
        SVAE(SVAEConfig(30, 4, num_heads=4))
