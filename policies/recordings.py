"""The frames of episodes on disk, so that somebody can judge them afterwards."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError


class RecordingError(UserError):
    """Frames of an episode that are missing or damaged."""


def recording_file(folder: Path, index: int) -> Path:
    """File of an episode's frames."""
    return Path(folder) / f"{index:05d}.npz"


def write_recording(folder: Path, index: int, frames: np.ndarray) -> Path:
    """Write the frames (T+1, H, W, 3) uint8 of an episode, without loss.

    Args:
        folder: made if needed.
        index: the episode's place in the list of episodes.
        frames: start and all later frames.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, frames=frames)
    path = recording_file(folder, index)
    write_atomically(path, buffer.getvalue())
    return path


def read_recording(folder: Path, index: int) -> np.ndarray:
    """The frames (T+1, H, W, 3) uint8 of an episode.

    Raises:
        RecordingError: if they are missing or damaged.
    """
    path = recording_file(folder, index)
    try:
        with np.load(path, allow_pickle=False) as stored:
            frames = stored["frames"]
        if frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames):
            raise UserError(f"they have dtype {frames.dtype} and shape {frames.shape}")
        return frames
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordingError(
            f"{path} holds no frames of episode {index} ({error}); remove the folder's results and "
            "run the episodes again"
        ) from error
