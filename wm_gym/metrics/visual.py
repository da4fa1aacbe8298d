"""How close two frames look: PSNR, SSIM, and PSNR over the pixels that changed.

All functions take uint8 frames (B, H, W, 3) and return one number per frame, (B,) float32. A still
background makes plain PSNR blind to what an action does; `changed_psnr` looks only where the truth
differs from the frame a rollout began with.
"""

from __future__ import annotations

import torch

from wm_gym.errors import UserError

CHANGED_LEVELS = 8
"""A pixel changed if one of its channels moved by more than this many of 255 levels."""

MIN_CHANGED_PIXELS = 20
"""Fewer changed pixels than this are noise of the renderer or the codec: no `changed_psnr`."""

ROUNDING_MSE = 1.0 / 12.0
"""Mean squared error of rounding to whole levels: the floor that keeps PSNR finite (58.9 dB)."""


def _psnr_from_mse(mse: torch.Tensor) -> torch.Tensor:
    return 10.0 * torch.log10(255.0**2 / mse.clamp(min=ROUNDING_MSE))


def _check(frames: torch.Tensor, truth: torch.Tensor) -> None:
    for name, value in (("frames", frames), ("truth", truth)):
        if value.dtype != torch.uint8 or value.ndim != 4 or value.shape[-1] != 3:
            raise UserError(
                f"{name} have dtype {value.dtype} and shape {tuple(value.shape)}, expected "
                "torch.uint8 and (B, H, W, 3)"
            )
    if frames.shape != truth.shape:
        raise UserError(
            f"frames {tuple(frames.shape)} and truth {tuple(truth.shape)} differ in shape; resize "
            "one to the other first"
        )


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB; equal frames give 58.9, the floor of rounding.

    Args:
        frames: uint8 (B, H, W, 3).
        truth: uint8 (B, H, W, 3).

    Returns:
        (B,) dB.

    Raises:
        ValueError: if shapes or dtypes are others.

    Example:
        >>> black, white = torch.zeros(1, 8, 8, 3).byte(), torch.full((1, 8, 8, 3), 255).byte()
        >>> psnr(black, white).item()
        0.0
    """
    _check(frames, truth)
    error = (frames.float() - truth.float()).square()
    return _psnr_from_mse(error.mean((1, 2, 3)))


def ssim(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity (torchmetrics: Gaussian window, sigma 1.5, mean over channels).

    Args:
        frames: uint8 (B, H, W, 3).
        truth: uint8 (B, H, W, 3).

    Returns:
        (B,), 1 for equal frames.

    Raises:
        ValueError: if shapes or dtypes are others.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(frames, truth)
    similarity = structural_similarity_index_measure(
        frames.permute(0, 3, 1, 2).float(),
        truth.permute(0, 3, 1, 2).float(),
        data_range=255.0,
        reduction="none",
    )
    return torch.as_tensor(similarity).reshape(-1)


def changed_mask(truth: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Pixels of the truth that differ from the start by more than 8 levels in some channel.

    Args:
        truth: uint8 (B, H, W, 3).
        start: uint8 (B, H, W, 3), the frame the rollout began with.

    Returns:
        (B, H, W) bool.
    """
    _check(start, truth)
    difference = (truth.short() - start.short()).abs().amax(-1)
    return difference > CHANGED_LEVELS


def changed_psnr(frames: torch.Tensor, truth: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """PSNR over the pixels that changed in the truth since the start.

    Args:
        frames: uint8 (B, H, W, 3), what a model shows.
        truth: uint8 (B, H, W, 3).
        start: uint8 (B, H, W, 3), the frame the rollout began with.

    Returns:
        (B,) dB; NaN where fewer than 20 pixels changed.
    """
    _check(frames, truth)
    mask = changed_mask(truth, start)
    count = mask.sum((1, 2))
    error = (frames.float() - truth.float()).square().mean(-1)
    mse = (error * mask).sum((1, 2)) / count.clamp(min=1)
    return torch.where(count >= MIN_CHANGED_PIXELS, _psnr_from_mse(mse), torch.nan)


def gap_closed(rollout: float, copy_first: float, reconstruction: float) -> float:
    """Share of the way from "nothing moves" to "as good as the decoder allows".

    Args:
        rollout: score of the rollout.
        copy_first: score of repeating the first frame.
        reconstruction: score of encoding and decoding the truth.

    Returns:
        0 for a copied first frame, 1 for a perfect rollout; NaN if the decoder is no better than
        copying, which leaves no gap.
    """
    gap = reconstruction - copy_first
    return (rollout - copy_first) / gap if gap > 0 else float("nan")
