"""Latent spaces built on another: S-VAE in front, pixel decoder behind, or several views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wm_gym.errors import UserError
from wm_gym.latents.base import LatentSpace
from wm_gym.latents.pixel_decoder import PixelDecoder
from wm_gym.latents.preprocessing import check_frames, check_latents
from wm_gym.latents.svae import SVAE


class NoDecoderError(UserError, RuntimeError):
    """A latent space that has no way back to pixels was asked for pixels."""

    def __init__(self, space: str) -> None:
        super().__init__(space)
        self.space = space

    def __str__(self) -> str:
        """The message; made of the name, so that the error can be pickled."""
        return (
            f"latent space {self.space} has no pixel decoder loaded, so its latents cannot be "
            "shown. Load one (pixel_decoder in the card's latent.config), train one on these "
            "latents, or stay in latents (obs='latents', no rendering)"
        )


class AdaptedSpace:
    """A wide latent space with an S-VAE in front of it, a pixel decoder behind it, or both.

    Args:
        base: the wide latent space.
        svae: compresses its latents.
        pixel_decoder: paints compressed latents, or the wide ones if there is no S-VAE.
        compressed: True: the latents of this space are the compressed ones (names ending in 96).
            False: they stay wide, and the S-VAE serves the pixel decoder only.
        name: name in the registry.

    Raises:
        ValueError: if the widths of the parts do not fit.
    """

    def __init__(
        self,
        base: LatentSpace,
        svae: SVAE | None,
        pixel_decoder: PixelDecoder | None = None,
        *,
        compressed: bool = True,
        name: str | None = None,
    ) -> None:
        if compressed and svae is None:
            raise UserError(f"{name} compresses the latents of {base.name} and needs an adapter")
        narrow = base.channels if svae is None else svae.cfg.latent_dim
        if svae is not None and svae.cfg.input_dim != base.channels:
            raise UserError(
                f"the adapter takes {svae.cfg.input_dim} channels, but {base.name} has "
                f"{base.channels}; give the adapter that was trained on {base.name}"
            )
        if pixel_decoder is not None and pixel_decoder.cfg.latent_dim != narrow:
            raise UserError(
                f"the pixel decoder takes {pixel_decoder.cfg.latent_dim} channels, but gets "
                f"{narrow}; give the decoder that was trained on these latents"
            )
        self.base, self.compressed = base, compressed
        self.svae = None if svae is None else svae.eval().requires_grad_(False)
        self.pixel_decoder = (
            None if pixel_decoder is None else pixel_decoder.eval().requires_grad_(False)
        )
        self.name = name or base.name
        self.grid = base.grid
        self.channels = narrow if compressed else base.channels
        self.frame_size: tuple[int, int] | None = getattr(base, "frame_size", None)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 into raw latents (B, h, w, D) float32."""
        latents = self.base.encode(frames)
        return self._compress(latents).float() if self.compressed else latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (B, h, w, D) into frames (B, H, W, 3) uint8.

        Raises:
            NoDecoderError: if there is neither a pixel decoder nor a decoder in the base space.
        """
        check_latents(latents, self.grid, self.channels, self.name)
        if self.pixel_decoder is None:
            if not self.compressed:
                return self.base.decode(latents)
            raise NoDecoderError(self.name)
        if not self.compressed and self.svae is not None:
            latents = self._compress(latents)
        colours = self.pixel_decoder(latents.to(self.pixel_decoder.proj_in.weight)).float()
        return (colours * 255).round().to(torch.uint8)

    def _compress(self, latents: Tensor) -> Tensor:
        assert self.svae is not None
        return self.svae.encode(latents.to(self.svae.enc_proj.weight))


class SideBySideViews:
    """Several cameras in one frame, side by side; their latents lie side by side, too.

    Args:
        base: latent space of one camera.
        views: number of cameras.
    """

    def __init__(self, base: LatentSpace, views: int) -> None:
        self.base, self.views = base, views
        self.name, self.channels = base.name, base.channels
        self.grid = (base.grid[0], base.grid[1] * views)
        size: tuple[int, int] | None = getattr(base, "frame_size", None)
        self.frame_size = None if size is None else (size[0], size[1] * views)

    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (B, H, V W, 3) uint8 into raw latents (B, h, V w, D) float32."""
        if self.frame_size is not None:
            check_frames(frames, self.frame_size, f"{self.name} with {self.views} views")
        return self._each(frames, self.base.encode)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents (B, h, V w, D) into frames (B, H, V W, 3) uint8."""
        check_latents(latents, self.grid, self.channels, self.name)
        return self._each(latents, self.base.decode)

    def _each(self, pictures: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to every view of (B, height, V width, C)."""
        views = torch.cat(pictures.chunk(self.views, dim=2))
        return torch.cat(function(views).chunk(self.views), dim=2)
