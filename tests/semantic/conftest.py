"""A tiny semantic network with random weights."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from wm_gym.domains import LANGTABLE
from wm_gym.semantic.model import SemanticNetwork, SemanticNetworkConfig
from wm_gym.semantic.tokens import langtable_tokenizer
from wm_gym.semantic.world_model import SemanticWorldModel, save_semantic_model
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import FrameSpec

TINY = SemanticNetworkConfig(
    vocabulary=120,
    action_width=2,
    image_size=24,
    patch=8,
    vision_width=16,
    vision_depth=2,
    vision_heads=2,
    vision_mlp=32,
    width=24,
    depth=2,
    heads=2,
    head_width=12,
    mlp=48,
)


def randomise(network: SemanticNetwork, seed: int = 0, std: float = 0.15) -> SemanticNetwork:
    """Weights under which image, actions and every word matter to the answers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def causal() -> SemanticNetwork:
    """Block-causal: image and actions do not see questions."""
    return randomise(SemanticNetwork(TINY, "block_causal"))


@pytest.fixture(scope="module")
def full() -> SemanticNetwork:
    """Full: as the published weights."""
    return randomise(SemanticNetwork(TINY, "full"))


def tiny_spec(tokenizer, prefix_attention="block_causal", **changes) -> SemanticSpec:
    """The card of a tiny semantic world model of LangTable."""
    fields = {
        "name": "tiny-swm",
        "description": "random weights, for tests",
        "embedded": False,
        "licence": "Apache-2.0",
        "training_data": "none",
        "recipe": {},
        "twin": "LangTable-v0",
        "frame": FrameSpec(24, 24, "near-top-down"),
        "action": replace(LANGTABLE.action, width=2),
        "network": asdict(replace(TINY, vocabulary=tokenizer.size)),
        "prefix_attention": prefix_attention,
        "objects": LANGTABLE.objects,
        "weights_sha256": {},
        "tasks": LANGTABLE.tasks,
    }
    return SemanticSpec(**{**fields, **changes})


def tiny_semantic_model(prefix_attention="block_causal", seed=0, **changes) -> SemanticWorldModel:
    """A semantic world model of LangTable with random weights."""
    tokenizer = langtable_tokenizer()
    spec = tiny_spec(tokenizer, prefix_attention, **changes)
    network = SemanticNetwork(SemanticNetworkConfig(**spec.network), prefix_attention)
    return SemanticWorldModel(spec, randomise(network, seed), tokenizer)


@pytest.fixture(scope="session")
def swm() -> SemanticWorldModel:
    """A tiny block-causal semantic world model of LangTable."""
    return tiny_semantic_model()


@pytest.fixture(scope="session")
def swm_folder(tmp_path_factory, swm) -> str:
    """Its checkpoint folder."""
    folder = tmp_path_factory.mktemp("semantic") / "tiny"
    save_semantic_model(folder, swm.spec, swm.network, swm.tokenizer)
    return str(folder)
