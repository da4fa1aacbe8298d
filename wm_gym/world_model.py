"""A latent world model: latent space, transition network and sampler behind one card.

This is the object that environments, planners and evaluations share. It knows how to begin
rollouts;
everything that changes during one lives in `wm_gym.dynamics.rollout.Rollout`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from wm_gym.checkpoints import Checkpoint, CheckpointError, resolve_checkpoint
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.dynamics.rollout import Rollout
from wm_gym.dynamics.samplers import make_sampler
from wm_gym.errors import UserError
from wm_gym.latents.registry import load_latent_space
from wm_gym.plain_torch import plain_torch
from wm_gym.spec import CardError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_gym.latents.base import LatentSpace
    from wm_gym.spec import DynamicsSpec, WorldModelSpec


class WorldModel(Protocol):
    """Anything whose rollouts an environment can drive."""

    spec: WorldModelSpec

    def begin(
        self,
        frames: torch.Tensor,
        actions: torch.Tensor | None = None,
        *,
        seeds: Sequence[int],
    ) -> Rollout:
        """Start one rollout row per frame or history of frames."""
        ...


class LatentWorldModel:
    """A diffusion transformer over a latent space.

    Args:
        spec: the card.
        latent_space: pixels to latents and back.
        network: transition network.
        dynamics: which of the card's samplers drives it; its own `dynamics` entry by default.
        denoising_steps: steps per frame; the card's by default.
        folder: checkpoint folder, kept so that reward models beside the card can be loaded.
    """

    def __init__(
        self,
        spec: WorldModelSpec,
        latent_space: LatentSpace,
        network: DiT,
        *,
        dynamics: DynamicsSpec | None = None,
        denoising_steps: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.spec = spec
        self.dynamics = dynamics or spec.dynamics
        self.latent_space = latent_space
        self.network = network.eval()
        self.denoising_steps = denoising_steps or self.dynamics.denoising_steps
        self.sampler = make_sampler(
            self.dynamics, self.denoising_steps, context_label=spec.context.label
        )
        self.folder = folder
        self._mean = torch.tensor(spec.latent.mean)
        self._std = torch.tensor(spec.latent.std)

    @property
    def device(self) -> torch.device:
        """Device of the transition network."""
        return next(self.network.parameters()).device

    @plain_torch()
    @torch.inference_mode()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames (B, H, W, 3) uint8 into normalised latents (B, h, w, D).

        Raises:
            ValueError: if dtype or size are not those of the card.
        """
        return encode_frames(self.spec, self.latent_space, frames.to(self.device))

    @plain_torch()
    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents (B, h, w, D) into frames (B, H, W, 3) uint8."""
        return self.latent_space.decode(latents * self._std.to(latents) + self._mean.to(latents))

    def begin(
        self,
        frames: torch.Tensor,
        actions: torch.Tensor | None = None,
        *,
        seeds: Sequence[int],
        cache: str = "auto",
        guidance: float = 1.0,
        micro_batch: int | None = None,
    ) -> Rollout:
        """Start a rollout.

        Args:
            frames: uint8 (B, H, W, 3), one image that is repeated as its own history with null
                actions, or (B, n, H, W, 3), a history of n frames.
            actions: physical units, (B, n - 1, A), actions[:, i] led from frame i to i + 1; null
                actions are assumed if None.
            seeds: one noise seed per row.
            cache: "auto", "off", "exact" or "rolling".
            guidance: classifier-free guidance scale against the null action; 1 is off.
            micro_batch: most rows passed through the network at once; None for all.
        """
        return Rollout(
            self,  # pyright: ignore[reportArgumentType]
            frames,
            actions,
            seeds=seeds,
            cache=cache,
            guidance=guidance,
            micro_batch=micro_batch,
        )


@plain_torch()
@torch.inference_mode()
def encode_frames(
    spec: WorldModelSpec, latent_space: LatentSpace, frames: torch.Tensor
) -> torch.Tensor:
    """Encode frames (B, H, W, 3) uint8 into the normalised latents (B, h, w, D) of a card.

    Raises:
        ValueError: if dtype or size are not those of the card.
    """
    expected = (spec.frame.height, spec.frame.width, 3)
    if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != expected:
        raise UserError(
            f"frames have dtype {frames.dtype} and shape {tuple(frames.shape)}, expected "
            f"torch.uint8 and (B, {expected[0]}, {expected[1]}, 3); resize them to the model's "
            f"frame size, e.g. with `wm_gym.data.frames.resize`"
        )
    latents = latent_space.encode(frames)
    mean, std = latents.new_tensor(spec.latent.mean), latents.new_tensor(spec.latent.std)
    return (latents - mean) / std


@plain_torch(fork_generators=True)
def load_world_model(
    checkpoint: str | Path,
    *,
    embedded: str | None = None,
    env_id: str = "this model",
    denoising_steps: int | None = None,
    device: str = "cpu",
) -> LatentWorldModel:
    """Load a latent world model from a checkpoint folder.

    Args:
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        embedded: folder name under assets/ that "embedded" means.
        env_id: named in errors.
        denoising_steps: steps per frame. If the card has a distilled network for exactly this
            number, that network is used; otherwise the full one with that many steps.
        device: torch device.

    Raises:
        CheckpointError: if the checkpoint cannot be found, is damaged or does not fit its card.
        CardError: if the card contradicts itself.
        ValueError: if `denoising_steps` is not a positive whole number.
    """
    if denoising_steps is not None and (
        not isinstance(denoising_steps, int) or denoising_steps < 1
    ):
        raise UserError(
            f"denoising_steps={denoising_steps!r}; expected a whole number of at least 1, or None "
            "for the card's"
        )
    opened = Checkpoint.open(resolve_checkpoint(str(checkpoint), embedded, env_id))
    spec = opened.spec
    _check_views(spec, opened.folder)
    dynamics = spec.dynamics
    if spec.distilled is not None and denoising_steps == spec.distilled.denoising_steps:
        dynamics = spec.distilled
    network = DiT(DiTConfig(**dynamics.network))
    _check_widths(spec, network.config, opened.folder)
    try:
        network.load_state_dict(opened.load(dynamics.weights))
    except RuntimeError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{opened.folder / dynamics.weights} does not fit the network of its card: {error}"
        ) from error
    return LatentWorldModel(
        spec,
        load_latent_space(spec.latent, opened, device=device),
        network.to(device),
        dynamics=dynamics,
        denoising_steps=denoising_steps,
        folder=opened.folder,
    )


def _check_widths(spec: WorldModelSpec, network: DiTConfig, folder: Path) -> None:
    """Refuse a card whose network reads other actions or latents than the card speaks of.

    Raises:
        CardError: naming both.
    """
    read = {"action.width": network.action_width, "latent.channels": network.channels}
    stated = {"action.width": spec.action.width, "latent.channels": spec.latent.channels}
    if read != stated:
        raise CardError(
            f"{folder / 'card.json'} states {stated}, its network reads {read}; correct the card, "
            "or take the card and the weights of one checkpoint"
        )


def _check_views(spec: WorldModelSpec, folder: Path) -> None:
    """Refuse a card whose network and latent space disagree about the cameras.

    Raises:
        CardError: naming both numbers, or a width that they do not divide.
    """
    views = spec.num_views
    encoded = spec.latent.config.get("num_views", 1)
    widths = {"latent.grid": spec.latent.grid[1], "frame.width": spec.frame.width}
    uneven = {name: width for name, width in widths.items() if width % views}
    if encoded != views or uneven:
        raise CardError(
            f"{folder / 'card.json'}: the network reads {views} views, the latent space encodes "
            f"{encoded}, and widths {uneven or widths} must be multiples of it; correct "
            "latent.config.num_views, or dynamics.network.num_views"
        )
