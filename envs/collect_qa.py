"""Questions with answers about recorded episodes (SAQA): `wm-gym collect-qa`.

For every state of an episode some horizons are drawn, and for every (state, horizon) questions of
each type, as many that are answered "yes" as "no" where both exist. Nothing is copied: a question
refers to episode, frame and horizon, and the images stay where they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.data.episodes import EpisodeDataset, EpisodeError
from wm_gym.envs.sims.answers import ANSWERS
from wm_gym.errors import UserError
from wm_gym.run_lock import one_writer
from wm_gym.run_settings import check_run_settings
from wm_gym.semantic.question_sets import QUESTION_SETS
from wm_gym.training.saqa import (
    INDEX,
    QA_VERSION,
    RECORD,
    SourceEntry,
    objects_of,
    simulator_of_start,
)

RECORD_TYPE = np.dtype(list(RECORD.items()))


@dataclass(frozen=True)
class CollectQAConfig:
    """Ask questions about the future of recorded episodes of LangTable or Cube."""

    data: tuple[Path, ...]
    """Folders of episodes of one simulator, LangTable-v0 or Cube-v0, written by `wm-gym collect`.
    """
    out: Path
    """Folder for the questions; it refers to the episodes' folders. Sources that are already there
    are kept, so an interrupted run goes on."""
    horizons: int = 4
    """Horizons drawn for each state."""
    max_horizon: int = 20
    """Largest horizon, in actions; 0 is the smallest."""
    per_answer: int = 2
    """Questions kept for each state, horizon, type and answer, at most."""
    stride: int = 1
    """Steps from one state that questions are asked in to the next."""
    present_only: bool = False
    """Ask only about the present, only what a single picture answers: for the first stage of
    training, which knows no actions."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        """Check the settings once."""
        if not self.data:
            raise UserError("data is empty; give at least one folder of episodes")
        if min(self.horizons, self.per_answer, self.stride) < 1 or self.max_horizon < 0:
            raise UserError(
                f"horizons={self.horizons}, per_answer={self.per_answer} and stride={self.stride} "
                f"must be at least 1, and max_horizon={self.max_horizon} at least 0"
            )
        if self.max_horizon > np.iinfo(np.uint8).max:  # as stored
            raise UserError(f"max_horizon={self.max_horizon} must be at most 255")

    def identity(self) -> dict[str, Any]:
        """The settings that the questions depend on, JSON-ready."""
        settings = asdict(self)
        return {name: settings[name] for name in settings if name not in ("data", "out")}


def collect_qa(config: CollectQAConfig) -> Path:
    """Run `wm-gym collect-qa`.

    Returns:
        The folder of the questions.

    Raises:
        RunSettingsError: if the folder holds questions asked with other settings.
        InUseError: if another process collects into it.
        EpisodeError: if a source holds episodes of another simulator than the first, or of one
            whose states answer no questions.
    """
    with one_writer(config.out):
        return _collect_qa(config)


def _collect_qa(config: CollectQAConfig) -> Path:
    from tqdm import tqdm

    out = config.out.expanduser()
    datasets = [EpisodeDataset(folder) for folder in config.data]
    simulator = _common_simulator(datasets)
    entries = _entries(config, out)
    for number, (folder, dataset) in enumerate(zip(config.data, datasets, strict=True)):
        digest = hashlib.sha256((dataset.folder / "index.json").read_bytes()).hexdigest()
        if number < len(entries):
            if entries[number].index_sha256 != digest:
                raise UserError(
                    f"{out} was made from other episodes than {folder} holds now; collect the "
                    "questions into another folder"
                )
            continue
        bar = tqdm(range(len(dataset)), unit="episode", desc=folder.name, mininterval=5)
        found = [rows for episode in bar for rows in ask_episode(dataset, episode, config)]
        records = np.concatenate(found) if found else np.empty(0, RECORD_TYPE)
        if not len(records):
            raise EpisodeError(f"{folder} gives no questions: its episodes are empty")
        name = f"source_{number}.npz"
        write_atomically(out / name, _npz(**{column: records[column] for column in RECORD}))
        places = f"places_{number}.npz"
        write_atomically(out / places, _npz(places=_places(dataset, simulator)))
        entries.append(
            SourceEntry(os.path.relpath(dataset.folder, out), digest, name, len(records), places)
        )
        _write_index(out, config, simulator, entries)
    print(f"{out}: {sum(e.records for e in entries)} questions about {len(entries)} sources")
    return out


def ask_episode(
    dataset: EpisodeDataset, index: int, config: CollectQAConfig
) -> Iterator[np.ndarray]:
    """The questions of one episode, a pure function of the settings and the episode's number.

    Yields:
        Arrays of records, (questions,) `RECORD_TYPE`.
    """
    start = dataset[index].start_state
    simulator, objects = simulator_of_start(start), objects_of(start)
    answers = ANSWERS[simulator]
    states, _ = dataset.labels(index)
    rng = np.random.default_rng([config.seed, index])
    frames, horizons = _draw_horizons(len(states), config, rng)
    for number, kind in enumerate(QUESTION_SETS[simulator]):
        if config.present_only and kind.name not in answers.present_types:
            continue
        found = answers.slacks(kind.name, states[frames], states[frames + horizons], objects)
        chosen = _choose(found > 0, config.per_answer, rng)
        rows, instances = np.nonzero(chosen)
        records = np.empty(len(rows), RECORD_TYPE)
        records["episode"], records["type"], records["instance"] = index, number, instances
        records["frame"], records["horizon"] = frames[rows], horizons[rows]
        records["slack"] = np.clip(found[rows, instances], -100, 100)
        records["yes"] = found[rows, instances] > 0
        yield records


def _draw_horizons(
    states: int, config: CollectQAConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and horizons, each (n,), whose futures are within the episode."""
    frames, horizons = [], []
    for frame in range(0, states, config.stride):
        largest = 0 if config.present_only else min(config.max_horizon, states - 1 - frame)
        count = min(config.horizons, largest + 1)
        horizons.append(rng.choice(largest + 1, count, replace=False))
        frames.append(np.full(count, frame))
    return np.concatenate(frames), np.concatenate(horizons)


def _choose(yes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` random instances of either answer in every row, as a mask like `yes` (N, I)."""
    order = rng.random(yes.shape)
    chosen = np.zeros(yes.shape, bool)
    for answer in (yes, ~yes):
        rank = np.where(answer, order, np.inf).argsort(axis=1)[:, :count]
        chosen |= _mask(rank, yes.shape[1]) & answer
    return chosen


def _places(dataset: EpisodeDataset, simulator: str) -> np.ndarray:
    """Where things appear in every frame, (frames, 1 + objects, 2) float16, see `Answers.places`.

    Episodes follow each other; where one has fewer objects than others the rest is NaN.
    """
    where = ANSWERS[simulator].places
    found = [where(dataset.labels(episode)[0]) for episode in range(len(dataset))]
    most = max(places.shape[1] for places in found)
    wide = [
        np.pad(places, ((0, 0), (0, most - places.shape[1]), (0, 0)), constant_values=np.nan)
        for places in found
    ]
    return np.concatenate(wide).astype(np.float16)


def _npz(**arrays: np.ndarray) -> bytes:
    """Arrays as a compressed npz file."""
    buffer = io.BytesIO()
    named: dict[str, Any] = arrays
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def _mask(columns: np.ndarray, width: int) -> np.ndarray:
    """Mask (N, width) that is True at the columns (N, k) of each row."""
    mask = np.zeros((len(columns), width), bool)
    np.put_along_axis(mask, columns, True, axis=1)
    return mask


def _common_simulator(datasets: list[EpisodeDataset]) -> str:
    found = [simulator_of_start(dataset[0].start_state) for dataset in datasets]
    for dataset, simulator in zip(datasets, found, strict=True):
        if simulator != found[0]:
            raise EpisodeError(
                f"{dataset.folder} holds episodes of {simulator}, {datasets[0].folder} of "
                f"{found[0]}; collect questions about each simulator into a folder of its own"
            )
    return found[0]


def _entries(config: CollectQAConfig, out: Path) -> list[SourceEntry]:
    path = out / INDEX
    if not path.exists():
        return []
    index = json.loads(path.read_text(encoding="utf-8"))
    check_run_settings(
        out,
        index["settings"],
        config.identity(),
        remedy="collect the questions into another folder",
    )
    if len(index["sources"]) > len(config.data):
        raise UserError(
            f"{out} holds questions about {len(index['sources'])} sources; name all of them in "
            "--data, or collect into another folder"
        )
    return [SourceEntry(**entry) for entry in index["sources"]]


def _write_index(
    out: Path, config: CollectQAConfig, simulator: str, entries: list[SourceEntry]
) -> None:
    index = {
        "version": QA_VERSION,
        "simulator": simulator,
        "effector": ANSWERS[simulator].effector,
        "settings": config.identity(),
        "sources": [asdict(entry) for entry in entries],
    }
    write_atomically(out / INDEX, json.dumps(index, indent=1).encode())
