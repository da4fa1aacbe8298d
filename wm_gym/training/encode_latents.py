"""Recipe: `wm-gym train latents`, every frame of a dataset through a frozen latent space, once.

Writes the folder that `wm-gym train latent-dynamics` reads: memory-mapped latents, per-channel
normalisation and the action spec of the domain.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from wm_gym.checkpoints import write_atomically
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.data.latent_clips import precompute_latents
from wm_gym.domains import DOMAINS
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig


@dataclass(frozen=True)
class EncodeLatentsConfig:
    """Precompute the latents of a dataset."""

    data: Path
    """Folder of episodes, written by `wm-gym collect`."""
    autoencoder: Path
    """Weights of vae-mini, written by `wm-gym train autoencoder`."""
    out: Path
    """Folder of latents to write."""
    domain: str = "langtable"
    """Whose action spec is written beside the latents."""
    network: VAEMiniConfig = field(default_factory=VAEMiniConfig)
    """Sizes of the autoencoder."""
    normalisation: Path | None = None
    """Reuse this `normalisation.json` (held-out data must use that of the training data)."""
    batch: int = 64
    """Frames a pass."""


def encode_latents(config: EncodeLatentsConfig) -> Path:
    """Encode a dataset; does nothing if it is done already.

    Returns:
        The folder.
    """
    from safetensors.torch import load_file

    if config.domain not in DOMAINS:
        raise ValueError(f"domain {config.domain!r} is unknown; expected one of {list(DOMAINS)}")
    space = VAEMini(config.network)
    weights = {key: value.float() for key, value in load_file(config.autoencoder).items()}
    space.load_state_dict(weights)
    space.eval()
    digest = hashlib.sha256(config.autoencoder.read_bytes()).hexdigest()
    folder = precompute_latents(
        EpisodeDataset(config.data),
        lambda frames: space.encode(torch.from_numpy(frames)),
        config.out,
        batch=config.batch,
        source={"space": space.name, "network": asdict(config.network), "sha256": digest},
    )
    if config.normalisation is not None:
        normalisation = config.normalisation.read_bytes()
    else:
        latents = np.load(folder / "latents.npy", mmap_mode="r")
        rows = np.random.default_rng(0).choice(len(latents), min(len(latents), 8192), replace=False)
        sample = np.asarray(latents[np.sort(rows)], np.float32).reshape(-1, latents.shape[-1])
        mean, std = sample.mean(0).tolist(), sample.std(0).tolist()
        normalisation = json.dumps({"mean": mean, "std": std}, indent=1).encode()
    write_atomically(folder / "normalisation.json", normalisation)
    action = json.dumps(asdict(DOMAINS[config.domain].action), indent=1)
    write_atomically(folder / "action.json", action.encode())
    return folder
