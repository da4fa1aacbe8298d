"""The network of a diffusion policy: an encoder of frames and words, and a U-Net over actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from wm_gym.errors import UserError
from wm_gym.policies.diffusion_policy.unet import ConditionalUnet1D
from wm_gym.policies.diffusion_policy.vision import STAGES, AttentionEncoder, Norm, ResNetEncoder
from wm_gym.policies.goal_encoder import GoalEncoderConfig

Encoder = Literal["resnet18", "resnet34", "attention"]


@dataclass(frozen=True)
class DiffusionNetworkConfig:
    """Sizes of a diffusion policy; the defaults are published ones (arXiv:2303.04137)."""

    encoder: Encoder = "resnet18"
    """What looks at frames; attention is small, made for a CPU, and needs instructions."""
    observations: int = 2
    """Frames it looks at, the newest and those before it."""
    horizon: int = 16
    """Actions it predicts, from that of the oldest frame on."""
    down_dims: tuple[int, ...] = (512, 1024, 2048)
    """Channels of the U-Net by level."""
    kernel_size: int = 5
    """Steps that a convolution of the U-Net spans."""
    groups: int = 8
    """Groups of the U-Net's normalisations."""
    time_embedding: int = 128
    """Size of the diffusion time's embedding."""
    film_scale: bool = True
    """The condition scales the U-Net's channels as well as shifting them."""
    words: int = 32
    """Size of the instruction's embeddings: one of the task, one of each object."""
    features: int = 64
    """Features of a frame that the attention encoder gives."""
    keypoints: int = 32
    """Keypoints of a residual network; its features are twice as many."""
    norm: Norm = "group"
    """Normalisation in a residual network; batch only fits pre-trained weights."""
    crop: tuple[int, int] | None = None
    """Height and width that a residual network looks at, cut at random places in training."""
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean that a residual network subtracts from each colour, of the full range 1."""
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Deviation that it divides each colour by."""

    def __post_init__(self) -> None:
        """Check what the U-Net needs."""
        if self.observations < 1 or self.horizon < self.observations:
            raise UserError(
                f"observations={self.observations} and horizon={self.horizon}: expected at least "
                "one, and a horizon of at least as many"
            )
        halvings = 2 ** (len(self.down_dims) - 1)
        if not self.down_dims or self.horizon % halvings:
            raise UserError(
                f"horizon={self.horizon} is halved at every level after the first of "
                f"down_dims={self.down_dims}: expected a multiple of {halvings}"
            )
        if self.groups < 1 or any(width % self.groups for width in self.down_dims):
            raise UserError(f"groups={self.groups} must divide all down_dims={self.down_dims}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size={self.kernel_size}: expected an odd number")
        if self.encoder not in STAGES and self.crop is not None:
            raise UserError(
                f"crop={self.crop} is for residual networks; encoder={self.encoder!r} takes whole "
                "frames"
            )


@dataclass(frozen=True)
class Vocabulary:
    """What instructions are made of; see `wm_gym.instructions.InstructionSet`.

    Attributes:
        templates: instruction template by task name; empty for a policy that reads none.
        objects: what may fill the templates' slots.
    """

    templates: dict[str, str]
    objects: tuple[str, ...]

    def encoder_config(self) -> GoalEncoderConfig:
        """The vocabulary as `encode_goals` and `GoalEncoder` take it."""
        return GoalEncoderConfig(self.templates, self.objects)


class InstructionEmbedding(nn.Module):
    """A goal as a vector: its task and its two objects, each object the sum of its words."""

    def __init__(self, config: GoalEncoderConfig, size: int) -> None:
        super().__init__()
        self.task = nn.Embedding(len(config.templates), size)
        self.word = nn.Linear(len(config.words), size, bias=False)

    def forward(self, tasks: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """Maps tasks (B,) and word counts (B, 2, words) to (B, 3 D)."""
        return torch.cat([self.task(tasks)[:, None], self.word(objects)], dim=1).flatten(1)


class DiffusionNetwork(nn.Module):
    """Frames, goals and noisy actions to a prediction about the noise.

    Args:
        config: its sizes.
        vocabulary: what instructions are made of.
        action_size: A, components of an action.
        state_size: S, numbers about the robot that a policy from elsewhere expects beside frames.

    Raises:
        ValueError: if the encoder needs instructions and the vocabulary has none.
    """

    def __init__(
        self,
        config: DiffusionNetworkConfig,
        vocabulary: Vocabulary,
        action_size: int,
        state_size: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.action_size, self.state_size = action_size, state_size
        reads = bool(vocabulary.templates)
        self.rgb_encoder: ResNetEncoder | AttentionEncoder
        if config.encoder == "attention":
            if not reads:
                raise UserError(
                    "encoder='attention' looks for what an instruction names, and there are no "
                    "templates; use encoder='resnet18'"
                )
            self.rgb_encoder = AttentionEncoder(vocabulary.encoder_config(), config.features)
        else:
            self.rgb_encoder = ResNetEncoder(
                config.encoder,
                norm=config.norm,
                keypoints=config.keypoints,
                crop=config.crop,
                mean=config.image_mean,
                std=config.image_std,
            )
        self.instruction = None
        if reads:
            self.instruction = InstructionEmbedding(vocabulary.encoder_config(), config.words)
        per_frame = self.rgb_encoder.feature_size + state_size
        self.unet = ConditionalUnet1D(
            action_size,
            config.observations * per_frame + (3 * config.words if reads else 0),
            down_dims=config.down_dims,
            kernel_size=config.kernel_size,
            groups=config.groups,
            time_embedding=config.time_embedding,
            scale=config.film_scale,
        )

    def look(
        self, frames: torch.Tensor, tasks: torch.Tensor, objects: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the encoder sees before its last layers, which `condition` takes.

        Args:
            frames: uint8 or float in 0–255, (B, n, H, W, 3).
            tasks: index of each row's task, (B,).
            objects: word counts, (B, 2, words); see `encode_goals`.

        Returns:
            (B, n, F); logits of where things are, (B n, 1 + objects, P), from an attention encoder.
        """
        count = frames.shape[1]
        flat = frames.flatten(0, 1)
        if isinstance(self.rgb_encoder, ResNetEncoder):
            return self.rgb_encoder(flat).unflatten(0, (-1, count)), None
        seen, logits = self.rgb_encoder.look.features(
            flat, tasks.repeat_interleave(count), objects.repeat_interleave(count, dim=0)
        )
        return seen.unflatten(0, (-1, count)), logits

    def condition(
        self,
        seen: torch.Tensor,
        tasks: torch.Tensor,
        objects: torch.Tensor,
        state: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The condition (B, C) of the U-Net.

        Args:
            seen: what `look` returned, (B, n, F).
            tasks: see `look`.
            objects: see `look`.
            state: normalised numbers about the robot, (B, n, S), for a network with a `state_size`.
        """
        if isinstance(self.rgb_encoder, AttentionEncoder):
            seen = self.rgb_encoder.out(seen)
        if state is not None:
            seen = torch.cat([state, seen], dim=2)
        parts = [seen.flatten(1)]
        if self.instruction is not None:
            parts.append(self.instruction(tasks, objects))
        return torch.cat(parts, dim=1)

    def forward(
        self,
        frames: torch.Tensor,
        tasks: torch.Tensor,
        objects: torch.Tensor,
        noisy: torch.Tensor,
        times: torch.Tensor,
        *,
        looked: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A training pass, in which frames are looked at in bfloat16.

        Args:
            frames: see `look`; with `looked`, what `look` returned.
            tasks: see `look`.
            objects: see `look`.
            noisy: noisy actions, (K B, T, A): K copies of each row, row after row.
            times: their diffusion times, (K B,).
            looked: whether `frames` have been looked at.

        Returns:
            Predictions (K B, T, A), and the logits of `look`.
        """
        if looked:
            seen, logits = frames, None
        else:
            # the U-Net's short convolutions gain nothing from it, on a CPU at least
            with torch.autocast(frames.device.type, torch.bfloat16):
                seen, logits = self.look(frames, tasks, objects)
        condition = self.condition(seen.float(), tasks, objects)
        copies = len(noisy) // len(condition)
        return self.unet(noisy, times, condition.repeat_interleave(copies, dim=0)), logits
