"""What a diffusion policy looks with: a residual network with keypoints, or a `GoalEncoder`.

The residual network has the layout and the module names of LeRobot's, which are torchvision's, so
that its weights fit.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from wm_gym.policies.goal_encoder import GoalEncoder, GoalEncoderConfig

Norm = Literal["group", "batch"]
STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""Blocks in each of the four stages."""


def _normalisation(norm: Norm, channels: int) -> nn.Module:
    # sixteen channels a group, arXiv:2303.04137 sec. 3.2: batch statistics and EMA do not agree
    return nn.GroupNorm(channels // 16, channels) if norm == "group" else nn.BatchNorm2d(channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a residual (arXiv:1512.03385): (B, D_in, H, W) to (B, D_out, …)."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = _normalisation(norm, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = _normalisation(norm, outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), _normalisation(norm, outside)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block."""
        hidden = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (hidden + (x if self.downsample is None else self.downsample(x))).relu()


class SpatialSoftmax(nn.Module):
    """Where each of K maps is strongest: the mean place under a softmax (arXiv:1509.06113).

    Args:
        channels: of the input.
        keypoints: K, maps that are made of them.
    """

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(channels, keypoints, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, D, h, w) to places (B, K, 2): x to the right, y down, from -1 to 1."""
        maps = self.nets(x)
        height, width = maps.shape[2:]
        across = torch.linspace(-1, 1, width, dtype=maps.dtype, device=maps.device)
        down = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device)
        places = torch.stack([across.repeat(height), down.repeat_interleave(width)], dim=1)
        return maps.flatten(2).softmax(dim=-1) @ places


class ResNetEncoder(nn.Module):
    """A residual network, keypoints of its last map, and a linear layer.

    Args:
        name: "resnet18" or "resnet34".
        norm: group normalisation, or the batch normalisation of pre-trained weights.
        keypoints: K; the features are 2 K.
        crop: height and width that are looked at, in the middle of the frame; None is all of it.
        mean: of each colour, in units of the full range, subtracted.
        std: of each colour, divided by.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: Norm,
        keypoints: int,
        crop: tuple[int, int] | None,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.crop = crop
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        stages: list[nn.Module] = []
        inside = 64
        for number, blocks in enumerate(STAGES[name]):
            width = 64 * 2**number
            first = ResidualBlock(inside, width, 1 if number == 0 else 2, norm)
            rest = [ResidualBlock(width, width, 1, norm) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            inside = width
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            _normalisation(norm, 64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *stages,
        )
        self.pool = SpatialSoftmax(inside, keypoints)
        self.feature_size = 2 * keypoints
        self.out = nn.Linear(self.feature_size, self.feature_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Maps frames, uint8 or float in 0–255, (B, H, W, 3), to features (B, F)."""
        x = frames.permute(0, 3, 1, 2).to(torch.float32) / 255
        x = (x - self.mean) / self.std
        if self.crop is not None:
            height, width = self.crop
            # torchvision's CenterCrop rounds halves to the even number, and so does round
            top, left = round((x.shape[2] - height) / 2), round((x.shape[3] - width) / 2)
            x = x[:, :, top : top + height, left : left + width]
        return self.out(self.pool(self.backbone(x)).flatten(1)).relu()


class AttentionEncoder(nn.Module):
    """A `GoalEncoder` and two layers over what it found: small, and it knows what to look for.

    Args:
        config: of the `GoalEncoder`.
        features: F.
    """

    def __init__(self, config: GoalEncoderConfig, features: int) -> None:
        super().__init__()
        self.look = GoalEncoder(config)
        self.feature_size = features
        self.out = nn.Sequential(
            nn.Linear(self.look.feature_size, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, features),
            nn.GELU(),
        )
