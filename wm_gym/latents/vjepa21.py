"""V-JEPA 2.1 ViT-L, image path: each 256 x 256 frame on its own to 16 x 16 x 1024 latents.

This is not the V-JEPA 2 of transformers: 2.1 has an own patch embedding for images (tubelet 1),
modality embeddings, one norm per distillation level and interpolated rotary positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.checkpoints import CheckpointError
from wm_gym.latents.adapted import NoDecoderError
from wm_gym.latents.fetch import (
    PublishedModel,
    fetch_model,
    load_pickle,
    load_safetensors,
    load_strictly,
)
from wm_gym.latents.preprocessing import IMAGENET_MEAN, IMAGENET_STD, check_frames, standardise
from wm_gym.latents.rotary import Rotation, rotate, rotation

VJEPA21 = PublishedModel(
    name="V-JEPA 2.1 ViT-L",
    repo_id="facebookresearch/vjepa2",
    files=("vjepa2_1_vitl_dist_vitG_384.pt",),
    page="https://github.com/facebookresearch/vjepa2",
    licence="not verified: see its page",
    url="https://dl.fbaipublicfiles.com/vjepa2",
)


@dataclass(frozen=True)
class VJEPA21Config:
    """Sizes of a V-JEPA 2.1 encoder; the defaults are ViT-L.

    Attributes:
        dim: width.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: width of the feed-forward layers over `dim`.
        patch: pixels of a patch along each axis.
        tubelet: frames of a video patch; the image path does not use it.
        norms: distillation levels, each with an own final norm; the last is the output's.
        position_grid: rows and columns that positions are interpolated to.
    """

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    norms: int = 4
    position_grid: int = 16


class VJEPA21Encoder(nn.Module):
    """Vision transformer with rotary positions; parameters are named as in Meta's checkpoint."""

    def __init__(self, cfg: VJEPA21Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.patch_embed = _patch_embedding(cfg, cfg.tubelet)
        self.patch_embed_img = _patch_embedding(cfg, 1)
        self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.blocks = nn.ModuleList(_Block(cfg) for _ in range(cfg.depth))
        self.norms_block = nn.ModuleList(nn.LayerNorm(cfg.dim, eps=1e-6) for _ in range(cfg.norms))

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (B, 3, H, W) into tokens (B, h, w, D)."""
        x = self.patch_embed_img["proj"](images[:, :, None])[:, :, 0]  # (B, D, h, w)
        grid = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2) + self.img_mod_embed
        turned_by = self._rotation(grid, x)
        for block in self.blocks:
            x = block(x, turned_by)
        return self.norms_block[-1](x).unflatten(1, grid)

    def _rotation(self, grid: torch.Size, like: Tensor) -> Rotation:
        """Cosines and sines (P, head width) for (time, row, column); the rest stays unrotated."""
        rows, columns = grid
        span = self.cfg.position_grid - 1
        row = torch.arange(rows) * span / max(rows - 1, 1)
        column = torch.arange(columns) * span / max(columns - 1, 1)
        row, column = torch.meshgrid(row, column, indexing="ij")
        axes = torch.stack([torch.zeros_like(row), row, column]).flatten(1)  # an image is time 0
        cosines, sines = rotation(axes.T.to(like.device), self.cfg.dim // self.cfg.heads)
        return cosines.to(like.dtype), sines.to(like.dtype)


class _Block(nn.Module):
    def __init__(self, cfg: VJEPA21Config) -> None:
        super().__init__()
        dim, hidden = cfg.dim, int(cfg.dim * cfg.mlp_ratio)
        self.heads = cfg.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor, turned_by: Rotation) -> Tensor:  # (B, P, D)
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, turned_by), rotate(key, turned_by)
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](y)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class VJEPA21Space:
    """V-JEPA 2.1 features of single frames; there is no decoder to pixels.

    Args:
        encoder: network.
        frame_size: (H, W) of the frames.
        input_size: (H, W) the encoder takes; frames of another size are resized bicubically.
    """

    name = "VJEPA"

    def __init__(
        self,
        encoder: VJEPA21Encoder,
        *,
        frame_size: tuple[int, int] = (256, 256),
        input_size: tuple[int, int] = (256, 256),
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.frame_size, self.input_size = frame_size, input_size
        patch = encoder.cfg.patch
        self.grid = (input_size[0] // patch, input_size[1] // patch)
        self.channels = encoder.cfg.dim

    @classmethod
    def load(
        cls,
        *,
        local: str | Path | None = None,
        revision: str | None = None,
        sha256: dict[str, str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> VJEPA21Space:
        """Fetch and load the published weights; see `wm_gym.latents.fetch.fetch_model`."""
        (path,) = fetch_model(VJEPA21, local=local, revision=revision, sha256=sha256)
        if path.suffix == ".safetensors":
            weights: Any = load_safetensors(path, VJEPA21.name)
        else:
            weights = load_pickle(path, VJEPA21.name)
        with torch.device("meta"):
            encoder = VJEPA21Encoder(VJEPA21Config())
        encoder = encoder.to_empty(device="cpu")
        load_strictly(encoder, select_encoder_weights(weights, str(path)), str(path))
        return cls(encoder.to(device, dtype))

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        check_frames(frames, self.frame_size, self.name)
        images = standardise(frames, self.input_size, IMAGENET_MEAN, IMAGENET_STD, clamp=True)
        return self.encoder(images.to(self.encoder.img_mod_embed)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Raise: this space has no decoder of its own."""
        raise NoDecoderError(self.name)


def select_encoder_weights(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Take the EMA encoder out of Meta's checkpoint, without the prefixes of its training wrapper.

    Raises:
        CheckpointError: if there is no encoder in it.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{source} is no state dict; get it from {VJEPA21.page}")
    found = checkpoint.get("ema_encoder", checkpoint)
    weights = {k.replace("module.", "").replace("backbone.", ""): v for k, v in found.items()}
    if "patch_embed_img.proj.weight" not in weights:
        raise CheckpointError(
            f"{source} holds no V-JEPA 2.1 encoder: key ema_encoder with patch_embed_img.* is "
            f"expected, found {sorted(map(str, checkpoint))[:4]} (V-JEPA 2.0 has no image path). "
            f"Get {VJEPA21.files[0]} from {VJEPA21.page}"
        )
    return weights


def _patch_embedding(cfg: VJEPA21Config, tubelet: int) -> nn.ModuleDict:
    size = (tubelet, cfg.patch, cfg.patch)
    return nn.ModuleDict({"proj": nn.Conv3d(3, cfg.dim, size, stride=size)})
