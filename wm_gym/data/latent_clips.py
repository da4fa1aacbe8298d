"""Precomputed latents of whole datasets, and batches of latent clips for training.

A folder of latents holds `latents.npy` (N, h, w, D) float16 with the states of all episodes one
after the other,
`actions.npy` (N, A) with the action taken in each state (zeros in the last one), `privileged.npy`
(N, S),
`success.npy` (N,), `bounds.npy` (E+1,) with the first row of each episode, `source.json`, and
`episodes.json` with what is known of the episodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.data.clips import Alignment, Clip, ClipStarts, align
from wm_gym.data.episodes import EpisodeError, EpisodeReader, check_finite
from wm_gym.errors import UserError
from wm_gym.run_lock import RunLock
from wm_gym.run_settings import check_run_settings, plain_settings, read_run_settings
from wm_gym.spec import ActionSpec

Encoder = Callable[[np.ndarray], Any]
_FACTS = "episodes.json"


@dataclass(frozen=True)
class EpisodeFacts:
    """What is known of the episodes behind a folder of latents.

    Attributes:
        simulator: id of the simulator they were collected in; None if they come from elsewhere.
        goals: task and objects of each episode; empty if nobody recorded them.
    """

    simulator: str | None
    goals: tuple[tuple[str, ...], ...]


def write_episode_facts(folder: Path, facts: EpisodeFacts) -> None:
    """Write them beside the latents."""
    write_atomically(folder / _FACTS, json.dumps(asdict(facts), indent=1).encode())


def read_episode_facts(folder: Path) -> EpisodeFacts:
    """Read what `write_episode_facts` wrote.

    Raises:
        FileNotFoundError: if the folder is of a time before there were any.
    """
    path = folder / _FACTS
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; the `wm-gym train latents` command that made the folder, given "
            "again, adds it at once and encodes nothing anew"
        )
    stored = json.loads(path.read_text(encoding="utf-8"))
    return EpisodeFacts(stored["simulator"], tuple(map(tuple, stored["goals"])))


def check_latents_folder(folder: str | Path) -> Path:
    """The folder, known to hold finished latents.

    Raises:
        FileNotFoundError: if it does not.
    """
    folder = Path(folder).expanduser()
    missing = [name for name in ("source.json", "latents.npy") if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no latents (no {' and no '.join(missing)}); write them with "
            "`wm-gym train latents --data EPISODES --out FOLDER`"
        )
    return folder


def read_action_spec(folder: Path) -> ActionSpec:
    """What the actions beside the latents are.

    Raises:
        FileNotFoundError: if the folder holds no latents, or does not say.
    """
    path = check_latents_folder(folder) / "action.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: nothing says what the actions are; write the latents with "
            "`wm-gym train latents`, which records it"
        )
    return ActionSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))


CHUNK = 65536
"""Clips or states that are read at once."""


def changed_cells(
    latents: np.ndarray, bounds: np.ndarray, std: np.ndarray, threshold: float
) -> np.ndarray:
    """How many cells of every state differ from the state before it in the same episode.

    Args:
        latents: (N, h, w, D), the states of all episodes one after the other.
        bounds: (E + 1,) first row of each episode.
        std: (D,) standard deviation of the latents.
        threshold: mean absolute change, in units of `std`, above which a cell counts.

    Returns:
        (N,) float64; the first state of an episode has the count of the second.
    """
    counts = np.zeros(len(latents))
    for at in range(0, len(latents) - 1, CHUNK):
        part = np.asarray(latents[at : at + CHUNK + 1], np.float32) / std
        change = np.abs(np.diff(part, axis=0)).mean(-1) > threshold
        counts[at + 1 : at + len(part)] = change.sum((1, 2))
    first = bounds[:-1][np.diff(bounds) > 1]
    counts[first] = counts[first + 1]
    return counts


def _holds(out: Path, record: dict[str, Any]) -> bool:
    """Whether these latents are in a folder already; False where it is empty or not there.

    Raises:
        RunSettingsError: if they are made from something else.
        ValueError: if something else is in it, which is not this function's to delete.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "source.json").is_file():
        raise UserError(
            f"{out} is there already and holds no latents; choose another folder for out"
        )
    stored = read_run_settings(out / "source.json")
    assert stored is not None
    remedy = "choose another folder for out, or delete this one"
    check_run_settings(out, stored, record, remedy=remedy)
    return True


def precompute_latents(
    dataset: EpisodeReader,
    encode: Encoder,
    out: str | Path,
    *,
    batch: int = 256,
    source: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Encode every frame of a dataset; the folder appears whole or not at all.

    Args:
        dataset: the episodes.
        encode: maps frames (B, H, W, 3) uint8 to latents (B, h, w, D), NumPy or torch.
        out: folder to write; one that is there already is kept as it is if its `source.json`
            agrees. Nothing that is there is ever replaced.
        batch: frames per call of `encode`.
        source: what the latents depend on besides the dataset, e.g. the encoder's hash; JSON-ready.
        progress: whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: if `batch` is below 1, `out` holds anything but these latents, or latents are
            not finite.
    """
    from tqdm import tqdm

    if batch < 1:
        raise UserError(f"batch={batch}; expected at least 1 frame a pass")
    out = Path(out).expanduser().resolve()  # a link stays one: what it points to is written
    steps = dataset.lengths
    bounds = np.concatenate([[0], np.cumsum(steps + 1)])
    record = {
        "dataset": str(dataset.folder.resolve()),
        "episodes": len(dataset),
        "states": int(bounds[-1]),
        **(source or {}),
    }
    record = plain_settings(record)
    if _holds(out, record):
        return out
    with _staging(out) as staging:
        total = int(bounds[-1])
        actions = np.zeros((total, dataset.actions(0).shape[1]), np.float32)
        privileged = np.zeros((total, dataset.labels(0)[0].shape[1]), np.float32)
        success = np.zeros(total, bool)
        latents: np.ndarray | None = None
        with tqdm(total=total, unit="frame", desc="latents", disable=not progress) as bar:
            for i in range(len(dataset)):
                a, b = int(bounds[i]), int(bounds[i + 1])
                actions[a : b - 1] = dataset.actions(i)
                privileged[a:b], success[a:b] = dataset.labels(i)
                for at in range(0, b - a, batch):
                    # a batch at a time: the frames of a whole long video need not fit into memory
                    seen = dataset.frames(i, slice(at, at + batch))
                    chunk = _to_numpy(encode(np.asarray(seen)))
                    if latents is None:
                        latents = allocate_array(staging / "latents.npy", (total, *chunk.shape[1:]))
                    latents[a + at : a + at + len(chunk)] = chunk
                bar.update(b - a)
        assert latents is not None
        latents.flush()  # pyright: ignore[reportAttributeAccessIssue]
        arrays = {
            "actions": actions,
            "privileged": privileged,
            "success": success,
            "bounds": bounds,
        }
        _finish(staging, out, arrays, record)
    return out


def allocate_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new float16 array in a file whose room on the disk is there.

    Without it a disk that fills up ends the process by SIGBUS, without a word.

    Raises:
        UserError: if the disk has no room for it.
    """
    try:
        array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        with open(path, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        size = 2 * int(np.prod(shape)) / 2**20
        raise UserError(
            f"{path.parent} has no room for {size:.1f} MiB of latents ({error.strerror or error}); "
            "free some, or write to another disk"
        ) from error
    return array


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill, gone again if that fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with RunLock.of_file(out):
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def _finish(
    staging: Path, out: Path, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> None:
    for name, array in arrays.items():
        np.save(staging / f"{name}.npy", array)
    (staging / "source.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    staging.chmod(0o755)
    os.replace(staging, out)  # onto a folder only if it is empty


def write_latents(
    out: Path,
    make: Callable[[], Mapping[str, np.ndarray]],
    source: Mapping[str, Any],
) -> Path:
    """Write a folder of latents that fit into memory; it appears whole or not at all.

    Args:
        out: folder to write; one that is there already is kept as it is if its `source.json`
            agrees, and nothing is made then. Nothing that is there is ever replaced.
        make: gives `latents` (N, h, w, D), `actions`, `privileged`, `success` and `bounds`, as the
            head of this file says.
        source: what they depend on; JSON-ready.

    Returns:
        The folder.

    Raises:
        ValueError: if `out` holds anything but these latents, or latents are not finite.
    """
    out = Path(out).expanduser().resolve()
    record = plain_settings(source)
    if _holds(out, record):
        return out
    made = make()
    arrays = {**made, "latents": _to_numpy(made["latents"]).astype(np.float16)}
    with _staging(out) as staging:
        _finish(staging, out, arrays, record)
    return out


def _to_numpy(latents: Any) -> np.ndarray:
    if hasattr(latents, "detach"):
        latents = latents.detach().float().cpu().numpy()
    limit = float(np.finfo(np.float16).max)
    if not np.isfinite(latents).all() or np.abs(latents).max(initial=0.0) > limit:
        raise UserError(
            f"the encoder returned NaN, infinite values or values beyond {limit:g}, expected "
            "finite float16; "
            "scale the latents or repair the encoder"
        )
    return latents


def check_rows(folder: Path, latents: np.ndarray, actions: np.ndarray, bounds: np.ndarray) -> None:
    """Refuse a folder whose arrays do not fit together, or whose actions are not finite.

    Raises:
        EpisodeError: naming the arrays, or the episode and the row.
    """
    counts = {"latents": len(latents), "actions": len(actions), "bounds": int(bounds[-1])}
    if len(set(counts.values())) > 1:
        raise EpisodeError(
            f"{folder} holds different numbers of states {counts}, expected one; write it again "
            "with `wm-gym train latents`"
        )
    wrong = np.flatnonzero(~np.isfinite(actions).all(axis=-1))
    if len(wrong):
        episode = int(np.searchsorted(bounds, wrong[0], side="right")) - 1
        check_finite(actions[bounds[episode] : bounds[episode + 1]], folder, episode)


class LatentClips:
    """Random batches of latent clips.

    A batch is a pure function of (seed, step): training resumes exactly by passing the step it
    stopped at. A sampler for a distributed run passes different seeds.

    Example:
        >>> clips = LatentClips("data/latents", length=20)     # doctest: +SKIP
        >>> clips.sample(seed=0, step=12, batch=8).frames.shape  # doctest: +SKIP
        (8, 20, 8, 8, 12)

    Args:
        folder: written by `precompute_latents`.
        length: slots per clip, T.
        frame_skip: actions between neighbouring slots.
        alignment: "target" or "source", as in a card.
        pad_start: slots that may lie before an episode's start.
        pad_end: slots that may lie after its end.
        episodes: numbers of the episodes to use; None for all.
        in_memory: read all latents now instead of mapping the file.
        frame_weights: (N,) positive weight of every state of the folder; a clip is drawn in
            proportion to the mean weight of the states that it shows. None: all alike.

    Raises:
        FileNotFoundError: if the folder holds no latents.
        ValueError: if no clip fits into any episode, or a weight is missing or not positive.
    """

    def __init__(
        self,
        folder: str | Path,
        length: int,
        frame_skip: int = 1,
        alignment: Alignment = "target",
        pad_start: int = 0,
        pad_end: int = 0,
        episodes: np.ndarray | None = None,
        in_memory: bool = False,
        frame_weights: np.ndarray | None = None,
    ):
        self.folder = check_latents_folder(folder)
        self.length, self.frame_skip = length, frame_skip
        self.alignment: Alignment = alignment
        self.latents = np.load(self.folder / "latents.npy", mmap_mode=None if in_memory else "r")
        self.actions = np.load(self.folder / "actions.npy")
        self.privileged = np.load(self.folder / "privileged.npy")
        self.success = np.load(self.folder / "success.npy")
        bounds = np.load(self.folder / "bounds.npy")
        check_rows(self.folder, self.latents, self.actions, bounds)
        chosen = np.arange(len(bounds) - 1) if episodes is None else np.asarray(episodes)
        self.episodes = chosen
        self.first_rows = bounds[:-1][chosen]
        self.steps = bounds[1:][chosen] - self.first_rows - 1
        self.starts = ClipStarts(self.steps, length, frame_skip, pad_start, pad_end)
        self._cumulative = None if frame_weights is None else self._clip_weights(frame_weights)

    def _clip_weights(self, frame_weights: np.ndarray) -> np.ndarray:
        """Running sum (len(self),) of the clips' mean weights."""
        states = int(self.latents.shape[0])
        if frame_weights.shape != (states,) or not (frame_weights > 0).all():
            raise UserError(
                f"frame_weights of shape {frame_weights.shape}, least "
                f"{frame_weights.min(initial=np.inf):g}, expected ({states},) positive numbers"
            )
        weights = np.empty(len(self))
        for at in range(0, len(self), CHUNK):
            numbers = np.arange(at, min(at + CHUNK, len(self)))
            episodes, starts = self.starts.place(numbers)
            slots = align(
                starts, self.steps[episodes], self.length, self.frame_skip, self.alignment
            )
            rows = slots.states + self.first_rows[episodes][:, None]
            weights[numbers] = frame_weights[rows].mean(1)
        return np.cumsum(weights)

    def __len__(self) -> int:
        """Number of different clips."""
        return len(self.starts)

    def cut(self, episodes: np.ndarray, starts: np.ndarray) -> Clip:
        """Clips (B, T, …) of the chosen `episodes` (B,), counted from 0, slot 0 at `starts`."""
        slots = align(starts, self.steps[episodes], self.length, self.frame_skip, self.alignment)
        first = self.first_rows[episodes]
        rows = slots.states + first[:, None]
        actions = self.actions[slots.actions + first[:, None, None]]  # (B, T, frame_skip, A)
        actions = np.where(slots.known[..., None, None], actions, np.float32(0))
        return Clip(
            frames=np.asarray(self.latents[rows]),
            actions=actions.reshape(*rows.shape, -1),
            known=slots.known,
            valid=slots.valid,
            episode=self.episodes[episodes],
            states=slots.states,
            rows=rows,
        )

    def sample(self, seed: int, step: int, batch: int) -> Clip:
        """A batch of random clips, a pure function of seed and step."""
        numbers = self.starts.draw(seed, step, batch, self._cumulative)
        return self.cut(*self.starts.place(numbers))

    def window(self, index: int) -> Clip:
        """Clip number `index` as a batch of one, in the order of episodes and starts."""
        return self.cut(*self.starts.place(np.asarray([index])))
