"""The VAE of Stable Diffusion 3 through diffusers: 256 x 256 frames to 32 x 32 x 16 latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wm_gym.checkpoints import CheckpointError
from wm_gym.latents.fetch import PublishedModel, fetch_model
from wm_gym.latents.preprocessing import check_frames, check_latents, sample_posterior
from wm_gym.latents.vae_mini import to_frames, to_pixels

SD3_VAE = PublishedModel(
    name="the SD3 VAE",
    repo_id="stabilityai/stable-diffusion-3-medium-diffusers",
    files=("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    page="https://huggingface.co/stabilityai/stable-diffusion-3-medium-diffusers",
    licence="Stability AI Community License, gated",
)


class SD3VAESpace:
    """Posterior sample times `scaling_factor`; the VAE's `shift_factor` is ignored, as published.

    Args:
        vae: `diffusers.AutoencoderKL`.
        frame_size: (H, W).
        posterior: "sample", as the published models were trained, or "mean".
    """

    name = "VAE"

    def __init__(
        self,
        vae: Any,
        *,
        frame_size: tuple[int, int] = (256, 256),
        posterior: Literal["sample", "mean"] = "sample",
    ) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.frame_size, self.posterior = frame_size, posterior
        factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.grid = (frame_size[0] // factor, frame_size[1] // factor)
        self.channels: int = vae.config["latent_channels"]

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
    ) -> SD3VAESpace:
        """Fetch and load the published weights; see `wm_gym.latents.fetch.fetch_model`."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        paths = fetch_model(SD3_VAE, local=local, revision=revision, sha256=sha256)
        try:
            vae: Any
            vae, report = AutoencoderKL.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                paths[0].parent,
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=dtype,
                output_loading_info=True,
            )
        except Exception as error:
            raise CheckpointError(
                f"{paths[0].parent} does not hold {SD3_VAE.name} ({error}); get it again"
            ) from error
        broken = [k for k, v in vae.state_dict().items() if v.is_meta or not v.isfinite().all()]
        if faulty := sorted({*report["missing_keys"], *broken}):
            raise CheckpointError(
                f"{paths[0].parent}: {len(faulty)} parameters of {SD3_VAE.name} are missing or "
                f"hold NaN or infinite values, e.g. {faulty[:3]}; get it again"
            )
        return cls(vae.to(device), posterior=posterior)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        check_frames(frames, self.frame_size, self.name)
        pixels = to_pixels(frames).to(self.vae.device, self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean.float()
        if self.posterior == "sample":
            latents = sample_posterior(posterior.mean, posterior.logvar, frames)
        return (latents * self.vae.config["scaling_factor"]).permute(0, 2, 3, 1).contiguous()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (B, h, w, D) into frames (B, H, W, 3) uint8."""
        check_latents(latents, self.grid, self.channels, self.name)
        z = latents.permute(0, 3, 1, 2) / self.vae.config["scaling_factor"]
        return to_frames(self.vae.decode(z.to(self.vae.device, self.vae.dtype)).sample.float())
