"""Reader of LeRobot dataset folders, versions 2.0, 2.1 and 3.0, by pyarrow and PyAV.

```
v2.1                                                v3.0
meta/info.json                                      meta/info.json
meta/episodes.jsonl      a line per episode         meta/episodes/chunk-000/file-000.parquet
meta/tasks.jsonl                                    meta/tasks.parquet
data/chunk-000/episode_000000.parquet               data/chunk-000/file-000.parquet
videos/chunk-000/<camera>/episode_000000.mp4        videos/<camera>/chunk-000/file-000.mp4
```

In v2.1 every episode has files of its own; in v3.0 files hold many episodes, and the table of
episodes says in which file, and from which second of it, an episode's video begins. The paths are
templates in `meta/info.json`. Cameras of dtype "image" hold encoded pictures in the table itself.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.data.episodes import Episode, EpisodeError, state_from_json
from wm_gym.data.video import TOLERANCE_S
from wm_gym.data.video_episodes import VideoEpisodes, choose_cameras
from wm_gym.instructions import Goal, as_text

VERSIONS = ("v2.0", "v2.1", "v3.0")
EXTRA = "wm_gym"
"""Prefix under which `lerobot_writer` keeps what LeRobot has no field for."""


def import_parquet() -> Any:
    """`pyarrow.parquet`, or an error that says how to get it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise EpisodeError(
            "reading LeRobot data needs pyarrow, which is not installed; "
            "`pip install 'wm_gym[data]'`"
        ) from error
    return pyarrow.parquet


class LeRobotDataset(VideoEpisodes):
    """The episodes of a LeRobot folder, read on demand, frames and actions of a row together.

    Example:
        >>> dataset = LeRobotDataset("data/pusht", cameras="image")  # doctest: +SKIP
        >>> dataset.frames(0, slice(0, 2)).shape                     # doctest: +SKIP
        (2, 96, 96, 3)

    Args:
        folder: folder that holds `meta/info.json`.
        cameras: camera, or several that are put side by side along the width: feature keys, or
            what follows their last dot. A camera that is alone need not be named.
        action: feature key of the actions.

    Raises:
        EpisodeError: if the folder is of another version, incomplete, or lacks camera or action.
    """

    def __init__(
        self,
        folder: str | Path,
        cameras: str | Sequence[str] | None = None,
        action: str = "action",
    ):
        super().__init__()
        self.folder = Path(folder).expanduser()
        path = self.folder / "meta" / "info.json"
        try:
            self.info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EpisodeError(
                f"{path} cannot be read ({error}); {self.folder} is no LeRobot dataset, or an "
                "incomplete one: copy or download it again"
            ) from error
        self.version = str(self.info.get("codebase_version"))
        if self.version not in VERSIONS:
            raise EpisodeError(
                f"{path}: codebase_version is {self.version!r}, expected one of {list(VERSIONS)}; "
                "convert the dataset with lerobot's own converter, or update wm_gym"
            )
        features = self.info["features"]
        known = [k for k, f in features.items() if f["dtype"] in ("video", "image")]
        self.cameras = choose_cameras(self.folder, known, cameras)
        if action not in features:
            numeric = [k for k, f in features.items() if f["dtype"].startswith("float")]
            raise EpisodeError(
                f"{self.folder} has no feature {action!r} for actions, expected one of {numeric}"
            )
        self.action_key = action
        self.fps = float(self.info["fps"])
        if not 0 < self.fps < float("inf"):
            raise EpisodeError(f"{path}: fps is {self.fps}, expected more than 0; correct it")
        self._timed: set[int] = set()
        self.action_names = _flat_names(features[action].get("names"))
        self._entries = self._read_entries()

    # ---- what wm_gym wrote beside it ---------------------------------------------------------

    @property
    def metadata(self) -> dict[str, Any]:
        """Block of `lerobot_writer`: env_spec, source, imagined, action; {} in other folders."""
        found = self.info.get(EXTRA)
        return found if isinstance(found, dict) else {}

    def _extra(self, name: str, default: Any) -> list[Any]:
        return [entry.get(f"{EXTRA}/{name}", default) for entry in self._entries]

    @property
    def behaviours(self) -> list[str]:
        """Who acted in each episode; "" where it is not recorded."""
        return self._extra("behaviour", "")

    @property
    def seeds(self) -> list[int]:
        """Seed of each episode; 0 where it has none."""
        return self._extra("seed", 0)

    @property
    def goals(self) -> list[Goal]:
        """Task and objects of each episode; empty where only an instruction is recorded."""
        pairs = zip(self._extra("task", ""), self._extra("objects", ()), strict=True)
        return [Goal(task, tuple(objects)) for task, objects in pairs]

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`; negative numbers count from the end."""
        index = self._number(index)
        start = json.loads(self._extra("start_state", "{}")[index])
        return replace(
            super().__getitem__(index),
            goal=self.goals[index],
            seed=self.seeds[index],
            behaviour=self.behaviours[index],
            start_state=state_from_json(start),
        )

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """State (T+1, S) float64, if `observation.environment_state` is there, and success (T+1,).

        Success of every state is `observation.success`, or `next.success` of the row before.
        """
        index = self._number(index)
        features = self.info["features"]
        names = [n for n in ("observation.environment_state",) if n in features]
        if not names:
            return super().labels(index)
        rows = self._table(index, names)[names[0]]
        return np.asarray(rows, np.float64).reshape(len(rows), -1), self._row_success(index)

    # ---- what episodes there are -------------------------------------------------------------

    def _read_entries(self) -> list[dict[str, Any]]:
        """One dictionary per episode, in the order of episode numbers."""
        if self.version == "v3.0":
            entries = self._read_episode_tables()
        else:
            entries = _read_lines(self.folder / "meta" / "episodes.jsonl")
        entries.sort(key=lambda entry: entry["episode_index"])
        expected = self.info.get("total_episodes", len(entries))
        if len(entries) != expected or not entries:
            raise EpisodeError(
                f"{self.folder}: meta lists {len(entries)} episodes, expected {expected} by "
                "meta/info.json and at least one; copy or download the dataset again"
            )
        return entries

    def _read_episode_tables(self) -> list[dict[str, Any]]:
        parquet = import_parquet()
        entries: list[dict[str, Any]] = []
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            names = parquet.read_schema(path).names
            # statistics fill hundreds of further columns
            kept = [n for n in names if not n.startswith("stats/")]
            entries += parquet.read_table(path, columns=kept).to_pylist()
        return entries

    def _count_rows(self) -> list[int]:
        return [int(entry["length"]) for entry in self._entries]

    def _read_instructions(self) -> list[str]:
        """The first of an episode's task strings."""
        if any("tasks" not in entry for entry in self._entries):
            return [self._task_of_first_row(i) for i in range(len(self))]
        return [_first_task(entry["tasks"], self.folder) for entry in self._entries]

    @cached_property
    def _tasks(self) -> dict[int, str]:
        if self.version != "v3.0":
            lines = _read_lines(self.folder / "meta" / "tasks.jsonl")
            return {int(line["task_index"]): as_text(line["task"]) for line in lines}
        rows = import_parquet().read_table(self.folder / "meta" / "tasks.parquet").to_pylist()
        # written by pandas: the text is the index, whose column has one of several names
        return {
            int(row["task_index"]): next(as_text(v) for k, v in row.items() if k != "task_index")
            for row in rows
        }

    def _task_of_first_row(self, index: int) -> str:
        return self._tasks.get(int(self._table(index, ("task_index",))["task_index"][0]), "")

    # ---- rows of an episode ------------------------------------------------------------------

    def _place(self, template: str, index: int, prefix: str, camera: str = "") -> Path:
        """A file of an episode, from the template in `meta/info.json`."""
        entry = self._entries[index]
        number = int(entry["episode_index"])
        try:
            return self.folder / template.format(
                episode_index=number,
                episode_chunk=number // int(self.info.get("chunks_size", 1000)),
                chunk_index=entry.get(f"{prefix}/chunk_index"),
                file_index=entry.get(f"{prefix}/file_index"),
                total_episodes=len(self._entries),
                video_key=camera,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EpisodeError(
                f"{self.folder}: the path {template!r} of meta/info.json cannot be filled in for "
                f"episode {number} ({error}); the table of episodes lacks {prefix}/... columns: "
                "copy or download the dataset again"
            ) from error

    def _table(self, index: int, columns: Iterable[str]) -> dict[str, list[Any]]:
        """Some columns of an episode's rows, in the order of frames."""
        parquet = import_parquet()
        entry = self._entries[index]
        number = int(entry["episode_index"])
        path = self._place(self.info["data_path"], index, "data")
        try:
            table = parquet.read_table(
                path,
                columns=[*columns, "frame_index"],
                filters=[("episode_index", "=", number)],
            )
        except Exception as error:
            raise EpisodeError(
                f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "copy or download it again"
            ) from error
        table = table.sort_by("frame_index")
        if table.num_rows != entry["length"]:
            raise EpisodeError(
                f"{path} has {table.num_rows} rows of episode {number}, expected "
                f"{entry['length']} by its metadata; copy or download it again"
            )
        return {name: table[name].to_pylist() for name in columns}

    def _row_actions(self, index: int) -> np.ndarray:
        self._check_times(index)
        rows = self._table(index, (self.action_key,))[self.action_key]
        actions = np.asarray(rows, np.float32)
        return actions[:, None] if actions.ndim == 1 else actions

    def _row_success(self, index: int) -> np.ndarray:
        """Row i of `next.success` is about the state after it, which is row i + 1."""
        success = np.zeros(self.rows[index], bool)
        if "observation.success" in self.info["features"]:
            own = self._table(index, ("observation.success",))["observation.success"]
            return np.asarray(own, bool).reshape(len(success))
        if "next.success" in self.info["features"]:
            after = np.asarray(self._table(index, ("next.success",))["next.success"], bool)
            success[1:] = after.reshape(len(success), -1)[:-1, 0]
        return success

    def _camera_frames(self, index: int, camera: str, states: np.ndarray) -> np.ndarray:
        self._check_times(index)
        if self.info["features"][camera]["dtype"] == "image":
            return self._pictures(index, camera, states)
        path = self._place(self.info["video_path"], index, f"videos/{camera}", camera)
        video = self._videos[path]
        video.check_rate(self.fps, f"{self.folder / 'meta' / 'info.json'}")
        self._check_length(index, camera, path, len(video))
        begin = float(self._entries[index].get(f"videos/{camera}/from_timestamp") or 0.0)
        wanted = begin + states / self.fps
        times = video.times()
        after = np.searchsorted(times, wanted).clip(1, max(1, len(times) - 1))
        after = np.minimum(after, len(times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(wanted - times[before] < times[after] - wanted, before, after)
        apart = np.abs(times[nearest] - wanted)
        if apart.size and apart.max() > min(video.tolerance_s(), 0.25 / self.fps):
            state = int(states[apart.argmax()])
            raise EpisodeError(
                f"{path} shows nothing at {begin + state / self.fps:.4f} s, where state {state} of "
                f"episode {self._entries[index]['episode_index']} is expected: it holds "
                f"{len(times)} frames up to {times[-1]:.4f} s, the nearest "
                f"{apart.max():.4f} s away. It is truncated, or fps "
                f"{self.fps:g} in meta/info.json is wrong; copy or download it again"
            )
        return video.read(nearest)

    def _check_times(self, index: int) -> None:
        """Refuse rows whose `timestamp` is not that of their number, once an episode.

        LeRobot looks frames up by it, so rows at uneven times belong to other frames than ours.
        """
        if index in self._timed or "timestamp" not in self._columns(index):
            return
        times = np.asarray(self._table(index, ("timestamp",))["timestamp"], np.float64).reshape(-1)
        expected = np.arange(len(times)) / self.fps
        # stored as float32, whose step at an hour is 0.0002 s
        allowed = TOLERANCE_S + np.spacing(np.abs(times).astype(np.float32))
        wrong = np.flatnonzero(~(np.abs(times - expected) <= allowed))
        if len(wrong):
            row = int(wrong[0])
            raise EpisodeError(
                f"{self.folder}: row {row} of episode {self._entries[index]['episode_index']} has "
                f"timestamp {times[row]:.6f} s, expected {expected[row]:.6f} s at fps "
                f"{self.fps:g}: the rows are not evenly spaced, or fps in meta/info.json is wrong; "
                "resample the recording or correct it"
            )
        self._timed.add(index)

    def _columns(self, index: int) -> list[str]:
        path = self._place(self.info["data_path"], index, "data")
        try:
            return import_parquet().read_schema(path).names
        except Exception as error:
            raise EpisodeError(
                f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "copy or download it again"
            ) from error

    def _check_length(self, index: int, camera: str, path: Path, frames: int) -> None:
        """Refuse a video that holds more or fewer frames than the rows that are in it."""
        entry = self._entries[index]
        if self.version == "v3.0":
            keys = (f"videos/{camera}/chunk_index", f"videos/{camera}/file_index")
            place = tuple(entry.get(key) for key in keys)
            members = [e for e in self._entries if tuple(e.get(key) for key in keys) == place]
            rows = sum(int(member["length"]) for member in members)
        else:
            rows = int(entry["length"])
        if frames != rows:
            raise EpisodeError(
                f"{path} holds {frames} frames, expected {rows}, one for each row of its episodes "
                f"(episode {entry['episode_index']}): it is truncated or belongs to other data; "
                "copy or download it again"
            )

    def _pictures(self, index: int, camera: str, states: np.ndarray) -> np.ndarray:
        from PIL import Image

        rows = self._table(index, (camera,))[camera]
        pictures = []
        for state in states:
            row = rows[int(state)]
            code = row["bytes"] or (self.folder / row["path"]).read_bytes()
            pictures.append(np.asarray(Image.open(io.BytesIO(code)).convert("RGB"), np.uint8))
        return np.stack(pictures)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [
            json.loads(line)
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    except (OSError, ValueError) as error:
        raise EpisodeError(
            f"{path} cannot be read ({error}); copy or download the dataset again"
        ) from error


def _first_task(tasks: Any, folder: Path) -> str:
    """The first of an episode's task strings; a list, or one text."""
    if isinstance(tasks, list | tuple):
        tasks = tasks[0] if tasks else ""
    return as_text(tasks, f"{folder}: a task")


def _flat_names(names: Any) -> tuple[str, ...]:
    """Names of components, which are stored as a list or as a dictionary of lists."""
    if isinstance(names, dict):
        names = [name for group in names.values() if isinstance(group, list) for name in group]
    return tuple(str(name) for name in names or ())
