"""Recipe: `wm-gym train assemble`, trained parts into a checkpoint folder with its card.

The card's `metrics` are filled afterwards by `wm-gym evaluate …`; nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_gym.checkpoints import Checkpoint, save_checkpoint
from wm_gym.data.latent_clips import check_latents_folder, read_action_spec, read_episode_facts
from wm_gym.domains import DOMAINS, Domain, domain_of
from wm_gym.errors import UserError
from wm_gym.latents.registry import (
    ADAPTER_WEIGHTS,
    MINI_WEIGHTS,
    PIXEL_DECODER_WEIGHTS,
    find_space,
)
from wm_gym.packed_files import load_tensors
from wm_gym.spec import (
    ContextSpec,
    DynamicsSpec,
    FrameSpec,
    LatentSpec,
    RewardSpec,
    WorldModelSpec,
)
from wm_gym.training import pixel_decoder, svae
from wm_gym.training.mini_space import part_sizes, read_mini_space

WINDOW = 10
"""Context of a window model whose record does not say how long its clips were."""


@dataclass(frozen=True)
class AssembleConfig:
    """Make a checkpoint folder from run folders."""

    name: str
    """Name of the model, e.g. langtable-vae-mini."""
    out: Path
    """Checkpoint folder to write; metrics of a card that is already there are dropped."""
    latents: Path
    """Folder of `wm-gym train latents`: says the latent space, normalisation and cameras."""
    dynamics: Path
    """Run folder of `wm-gym train latent-dynamics`."""
    encoder: Path | None = None
    """Run folder of `wm-gym train autoencoder` or `train vjepa`, or a checkpoint, for latents of a
    space trained here."""
    adapter: Path | None = None
    """Run folder of `wm-gym train svae`: part of the compressed spaces; with a native semantic
    space of a published model it serves the pixel decoder."""
    pixel_decoder: Path | None = None
    """Run folder of `wm-gym train pixel-decoder`, or a checkpoint that has one."""
    distilled: Path | None = None
    """Run folder of `wm-gym train distil`."""
    reward: Path | None = None
    """Run folder of `wm-gym train reward`, or a checkpoint over the same latents whose success
    classifier and thresholds are kept."""
    domain: str = "auto"
    """Simulated domain, e.g. langtable: its actions, tasks and twin; `data` takes the actions of
    the latents and knows no tasks; `auto` is that of the simulator the episodes behind the latents
    of a space trained here come from, else data."""
    band: int = 0
    """Frames of context, the new one included; 0 takes the network's band, or the length of the
    clips that a window model was trained on."""
    denoising_steps: int = 10
    """Default steps per frame."""
    sampling_shift: float = 0.0
    """Noise-schedule shift for sampling; 0 takes the one of training."""
    unchanged_threshold: float = 0.0
    """Mean absolute change of a cell, in standard deviations of the latents, below which a rollout
    leaves the cell exactly as it was; 0 takes every cell as it was sampled, as published."""
    embedded: bool = True
    """Whether this is one of the small models that ship with wm_gym."""
    description: str = ""
    """One or two sentences for the card."""
    licence: str = "Apache-2.0"
    """SPDX identifier for the weights."""
    training_data: str = ""
    """What the model was trained on, for the card; the domain's by default."""
    horizon: int = 0
    """Steps of an episode; 0 takes the domain's, or 50."""


@dataclass(frozen=True)
class LatentParts:
    """What a checkpoint holds of its latent space.

    Attributes:
        weights: tensors by file name.
        config: `latent.config` of the card.
        grid: (h, w) of one camera.
        channels: D.
        frame_size: (H, W) of one camera.
    """

    weights: dict[str, dict[str, torch.Tensor]]
    config: dict[str, Any]
    grid: tuple[int, int]
    channels: int
    frame_size: tuple[int, int]


def _of_a_checkpoint(config: AssembleConfig, source: dict[str, Any]) -> ValueError:
    return ValueError(
        f"{config.latents} was encoded with the checkpoint {source['card']!r}; a model that is "
        "fine-tuned keeps that checkpoint's card, see examples/finetune_on_own_episodes.py"
    )


def mini_parts(config: AssembleConfig, source: dict[str, Any]) -> LatentParts:
    """The parts of a space that was trained here: its weights, and a pixel decoder if it has one.

    Args:
        config: names their run folders.
        source: of the latents.

    Raises:
        ValueError: if there is no encoder, or parts do not belong together.
    """
    entry = find_space(source["space"])
    if config.encoder is None and "card" in source:
        raise _of_a_checkpoint(config, source)
    if config.encoder is None or entry.compressed != (config.adapter is not None):
        raise UserError(
            f"{config.latents} holds {source['space']} latents, which need --encoder and "
            f"{'the' if entry.compressed else 'no'} --adapter; give the run folder of its training"
        )
    mini = read_mini_space(config.encoder)
    if mini.space != (entry.compresses or source["space"]):
        raise UserError(
            f"--encoder {config.encoder} is a {mini.space}, {config.latents} holds "
            f"{source['space']} latents; give the one they were made with"
        )
    space = mini.load()
    weights, sizes, channels = {MINI_WEIGHTS: mini.tensors()}, dict(mini.network), space.channels
    if config.adapter is not None:
        sizes["adapter"], weights[ADAPTER_WEIGHTS] = adapter_parts(config.adapter)
        channels = sizes["adapter"]["latent_dim"]
    if config.pixel_decoder is not None:
        sizes["pixel_decoder"], weights[PIXEL_DECODER_WEIGHTS] = painter_parts(
            config.pixel_decoder, channels
        )
    size = (mini.network["height"], mini.network["width"])
    return LatentParts(weights, sizes, space.grid, channels, size)


def adapter_parts(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Sizes and weights of an S-VAE."""
    sizes = part_sizes(folder, svae.RECORD, "adapter")
    return sizes, load_tensors(folder / ADAPTER_WEIGHTS)


def painter_parts(folder: Path, channels: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Sizes and weights of a pixel decoder.

    Raises:
        ValueError: if it reads latents of another width.
    """
    sizes = part_sizes(folder, pixel_decoder.RECORD, "pixel_decoder")
    if sizes["latent_dim"] != channels:
        raise UserError(
            f"--pixel-decoder {folder} reads latents of {sizes['latent_dim']} channels, expected "
            f"{channels}; give the one trained on these latents, with the same --adapter"
        )
    return sizes, load_tensors(folder / PIXEL_DECODER_WEIGHTS)


def published_parts(config: AssembleConfig, source: dict[str, Any]) -> LatentParts:
    """The parts of a published space that were trained here: adapter and pixel decoder.

    Args:
        config: names their run folders.
        source: of the latents.

    Raises:
        ValueError: if an adapter is missing, or parts do not belong together.
    """
    entry = find_space(source["space"])
    if "card" in source:
        raise _of_a_checkpoint(config, source)
    if entry.compressed and config.adapter is None:
        raise UserError(f"{source['space']} latents need --adapter, which compressed them")
    options = {k: source[k] for k in ("local", "revision", "sha256") if source.get(k)}
    weights, sizes = {}, dict(options)
    channels = entry.channels or 0
    narrow = channels
    if config.adapter is not None:
        sizes["adapter"], weights[ADAPTER_WEIGHTS] = adapter_parts(config.adapter)
        narrow = sizes["adapter"]["latent_dim"]
        channels = narrow if entry.compressed else channels
    if config.pixel_decoder is not None:
        sizes["pixel_decoder"], weights[PIXEL_DECODER_WEIGHTS] = painter_parts(
            config.pixel_decoder, narrow
        )
    assert entry.grid is not None and entry.frame_size is not None
    return LatentParts(weights, sizes, entry.grid, channels, entry.frame_size)


def context_of(config: AssembleConfig, trained: dict[str, Any]) -> ContextSpec:
    """The context a network was trained with.

    Raises:
        ValueError: if --band contradicts the network.
    """
    band = trained["network"].get("band")
    if band and config.band not in (0, band):
        raise UserError(
            f"--band {config.band} is not the band of {band} frames that {config.dynamics} was "
            "trained with; leave it out"
        )
    length = config.band or band or trained.get("clip_length", WINDOW)
    return ContextSpec("banded" if band else "window", length, trained.get("history", 2))


def choose_domain(config: AssembleConfig, mini: bool) -> Domain | None:
    """The domain that the settings name, or that the episodes come from; None without any.

    Args:
        config: the settings.
        mini: whether the latent space was trained here.

    Raises:
        ValueError: if the name is unknown.
        FileNotFoundError: if the latents do not say where their episodes come from.
    """
    if config.domain == "auto":
        return domain_of(read_episode_facts(config.latents).simulator) if mini else None
    if config.domain != "data" and config.domain not in DOMAINS:
        raise UserError(
            f"domain {config.domain!r} is unknown; expected one of {list(DOMAINS)}, data or auto"
        )
    return DOMAINS.get(config.domain)


def assemble(config: AssembleConfig) -> WorldModelSpec:
    """Write the checkpoint folder, weights in bfloat16.

    Returns:
        The card.

    Raises:
        FileNotFoundError: if a folder holds no finished run.
        ValueError: if a part is missing or does not belong to the others.
    """
    record = config.dynamics / "dynamics.json"
    if not record.exists():
        raise FileNotFoundError(
            f"--dynamics {config.dynamics} holds no finished training (no {record.name}); give the "
            "run folder of `wm-gym train latent-dynamics`, run to its end"
        )
    trained = json.loads(record.read_text(encoding="utf-8"))
    scale = json.loads(
        (check_latents_folder(config.latents) / "normalisation.json").read_text(encoding="utf-8")
    )
    source = json.loads((config.latents / "source.json").read_text(encoding="utf-8"))
    mini = find_space(source["space"]).trained_here
    parts = mini_parts(config, source) if mini else published_parts(config, source)
    views = trained["network"].get("num_views", 1)
    domain = choose_domain(config, mini)
    weights = parts.weights | {
        "dynamics.safetensors": load_tensors(config.dynamics / "dynamics.safetensors")
    }
    recipe = {
        "commands": _commands(config, source["space"]),
        "settings": "benchmarks/recipes",
        "dynamics_steps": trained["steps"],
        "dynamics_hours": trained["hours"],
    }
    reward = distilled = None
    if config.reward is not None:
        reward = reward_spec(config.reward, scale)
        weights["reward.safetensors"] = load_tensors(config.reward / "reward.safetensors")
    shift = config.sampling_shift or trained["shift"]
    if config.distilled is not None:
        record = json.loads((config.distilled / "distilled.json").read_text(encoding="utf-8"))
        weights["distilled.safetensors"] = load_tensors(config.distilled / "distilled.safetensors")
        distilled = DynamicsSpec(
            network=record["network"],
            shift=shift,
            denoising_steps=record["denoising_steps"],
            weights="distilled.safetensors",
            unchanged_threshold=config.unchanged_threshold,
        )
        recipe["distilled_hours"] = record["hours"]
    action = read_action_spec(config.latents)
    height, width = parts.frame_size
    camera = ", ".join(source.get("cameras", ())) or "default"
    spec = WorldModelSpec(
        name=config.name,
        description=config.description or _describe(domain.twin if domain else None, source),
        embedded=config.embedded,
        licence=config.licence,
        training_data=config.training_data
        or (domain.training_data if domain else f"episodes of {source.get('dataset')}"),
        recipe=recipe,
        twin=domain.twin if domain else None,
        frame=domain.frame if domain and views == 1 else FrameSpec(height, width * views, camera),
        action=domain.action if domain else action,
        latent=LatentSpec(
            space=source["space"],
            grid=(parts.grid[0], parts.grid[1] * views),
            channels=parts.channels,
            mean=tuple(scale["mean"]),
            std=tuple(scale["std"]),
            config=parts.config | ({"num_views": views} if views > 1 else {}),
        ),
        context=context_of(config, trained),
        dynamics=DynamicsSpec(
            network=trained["network"],
            shift=shift,
            denoising_steps=config.denoising_steps,
            unchanged_threshold=config.unchanged_threshold,
        ),
        distilled=distilled,
        reward=reward,
        tasks=domain.tasks if domain else {},
        objects=domain.objects if domain else (),
        horizon=config.horizon or (domain.horizon if domain else 50),
        weights_sha256={},
    )
    save_checkpoint(config.out, spec, weights, dtype=torch.bfloat16)
    return Checkpoint.open(config.out).spec


def reward_spec(folder: Path, normalisation: Mapping[str, Any]) -> RewardSpec:
    """What a card says of a success classifier: of its training, or as another checkpoint has it.

    Args:
        folder: run folder of the training, or a checkpoint.
        normalisation: mean and standard deviation of the latents that it will see.

    Raises:
        FileNotFoundError: if the folder holds neither.
        ValueError: if the checkpoint has no classifier, or one of other latents.
    """
    record = folder / "reward.json"
    if record.exists():
        trained = json.loads(record.read_text(encoding="utf-8"))
        return RewardSpec(
            network=trained["network"],
            threshold={task: row["threshold"] for task, row in trained["held_out"].items()},
            window=trained.get("window", 1),
            episode_threshold=trained.get("episode_threshold", {}),
        )
    if not (folder / "card.json").exists():
        raise FileNotFoundError(
            f"--reward {folder} holds no finished training (no {record.name}) and is no "
            "checkpoint; give the run folder of `wm-gym train reward`, run to its end"
        )
    card = Checkpoint.open(folder).spec
    if card.reward is None:
        raise UserError(
            f"--reward {folder}: {card.name} has no success classifier; give the run folder of "
            "`wm-gym train reward`"
        )
    if [*card.latent.mean, *card.latent.std] != [*normalisation["mean"], *normalisation["std"]]:
        raise UserError(
            f"--reward {folder}: the classifier of {card.name} saw latents of another space or "
            "normalisation; train one on these with `wm-gym train reward`"
        )
    return card.reward


def _commands(config: AssembleConfig, space: str) -> list[str]:
    """The commands behind the parts, in order."""
    made = {
        "wm-gym collect": find_space(space).trained_here,
        "wm-gym train autoencoder": space == "vae-mini",
        "wm-gym train vjepa": space in ("vjepa-mini", "vjepa-mini-svae"),
        "wm-gym train latents": True,
        "wm-gym train svae": config.adapter is not None,
        "wm-gym train pixel-decoder": config.pixel_decoder is not None,
        "wm-gym train latent-dynamics": True,
        "wm-gym label-goals": config.reward is not None,
        "wm-gym train reward": config.reward is not None,
        "wm-gym train distil": config.distilled is not None,
        "wm-gym train assemble": True,
    }
    return [command for command, used in made.items() if used]


def _describe(twin: str | None, source: dict[str, Any]) -> str:
    what = f"of wm_gym's {twin} simulator" if twin else f"over {source['space']} latents"
    where = ", trained on two CPU cores" if twin else ", trained"
    return (
        f"A {'small ' if twin else ''}latent world model {what}{where} by this repository's "
        "recipe. It is not one of the published models."
    )
