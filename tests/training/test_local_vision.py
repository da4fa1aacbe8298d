"""A vision encoder that starts by looking at the eight neighbouring patches."""

from dataclasses import replace

import pytest
import torch

from tests.semantic.conftest import TINY
from wm_gym.semantic.model import SemanticNetwork
from wm_gym.training.local_vision import LAYERS, NEIGHBOURS, _shift, _waves, see_locally

SIDE = 6
EIGHT = replace(
    TINY, image_size=48, vision_width=128, vision_heads=8, vision_depth=3, vision_mlp=64
)


def test_a_shift_turns_a_place_into_its_neighbour():
    waves = _waves(SIDE, 16).unflatten(0, (SIDE, SIDE))  # [y, x]
    for x, y in NEIGHBOURS:
        turned = waves[2, 2] @ _shift((x, y), 16).T
        torch.testing.assert_close(turned, waves[2 + y, 2 + x], atol=1e-5, rtol=0)


def test_heads_of_the_first_layers_look_at_their_neighbours():
    torch.manual_seed(0)
    network = SemanticNetwork(EIGHT)
    see_locally(network)
    tower = network.paligemma.vision_tower
    vision = getattr(tower, "vision_model", tower)
    pixels = torch.rand(2, 3, 48, 48) * 2 - 1
    hidden = vision.embeddings(pixels)
    layer = vision.encoder.layers[0]
    normed = layer.layer_norm1(hidden)
    attention = layer.self_attn
    query, key = (
        projection(normed).unflatten(-1, (8, 16))
        for projection in (attention.q_proj, attention.k_proj)
    )
    looks = (torch.einsum("bqhd,bkhd->bhqk", query, key) / 4).softmax(-1)
    inside = [x + SIDE * y for x in range(1, SIDE - 1) for y in range(1, SIDE - 1)]
    for head, (x, y) in enumerate(NEIGHBOURS):
        for token in inside:
            assert (looks[:, head, token].argmax(-1) == token + x + SIDE * y).all()


def test_only_the_first_layers_and_positions_change():
    torch.manual_seed(0)
    network = SemanticNetwork(EIGHT)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    see_locally(network)
    changed = {
        name for name, value in network.state_dict().items() if (value != before[name]).any()
    }
    assert changed and all(
        "embeddings.p" in name
        or any(f"layers.{k}.self_attn.{p}_proj" in name for k in range(LAYERS) for p in "qk")
        for name in changed
    )


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"vision_heads=2.*needs 8 heads"):
        see_locally(SemanticNetwork(TINY))
