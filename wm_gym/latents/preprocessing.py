"""How frames become the inputs of published encoders, exactly as the published models saw them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_gym.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def check_frames(frames: Tensor, size: tuple[int, int], space: str) -> None:
    """Refuse frames that are not uint8 (B, H, W, 3) of the size a latent space takes.

    Raises:
        ValueError: naming what was given, what is expected and the remedy.
    """
    if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != (*size, 3) or frames.dim() != 4:
        raise UserError(
            f"{space} takes uint8 frames of shape (B, {size[0]}, {size[1]}, 3), got {frames.dtype} "
            f"{tuple(frames.shape)}; resize them and keep the values in 0..255"
        )


def check_latents(latents: Tensor, grid: tuple[int, int], channels: int, space: str) -> None:
    """Refuse latents that are not (B, h, w, D) of a latent space.

    Raises:
        ValueError: naming what was given and what is expected.
    """
    if latents.dim() != 4 or tuple(latents.shape[1:]) != (*grid, channels):
        raise UserError(
            f"{space} decodes latents of shape (B, {grid[0]}, {grid[1]}, {channels}), got "
            f"{tuple(latents.shape)}"
        )


def standardise(
    frames: Tensor,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    clamp: bool,
) -> Tensor:
    """Scale to [0, 1], resize if needed and normalise per colour.

    Args:
        frames: uint8 (B, H, W, 3).
        size: (H, W) the encoder takes; bicubic without antialiasing, like the published models.
        mean: per colour.
        std: per colour.
        clamp: cut off what bicubic interpolation overshoots.

    Returns:
        float32 (B, 3, *size).
    """
    x = frames.permute(0, 3, 1, 2).float() / 255
    if tuple(x.shape[-2:]) != tuple(size):
        x = F.interpolate(x, size, mode="bicubic", align_corners=False)
    if clamp:
        x = x.clamp(0, 1)
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)


def sample_posterior(mean: Tensor, logvar: Tensor, frames: Tensor) -> Tensor:
    """Sample a diagonal Gaussian with noise that is a function of the frame alone.

    The published models encode with a posterior sample. Seeding by the frame's own content keeps
    that distribution, and makes encoding a pure function: the same frame gives the same latent, on
    its own or in any batch.

    Args:
        mean: (B, D, h, w).
        logvar: the same shape.
        frames: uint8 (B, H, W, 3).

    Returns:
        (B, D, h, w), float32.
    """
    noise = torch.stack([_frame_noise(frame, mean.shape[1:]) for frame in frames.cpu()])
    std = (0.5 * logvar.float().clamp(-30, 20)).exp()
    return mean.float() + std * noise.to(mean.device)


def _frame_noise(frame: Tensor, shape: torch.Size) -> Tensor:
    digest = hashlib.blake2b(frame.contiguous().numpy().tobytes(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(shape, generator=generator)
