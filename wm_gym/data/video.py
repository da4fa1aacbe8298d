"""Frames of a video file by their number, exact to the frame, wherever the seek lands.

A file is indexed once by its packets, without decoding: the presentation times in order ARE the
frame numbers. Reading seeks to the key frame at or before the wanted one and decodes from there,
so a frame in the middle of a group of pictures is found by its own time and never by counting.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.data.episodes import EpisodeError

OPEN_FILES = 8


def import_av() -> Any:
    """PyAV, or an error that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise EpisodeError(
            "reading mp4 needs PyAV, which is not installed; `pip install 'wm_gym[data]'`"
        ) from error
    return av


class VideoFile:
    """One video, open for reading.

    Args:
        path: video file.

    Raises:
        EpisodeError: if it is absent, cut off before its index, or holds no video.
    """

    def __init__(self, path: Path):
        av = import_av()
        self.path = path
        if not path.exists():
            raise EpisodeError(f"there is no {path}; check the name, or copy or download it again")
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.error.FFmpegError, IndexError) as error:
            raise EpisodeError(
                f"{path} ({path.stat().st_size} bytes) cannot be opened as a video ({error}): it "
                "is truncated or no video; copy or download it again"
            ) from error
        self._stream.thread_type = "AUTO"
        packets: list[tuple[int, bool]] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.size and not packet.is_discard:
                    packets.append((packet.pts, packet.is_keyframe))
        except av.error.FFmpegError:
            pass  # cut off in its middle: what is there stays readable, reading beyond it raises
        packets.sort()
        self._pts = np.asarray([pts for pts, _ in packets], np.int64)
        self._keys = np.asarray([pts for pts, key in packets if key], np.int64)
        if not len(self._keys):
            raise EpisodeError(f"{path} holds no frames; copy or download it again")
        self._decoded: Iterator[Any] = iter(())
        self._position: int | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._pts)

    def times(self) -> np.ndarray:
        """Presentation time of every frame in seconds, (n,), the first one 0."""
        return (self._pts - self._pts[0]) * float(self._stream.time_base)

    def rate(self) -> float:
        """Frames per second, the average over the file."""
        return float(self._stream.average_rate or 0.0)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 by number, in the order asked for, repeats allowed.

        Raises:
            EpisodeError: if the file ends before one of them or is damaged.
        """
        numbers = np.asarray(numbers, np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise EpisodeError(
                f"{self.path} holds {len(self)} frames, expected frame {int(numbers.max())}, too: "
                "the file is truncated or belongs to other data; copy or download it again"
            )
        wanted = np.unique(numbers)
        missing = set(self._pts[wanted].tolist())
        found: dict[int, np.ndarray] = {}
        for pts in self._pts[wanted].tolist():
            if pts in found:
                continue
            self._approach(pts)
            self._decode_until(pts, missing, found)
        if not len(numbers):
            size = (0, self._stream.height, self._stream.width, 3)
            return np.empty(size, np.uint8)
        return np.stack([found[pts] for pts in self._pts[numbers].tolist()])

    def _approach(self, pts: int) -> None:
        """Seek to the key frame before `pts` unless decoding on leads there as directly."""
        key = int(self._keys[max(0, np.searchsorted(self._keys, pts, side="right") - 1)])
        if self._position is None or not key <= self._position < pts:
            self._container.seek(key, stream=self._stream, backward=True, any_frame=False)
            self._decoded = self._container.decode(self._stream)
            self._position = None

    def _decode_until(self, pts: int, wanted: set[int], found: dict[int, np.ndarray]) -> None:
        av = import_av()
        try:
            for frame in self._decoded:
                self._position = frame.pts
                if frame.pts in wanted:
                    found[frame.pts] = frame.to_ndarray(format="rgb24")
                if frame.pts is not None and frame.pts >= pts:
                    break
        except av.error.FFmpegError as error:
            self._position = None
            raise EpisodeError(
                f"{self.path} is damaged ({error}); copy or download it again"
            ) from error
        if pts not in found:
            self._position = None
            number = int(np.searchsorted(self._pts, pts))
            raise EpisodeError(
                f"{self.path}: frame {number} of {len(self)} cannot be decoded, the file is "
                "truncated or damaged; copy or download it again"
            )

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class OpenVideos:
    """The few video files used last, kept open; every process has its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, VideoFile] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: open files do not travel."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without open files."""
        OpenVideos.__init__(self)

    def __getitem__(self, path: Path) -> VideoFile:
        """The file, opened if it is not yet."""
        if self._pid != os.getpid():  # a fork shares file positions with its parent
            OpenVideos.__init__(self)
        if path not in self._files:
            self._files[path] = VideoFile(path)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]
