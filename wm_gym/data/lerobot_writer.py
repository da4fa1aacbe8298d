"""Writing of LeRobot v3.0 folders, which LeRobot's own tools and `LeRobotDataset` read.

```
meta/info.json                              features, rate, paths, and our own block "wm_gym"
meta/stats.json                             minimum, maximum, mean, spread and count of each feature
meta/tasks.parquet                          instruction -> number, indexed as pandas does it
meta/episodes/chunk-000/file-000.parquet    a row per episode: where its rows and frames lie
data/chunk-000/file-000.parquet             a row per state: action, time, numbers, success
videos/<camera>/chunk-000/file-000.mp4      frames of several episodes, one after the other
```

An episode of T actions has T + 1 states, hence T + 1 rows. LeRobot's row holds the action taken at
its state; the last state has none, so its row repeats an absolute command and holds a zero delta.
Readers that know that the last row has no successor (`next.done`) ignore it, as ours does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wm_gym.data.episodes import Episode, EpisodeError
from wm_gym.data.lerobot import EXTRA, import_parquet
from wm_gym.data.shards import state_to_json
from wm_gym.data.video import import_av
from wm_gym.spec import ActionSpec

Codec = Literal["h264", "lossless"]

CAMERA = "observation.images.main"
STATE = "observation.environment_state"
SUCCESS = "observation.success"
CHUNK_FILES = 1000
KEY_FRAMES = 2  # as LeRobot encodes: any frame is at most one frame away from a key frame


@dataclass(frozen=True)
class LeRobotSettings:
    """How a LeRobot folder is written.

    Attributes:
        fps: rows per second, more than 0.
        action: what the actions are; None writes numbers without names or units.
        codec: "h264" is small and visually lossless, "lossless" keeps every bit of a frame.
        robot_type: LeRobot's name of the robot.
        source: a sentence on where the episodes come from.
        imagined: True for episodes made by a world model.
        env_spec: JSON of the Gymnasium spec of the simulator they were made in, or "".
        episodes_per_file: episodes that share a parquet file and a video.
    """

    fps: float
    action: ActionSpec | None = None
    codec: Codec = "h264"
    robot_type: str = "unknown"
    source: str = ""
    imagined: bool = False
    env_spec: str = ""
    episodes_per_file: int = 50

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.fps < float("inf"):
            raise EpisodeError(
                f"fps={self.fps}: LeRobot data need the rate of the recordings, more than 0; state "
                "it (--fps)"
            )
        if self.episodes_per_file < 1:
            raise EpisodeError(f"episodes_per_file={self.episodes_per_file} must be at least 1")


def write_lerobot(
    episodes: Iterable[Episode],
    folder: str | Path,
    settings: LeRobotSettings,
    progress: Callable[[Iterable[Episode]], Iterable[Episode]] = iter,
) -> Path:
    """Write episodes as a LeRobot v3.0 folder, which appears whole or not at all.

    Args:
        episodes: the episodes, all with frames of one size and actions of one width.
        folder: folder to make.
        settings: rate, codec, and what is known of the data.
        progress: wraps the episodes, e.g. in a progress bar.

    Returns:
        The folder.

    Raises:
        EpisodeError: if the folder is there already, there is no episode, or two differ in shape.
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise EpisodeError(f"{folder} is there already; name a new folder, or remove it")
    import_parquet()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    writer = _Writer(partial, settings)
    try:
        for episode in progress(episodes):
            writer.add(episode)
        writer.finish()
    except BaseException:
        writer.close()
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)
    return folder


class _Statistics:
    """Minimum, maximum, mean and spread of a feature, over all rows, in float64."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """Count rows (N, A)."""
        rows = np.asarray(rows, np.float64)
        low, high = rows.min(0), rows.max(0)
        if not self.count:
            self.low, self.high = low, high
            self.mean, self.squares = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        total = self.count + len(rows)
        apart = rows.mean(0) - self.mean
        within = ((rows - rows.mean(0)) ** 2).sum(0)
        self.squares = self.squares + within + apart**2 * self.count * len(rows) / total
        self.mean = self.mean + apart * len(rows) / total
        self.count = total

    def to_dict(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What stats.json holds."""
        spread = np.sqrt(self.squares / self.count)
        parts = {"min": self.low, "max": self.high, "mean": self.mean, "std": spread}
        found = {name: part.reshape(shape).tolist() for name, part in parts.items()}
        return found | {"count": [self.count]}


class _Writer:
    """Rows, videos and tables of a folder that is being written."""

    def __init__(self, folder: Path, settings: LeRobotSettings) -> None:
        self.folder, self.settings = folder, settings
        self.entries: list[dict[str, Any]] = []
        self.rows: dict[str, list[Any]] = {}
        self.tasks: dict[str, int] = {}
        self.statistics: dict[str, _Statistics] = {}
        self.shapes: tuple[Any, ...] | None = None
        self.index = self.file_frames = 0
        self.container: Any = None
        self.stream: Any = None

    # ---- one episode -------------------------------------------------------------------------

    def add(self, episode: Episode) -> None:
        """Append an episode to the current files."""
        shapes = (
            episode.frames.shape[1:],
            episode.actions.shape[1:],
            episode.privileged.shape[1:],
        )
        self._check(episode, shapes)
        self.shapes = shapes
        number, states = len(self.entries), len(episode.frames)
        if number and number % self.settings.episodes_per_file == 0:
            self._close_file()
        chunk, file = self._place(number)
        begin = self.file_frames
        self._encode(episode.frames)
        task = self.tasks.setdefault(episode.instruction, len(self.tasks))
        after = np.append(episode.success[1:], episode.success[-1])
        columns = {
            "action": self._row_actions(episode.actions),
            SUCCESS: np.asarray(episode.success, bool),
            "next.success": after.astype(bool),
            "next.done": np.arange(states) == states - 1,
            "timestamp": np.arange(states) / self.settings.fps,
            "frame_index": np.arange(states),
            "episode_index": np.full(states, number),
            "index": np.arange(self.index, self.index + states),
            "task_index": np.full(states, task),
        }
        if shapes[2][0]:
            columns[STATE] = np.asarray(episode.privileged, np.float64)
        for name, column in columns.items():
            self.rows.setdefault(name, []).append(column)
            self.statistics.setdefault(name, _Statistics()).add(column.reshape(states, -1))
        pixels = episode.frames.reshape(-1, 3) / 255.0
        self.statistics.setdefault(CAMERA, _Statistics()).add(pixels)
        fps = self.settings.fps
        self.entries.append(
            {
                "episode_index": number,
                "tasks": [episode.instruction],
                "length": states,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": self.index,
                "dataset_to_index": self.index + states,
                f"videos/{CAMERA}/chunk_index": chunk,
                f"videos/{CAMERA}/file_index": file,
                f"videos/{CAMERA}/from_timestamp": begin / fps,
                f"videos/{CAMERA}/to_timestamp": (begin + states) / fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                f"{EXTRA}/seed": episode.seed,
                f"{EXTRA}/behaviour": episode.behaviour,
                f"{EXTRA}/task": episode.goal.task,
                f"{EXTRA}/objects": list(episode.goal.objects),
                f"{EXTRA}/start_state": json.dumps(state_to_json(episode.start_state)),
            }
        )
        self.index += states

    def _check(self, episode: Episode, shapes: tuple[Any, ...]) -> None:
        number = len(self.entries)
        if self.shapes is not None and shapes != self.shapes:
            raise EpisodeError(
                f"episode {number} has frames, actions and states of shapes {shapes}, expected "
                f"{self.shapes} as before; write it to a data set of its own"
            )
        action = self.settings.action
        if action is not None and shapes[1] != (action.size,):
            raise EpisodeError(
                f"episode {number} has actions of {shapes[1]}, expected {action.size} components "
                f"{list(action.names)}; correct the action spec"
            )
        for name in ("actions", "privileged"):
            rows = getattr(episode, name)
            wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(wrong):
                row = int(wrong[0])
                raise EpisodeError(
                    f"episode {number}, row {row} of {name} is {rows[row].tolist()}, expected "
                    "finite numbers; leave the episode out or mend it"
                )

    def _row_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions (T + 1, A) float32: a row for the last state, which has no action."""
        spec = self.settings.action
        last = actions[-1:].copy()
        if spec is not None and spec.kinds:
            last[:, np.array([kind == "delta" for kind in spec.kinds])] = 0.0
        return np.concatenate([actions, last]).astype(np.float32)

    def _place(self, number: int) -> tuple[int, int]:
        file = number // self.settings.episodes_per_file
        return file // CHUNK_FILES, file % CHUNK_FILES

    # ---- videos ------------------------------------------------------------------------------

    def _encode(self, frames: np.ndarray) -> None:
        av = import_av()
        container: Any = self.container
        if container is None:
            container = self._open_video(frames.shape[1], frames.shape[2])
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(self.stream.encode(picture))
        self.file_frames += len(frames)

    def _open_video(self, height: int, width: int) -> Any:
        av = import_av()
        if self.settings.codec == "h264" and (height % 2 or width % 2):
            raise EpisodeError(
                f"frames of {height}x{width}: h264 stores colours at half the resolution and needs "
                "even numbers; resize the frames, or write them with codec 'lossless'"
            )
        chunk, file = self._place(len(self.entries))
        path = self.folder / f"videos/{CAMERA}/chunk-{chunk:03d}/file-{file:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        lossless = self.settings.codec == "lossless"
        rate = Fraction(self.settings.fps).limit_denominator(1000)
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        self.stream.codec_context.gop_size = KEY_FRAMES
        quality = {"qp": "0"} if lossless else {"crf": "16"}
        self.stream.options = quality | {"preset": "medium", "bf": "0"}
        return self.container

    def close(self) -> None:
        """Close the video that is open."""
        if self.container is not None:
            self.container.close()
            self.container = None

    def _close_file(self) -> None:
        """Finish the video and the table of the rows so far."""
        import pyarrow

        container = self.container
        if container is not None:
            container.mux(self.stream.encode(None))
        self.close()
        chunk, file = self._place(len(self.entries) - 1)
        columns = {name: np.concatenate(parts) for name, parts in self.rows.items()}
        path = self.folder / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
        arrays = {name: _column(column, name) for name, column in columns.items()}
        _write_table(pyarrow.table(arrays), path)
        self.rows, self.file_frames = {}, 0

    # ---- tables ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the last files and everything under `meta/`."""
        import pyarrow

        if not self.entries:
            raise EpisodeError("there are no episodes to write; check the source")
        self._close_file()
        meta = self.folder / "meta"
        _write_table(
            pyarrow.Table.from_pylist(self.entries), meta / "episodes/chunk-000/file-000.parquet"
        )
        _write_table(_task_table(self.tasks), meta / "tasks.parquet")
        features = self._features()
        statistics = {
            name: found.to_dict((3, 1, 1) if name == CAMERA else tuple(features[name]["shape"]))
            for name, found in self.statistics.items()
        }
        (meta / "stats.json").write_text(json.dumps(statistics, indent=1), encoding="utf-8")
        info = json.dumps(self._info(features), indent=1)
        (meta / "info.json").write_text(info, encoding="utf-8")

    def _features(self) -> dict[str, Any]:
        assert self.shapes is not None
        (height, width, _), (actions,), (states,) = self.shapes
        action = self.settings.action
        names = None if action is None else list(action.names)
        lossless = self.settings.codec == "lossless"
        found: dict[str, Any] = {
            "action": {"dtype": "float32", "shape": [actions], "names": names},
            CAMERA: {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": "h264",
                    "video.pix_fmt": "gbrp" if lossless else "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": self.settings.fps,
                    "video.channels": 3,
                    "has_audio": False,
                },
            },
        }
        if states:
            found[STATE] = {"dtype": "float64", "shape": [states], "names": None}
        for name in (SUCCESS, "next.success", "next.done"):
            found[name] = {"dtype": "bool", "shape": [1], "names": None}
        found["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            found[name] = {"dtype": "int64", "shape": [1], "names": None}
        return found

    def _info(self, features: dict[str, Any]) -> dict[str, Any]:
        settings = self.settings
        fps = int(settings.fps) if float(settings.fps).is_integer() else settings.fps
        return {
            "codebase_version": "v3.0",
            "robot_type": settings.robot_type,
            "total_episodes": len(self.entries),
            "total_frames": self.index,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 500,
            "fps": fps,
            "splits": {"train": f"0:{len(self.entries)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": ("videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"),
            "features": features,
            EXTRA: {
                "imagined": settings.imagined,
                "source": settings.source,
                "env_spec": settings.env_spec,
                "action": None if settings.action is None else asdict(settings.action),
            },
        }


def _column(column: np.ndarray, name: str) -> Any:
    """A column of a table; rows of several numbers become lists of a fixed size."""
    import pyarrow

    kinds = {"timestamp": np.float32}
    column = np.ascontiguousarray(column.astype(kinds.get(name, column.dtype)))
    if column.ndim == 1:
        return pyarrow.array(column)
    flat = pyarrow.array(column.reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, column.shape[1])


def _write_table(table: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    import_parquet().write_table(table, path)


def _task_table(tasks: dict[str, int]) -> Any:
    """Instructions and their numbers, with the instruction as what pandas calls the index."""
    import pyarrow

    def described(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy_kind,
            "metadata": None,
        }

    table = pyarrow.table({"task_index": list(tasks.values()), "task": list(tasks)})
    index = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            described("task_index", "int64", "int64"),
            described("task", "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(index)})
