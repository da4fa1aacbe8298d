"""Reader of mp4 + npz folders, the layout in which the published models were trained.

```
<dataset>/<split>/000000000.mp4          the frames of one episode, or, with several cameras,
                  000000000_view0.mp4    one video per view
                  000000000.npz          actions (N, A); also success (), language_instruction ()
```

The folder to open is that of a split. Frame i of a video and row i of `actions` belong together:
the action was taken AT the frame. The authors' actions are already normalised (10 wide for Bridge:
xyz ±1.75, rpy ±1.4, gripper -1 open to +1 closed, three zeros). They are given out as they are,
unless the action language is named whose network inputs they are (`read_actions_as`).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wm_gym.data.episodes import EpisodeError
from wm_gym.data.video_episodes import VideoEpisodes, choose_cameras
from wm_gym.instructions import as_text
from wm_gym.spec import ActionSpec

_VIEW = re.compile(r"(?P<stem>.+)_(?P<view>view\d+)$")


class Mp4NpzDataset(VideoEpisodes):
    """The episodes of one split, in the order of their file names.

    Args:
        folder: folder that holds the mp4 and npz files.
        cameras: `video` for `<episode>.mp4`, `view0`, … for `<episode>_view0.mp4`; several are put
            side by side along the width. A camera that is alone need not be named.
        fps: control rate; None takes the frame rate of the first video.

    Raises:
        EpisodeError: if no episode is there, one lacks its video, or a camera is unknown.
    """

    def __init__(
        self,
        folder: str | Path,
        cameras: str | Sequence[str] | None = None,
        fps: float | None = None,
    ):
        super().__init__()
        self.folder = Path(folder).expanduser()
        self._arrays = sorted(self.folder.glob("*.npz"))
        if not self._arrays:
            splits = sorted({path.parent.name for path in self.folder.glob("*/*.npz")})
            raise EpisodeError(
                f"{self.folder} holds no .npz files, expected those of one split"
                + (f"; open one of its folders {splits}" if splits else "")
            )
        first = self._arrays[0].stem
        views = [_VIEW.fullmatch(path.stem) for path in self.folder.glob(f"{first}_view*.mp4")]
        known = sorted(m["view"] for m in views if m is not None and m["stem"] == first)
        if (self.folder / f"{first}.mp4").exists():
            known.insert(0, "video")
        self.cameras = choose_cameras(self.folder, known, cameras)
        for array in self._arrays:
            for camera in self.cameras:
                if not self._video_path(array, camera).exists():
                    raise EpisodeError(
                        f"{self._video_path(array, camera)} is missing beside {array.name}; copy "
                        "or download the dataset again, or delete the episode"
                    )
        self._stated = fps
        self.fps = fps or self._videos[self._video_path(self._arrays[0], self.cameras[0])].rate()
        self.action_names = ()
        self._inputs_of: ActionSpec | None = None

    def read_actions_as(self, action: ActionSpec) -> None:
        """Give out physical actions where the files hold inputs of networks.

        Args:
            action: files whose rows are as wide as its network input, and wider than its physical
                actions, are scaled back by it; others are left alone.
        """
        self._inputs_of = action
        self._actions.clear()

    def _video_path(self, array: Path, camera: str) -> Path:
        suffix = "" if camera == "video" else f"_{camera}"
        return self.folder / f"{array.stem}{suffix}.mp4"

    def _array(self, index: int, name: str) -> np.ndarray | None:
        path = self._arrays[index]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays.get(name)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise EpisodeError(
                f"{path} cannot be read ({error}); copy or download it again"
            ) from error

    def _count_rows(self) -> list[int]:
        return [len(self._row_actions(i)) for i in range(len(self._arrays))]

    def _read_instructions(self) -> list[str]:
        return [
            as_text(
                self._array(i, "language_instruction"),
                f"{self._arrays[i]}: language_instruction",
            )
            for i in range(len(self._arrays))
        ]

    def _row_actions(self, index: int) -> np.ndarray:
        actions = self._array(index, "actions")
        if actions is None or actions.ndim != 2:
            raise EpisodeError(
                f"{self._arrays[index]} holds no array `actions` of shape (N, A); write one row "
                "per frame of its video"
            )
        read = self._inputs_of
        if read is not None and actions.shape[1] == read.width > read.size:
            return read.physical(actions)
        return actions

    def _row_success(self, index: int) -> np.ndarray:
        """Success is stored for the whole episode; it is that of the last state."""
        success = np.zeros(self.rows[index], bool)
        stored = self._array(index, "success")
        success[-1:] = stored is not None and bool(np.any(stored))
        return success

    def _camera_frames(self, index: int, camera: str, states: np.ndarray) -> np.ndarray:
        path = self._video_path(self._arrays[index], camera)
        video = self._videos[path]
        if len(video) != self.rows[index]:
            raise EpisodeError(
                f"{path} has {len(video)} frames, expected {self.rows[index]}, one for each action "
                f"of {self._arrays[index].name}; the video is truncated or of another episode: "
                "copy or download it again"
            )
        if self._stated is None:
            video.check_rate(self.fps, f"the first video of {self.folder}")
        times, step = video.times(), 1 / video.rate()
        apart = np.abs(times - np.arange(len(times)) * step)
        if apart.max() > max(video.tolerance_s(), 0.1 * step):
            frame = int(apart.argmax())
            raise EpisodeError(
                f"{path} shows frame {frame} at {times[frame]:.4f} s, expected {frame * step:.4f} "
                "s: its frames are not evenly spaced, so that they do not stand beside the rows of "
                f"{self._arrays[index].name}; encode it again at a constant rate"
            )
        return video.read(states)
