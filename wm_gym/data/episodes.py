"""Episodes on disk: Minari datasets whose episodes lie in shards, read on demand.

```
folder/
  metadata.json      Minari's metadata: spaces, counts, environment
  index.json         one EpisodeEntry per episode, so that opening costs nothing
  main_data.hdf5     one link per episode into the shards; what Minari opens
  shards/00000.hdf5  a block of episodes in Minari's HDF5 layout
```

`minari.MinariDataset(folder)` reads such a folder like any other; `EpisodeDataset(folder)` reads it
faster, with frames that stay on disk until they are touched.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from wm_gym.errors import UserError
from wm_gym.instructions import Goal

ImageFormat = Literal["exact", "jpeg"]


class EpisodeError(UserError):
    """An episode or a dataset folder that contradicts itself."""


def check_finite(actions: np.ndarray, folder: Path, episode: int) -> np.ndarray:
    """The actions (T, A), known to be finite.

    Raises:
        EpisodeError: naming the episode and the row.
    """
    wrong = np.flatnonzero(~np.isfinite(actions).all(axis=-1))
    if len(wrong):
        row = int(wrong[0])
        raise EpisodeError(
            f"{folder}: episode {episode}, row {row} of the actions is {actions[row].tolist()}, "
            "expected finite numbers; leave the episode out or mend it"
        )
    return actions


@dataclass(frozen=True)
class Episode:
    """One episode: T actions between T+1 states.

    Attributes:
        frames: (T+1, H, W, 3) uint8; a read-only view of the file where a dataset stores exact
            images.
        actions: (T, A) float32, physical units; `actions[t]` leads from state t to state t+1.
        privileged: (T+1, S) float64, the simulator's state in numbers.
        success: (T+1,) bool, whether the goal holds in that state.
        instruction: the goal in words.
        goal: the task and the objects it names.
        seed: seed the episode was made from.
        behaviour: who acted, e.g. "expert".
        start_state: the simulator's full state at the start, for `set_state`; empty if there is
            none.
    """

    frames: np.ndarray
    actions: np.ndarray
    privileged: np.ndarray
    success: np.ndarray
    instruction: str = ""
    goal: Goal = field(default_factory=lambda: Goal(""))
    seed: int = 0
    behaviour: str = ""
    start_state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that states and actions fit together."""
        states = len(self.actions) + 1
        for name in ("frames", "privileged", "success"):
            if len(getattr(self, name)) != states:
                raise EpisodeError(
                    f"episode.{name} has {len(getattr(self, name))} entries, expected {states}: "
                    "one for each state "
                    f"before and after the {len(self.actions)} actions; record the state of the "
                    "reset, too"
                )
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise EpisodeError(
                f"episode.frames has shape {self.frames.shape} and dtype {self.frames.dtype}, "
                "expected "
                "(T+1, H, W, 3) uint8; convert the images before storing them"
            )

    def __len__(self) -> int:
        """Number of actions T."""
        return len(self.actions)


def decode_jpeg(code: np.ndarray) -> np.ndarray:
    """The frame (H, W, 3) uint8 of JPEG bytes."""
    return np.asarray(Image.open(io.BytesIO(code.tobytes())), np.uint8)


def state_from_json(value: Any) -> Any:
    """A start state from what `shards.state_to_json` made of it."""
    if isinstance(value, dict):
        if set(value) == {"array", "dtype", "shape"}:
            return np.asarray(value["array"], value["dtype"]).reshape(value["shape"])
        return {key: state_from_json(item) for key, item in value.items()}
    return [state_from_json(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class EpisodeEntry:
    """Line of `index.json`: where an episode lies and what can be said without opening its shard.

    Attributes:
        shard: the shard's file name.
        group: HDF5 group in it.
        offset: first byte of the frames if they are exact, else None.
        shape: (T+1, H, W, 3) of exact frames, (T+1,) of JPEG ones.
        seed: as in `Episode`.
        behaviour: as in `Episode`.
        instruction: as in `Episode`.
        task: of the goal.
        objects: of the goal.
    """

    shard: str
    group: str
    offset: int | None
    shape: tuple[int, ...]
    seed: int
    behaviour: str
    instruction: str
    task: str
    objects: tuple[str, ...]


class EpisodeReader(Protocol):
    """What every reader of episodes offers; `wm_gym.data.open_dataset` finds the right one."""

    folder: Path

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in order."""
        ...

    def __getitem__(self, index: int) -> Episode:
        """One episode, with all its frames."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """Number of actions T of each episode, (E,)."""
        ...

    @property
    def instructions(self) -> list[str]:
        """Instruction of each episode."""
        ...

    def frames(self, index: int, states: slice | np.ndarray | None = None) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 of some states of one episode."""
        ...

    def actions(self, index: int) -> np.ndarray:
        """Actions (T, A) float32 of one episode."""
        ...

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Privileged state (T+1, S) and success (T+1,) of one episode."""
        ...


class EpisodeDataset:
    """The episodes of a folder, read on demand.

    Exact images are mapped into memory, so `dataset[i].frames` costs nothing until frames are
    touched; JPEG images are decoded when asked for. Safe to pickle and to use in several processes.

    Example:
        >>> dataset = EpisodeDataset("data/langtable")  # doctest: +SKIP
        >>> dataset[0].frames.shape                     # doctest: +SKIP
        (61, 96, 96, 3)

    Args:
        folder: a folder written by `wm-gym collect`.

    Raises:
        EpisodeError: if the folder holds no finished dataset.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        try:
            self.metadata: dict[str, Any] = json.loads(
                (self.folder / "metadata.json").read_text(encoding="utf-8")
            )
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise EpisodeError(
                f"{self.folder} holds no finished dataset (metadata.json or index.json is absent); "
                f"make one, or finish one, with `wm-gym collect --out {self.folder}`"
            ) from error
        for name, size in index["shards"].items():
            path = self.folder / "shards" / name
            found = path.stat().st_size if path.exists() else None
            if found != size:
                raise EpisodeError(
                    f"{path} has {found} bytes, expected {size} by index.json; run the same "
                    "`wm-gym collect` again, which makes what is missing or damaged"
                )
        self._entries = [EpisodeEntry(**entry) for entry in index["episodes"]]
        self._lengths = np.asarray([entry.shape[0] - 1 for entry in self._entries])
        self._open: dict[str, tuple[int, Any, np.ndarray]] = {}

    def _shard(self, name: str) -> tuple[Any, np.ndarray]:
        import h5py

        pid, file, image = self._open.get(name, (0, None, None))
        if pid != os.getpid() or image is None:
            path = self.folder / "shards" / name
            file, image = h5py.File(path, "r"), np.memmap(path, np.uint8, "r")
            self._open[name] = (os.getpid(), file, image)
        return file, image

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in order."""
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Number of actions T of each episode, (E,)."""
        return self._lengths

    @property
    def behaviours(self) -> list[str]:
        """Who acted, one name per episode."""
        return [entry.behaviour for entry in self._entries]

    @property
    def seeds(self) -> list[int]:
        """Seed of each episode."""
        return [entry.seed for entry in self._entries]

    @property
    def goals(self) -> list[Goal]:
        """Goal of each episode."""
        return [Goal(entry.task, tuple(entry.objects)) for entry in self._entries]

    @property
    def instructions(self) -> list[str]:
        """Instruction of each episode."""
        return [entry.instruction for entry in self._entries]

    def frames(self, index: int, states: slice | np.ndarray | None = None) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 of some states of one episode, without reading the rest.

        Args:
            index: number of the episode.
            states: a slice or an array of state numbers in 0..T; None for all.
        """
        entry = self._entries[index]
        chosen = slice(None) if states is None else states
        file, image = self._shard(entry.shard)
        if entry.offset is not None:
            size = int(np.prod(entry.shape))
            return image[entry.offset : entry.offset + size].reshape(entry.shape)[chosen]
        codes = file[entry.group]["observations"][()]
        if not self.metadata["jpeg_encoding"]:
            return codes[chosen]
        return np.stack([decode_jpeg(code) for code in codes[chosen]])

    def actions(self, index: int) -> np.ndarray:
        """Actions (T, A) float32 of one episode."""
        entry = self._entries[index]
        actions = self._shard(entry.shard)[0][entry.group]["actions"][()]
        if len(actions) != entry.shape[0] - 1:
            raise EpisodeError(
                f"{self.folder}: episode {index} has {len(actions)} actions and {entry.shape[0]} "
                f"frames, expected {entry.shape[0] - 1} actions; collect or convert it again"
            )
        return check_finite(actions, self.folder, index)

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Privileged state (T+1, S) float64 and success (T+1,) bool of one episode."""
        entry = self._entries[index]
        group = self._shard(entry.shard)[0][entry.group]
        return group["infos/privileged"][()], group["infos/success"][()]

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`; negative numbers count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} does not exist; {self.folder} holds {len(self)}")
        index %= len(self)
        entry = self._entries[index]
        group = self._shard(entry.shard)[0][entry.group]
        return Episode(
            frames=self.frames(index),
            actions=group["actions"][()],
            privileged=group["infos/privileged"][()],
            success=group["infos/success"][()],
            instruction=entry.instruction,
            goal=Goal(entry.task, tuple(entry.objects)),
            seed=entry.seed,
            behaviour=entry.behaviour,
            start_state=state_from_json(json.loads(group.attrs["start_state"])),
        )
