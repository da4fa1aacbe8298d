"""What a recipe leaves in its run folder: weights, then the record that says they are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError


def write_run(
    weights_file: Path,
    weights: Mapping[str, torch.Tensor],
    record_file: Path,
    record: Mapping[str, Any],
) -> Path:
    """Write both files atomically, the record last.

    Returns:
        The weights file.
    """
    from safetensors.torch import save

    write_atomically(weights_file, save({k: v.contiguous().cpu() for k, v in weights.items()}))
    write_atomically(record_file, json.dumps(record, indent=1).encode())
    return weights_file


def check_same_scale(latents: Path, held_out: Path) -> None:
    """Refuse held-out latents that are normalised otherwise than those of training.

    Raises:
        ValueError: if they differ.
    """
    first, second = (
        json.loads((folder / "normalisation.json").read_text(encoding="utf-8"))
        for folder in (latents, held_out)
    )
    if first != second:
        raise UserError(
            f"{held_out} is normalised otherwise than {latents}; encode it with --normalisation "
            f"{latents / 'normalisation.json'}"
        )
