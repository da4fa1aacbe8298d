"""A start for a small vision transformer: its first layers look at the eight neighbouring patches.

A thing that is as large as a patch is cut by patches in every possible way. To tell a star from a
pentagon a token has to put its neighbours together, and a transformer that starts from random
weights learns this anew for every place of the picture. Here positions start as waves and the heads
of the first two layers as shifts by one patch, in the spirit of ConViT (arXiv:2103.10697); all of
it is trained afterwards like any other weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wm_gym.errors import UserError
from wm_gym.semantic.model import SemanticNetwork

LAYERS = 2
NEIGHBOURS = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
SLOWEST, FASTEST = 0.35, 2.2
"""Waves of positions, radians per patch."""
SHARPNESS = 2.0
"""Scale of queries and keys: a head gives most of its attention to its neighbour."""
CONTENT = 0.1
"""Share of the random weights of queries and keys that is kept."""


@torch.no_grad()
def see_locally(network: SemanticNetwork) -> None:
    """Start positions and the first layers' attention as a look at the eight neighbours.

    Args:
        network: with random weights.

    Raises:
        ValueError: unless the vision encoder has eight heads whose width is a multiple of 4, and at
            least two layers.
    """
    config = network.config
    width = config.vision_width // config.vision_heads
    if config.vision_heads != len(NEIGHBOURS) or width % 4 or config.vision_depth < LAYERS:
        raise UserError(
            f"vision_heads={config.vision_heads}, vision_width={config.vision_width}, vision_depth="
            f"{config.vision_depth}: looking at neighbours needs {len(NEIGHBOURS)} heads whose "
            f"width is a multiple of 4, and at least {LAYERS} layers; e.g. vision_heads=8 and "
            "vision_width=128"
        )
    tower: Any = network.paligemma.vision_tower
    vision = getattr(tower, "vision_model", tower)
    side = config.image_size // config.patch
    vision.embeddings.position_embedding.weight.zero_()[:, :width] = _waves(side, width)
    patches = vision.embeddings.patch_embedding
    patches.weight[:width] = 0
    patches.bias[:width] = 0
    for layer in vision.encoder.layers[:LAYERS]:
        query, key = layer.self_attn.q_proj, layer.self_attn.k_proj
        for projection in (query, key):
            projection.weight.mul_(CONTENT)
            projection.bias.zero_()
        for head, neighbour in enumerate(NEIGHBOURS):
            rows = slice(head * width, (head + 1) * width)
            query.weight[rows, :width] = SHARPNESS * _shift(neighbour, width)
            key.weight[rows, :width] = SHARPNESS * torch.eye(width)


def _frequencies(width: int) -> Tensor:
    return torch.linspace(SLOWEST, FASTEST, width // 4)


def _waves(side: int, width: int) -> Tensor:
    """Cosines and sines of x, then of y, of every patch, (side², width)."""
    places = torch.arange(side, dtype=torch.float32)
    y, x = torch.meshgrid(places, places, indexing="ij")
    angles = [axis.flatten()[:, None] * _frequencies(width) for axis in (x, y)]
    return torch.cat([part for angle in angles for part in (angle.cos(), angle.sin())], 1)


def _shift(way: tuple[int, int], width: int) -> Tensor:
    """The matrix that turns the waves of a place into those of the place one way further."""
    turn = torch.zeros(width, width)
    frequencies = _frequencies(width)
    count = len(frequencies)
    for axis, distance in enumerate(way):
        for number, frequency in enumerate(frequencies * distance):
            cosine = axis * 2 * count + number
            sine = cosine + count
            turn[cosine, cosine] = turn[sine, sine] = torch.cos(frequency)
            turn[cosine, sine], turn[sine, cosine] = -torch.sin(frequency), torch.sin(frequency)
    return turn
