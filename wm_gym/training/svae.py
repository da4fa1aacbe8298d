"""Recipe: `wm-gym train svae`, the adapter that compresses a wide semantic latent to few channels.

The S-VAE learns to give a frozen encoder's features back through d channels, with a Gaussian in
between: relative squared error, the angle between features, and a light KL term that keeps the
compressed latents near unit scale. Sizes and optimiser are the published ones; the weights of the
three terms are not published, so they are this project's choice and settings of the recipe.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.errors import UserError
from wm_gym.latents.registry import ADAPTER_WEIGHTS
from wm_gym.latents.svae import SVAE, SVAEConfig
from wm_gym.training.frozen_features import FrozenFeatureConfig
from wm_gym.training.latent_frames import LatentFrames
from wm_gym.training.loop import TrainingLoop, generator, planned, row_shares
from wm_gym.training.mini_space import part_sizes
from wm_gym.training.run_folder import write_run

RECORD = "adapter.json"
HELD_OUT_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class TrainSVAEConfig(FrozenFeatureConfig):
    """Train an S-VAE adapter on the wide latents of a frozen encoder."""

    latents: Path
    """Folder of wide latents, e.g. of `wm-gym train latents --space VJEPA`."""
    out: Path
    """Run folder: resumable state, logs and at the end `adapter.safetensors` and `adapter.json`."""
    latent_dim: int = 96
    """Channels d of the compressed latent."""
    layers: int = 3
    """Layers on each side."""
    heads: int = 16
    """Attention heads at full width."""
    intermediate_size: int = 2048
    """Width of the feed-forward layers."""
    progressive: bool = False
    """Narrow in two stages, the last layer of each side running at the width in between."""
    latent_layers: int = 0
    """Layers at width d after the Gaussian and before the decoder."""
    cosine_weight: float = 1.0
    """Weight of one minus the cosine between features and their reconstruction, per token."""
    kl_weight: float = 1e-4
    """Weight of the KL divergence per compressed value, in nats."""
    batch: int = 64
    """Frames a step, over all processes."""

    def network(self, input_dim: int) -> SVAEConfig:
        """Sizes of the S-VAE for latents of that width.

        Raises:
            ValueError: if the heads do not divide it.
        """
        if input_dim % self.heads:
            raise UserError(
                f"--heads {self.heads} do not divide the {input_dim} channels of {self.latents}; "
                "give a number that does"
            )
        return SVAEConfig(
            input_dim=input_dim,
            latent_dim=self.latent_dim,
            num_heads=self.heads,
            num_layers=self.layers,
            intermediate_size=self.intermediate_size,
            progressive=self.progressive,
            latent_layers=self.latent_layers,
        )


class Reconstruction(nn.Module):
    """One pass through an S-VAE and back, as a module that data-parallel wrappers can call."""

    def __init__(self, svae: SVAE) -> None:
        super().__init__()
        self.svae = svae

    def forward(self, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compress with noise and expand.

        Args:
            latents: (B, h, w, D).
            noise: (B, h, w, d), standard normal; zeros give the mean.

        Returns:
            Reconstruction (B, h, w, D), mean and log-variance (B, h, w, d), float32.
        """
        mean, logvar = self.svae.moments(latents)
        mean, logvar = mean.float(), logvar.float().clamp(-30.0, 20.0)
        narrow = self.svae.refine(mean + noise * (0.5 * logvar).exp())
        return self.svae.decode(narrow).float(), mean, logvar


def reconstruction_errors(found: Tensor, latents: Tensor, variance: float) -> dict[str, Tensor]:
    """Squared error relative to the features' variance, and one minus the cosine per token.

    Args:
        found: (B, h, w, D).
        latents: (B, h, w, D).
        variance: of the features; a relative error of 1 is that of always answering their mean.
    """
    return {
        "relative_error": (found - latents).square().mean() / variance,
        "angle": 1.0 - F.cosine_similarity(found, latents, dim=-1).mean(),
    }


def initialise(svae: SVAE, latents: Tensor) -> None:
    """Start from small layers whose answer is the features' mean.

    Args:
        svae: network.
        latents: (N, h, w, D), some of the features.
    """
    for name, parameter in svae.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    with torch.no_grad():  # the last norm writes the features' own scale
        svae.dec_norm.bias.copy_(latents.flatten(0, -2).mean(0))
        svae.dec_norm.weight.copy_(latents.flatten(0, -2).std(0))


def train_svae(config: TrainSVAEConfig) -> Path:
    """Train, or resume, and write `adapter.safetensors` (averaged weights) and `adapter.json`.

    Returns:
        The weights file.

    Raises:
        ValueError: if the data or the heads do not fit the settings.
    """
    from accelerate import Accelerator

    torch.manual_seed(config.seed)
    data = LatentFrames(config.latents, config.held_out)
    network = config.network(data.channels)
    svae = SVAE(network)
    sample = data.read(data.draw(config.seed, 0, 256))
    variance = float(sample.flatten(0, -2).var(0).mean())
    initialise(svae, sample)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    loop = TrainingLoop(
        config.out,
        Reconstruction(svae),
        planned(config.loop, config.epochs, math.ceil(len(data) / config.batch)),
        fingerprint=config.fingerprint(),
        accelerator=accelerator,
    )

    @lru_cache(maxsize=1)  # the parts of a step share one drawing
    def drawn(step: int) -> tuple[Tensor, Tensor]:
        latents = data.read(data.draw(config.seed, step, config.batch))
        shape = (*latents.shape[:-1], config.latent_dim)
        return latents, torch.randn(shape, generator=generator(config.seed, step, stream=1))

    def part(rows: slice, step: int):
        latents, noise = (tensor[rows].to(device) for tensor in drawn(step))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            found, mean, logvar = loop.module(latents, noise)
        errors = reconstruction_errors(found, latents, variance)
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        loss = errors["relative_error"] + config.cosine_weight * errors["angle"]
        logged = {name: error.detach() for name, error in errors.items()}
        return loss + config.kl_weight * kl, logged | {"kl": kl.detach()}

    held_out = data.read(data.held_out(HELD_OUT_FRAMES)).to(device)

    @torch.no_grad()
    def measure(step: int) -> dict[str, float]:
        averaged = Reconstruction(SVAE(network)).to(device)
        averaged.load_state_dict(loop.weights())
        noise = torch.zeros(*held_out.shape[:-1], config.latent_dim, device=device)
        found, mean, logvar = averaged(held_out, noise)
        errors = reconstruction_errors(found, held_out, variance)
        scales = {"latent_std": mean.std(), "posterior_std": (0.5 * logvar).exp().mean()}
        return {f"held_out_{name}": float(value) for name, value in (errors | scales).items()}

    shares = row_shares(
        config.batch, config.accumulation, accelerator.process_index, accelerator.num_processes
    )
    loop.run([partial(part, rows) for rows in shares], every=config.measure_every, callback=measure)
    path = config.out / ADAPTER_WEIGHTS
    if accelerator.is_main_process:
        weights = {k.removeprefix("svae."): v for k, v in loop.weights().items()}
        record = {
            "adapter": asdict(network),
            "latents": data.source,
            "steps": loop.step,
            "hours": round(loop.seconds / 3600, 2),
            "held_out": measure(loop.step),
        }
        write_run(path, weights, config.out / RECORD, record)
    accelerator.wait_for_everyone()
    return path


def load_adapter(folder: Path) -> SVAE:
    """The S-VAE of a run folder of `wm-gym train svae`, or of a checkpoint, frozen.

    Raises:
        FileNotFoundError: if the run has not ended.
        CheckpointError: if its weights do not fit its record.
    """
    from wm_gym.latents.fetch import load_safetensors, load_strictly

    svae = SVAE(SVAEConfig(**part_sizes(folder, RECORD, "adapter")))
    path = folder / ADAPTER_WEIGHTS
    load_strictly(svae, load_safetensors(path, "S-VAE"), str(path))
    return svae.eval().requires_grad_(False)
