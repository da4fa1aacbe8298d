"""Recipe: `wm-gym train idm`, an inverse dynamics model that reads actions from latents.

It is trained on encoded frames of recorded episodes, never on imagined ones; `wm-gym evaluate
latent-spaces` then reads both with it. Inputs are the normalised latents that world models see,
targets the actions as world models see them, so every component counts alike.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.data.latent_clips import LatentClips, read_action_spec
from wm_gym.errors import UserError
from wm_gym.metrics.idm import TransformerIDM, TransformerIDMConfig, action_correlation
from wm_gym.packed_files import load_tensors
from wm_gym.training.loop import LoopConfig, TrainingLoop
from wm_gym.training.run_folder import check_same_scale, write_run

WEIGHTS = "idm.safetensors"
RECORD = "idm.json"
HELD_OUT_CLIPS = 512


@dataclass(frozen=True)
class TrainIDMConfig:
    """Train an inverse dynamics model on precomputed latents."""

    latents: Path
    """Folder of training latents (`wm-gym train latents`)."""
    held_out: Path
    """Folder of held-out latents, encoded with the same normalisation."""
    out: Path
    """Run folder: resumable state, logs, and at the end `idm.safetensors` and `idm.json`."""
    horizon: int = 1
    """Actions k that are read from k + 1 frames."""
    dim: int = 128
    """Width."""
    layers: int = 3
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    patch: int = 1
    """Latents along each axis that form one token."""
    dropout: float = 0.1
    """Dropout."""
    position_std: float = 1.0
    """Standard deviation of the position embeddings at the start, beside features of about unit
    size. Published: 0.02, with which a small network takes many times as long to find out which
    patches of two frames lie at the same place."""
    batch: int = 48
    """Clips a step."""
    measure_every: int = 250
    """Steps between measurements on held-out clips."""
    seed: int = 0
    """Seed of initialisation and batches."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=2000,
            learning_rate=1e-3,
            final_learning_rate_fraction=0.02,
            warmup_steps=100,
            ema=0.99,
            weight_decay=1e-2,
        )
    )
    """Optimisation."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.horizon < 1 or self.batch < 1:
            raise UserError(f"horizon={self.horizon} and batch={self.batch} must be at least 1")
        if not self.position_std > 0:
            raise UserError(f"position_std={self.position_std} must be greater than 0, e.g. 1")


class ActionClips:
    """Clips of normalised latents with the actions between their frames.

    Args:
        folder: of latents.
        horizon: actions k of a clip.

    Attributes:
        action: the action spec.
        scale: mean and std of the latents' channels, as `normalisation.json` holds them.
    """

    def __init__(self, folder: Path, horizon: int) -> None:
        self.action = read_action_spec(folder)
        self.clips = LatentClips(
            folder, horizon + 1, frame_skip=self.action.frame_skip, alignment="source"
        )
        self.scale: dict[str, list[float]] = json.loads(
            (folder / "normalisation.json").read_text(encoding="utf-8")
        )

    def sample(self, seed: int, step: int, batch: int) -> tuple[Tensor, Tensor]:
        """Latents (B, k + 1, h, w, D) and the network's view of the actions (B, k, A)."""
        clip = self.clips.sample(seed, step, batch)
        latents = torch.from_numpy(np.asarray(clip.frames, np.float32))
        latents = (latents - torch.tensor(self.scale["mean"])) / torch.tensor(self.scale["std"])
        # of several raw actions between two frames the first one counts, as in a rollout
        actions = torch.from_numpy(clip.actions[:, :-1, : self.action.size])
        return latents, self.action.normalise(actions)[..., : self.action.size]


@torch.inference_mode()
def read_actions(network: TransformerIDM, latents: Tensor, batch: int = 64) -> Tensor:
    """Actions (N, k, A) as the network says them, of latents (N, k + 1, h, w, D)."""
    network.eval()
    return torch.cat([network(rows) for rows in latents.split(batch)])


def load_idm(folder: Path) -> tuple[TransformerIDM, dict[str, Any]]:
    """Load a finished run.

    Returns:
        The network and its record.

    Raises:
        FileNotFoundError: if the run was not finished.
    """
    if not (folder / RECORD).exists():
        raise FileNotFoundError(
            f"{folder / RECORD} is missing; finish `wm-gym train idm` there: the same command goes "
            "on where it stopped"
        )
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    network = TransformerIDM(TransformerIDMConfig(**record["network"]))
    network.load_state_dict(load_tensors(folder / WEIGHTS))
    return network.eval().requires_grad_(False), record


def train_idm(config: TrainIDMConfig) -> Path:
    """Train, or resume, and write `idm.safetensors` and `idm.json`.

    Returns:
        The weights file.

    Raises:
        ValueError: if the held-out latents are of another space or normalisation.
    """
    torch.manual_seed(config.seed)
    data = ActionClips(config.latents, config.horizon)
    held_out = ActionClips(config.held_out, config.horizon)
    check_same_scale(config.latents, config.held_out)
    _, rows, columns, channels = data.clips.latents.shape
    network = TransformerIDMConfig(
        feature_dim=channels, spatial_h=rows, spatial_w=columns, horizon=config.horizon,
        action_dim=data.action.size, model_dim=config.dim, num_layers=config.layers,
        num_heads=config.heads, dropout=config.dropout, patch_size=config.patch,
    )  # fmt: skip
    free = {"loop", "out", "measure_every"}
    idm = TransformerIDM(network)
    for positions in (idm.spatial_pos_emb, idm.temporal_pos_emb):
        nn.init.normal_(positions, std=config.position_std)
    loop = TrainingLoop(
        config.out,
        idm,
        config.loop,
        fingerprint={k: v for k, v in asdict(config).items() if k not in free},
    )
    device = loop.accelerator.device
    latents, truth = held_out.sample(config.seed, 0, HELD_OUT_CLIPS)

    def step_function(step: int):
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout, so that resuming is exact
        seen, actions = data.sample(config.seed, step, config.batch)
        loss = F.mse_loss(loop.module(seen.to(device)), actions.to(device))
        return loss, {}

    def measure(step: int) -> dict[str, float]:
        averaged = TransformerIDM(network).to(device)
        averaged.load_state_dict(loop.weights())
        found = read_actions(averaged, latents.to(device)).cpu()
        return {"held_out_pearson": action_correlation(found, truth)["pearson"]}

    loop.run(step_function, every=config.measure_every, callback=measure)
    record = {
        "network": asdict(network),
        "normalisation": data.scale,
        "latents": json.loads((config.latents / "source.json").read_text(encoding="utf-8")),
        "steps": loop.step,
        "hours": round(loop.seconds / 3600, 2),
        "held_out": measure(loop.step),
    }
    return write_run(config.out / WEIGHTS, loop.weights(), config.out / RECORD, record)
