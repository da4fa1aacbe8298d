"""Web-DINO ViT-L through transformers: 256 x 256 frames, seen at 224, to 16 x 16 x 1024 latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_gym.latents.adapted import NoDecoderError
from wm_gym.latents.fetch import PublishedModel, fetch_model, load_transformer
from wm_gym.latents.preprocessing import IMAGENET_MEAN, IMAGENET_STD, check_frames, standardise

WEB_DINO = PublishedModel(
    name="Web-DINO ViT-L (300M, full 2B, 224)",
    repo_id="facebook/webssl-dino300m-full2b-224",
    files=("config.json", "model.safetensors"),
    page="https://huggingface.co/facebook/webssl-dino300m-full2b-224",
    licence="CC-BY-NC-4.0",
)


class WebDINOSpace:
    """Patch tokens of the last layer after the final LayerNorm; the CLS token is dropped.

    Args:
        encoder: `transformers.Dinov2Model`.
        frame_size: (H, W) of the frames.
        input_size: (H, W) the encoder takes; frames are resized bicubically.
    """

    name = "WebDINO"

    def __init__(
        self,
        encoder: Any,
        *,
        frame_size: tuple[int, int] = (256, 256),
        input_size: tuple[int, int] = (224, 224),
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.frame_size, self.input_size = frame_size, input_size
        patch = encoder.config.patch_size
        self.grid = (input_size[0] // patch, input_size[1] // patch)
        self.channels: int = encoder.config.hidden_size

    @classmethod
    def load(
        cls,
        *,
        local: str | Path | None = None,
        revision: str | None = None,
        sha256: dict[str, str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> WebDINOSpace:
        """Fetch and load the published weights; see `wm_gym.latents.fetch.fetch_model`."""
        from transformers import Dinov2Model

        paths = fetch_model(WEB_DINO, local=local, revision=revision, sha256=sha256)
        return cls(load_transformer(Dinov2Model, paths[0].parent, WEB_DINO, dtype).to(device))

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        check_frames(frames, self.frame_size, self.name)
        images = standardise(frames, self.input_size, IMAGENET_MEAN, IMAGENET_STD, clamp=False)
        tokens = self.encoder(images.to(self.encoder.device, self.encoder.dtype)).last_hidden_state
        return tokens[:, 1:].unflatten(1, self.grid).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Raise: this space has no decoder of its own."""
        raise NoDecoderError(self.name)
