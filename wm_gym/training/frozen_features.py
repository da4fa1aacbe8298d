"""Settings shared by the recipes that learn from single frames of a frozen encoder's latents."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wm_gym.training.loop import LoopConfig

NOT_LEARNED = ("loop", "out", "epochs", "accumulation", "measure_every")
"""Settings that a resumed run may change."""


@dataclass(frozen=True, kw_only=True)
class FrozenFeatureConfig:
    """What `wm_gym.training.svae` and `wm_gym.training.pixel_decoder` have in common."""

    latents: Path
    """Folder of latents (`wm-gym train latents`)."""
    out: Path
    """Run folder: resumable state, logs, and at the end the weights and their record."""
    batch: int
    """Frames a step, over all processes."""
    accumulation: int = 1
    """Parts that a process computes its share of the batch in, one after the other."""
    epochs: int = 100
    """Passes over the frames where --loop.steps is 0."""
    held_out: int = 64
    """Episodes at the end of the data kept out of training, for the logged errors."""
    measure_every: int = 500
    """Steps between measurements on the episodes kept out."""
    bf16: bool = True
    """Autocast to bfloat16."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=0, warmup_steps=0, ema=0.9995)
    )
    """Optimisation; steps=0 takes --epochs, then warmup_steps=0 takes one epoch."""

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_LEARNED}
