"""Cosmos CI16x16 through torch.jit: 256 x 256 frames to 16 x 16 x 16 latents."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wm_gym.latents.fetch import PublishedModel, fetch_model, load_torchscript
from wm_gym.latents.preprocessing import check_frames, check_latents
from wm_gym.latents.vae_mini import to_frames, to_pixels

COSMOS = PublishedModel(
    name="Cosmos-0.1-Tokenizer-CI16x16",
    repo_id="nvidia/Cosmos-0.1-Tokenizer-CI16x16",
    files=("encoder.jit", "decoder.jit"),
    page="https://huggingface.co/nvidia/Cosmos-0.1-Tokenizer-CI16x16",
    licence="NVIDIA Open Model License",
)
SCALE = 16


class CosmosSpace:
    """Raw latents of pixels in [-1, 1].

    Args:
        encoder: maps (B, 3, H, W) to (B, D, h, w), or to a tuple that begins with it.
        decoder: the reverse.
        frame_size: (H, W).
        channels: D.
    """

    name = "Cosmos"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        frame_size: tuple[int, int] = (256, 256),
        channels: int = 16,
    ) -> None:
        self.encoder, self.decoder = encoder.eval(), decoder.eval()
        self.frame_size, self.channels = frame_size, channels
        self.grid = (frame_size[0] // SCALE, frame_size[1] // SCALE)

    @classmethod
    def load(
        cls,
        *,
        local: str | Path | None = None,
        revision: str | None = None,
        sha256: dict[str, str] | None = None,
        allow_torchscript: bool = False,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> CosmosSpace:
        """Fetch and load the published archives.

        They are programs, so they are opened only if `sha256` gives their checksums, or with
        `allow_torchscript`. See `wm_gym.latents.fetch` for the other arguments.
        """
        paths = fetch_model(COSMOS, local=local, revision=revision, sha256=sha256)
        known = {**COSMOS.sha256, **(sha256 or {})}
        encoder, decoder = (
            load_torchscript(
                path,
                COSMOS.name,
                sha256=known.get(name),
                allow_torchscript=allow_torchscript,
            ).to(device, dtype)
            for name, path in zip(COSMOS.files, paths, strict=True)
        )
        return cls(encoder, decoder)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        check_frames(frames, self.frame_size, self.name)
        latents = _run(self.encoder, to_pixels(frames))
        return latents.permute(0, 2, 3, 1).contiguous()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (B, h, w, D) into frames (B, H, W, 3) uint8."""
        check_latents(latents, self.grid, self.channels, self.name)
        return to_frames(_run(self.decoder, latents.permute(0, 3, 1, 2)))


def _run(archive: nn.Module, x: Tensor) -> Tensor:
    """First output of an archive, in float32, computed in the archive's own type."""
    weight = next(archive.parameters())
    output = archive(x.to(weight.device, weight.dtype))
    return (output[0] if isinstance(output, tuple | list) else output).float()
