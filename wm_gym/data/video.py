"""Frames of a video file by their number, exact to the frame, wherever the seek lands.

A file is indexed once by its packets, without decoding: the presentation times in order ARE the
frame numbers. Reading seeks to the key frame at or before the wanted one and decodes from there,
so a frame in the middle of a group of pictures is found by its own time and never by counting.
"""

from __future__ import annotations

import ctypes
import gc
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.data.episodes import EpisodeError

OPEN_FILES = 8
TOLERANCE_S = 1e-4
"""How far a frame's time may lie from the one it is expected at, as in LeRobot."""
RATE_TOLERANCE = 5e-4
"""How far a video's rate may lie from the stated one, relative: 29.97 is not 30."""


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
        self.path = path
        self._open()
        _OPENED.add(self)

    def _open(self) -> None:
        av = import_av()
        path = self.path
        if not path.exists():
            raise EpisodeError(f"there is no {path}; check the name, or copy or download it again")
        try:
            self._container: Any = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.error.FFmpegError, IndexError) as error:
            raise EpisodeError(
                f"{path} ({path.stat().st_size} bytes) cannot be opened as a video ({error}): it "
                "is truncated or no video; copy or download it again"
            ) from error
        self._stream.thread_type = "AUTO"
        self._stated_rate = float(self._stream.average_rate or 0.0)
        self._tick_s = float(self._stream.time_base)
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
        return (self._pts - self._pts[0]) * self._tick_s

    def tolerance_s(self) -> float:
        """How far a frame's time may be off: `TOLERANCE_S`, and what the file rounds times to."""
        return TOLERANCE_S + self._tick_s / 2

    def rate(self) -> float:
        """Frames per second by the times of the frames; what the file states if it has only one."""
        times, stated = self.times(), self._stated_rate
        if len(times) < 2:
            return stated
        found = (len(times) - 1) / float(times[-1])
        return stated if abs(found - stated) < RATE_TOLERANCE * stated else found

    def check_rate(self, fps: float, source: str) -> None:
        """Refuse a rate that is not the video's.

        Args:
            fps: the stated rate.
            source: who states it, for the error.

        Raises:
            EpisodeError: naming both rates.
        """
        found = self.rate()
        # times are rounded, which a rate over few frames shows
        rounding = self.tolerance_s() * found / max(1, len(self) - 1)
        if len(self) > 1 and abs(found - fps) > (RATE_TOLERANCE + rounding) * fps:
            raise EpisodeError(
                f"{self.path} runs at {found:.6g} frames a second, {source} says {fps:.6g}: frames "
                "and rows would drift apart; correct the rate, or encode the video again"
            )

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
        if self._container is None:  # the parent's, before this process was forked
            self._open()
        key = int(self._keys[max(0, np.searchsorted(self._keys, pts, side="right") - 1)])
        if self._position is None or not key <= self._position < pts:
            container: Any = self._container
            container.seek(key, stream=self._stream, backward=True, any_frame=False)
            self._decoded = container.decode(self._stream)
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
        if self._container is not None:
            self._container.close()


_OPENED: weakref.WeakSet[VideoFile] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Let a forked process open its own files.

    Freeing a decoder or an encoder joins its threads, which a fork does not inherit: it waits for
    ever, or crashes. So what the parent had open is referenced once more than anybody can drop, and
    what it had dropped, but not freed yet, stays out of the garbage collector's reach.
    """
    gc.freeze()
    for file in list(_OPENED):
        for inherited in (file._container, file._stream, file._decoded):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
        file._container = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class OpenVideos:
    """The few video files used last, kept open; every process has its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, VideoFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: open files do not travel."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without open files."""
        OpenVideos.__init__(self)

    def __getitem__(self, path: Path) -> VideoFile:
        """The file, opened if it is not yet."""
        if path not in self._files:
            self._files[path] = VideoFile(path)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]
