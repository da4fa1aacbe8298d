"""VA-VAE f16d32, a KL-VAE aligned with DINOv2: 256 x 256 frames to 16 x 16 x 32 latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wm_gym.checkpoints import CheckpointError
from wm_gym.latents.fetch import (
    PublishedModel,
    fetch_model,
    load_pickle,
    load_safetensors,
    load_strictly,
)
from wm_gym.latents.kl_vae import KLVAE, KLVAEConfig
from wm_gym.latents.preprocessing import check_frames, check_latents, sample_posterior
from wm_gym.latents.vae_mini import to_frames, to_pixels

VA_VAE = PublishedModel(
    name="VA-VAE f16d32",
    repo_id="hustvl/vavae-imagenet256-f16d32-dinov2",
    files=("vavae-imagenet256-f16d32-dinov2.pt",),
    page="https://huggingface.co/hustvl/vavae-imagenet256-f16d32-dinov2",
    licence="MIT",
)


class VAVAESpace:
    """Posterior sample of pixels in [-1, 1], not normalised.

    Args:
        vae: network.
        frame_size: (H, W).
        posterior: "sample", as the published models were trained, or "mean".
    """

    name = "VAVAE"

    def __init__(
        self,
        vae: KLVAE,
        *,
        frame_size: tuple[int, int] = (256, 256),
        posterior: Literal["sample", "mean"] = "sample",
    ) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.frame_size, self.posterior = frame_size, posterior
        self.grid = (frame_size[0] // vae.cfg.scale, frame_size[1] // vae.cfg.scale)
        self.channels = vae.cfg.embed_dim

    @classmethod
    def load(
        cls,
        *,
        local: str | Path | None = None,
        revision: str | None = None,
        sha256: dict[str, str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        posterior: Literal["sample", "mean"] = "sample",
    ) -> VAVAESpace:
        """Fetch and load the published weights; see `wm_gym.latents.fetch.fetch_model`."""
        (path,) = fetch_model(VA_VAE, local=local, revision=revision, sha256=sha256)
        if path.suffix == ".safetensors":
            weights: Any = load_safetensors(path, VA_VAE.name)
        else:
            weights = load_pickle(path, VA_VAE.name)
        with torch.device("meta"):
            vae = KLVAE(KLVAEConfig())
        vae = vae.to_empty(device="cpu")
        load_strictly(vae, select_vae_weights(weights, str(path)), str(path))
        return cls(vae.to(device, dtype), posterior=posterior)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        check_frames(frames, self.frame_size, self.name)
        mean, logvar = self.vae.moments(to_pixels(frames).to(self.vae.quant_conv.weight))
        latents = mean.float()
        if self.posterior == "sample":
            latents = sample_posterior(mean, logvar, frames)
        return latents.permute(0, 2, 3, 1).contiguous()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (B, h, w, D) into frames (B, H, W, 3) uint8."""
        check_latents(latents, self.grid, self.channels, self.name)
        z = latents.permute(0, 3, 1, 2).to(self.vae.quant_conv.weight)
        return to_frames(self.vae.decode(z).float())


def select_vae_weights(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """Take the autoencoder out of a training checkpoint, which also holds its losses and DINOv2.

    Raises:
        CheckpointError: if there is no autoencoder in it.
    """
    weights = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    selected = {k: v for k, v in weights.items() if k.startswith(parts)}
    if not selected:
        raise CheckpointError(
            f"{source} holds no LDM autoencoder (keys {', '.join(parts)} are expected, alone or "
            f"under 'state_dict'); get {VA_VAE.files[0]} from {VA_VAE.page}"
        )
    return selected
