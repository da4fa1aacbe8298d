"""Stored start states: frames for the dream beside the full simulator states of its twin.

A checkpoint folder may hold `start_states.npz`. Because every start has both, a dream and its twin
begin in the same place: `env.reset(options={"start": name})` works in either.
"""

from __future__ import annotations

import io
import itertools
import json
import lzma
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError

FILENAME = "start_states.npz"
_MOST_TRIES = 1000

# what NumPy, zipfile and lzma raise for a damaged file; RuntimeError is a wrong flag in its headers
_UNREADABLE = (OSError, KeyError, ValueError, EOFError, RuntimeError)
_UNREADABLE += (zipfile.BadZipFile, lzma.LZMAError)


class StartStateError(UserError):
    """A start state that does not exist, or a file of start states that cannot be read."""


@dataclass(frozen=True)
class StartStates:
    """Start states of one domain, N in all.

    Attributes:
        names: unique names.
        instructions: what each episode asks for.
        frames: (N, H, W, 3) uint8.
        states: what the twin's `get_state` returned, arrays as nested lists.

    Example:
        >>> starts = StartStates(("a",), ("reach the red moon",), np.zeros((1, 8, 8, 3), np.uint8),
        ...                      ({"positions": [0.0, 0.1]},))
        >>> starts.index("a")
        0
    """

    names: tuple[str, ...]
    instructions: tuple[str, ...]
    frames: np.ndarray
    states: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        """Check that the fields belong together."""
        lengths = {len(self.names), len(self.instructions), len(self.frames), len(self.states)}
        if len(lengths) != 1 or len(set(self.names)) != len(self.names):
            raise StartStateError(
                f"{len(self.names)} names ({len(set(self.names))} different), "
                f"{len(self.instructions)} instructions, {len(self.frames)} frames and "
                f"{len(self.states)} states; expected as many of each, names all different"
            )
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise StartStateError(
                f"frames have dtype {self.frames.dtype} and shape {self.frames.shape}, expected "
                "uint8 and (N, H, W, 3)"
            )

    def __len__(self) -> int:
        """Number of start states."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of a start state.

        Raises:
            StartStateError: naming the first and last of every task if there is none of this name.
        """
        if name not in self.names:
            raise StartStateError(
                f"start {name!r} is unknown; the {len(self)} stored ones are "
                f"{self.ranges() or 'none: the file is empty'}"
            )
        return self.names.index(name)

    def ranges(self) -> str:
        """The names in short: the first and the last with each beginning.

        Example:
            >>> picture = np.zeros((3, 8, 8, 3), np.uint8)
            >>> StartStates(("a-0", "a-1", "b-0"), ("",) * 3, picture, ({}, {}, {})).ranges()
            'a-0 to a-1, b-0'
        """
        groups: dict[str, list[str]] = {}
        for name in self.names:
            groups.setdefault(name.rpartition("-")[0] or name, []).append(name)
        return ", ".join(
            group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}"
            for group in groups.values()
        )

    def to_bytes(self) -> bytes:
        """Content of the file; the same start states give the same bytes."""
        arrays = {
            "names": np.array(self.names, dtype=str),
            "instructions": np.array(self.instructions, dtype=str),
            "frames": self.frames,
            "states": np.array([json.dumps(_plain(s)) for s in self.states], dtype=str),
        }
        buffer = io.BytesIO()
        # an .npz as np.savez_compressed writes it, but half the size: frames begin alike
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                # ZipInfo's own date, not the clock's: the same content gives the same bytes
                entry = zipfile.ZipInfo(f"{name}.npy")
                archive.writestr(entry, content.getvalue(), zipfile.ZIP_LZMA)
        return buffer.getvalue()

    def write(self, path: Path) -> None:
        """Write the file, atomically; `save_data_file` does so beside a card."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> StartStates:
        """Read the file; nothing is unpickled.

        Raises:
            StartStateError: if it is missing, damaged or of another layout.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        return cls.from_bytes(content, path)

    @classmethod
    def from_bytes(cls, content: bytes, path: Path) -> StartStates:
        """Inverse of `to_bytes`; `path` is named in errors.

        Raises:
            StartStateError: if the content is damaged or of another layout.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return cls(
                    tuple(str(name) for name in file["names"]),
                    tuple(str(text) for text in file["instructions"]),
                    file["frames"],
                    tuple(json.loads(str(state)) for state in file["states"]),
                )
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StartStateError:
    return StartStateError(
        f"{path} cannot be read as start states ({type(error).__name__}: {error}); get the "
        "checkpoint again or write it anew with `wm-gym make-start-states`"
    )


def make_start_states(
    seeds: Iterable[int],
    tasks: Sequence[str],
    *,
    simulator: str = "LangTable-v0",
    frame_size: tuple[int, int],
    path: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    **kwargs: Any,
) -> StartStates:
    """Make start states by resetting a simulator, one for every task and seed.

    A start whose goal holds already is not one: another seed takes its place, the first after the
    last of `seeds` that no start has yet.

    Args:
        seeds: seeds of the resets; keep them, and some after them, apart from those of training
            data.
        tasks: task names, e.g. ("reach", "separate", "push").
        simulator: id of the simulator.
        frame_size: (height, width) in pixels, as in the card of the world model.
        path: file to write, none by default.
        progress: wraps the iteration, e.g. `tqdm.tqdm`.
        **kwargs: further arguments of the simulator.

    Returns:
        The start states, named `<task>-<seed>`.

    Raises:
        StartStateError: if the goals of many starts in a row hold at once.
    """
    seeds = list(seeds)
    names, instructions, frames, states = [], [], [], []
    for task in tasks:
        env = gymnasium.make(simulator, task=task, frame_size=tuple(frame_size), **kwargs)
        twin: Any = env.unwrapped
        others = itertools.count(max(seeds, default=0) + 1)
        try:
            for seed in progress(seeds):
                frame, info = env.reset(seed=int(seed))
                tries = 1
                while info["is_success"]:
                    if tries == _MOST_TRIES:
                        raise StartStateError(
                            f"the goal of {tries} starts of task {task!r} in {simulator} held at "
                            "reset, one after the other; correct the simulator's starts"
                        )
                    seed, tries = next(others), tries + 1
                    frame, info = env.reset(seed=seed)
                names.append(f"{task}-{seed}")
                instructions.append(info["instruction"])
                frames.append(np.asarray(frame))
                states.append(_plain(twin.get_state()))
        finally:
            env.close()
    starts = StartStates(
        tuple(names),
        tuple(instructions),
        np.stack(frames) if frames else np.zeros((0, *frame_size, 3), np.uint8),
        tuple(states),
    )
    if path is not None:
        starts.write(path)
    return starts


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A simulator state with arrays as lists; float64 survives JSON exactly."""
    return {
        key: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        for key, value in state.items()
    }
