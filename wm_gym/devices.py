"""Torch devices, checked before a model is loaded onto one."""

from __future__ import annotations

import torch

from wm_gym.errors import UserError


def check_device(device: str) -> None:
    """Refuse a device that this machine, or this build of torch, does not have.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps", …

    Raises:
        ValueError: saying what is there and what to do.
    """
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"device={device!r} is no torch device; expected e.g. 'cpu', 'cuda' or 'cuda:1'"
        ) from error
    if parsed.type not in ("cpu", "cuda", "mps") or (parsed.type == "cpu" and parsed.index):
        raise UserError(f"device={device!r} is not supported; expected 'cpu', 'cuda' or 'mps'")
    if parsed.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or count == 0:
            build = torch.version.cuda
            reason = (
                "this torch is a build without CUDA; install one with it from "
                "https://pytorch.org/get-started/locally"
                if build is None
                else f"torch is built for CUDA {build} and finds no GPU or driver; see `nvidia-smi`"
            )
            raise UserError(f"device={device!r}: {reason}, or use device='cpu'")
        if parsed.index is not None and parsed.index >= count:
            raise UserError(
                f"device={device!r}: there are {count} CUDA devices, numbered from 0; expected "
                f"'cuda:0' to 'cuda:{count - 1}', or 'cpu'"
            )
    if parsed.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device={device!r}: this machine has no Metal GPU; use device='cpu'")
