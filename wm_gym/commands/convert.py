"""`wm-gym convert`: episodes of any known layout into LeRobot v3.0 or Minari."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from wm_gym.data.episodes import Episode, EpisodeError, EpisodeReader
from wm_gym.data.lerobot_writer import Codec, LeRobotSettings, write_lerobot
from wm_gym.data.open_dataset import open_dataset
from wm_gym.domains import domain_of
from wm_gym.errors import UserError
from wm_gym.spec import ActionSpec
from wm_gym.training.encode_latents import action_spec_of_data, simulator_of

EPISODES_PER_SHARD = 50


@dataclass(frozen=True)
class ConvertConfig:
    """Write a data set in another layout.

    Reads episodes of `wm-gym collect` (Minari), LeRobot v2.0 to v3.0 and mp4 + npz folders. Frames,
    actions, instructions and success labels come along; privileged states, seeds and the
    simulator's start states do where the source has them. The folder appears whole or not at all.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes."""
    out: Path
    """Folder to make."""
    to: Literal["lerobot", "minari"] = "lerobot"
    """Layout to write: LeRobot v3.0 (parquet and mp4), or Minari."""
    cameras: tuple[str, ...] = ()
    """Cameras of the source, side by side along the width; needed where it has several."""
    fps: float = 0.0
    """Rate of the recordings; 0 takes what the source or its simulator says."""
    codec: Codec = "h264"
    """Of LeRobot's videos: "h264" is small, "lossless" keeps every bit of a frame."""
    images: Literal["exact", "jpeg"] = "exact"
    """Of Minari's images: "exact" keeps every bit, "jpeg" is about ten times smaller."""
    robot_type: str = "unknown"
    """LeRobot's name of the robot."""

    def __post_init__(self) -> None:
        """Check the rate once."""
        if not 0 <= self.fps < float("inf"):
            raise UserError(f"fps={self.fps} must be 0 (take the source's) or more")


def convert(config: ConvertConfig) -> Path:
    """Run `wm-gym convert`.

    Returns:
        The folder written.

    Raises:
        EpisodeError: if the source cannot be read, the target is there already, or nothing says
            the rate of the recordings.
    """
    if config.out.exists():
        raise EpisodeError(f"{config.out} is there already; name a new folder, or remove it")
    data = open_dataset(config.data, config.cameras or None)
    metadata: dict[str, Any] = getattr(data, "metadata", {})
    if config.to == "minari":
        _write_minari(data, config, metadata)
    else:
        domain = domain_of(simulator_of(data))
        action = None if domain is None else domain.action
        known = metadata.get("action")
        if isinstance(known, dict):
            action = ActionSpec.from_dict(known)
        settings = LeRobotSettings(
            fps=config.fps or rate_of(data, action),
            action=action or action_spec_of_data(data),
            codec=config.codec,
            robot_type=config.robot_type,
            source=str(metadata.get("source") or metadata.get("description") or config.data),
            imagined=bool(metadata.get("imagined", False)),
            env_spec=str(metadata.get("env_spec") or ""),
        )
        write_lerobot(data, config.out, settings, lambda found: _progress(found, len(data)))
    steps = int(data.lengths.sum())
    print(f"wrote {len(data)} episodes, {steps} actions, as {config.to} to {config.out}")
    return config.out


def rate_of(data: EpisodeReader, action: ActionSpec | None) -> float:
    """Rows per second of a data set.

    Raises:
        EpisodeError: if neither the data nor their simulator's domain says.
    """
    fps = float(getattr(data, "fps", 0.0)) or (0.0 if action is None else action.control_hz)
    if not fps:
        raise EpisodeError(f"{data.folder} does not say its rate; state it with --fps")
    return fps


def _progress(episodes: Iterable[Episode], total: int) -> Iterable[Episode]:
    from tqdm import tqdm

    return tqdm(episodes, total=total, desc="converting", unit="episode")


def _write_minari(data: EpisodeReader, config: ConvertConfig, metadata: dict[str, Any]) -> None:
    """Write shards beside the target, then move the whole folder to its name."""
    from gymnasium.spaces import Box

    from wm_gym.data.shards import write_index, write_shard

    partial = config.out.with_name(config.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        episodes = iter(_progress(data, len(data)))
        for first in range(0, len(data), EPISODES_PER_SHARD):
            block = list(islice(episodes, EPISODES_PER_SHARD))
            path = partial / "shards" / f"{first // EPISODES_PER_SHARD:05d}.hdf5"
            write_shard(path, block, first, config.images)
        shape = data.frames(0, slice(0, 1)).shape[1:]
        low, high = bounds_of(data)
        write_index(
            partial,
            observation_space=Box(0, 255, shape, np.uint8),
            action_space=Box(low, high, dtype=np.float32),
            image_format=config.images,
            env_spec=metadata.get("env_spec") or None,
            description=str(metadata.get("source") or metadata.get("description") or config.data),
        )
        partial.rename(config.out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def bounds_of(data: EpisodeReader) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of every action component, (A,) float32 each."""
    lows = np.stack([data.actions(i).min(0) for i in range(len(data))])
    highs = np.stack([data.actions(i).max(0) for i in range(len(data))])
    return lows.min(0).astype(np.float32), highs.max(0).astype(np.float32)
