"""`wm-gym import-checkpoint`: released weights into a checkpoint folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from wm_gym.checkpoints import CheckpointError
from wm_gym.latents.fetch import file_sha256
from wm_gym.spec import WorldModelSpec
from wm_gym.training.import_checkpoint import ImportOptions, import_checkpoint


@dataclass(frozen=True)
class ImportCheckpointConfig:
    """Convert released weights (.pt with tensors only, or .safetensors) into a checkpoint folder.

    What the shapes cannot tell is a flag; its default is the published protocol, and
    `wm-gym diagnose` measures whether it is right.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """Weights of the transition model."""
    space: str
    """Latent space: VJEPA, WebDINO, SigLIP2, each also with 96 at its end, VAE, VAVAE or Cosmos."""
    to: Path
    """Checkpoint folder to write; files of other names in it are kept."""
    adapter: Path | None = None
    """S-VAE adapter of the d=96 variants."""
    pixel_decoder: Path | None = None
    """Pixel decoder of the d=96 variants."""
    objective: Literal["flow", "ddpm"] = "flow"
    """Objective the weights were trained with."""
    alignment: Literal["target", "source"] = "source"
    """Whether a frame's slot holds the action that produced it, or the one taken at it."""
    heads: int | None = None
    """Attention heads; one per 64 channels by default."""
    num_views: int = 1
    """Cameras side by side along the latents' width."""
    frame_skip: int = 2
    """Raw 5 Hz steps per model step."""
    denoising_steps: int = 10
    """Denoising steps per frame."""
    adapter_heads: int = 16
    """Heads of the S-VAE, unless its file says."""
    pixel_decoder_heads: int | None = None
    """Heads of the pixel decoder; 4, or 1 in the legacy layout, by default."""
    local: str | None = None
    """Folder or file of the latent space's own weights, where no hub is reachable."""
    revision: str | None = None
    """Commit of the latent space's own weights to download; none is pinned by wm_gym."""
    space_sha256: dict[str, str] = field(default_factory=dict)
    """Expected SHA-256 of the latent space's files, as pairs FILE HASH; checked at every load."""
    sha256: str | None = None
    """Expected SHA-256 of the transition model's file; any other file is refused."""
    space_config: dict[str, str] = field(default_factory=dict)
    """Further arguments of the latent space."""
    name: str | None = None
    """Name on the card; the file's by default."""
    licence: str = "CC-BY-SA-4.0"
    """SPDX identifier of the weights' licence."""
    training_data: str = ImportOptions.training_data
    """What they were trained on, for the card."""
    overwrite: bool = False
    """Replace a checkpoint that is already in the folder."""


def run(config: ImportCheckpointConfig) -> WorldModelSpec:
    """Run `wm-gym import-checkpoint`.

    Returns:
        The card written.

    Raises:
        CheckpointError: if the file is no transition model of that space, or not the one expected;
            nothing is written then.
    """
    _check_sha256(config.file, config.sha256)
    pins = {
        "local": None if config.local is None else _found(config.local),
        "revision": config.revision,
        "sha256": config.space_sha256 or None,
    }
    pins = {name: value for name, value in pins.items() if value is not None}
    options = ImportOptions(
        objective=config.objective,
        alignment=config.alignment,
        heads=config.heads,
        num_views=config.num_views,
        frame_skip=config.frame_skip,
        denoising_steps=config.denoising_steps,
        adapter_heads=config.adapter_heads,
        pixel_decoder_heads=config.pixel_decoder_heads,
        space_config={**config.space_config, **pins},
        name=config.name,
        licence=config.licence,
        training_data=config.training_data,
    )
    spec = import_checkpoint(
        config.file,
        config.space,
        config.to,
        adapter=config.adapter,
        pixel_decoder=config.pixel_decoder,
        options=options,
        overwrite=config.overwrite,
    )
    print(f"wrote {config.to}: {spec.description}")
    print(f"use it with checkpoint={str(config.to)!r}; test it with `wm-gym diagnose`")
    return spec


def _found(local: str) -> str:
    """An absolute path, so that the card holds wherever it is opened from."""
    path = Path(local).expanduser().resolve()
    if not path.exists():
        raise CheckpointError(
            f"--local {local} does not exist; give the folder or file of the latent space's own "
            "weights, or leave it out to download them when the model is loaded"
        )
    return str(path)


def _check_sha256(file: Path, expected: str | None) -> None:
    if expected is None:
        return
    found = file_sha256(file)
    if found != expected.lower():
        raise CheckpointError(
            f"{file} has SHA-256 {found}, expected {expected}: it is truncated, altered or of "
            "another version; get it again, or correct --sha256"
        )
