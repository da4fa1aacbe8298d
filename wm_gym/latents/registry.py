"""Latent spaces by the names that cards and environment ids use; each is loaded when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.plain_torch import plain_torch
from wm_gym.spec import CardError, LatentSpec

if TYPE_CHECKING:
    from torch import nn

    from wm_gym.latents.base import LatentSpace


@dataclass(frozen=True)
class SpaceEntry:
    """One latent space, not loaded.

    Attributes:
        module: module under wm_gym.latents.
        cls: class in it.
        grid: (h, w), or None where the configuration decides.
        channels: D, or None where the configuration decides.
        frame_size: (H, W), or None where the configuration decides.
        patch: patch size of the published transition models.
        compresses: name of the wide space whose latents an S-VAE compresses to this one's; "" if
            none does.
        semantic: the space was learned without painting pixels.
    """

    module: str
    cls: str
    grid: tuple[int, int] | None = (16, 16)
    channels: int | None = None
    frame_size: tuple[int, int] | None = (256, 256)
    patch: int = 1
    compresses: str = ""
    semantic: bool = False

    @property
    def compressed(self) -> bool:
        """Whether an S-VAE is part of the space."""
        return bool(self.compresses)

    @property
    def space_class(self) -> Any:
        """The class, imported now."""
        return getattr(import_module(f"wm_gym.latents.{self.module}"), self.cls)

    @property
    def config_class(self) -> Any:
        """The dataclass of its sizes, of a space that is trained here."""
        return getattr(import_module(f"wm_gym.latents.{self.module}"), f"{self.cls}Config")

    @property
    def trained_here(self) -> bool:
        """Whether a recipe of this repository makes its weights, which lie beside the card."""
        return self.frame_size is None


LATENT_SPACES: dict[str, SpaceEntry] = {
    "VJEPA": SpaceEntry("vjepa21", "VJEPA21Space", channels=1024, semantic=True),
    "WebDINO": SpaceEntry("web_dino", "WebDINOSpace", channels=1024, semantic=True),
    "SigLIP2": SpaceEntry("siglip2", "SigLIP2Space", channels=1152, semantic=True),
    "VJEPA96": SpaceEntry(
        "vjepa21", "VJEPA21Space", channels=96, compresses="VJEPA", semantic=True
    ),
    "WebDINO96": SpaceEntry(
        "web_dino", "WebDINOSpace", channels=96, compresses="WebDINO", semantic=True
    ),
    "SigLIP296": SpaceEntry(
        "siglip2", "SigLIP2Space", channels=96, compresses="SigLIP2", semantic=True
    ),
    "VAE": SpaceEntry("sd3_vae", "SD3VAESpace", grid=(32, 32), channels=16, patch=2),
    "VAVAE": SpaceEntry("va_vae", "VAVAESpace", channels=32),
    "Cosmos": SpaceEntry("cosmos", "CosmosSpace", channels=16),
    "vae-mini": SpaceEntry("vae_mini", "VAEMini", grid=None, frame_size=None),
    "vjepa-mini": SpaceEntry("vjepa_mini", "VJEPAMini", grid=None, frame_size=None, semantic=True),
    "vjepa-mini-svae": SpaceEntry(
        "vjepa_mini",
        "VJEPAMini",
        grid=None,
        frame_size=None,
        compresses="vjepa-mini",
        semantic=True,
    ),
}
"""Entries by name."""

ADAPTER_WEIGHTS = "adapter.safetensors"
PIXEL_DECODER_WEIGHTS = "pixel_decoder.safetensors"
MINI_WEIGHTS = "latent.safetensors"


def find_space(name: str) -> SpaceEntry:
    """The entry of a name.

    Raises:
        CardError: naming the known ones.
    """
    if name not in LATENT_SPACES:
        raise CardError(f"latent space {name!r} is unknown; expected one of {list(LATENT_SPACES)}")
    return LATENT_SPACES[name]


STANDS_FOR = {"vae-mini": "VAE", "vjepa-mini": "VJEPA", "vjepa-mini-svae": "VJEPA96"}
"""Space trained here -> the published one whose place it takes in environment ids."""


def stands_for(space: str) -> str:
    """Name of a latent space in environment ids; one that is in none stands for itself."""
    return STANDS_FOR.get(space, space)


def compressed_space(wide: str) -> str:
    """Name of the space that compresses a wide one.

    Raises:
        CardError: if none does.
    """
    for name, entry in LATENT_SPACES.items():
        if entry.compresses == wide:
            return name
    known = [entry.compresses for entry in LATENT_SPACES.values() if entry.compressed]
    raise CardError(f"no S-VAE compresses the latents of {wide}; expected one of {known}")


@plain_torch(fork_generators=True)
def load_latent_space(
    latent: LatentSpec, checkpoint: Checkpoint | None = None, *, device: str = "cpu"
) -> LatentSpace:
    """Load the latent space that a card names.

    `latent.config` of a published space may hold the keyword arguments of its class's `load`
    (`local`, `revision`, `sha256`, `dtype` by name, ...), under `adapter` and `pixel_decoder` the
    sizes of an S-VAE and a pixel decoder, whose weights lie beside the card (file name under
    `weights`). That of a space trained here holds its sizes, `weights`, `adapter` and
    `pixel_decoder`. Either may hold `num_views`, the number of cameras side by side, encoded and
    decoded one by one.

    Args:
        latent: the card's latent entry.
        checkpoint: folder the weights beside the card are read from.
        device: torch device.

    Raises:
        CardError: if the space is unknown, or is not of the grid and width the card states.
        CheckpointError: if weights are not there or do not fit.
    """
    entry = find_space(latent.space)
    config = dict(latent.config)
    views = config.pop("num_views", 1)
    load = _load_mini if entry.trained_here else _load_published
    space: Any = load(latent.space, entry, config, checkpoint, device)
    if views != 1:
        from wm_gym.latents.adapted import SideBySideViews

        space = SideBySideViews(space, views)
    if (tuple(space.grid), space.channels) != (tuple(latent.grid), latent.channels):
        raise CardError(
            f"the card states {latent.space} latents of grid {tuple(latent.grid)} with "
            f"{latent.channels} channels, the space has grid {tuple(space.grid)} with "
            f"{space.channels}; correct the card or give the weights it was made with"
        )
    return space


def _load_mini(
    name: str,
    entry: SpaceEntry,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
    device: str,
) -> Any:
    parts = _small_parts(name, entry, config, checkpoint, device)
    space: Any = _beside(entry.module, entry.cls, config, checkpoint, MINI_WEIGHTS).to(device)
    return _adapted(name, entry, space, parts)


def _small_parts(
    name: str,
    entry: SpaceEntry,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
    device: str,
) -> list[Any]:
    """Takes S-VAE and pixel decoder out of `config`; None for what the card does not name."""
    adapter, decoder = config.pop("adapter", None), config.pop("pixel_decoder", None)
    if entry.compressed and adapter is None:
        raise CardError(
            f"latent space {name} needs the sizes of its adapter under latent.config.adapter and "
            f"its weights beside the card as {ADAPTER_WEIGHTS}; `wm-gym import-checkpoint` with an "
            "adapter file writes both, and so does `wm-gym train assemble --adapter`"
        )
    svae = None
    if adapter is not None:
        svae = _beside("svae", "SVAE", adapter, checkpoint, ADAPTER_WEIGHTS)
    painter = None
    if decoder is not None:
        painter = _beside(
            "pixel_decoder", "PixelDecoder", decoder, checkpoint, PIXEL_DECODER_WEIGHTS
        )
    return [None if part is None else part.to(device) for part in (svae, painter)]


def _adapted(name: str, entry: SpaceEntry, space: Any, parts: list[Any]) -> Any:
    """The space with what `_small_parts` found before and behind it."""
    if not any(part is not None for part in parts):
        return space
    from wm_gym.latents.adapted import AdaptedSpace

    return AdaptedSpace(space, *parts, compressed=entry.compressed, name=name)


def _load_published(
    name: str,
    entry: SpaceEntry,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
    device: str,
) -> Any:
    import torch

    if "dtype" in config:
        config["dtype"] = getattr(torch, config["dtype"])
    # the small parts first: what is wrong with them shows before gigabytes are fetched
    parts = _small_parts(name, entry, config, checkpoint, device)
    try:
        space = entry.space_class.load(device=device, **config)
    except TypeError as error:
        raise CardError(f"latent.config of {name} has an unknown entry: {error}") from error
    return _adapted(name, entry, space, parts)


def _beside(
    module: str, cls: str, config: Mapping[str, Any], checkpoint: Checkpoint | None, default: str
) -> nn.Module:
    """Build a network from the sizes in a card and load its weights from beside the card."""
    from wm_gym.latents.fetch import load_strictly

    loaded = import_module(f"wm_gym.latents.{module}")
    config_class = getattr(loaded, f"{cls}Config")
    sizes = {k: v for k, v in config.items() if k != "weights"}
    known = {f.name for f in fields(config_class)}
    if unknown := sorted(sizes.keys() - known):
        raise CardError(f"latent.config: {cls} has no sizes {unknown}; it has {sorted(known)}")
    if checkpoint is None:
        raise CheckpointError(f"{cls} needs a checkpoint folder to read its weights from")
    try:
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
        network = getattr(loaded, cls)(config_class(**sizes))
    except (TypeError, ValueError) as error:
        raise CardError(f"latent.config: {cls} cannot be built ({error})") from error
    filename = config.get("weights", default)
    load_strictly(network, checkpoint.load(filename), str(checkpoint.folder / filename))
    return network.eval().requires_grad_(False)
