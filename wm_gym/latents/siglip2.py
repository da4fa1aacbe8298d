"""SigLIP 2 So400m: 256 x 256 frames, seen at 224, to 16 x 16 x 1152 latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_gym.latents.adapted import NoDecoderError
from wm_gym.latents.fetch import PublishedModel, fetch_model, load_transformer
from wm_gym.latents.preprocessing import check_frames, standardise

SIGLIP2 = PublishedModel(
    name="SigLIP 2 So400m/14 224",
    repo_id="google/siglip2-so400m-patch14-224",
    files=("config.json", "model.safetensors"),
    page="https://huggingface.co/google/siglip2-so400m-patch14-224",
    licence="Apache-2.0",
)
MEAN = STD = (0.5, 0.5, 0.5)


class SigLIP2Space:
    """Output of the last encoder layer BEFORE the model's own `post_layernorm`.

    Args:
        encoder: `transformers.SiglipVisionModel`.
        frame_size: (H, W) of the frames.
        input_size: (H, W) the encoder takes; frames are resized bicubically.
    """

    name = "SigLIP2"

    def __init__(
        self,
        encoder: Any,
        *,
        frame_size: tuple[int, int] = (256, 256),
        input_size: tuple[int, int] = (224, 224),
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        # transformers 5 has the layers in the model itself, 4 one level down
        self._tower = getattr(encoder, "vision_model", encoder)
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
    ) -> SigLIP2Space:
        """Fetch and load the published weights; see `wm_gym.latents.fetch.fetch_model`."""
        from transformers import SiglipVisionModel

        paths = fetch_model(SIGLIP2, local=local, revision=revision, sha256=sha256)
        return cls(load_transformer(SiglipVisionModel, paths[0].parent, SIGLIP2, dtype).to(device))

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        check_frames(frames, self.frame_size, self.name)
        images = standardise(frames, self.input_size, MEAN, STD, clamp=False)
        images = images.to(self.encoder.device, self.encoder.dtype)
        # the parts are called one by one: which entry of `hidden_states` comes before
        # post_layernorm has changed between versions of transformers
        embedded = self._tower.embeddings(images)
        tokens = self._tower.encoder(inputs_embeds=embedded).last_hidden_state
        return tokens.unflatten(1, self.grid).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Raise: this space has no decoder of its own."""
        raise NoDecoderError(self.name)
