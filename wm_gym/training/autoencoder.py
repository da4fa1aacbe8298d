"""Recipe: `wm-gym train autoencoder`, vae-mini on the frames of a dataset of episodes.

The loss is a weighted squared error plus a small KL term. Objects cover a few per cent of a frame,
so
pixels that differ from the empty scene (the median frame) and pixels that are about to change are
weighed up; otherwise small blocks would be painted over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_gym.data.camera_frames import CameraFrames
from wm_gym.data.episodes import EpisodeReader
from wm_gym.data.open_dataset import open_dataset
from wm_gym.errors import UserError
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig, to_pixels
from wm_gym.packed_files import load_tensors
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator
from wm_gym.training.mini_space import write_mini_space

WEIGHTS = "autoencoder.safetensors"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Train vae-mini."""

    data: Path
    """Folder of episodes: written by `wm-gym collect`, LeRobot v2.1 or v3.0, or mp4 + npz files;
    frames of another size than the network's are resized."""
    out: Path
    """Run folder: resumable state, logs, pictures and at the end `autoencoder.safetensors` and its
    record."""
    network: VAEMiniConfig = field(default_factory=VAEMiniConfig)
    """Network sizes."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=2500,
            learning_rate=1.5e-3,
            final_learning_rate_fraction=0.02,
            warmup_steps=100,
            ema=0.995,
            weight_decay=1e-2,
        )
    )
    """Optimisation."""
    batch: int = 32
    """Frames a step."""
    object_weight: float = 8.0
    """Extra weight of pixels that differ from the empty scene."""
    kl_weight: float = 5e-4
    """Weight of the KL divergence per latent value, in nats."""
    held_out: int = 20
    """Episodes at the end of the dataset kept out of training, for the logged PSNR."""
    bf16: bool = True
    """Linear layers in bfloat16."""
    init: Path | None = None
    """Weights to start from (`autoencoder.safetensors`)."""
    decoder_only: bool = False
    """Train the decoder alone: latents stay as they are, so a world model on them stays valid."""
    decoder_noise: float = 0.1
    """With decoder_only: standard deviation of the noise added to latents."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    pictures_every: int = 250
    """Steps between pictures."""
    cameras: tuple[str, ...] = ()
    """Cameras of the dataset; the frames of several all count, each on its own."""

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run must share; older runs do not know cameras."""
        stored = asdict(self) | {"loop": None, "out": None}
        if not self.cameras:
            del stored["cameras"]
        return stored


def median_frame(data: CameraFrames | EpisodeReader, count: int = 200, seed: int = 0) -> np.ndarray:
    """The empty scene: the per-pixel median over random frames, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    lengths = data.lengths
    episodes = rng.integers(0, len(data), count)
    frames = [
        data.frames(int(e), slice(s := int(rng.integers(lengths[e])), s + 1)) for e in episodes
    ]
    return np.median(np.concatenate(frames), axis=0).astype(np.uint8)


def sample_frames(
    data: CameraFrames | EpisodeReader, episodes: np.ndarray, batch: int, seed: int, step: int
) -> torch.Tensor:
    """Random frames (B, H, W, 3) uint8, a function of (seed, step)."""
    rng = np.random.default_rng([seed, step])
    chosen = rng.choice(episodes, batch)
    states = (rng.random(batch) * (data.lengths[chosen] + 1)).astype(int)
    frames = [data.frames(int(e), slice(s, s + 1)) for e, s in zip(chosen, states, strict=True)]
    return torch.from_numpy(np.concatenate(frames))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two pixel tensors in [-1, 1]."""
    return float(10 * torch.log10(4.0 / (a - b).pow(2).mean().clamp_min(1e-12)))


def start_from(model: VAEMini, weights: Path) -> None:
    """Load the weights of an autoencoder; a fine painter may take the place of a linear one.

    Raises:
        ValueError: if they are of other sizes.
    """
    stored = {key: value.float() for key, value in load_tensors(weights).items()}
    own = model.state_dict()
    if not any(key.startswith("fine_painter.") for key in stored) and model.config.fine:
        stored = {k: v for k, v in stored.items() if not k.startswith("unpatchify.")}
        stored |= {k: v for k, v in own.items() if k.startswith("fine_painter.")}
    try:
        model.load_state_dict(stored)
    except RuntimeError as error:
        raise UserError(f"--init {weights} does not fit the autoencoder: {error}") from error


def train_autoencoder(config: AutoencoderConfig) -> Path:
    """Train, or resume, and write `autoencoder.safetensors` with the averaged weights.

    Returns:
        The weights file.
    """
    from PIL import Image

    torch.manual_seed(config.seed)
    data = CameraFrames(
        open_dataset(config.data, config.cameras or None),
        config.network.height,
        config.network.width,
        max(1, len(config.cameras)),
    )
    if not 0 < config.held_out < len(data):
        raise UserError(
            f"{config.data} holds {len(data)} episodes, expected more than the {config.held_out} "
            "kept out, and at least 1 of those; collect more or change --held-out"
        )
    training = np.arange(len(data) - config.held_out)
    model = VAEMini(config.network)
    empty = to_pixels(torch.from_numpy(median_frame(data))[None])[0]
    model.background.copy_(empty)
    if config.init is not None:
        start_from(model, config.init)
    elif config.decoder_only:
        raise UserError("--decoder-only needs --init, the autoencoder whose encoder is kept")
    if config.decoder_only:
        for part in (model.patchify, model.encoder, model.to_moments):
            part.requires_grad_(False)
        model.encoder_position.requires_grad_(False)
    loop = TrainingLoop(config.out, model, config.loop, fingerprint=config.fingerprint())
    device = loop.accelerator.device
    held_out = sample_frames(data, np.arange(len(data) - config.held_out, len(data)), 32, 0, 0)
    held_out = to_pixels(held_out).to(device)

    def step_function(step: int):
        pixels = to_pixels(sample_frames(data, training, config.batch, config.seed, step)).to(
            device
        )
        noise = generator(config.seed, step, stream=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            mean, log_variance = model.moments(pixels)
            eps = torch.randn(mean.shape, generator=noise).to(device)
            spread = (0.5 * log_variance).exp()
            if config.decoder_only:
                spread = torch.full_like(mean, config.decoder_noise)
            painted = model.paint(mean + eps * spread)
        objects = (pixels - model.background).abs().amax(1, keepdim=True).mul(2).clamp(max=1.0)
        weight = 1.0 + config.object_weight * objects
        error = (weight * (painted - pixels).pow(2)).mean()
        kl = 0.5 * (mean.pow(2) + log_variance.exp() - 1.0 - log_variance).mean()
        loss = error + config.kl_weight * kl
        return loss, {"weighted_error": error.detach(), "kl": kl.detach()}

    def look(step: int) -> dict[str, float]:
        averaged = VAEMini(config.network).to(device)
        averaged.load_state_dict(loop.weights())
        with torch.inference_mode():
            mean, log_variance = averaged.moments(held_out)
            painted = averaged.paint(mean).clamp(-1, 1)
        pair = torch.cat([held_out[:8], painted[:8]], dim=2)
        picture = ((pair.permute(2, 0, 3, 1).flatten(1, 2) + 1) * 127.5).byte().cpu().numpy()
        Image.fromarray(picture).save(config.out / f"reconstruction_{step:06d}.png")
        objects = (held_out - averaged.background).abs().amax(1, keepdim=True) > 0.1
        shown = objects.expand_as(held_out)
        return {
            "held_out_psnr": psnr(painted, held_out),
            "held_out_object_psnr": psnr(painted[shown], held_out[shown]),
            "posterior_std": float((0.5 * log_variance).exp().mean()),
            "latent_std": float(mean.std()),
        }

    loop.run(step_function, every=config.pictures_every, callback=look)
    figures: dict[str, Any] = {
        "steps": loop.step,
        "hours": round(loop.seconds / 3600, 2),
        "held_out": look(loop.step),
    }
    return write_mini_space(config.out, model, loop.weights(), WEIGHTS, figures)
