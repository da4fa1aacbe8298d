"""Recipe: `wm-gym train latents`, every frame of a dataset through a frozen latent space, once.

Writes the folder that `wm-gym train latent-dynamics` reads: memory-mapped latents, per-channel
normalisation, the action spec, and what is known of the episodes. Data may be episodes of `wm-gym
collect`, a LeRobot folder or an mp4 + npz folder; the latent space may be one that was trained
here, a published one, or that of a checkpoint.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_gym.checkpoints import Checkpoint, resolve_checkpoint, write_atomically
from wm_gym.data.episodes import EpisodeReader
from wm_gym.data.foreign_pictures import foreign_pictures, sample_frames
from wm_gym.data.frames import resize, split_views
from wm_gym.data.latent_clips import EpisodeFacts, precompute_latents, write_episode_facts
from wm_gym.data.open_dataset import open_dataset, read_actions_as
from wm_gym.data.recording_checks import Accepted, check_recordings
from wm_gym.domains import DOMAINS, domain_of
from wm_gym.errors import UserError
from wm_gym.latents.adapted import AdaptedSpace
from wm_gym.latents.base import LatentSpace
from wm_gym.latents.fetch import file_sha256
from wm_gym.latents.registry import (
    ADAPTER_WEIGHTS,
    MINI_WEIGHTS,
    compressed_space,
    find_space,
    load_latent_space,
)
from wm_gym.spec import ActionSpec, LatentSpec
from wm_gym.training.import_checkpoint import bridge_actions
from wm_gym.training.labelled_latents import FOREIGN_LATENTS
from wm_gym.training.mini_space import read_mini_space
from wm_gym.training.svae import load_adapter

NORMALISATION_FRAMES = 8192
FOREIGN_PICTURES = 1000
"""Pictures that show nothing of the domain, encoded beside the data."""
BRIDGE_ACTION_WIDTH = 10
"""Width of the published code's action vector: seven components and three zeros."""


@dataclass(frozen=True)
class EncodeLatentsConfig:
    """Precompute the latents of a dataset."""

    data: Path
    """Folder of episodes: written by `wm-gym collect`, LeRobot v2.1 or v3.0, or mp4 + npz files."""
    out: Path
    """Folder of latents to write; one that holds anything else is left alone and refused."""
    space: str = ""
    """Latent space: a published one by name, e.g. VJEPA, or a checkpoint (a folder or hf://…),
    whose card says the space, normalisation and actions; leave it out with --encoder."""
    encoder: Path | None = None
    """Latent space trained here: the run folder of `wm-gym train autoencoder` or `train vjepa`, or
    a checkpoint whose space is taken without its normalisation."""
    adapter: Path | None = None
    """Run folder of `wm-gym train svae`, for the spaces ending in 96, or with --encoder."""
    local: Path | None = None
    """Folder that holds the weights of a published space; None fetches them."""
    revision: str | None = None
    """Commit of a published space's weights to download; none is pinned by wm_gym."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Expected SHA-256 of a published space's files, as pairs FILE HASH."""
    cameras: tuple[str, ...] = ()
    """Camera of the dataset; several are encoded one by one and stand side by side."""
    domain: str = "auto"
    """Whose action spec is written: a simulator's, e.g. langtable, `bridge-published` (of the
    published Bridge models), `card` (of a checkpoint), `data` (from the episodes' own statistics);
    `auto` is card, else the simulator the episodes come from, else data."""
    normalisation: Path | None = None
    """Reuse this `normalisation.json` (held-out data must use that of the training data)."""
    any_rate: bool = False
    """Take recordings at another rate than the action spec's as they are."""
    any_range: bool = False
    """Take actions beyond the action spec's bounds as they are; an environment clips them."""
    batch: int = 64
    """Frames a pass."""
    device: str = "cpu"
    """Torch device."""


@dataclass(frozen=True)
class FrozenSpace:
    """A latent space, ready to encode.

    Attributes:
        encode: maps one camera's frames (B, H, W, 3) uint8 of `frame_size` to latents (B, h, w, D).
        frame_size: (H, W) it takes.
        source: what its latents depend on, JSON-ready.
        card: the checkpoint it was taken from, if any.
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    frame_size: tuple[int, int]
    source: dict[str, Any]
    card: Checkpoint | None = None


def load_frozen_space(config: EncodeLatentsConfig) -> FrozenSpace:
    """Load the latent space that the settings name.

    Raises:
        ValueError: unless there is either a name or an encoder, and no flag that it has no use for.
        FileNotFoundError: if the encoder was not trained to its end.
        CardError: if the name is unknown.
        CheckpointError: if weights cannot be found or do not fit.
    """
    if bool(config.space) == (config.encoder is not None):
        raise UserError(
            f"got --space {config.space!r} and --encoder {config.encoder}; give one of them: a "
            "published space or a checkpoint, or the run folder of a space trained here"
        )
    if config.encoder is not None:
        _check_flags(config, f"--encoder {config.encoder}", unused=("local", "revision", "sha256"))
        mini = read_mini_space(config.encoder)
        space, source = mini.load().to(config.device), mini.source
        if config.adapter is not None:
            source["space"] = compressed_space(mini.space)
            space = compress(space, config, source)
        size = (mini.network["height"], mini.network["width"])
        return FrozenSpace(space.encode, size, source)
    if "/" in config.space or (Path(config.space) / "card.json").exists():
        unused = ("adapter", "local", "revision", "sha256")
        _check_flags(config, f"--space {config.space}, a checkpoint,", unused=unused)
        card = Checkpoint.open(resolve_checkpoint(config.space, None))
        spec = card.spec
        if spec.num_views not in (1, max(1, len(config.cameras))):
            raise UserError(
                f"--space {config.space} is a model of {spec.num_views} cameras side by side, got "
                f"--cameras {list(config.cameras)}; name as many, in the order it was trained with"
            )
        height, width = spec.latent.grid
        single = {k: v for k, v in spec.latent.config.items() if k != "num_views"}
        latent = replace(spec.latent, grid=(height, width // spec.num_views), config=single)
        space = load_latent_space(latent, card, device=config.device)
        own = {MINI_WEIGHTS, ADAPTER_WEIGHTS, spec.latent.config.get("weights")}
        weights = {k: v for k, v in spec.weights_sha256.items() if k in own}
        source = {"space": spec.latent.space, "card": spec.name, "sha256": weights}
        size = (spec.frame.height, spec.frame.width // spec.num_views)
        return FrozenSpace(space.encode, size, source, card)
    entry = find_space(config.space)
    if entry.trained_here:
        raise UserError(
            f"--space {config.space} is trained here: give --encoder, the run folder of its "
            "training, or a checkpoint folder as --space"
        )
    if entry.compressed != (config.adapter is not None):
        raise UserError(
            f"--space {config.space} {'needs an' if entry.compressed else 'has no'} adapter, got "
            f"--adapter {config.adapter}; the spaces ending in 96 take the run folder of `wm-gym "
            "train svae`, or the folder of an imported checkpoint as --space"
        )
    name = entry.compresses or config.space
    wide = find_space(name)
    assert wide.grid and wide.channels and entry.frame_size
    options: dict[str, Any] = {
        "local": None if config.local is None else str(config.local.expanduser().resolve()),
        "revision": config.revision,
        "sha256": config.sha256 or None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    zeros, ones = (0.0,) * wide.channels, (1.0,) * wide.channels
    latent = LatentSpec(name, wide.grid, wide.channels, zeros, ones, options)
    space = load_latent_space(latent, device=config.device)
    source: dict[str, Any] = {"space": config.space, "local": "", **options}
    if config.adapter is not None:
        space = compress(space, config, source)
    return FrozenSpace(space.encode, entry.frame_size, source)


def _check_flags(config: EncodeLatentsConfig, chosen: str, *, unused: tuple[str, ...]) -> None:
    given = {f"--{name}": getattr(config, name) for name in unused if getattr(config, name)}
    if given:
        raise UserError(
            f"{chosen} brings its own weights and takes no {', '.join(given)} "
            f"(got {', '.join(map(str, given.values()))}); leave it out"
        )


def compress(space: LatentSpace, config: EncodeLatentsConfig, source: dict[str, Any]) -> Any:
    """Put the S-VAE of `config.adapter` in front of a wide space, and its hash into `source`.

    Raises:
        ValueError: if it was trained on latents of another width.
    """
    assert config.adapter is not None
    adapter = load_adapter(config.adapter).to(config.device)
    source["adapter_sha256"] = file_sha256(config.adapter / ADAPTER_WEIGHTS)
    return AdaptedSpace(space, adapter, name=source["space"])


def action_spec_of_data(data: EpisodeReader) -> ActionSpec:
    """An action spec from the episodes themselves: every component gets mean 0 and spread 1.

    The bounds are the smallest and largest values seen; units are unknown and say so.
    """
    actions = np.concatenate([data.actions(i) for i in range(len(data))]).astype(np.float64)
    mean, std = actions.mean(0), actions.std(0)
    gain = np.where(std > 1e-8, 1 / np.maximum(std, 1e-8), 1.0)
    low, high = actions.min(0), actions.max(0)
    names = tuple(getattr(data, "action_names", ()))
    if len(names) != actions.shape[1]:
        names = tuple(f"action_{i}" for i in range(actions.shape[1]))
    return ActionSpec(
        names=names,
        units=("as recorded",) * len(names),
        low=tuple(low.tolist()),
        high=tuple(np.where(high > low, high, low + 1.0).tolist()),
        gain=tuple(gain.tolist()),
        bias=tuple((-mean * gain).tolist()),
        width=len(names) + 1,  # the last one is free to say "no action is known"
        control_hz=float(getattr(data, "fps", 0.0)),
    )


def simulator_of(data: EpisodeReader) -> str | None:
    """Id of the simulator that episodes were collected in, None if they come from elsewhere."""
    return json.loads(getattr(data, "metadata", {}).get("env_spec") or "{}").get("id")


def choose_action_spec(
    config: EncodeLatentsConfig, data: EpisodeReader, card: Checkpoint | None
) -> ActionSpec:
    """The action spec that `domain` names.

    Raises:
        ValueError: if the name is unknown, or the spec does not fit the episodes' actions.
    """
    domain = domain_of(simulator_of(data))
    if config.domain in DOMAINS:
        action = DOMAINS[config.domain].action
    elif config.domain == "bridge-published":
        action = bridge_actions(BRIDGE_ACTION_WIDTH)
    elif card is not None and config.domain in ("auto", "card"):
        action = card.spec.action
    elif config.domain == "auto" and domain is not None:
        action = domain.action
    elif config.domain in ("auto", "data"):
        action = action_spec_of_data(data)
    else:
        raise UserError(
            f"domain {config.domain!r} is unknown; expected one of {list(DOMAINS)}, "
            "bridge-published, auto, data, or card with a checkpoint as --space"
        )
    width = read_actions_as(data, action).actions(0).shape[1]
    if width != action.size:
        raise UserError(
            f"{config.data} has actions of {width} components, expected {action.size}: "
            f"{list(action.names)}; use episodes of that robot, or --domain data"
        )
    check_recordings(data, action, Accepted(config.any_rate, config.any_range))
    return action


def encode_latents(config: EncodeLatentsConfig) -> Path:
    """Encode a dataset; does nothing if it is done already.

    Returns:
        The folder.
    """
    space = load_frozen_space(config)
    data = open_dataset(config.data, config.cameras or None)
    action = choose_action_spec(config, data, space.card)
    views = max(1, len(config.cameras))

    def encode(frames: np.ndarray) -> torch.Tensor:
        """Views (B, H, V·W, 3) one by one, latents (B, h, V·w, D) side by side."""
        latents = []
        for view in split_views(frames, views):
            seen = np.array(resize(view, *space.frame_size))  # a copy: files are read-only views
            latents.append(space.encode(torch.from_numpy(seen).to(config.device)))
        return torch.cat(latents, dim=2)

    # before the hours of encoding
    given = None if config.normalisation is None else config.normalisation.read_bytes()
    source = space.source | ({"cameras": list(config.cameras)} if config.cameras else {})
    folder = precompute_latents(data, encode, config.out, batch=config.batch, source=source)
    if given is not None:
        normalisation = given
    elif space.card is not None:  # a model that is fine-tuned keeps the scale it was trained with
        latent = space.card.spec.latent
        normalisation = json.dumps({"mean": latent.mean, "std": latent.std}, indent=1).encode()
    else:
        latents = np.load(folder / "latents.npy", mmap_mode="r")
        count = min(len(latents), NORMALISATION_FRAMES)
        rows = np.random.default_rng(0).choice(len(latents), count, replace=False)
        sample = np.asarray(latents[np.sort(rows)], np.float32).reshape(-1, latents.shape[-1])
        mean, std = sample.mean(0).tolist(), sample.std(0).tolist()
        normalisation = json.dumps({"mean": mean, "std": std}, indent=1).encode()
    write_atomically(folder / "normalisation.json", normalisation)
    write_atomically(folder / "action.json", json.dumps(asdict(action), indent=1).encode())
    goals = tuple((goal.task, *goal.objects) for goal in getattr(data, "goals", ()))
    write_episode_facts(folder, EpisodeFacts(simulator_of(data), goals))
    _write_foreign(folder, data, encode, config.batch)
    return folder


def _write_foreign(
    folder: Path, data: EpisodeReader, encode: Callable[[np.ndarray], torch.Tensor], batch: int
) -> None:
    """Write latents of pictures that show nothing of the domain, unless they are there."""
    path = folder / FOREIGN_LATENTS
    if path.exists():
        return
    pictures = foreign_pictures(sample_frames(data, FOREIGN_PICTURES))
    latents = [
        encode(pictures[k : k + batch]).cpu().numpy() for k in range(0, len(pictures), batch)
    ]
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(latents).astype(np.float16))
    write_atomically(path, buffer.getvalue())
