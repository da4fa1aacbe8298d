"""Questions with answers about episodes (SAQA): reading and balanced sampling.

Every batch is a function of (seed, step). A row is one frame with many questions about its futures.
Questions are weighed by the inverse frequency of their type and answer, so types and answers are
balanced in expectation, exactly: a state is drawn with the summed weight of its questions, then
questions with theirs. Expert and other episodes are balanced on their own and mixed at will.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wm_gym.data.episodes import EpisodeDataset, EpisodeError
from wm_gym.domains import domain_of
from wm_gym.errors import UserError
from wm_gym.semantic.question_sets import QUESTION_SETS
from wm_gym.semantic.questions import TRAINED_PHRASINGS, UNTRAINED_PHRASINGS, Question

INDEX = "qa.json"
QA_VERSION = 1
RECORD: dict[str, type[np.generic]] = {
    "episode": np.uint32,
    "frame": np.uint16,
    "horizon": np.uint8,
    "type": np.uint8,
    "instance": np.uint16,
    "yes": np.bool_,
    "slack": np.float16,
}
"""Columns of a question: type is its number in the question set, instance its number among
`QuestionSet.instances`, slack the predicate's value in ambiguity margins."""

Group = Literal["expert", "suboptimal"]
Phrasings = Literal["trained", "untrained"]
Blind = Literal["none", "image", "actions"]
"""What a control never gets to see."""
_KEPT_TABLES = 512
_GREY = 128


class QAError(UserError):
    """A folder of questions that is absent, damaged, or about other episodes."""


_OBJECTS_KEYS = {
    simulator: domain.objects_keyword
    for simulator in QUESTION_SETS
    if (domain := domain_of(simulator)) is not None
}
"""Simulator id -> the entry of its states that names what lies on the table."""


def simulator_of_start(start: Mapping[str, Any]) -> str:
    """The simulator that an episode's start state is of.

    Raises:
        EpisodeError: if it is of none that questions can be asked about.
    """
    for simulator, key in _OBJECTS_KEYS.items():
        if key in start:
            return simulator
    raise EpisodeError(
        "an episode's start state does not say what lies on the table; questions are asked about "
        f"episodes of {', '.join(_OBJECTS_KEYS)}"
    )


def objects_of(start: Mapping[str, Any]) -> tuple[str, ...]:
    """What lies on the table of a start state, in the order of the privileged state."""
    named = str(start[_OBJECTS_KEYS[simulator_of_start(start)]])
    return tuple(name.strip() for name in named.split(","))


@dataclass(frozen=True)
class SourceEntry:
    """Line of the index: a dataset of episodes and the questions about it.

    Attributes:
        folder: the dataset, relative to the questions' folder.
        index_sha256: hash of its index.json when the questions were asked.
        file: file of the questions.
        records: their number.
        places: file that says where things appear in each frame; "" in folders made before there
            was one.
    """

    folder: str
    index_sha256: str
    file: str
    records: int
    places: str = ""


@dataclass(frozen=True)
class QABatch:
    """R frames with M questions each.

    Attributes:
        frames: (R, H, W, 3) uint8.
        actions: (R, n, A) float32 physical units that follow the frame, zeros after the episode's
            end; n is the largest horizon of the batch.
        questions: R rows of M (words, horizon).
        yes: (R, M) bool, the answers.
        slack: (R, M) in ambiguity margins.
        types: (R, M) number of the question's type.
        horizons: (R, M).
        paths: (R, n + 1, K, 2) where K things appear in the frame and after each action, x to the
            right and y up within ±1 inside the picture; NaN for things that are not there and
            after the episode's end.
        things: names of each row's things, in this order, the effector first.
    """

    frames: np.ndarray
    actions: np.ndarray
    questions: list[list[tuple[str, int]]]
    yes: np.ndarray
    slack: np.ndarray
    types: np.ndarray
    horizons: np.ndarray
    paths: np.ndarray
    things: list[tuple[str, ...]]

    @property
    def places(self) -> np.ndarray:
        """Where things appear in the frame, (R, K, 2)."""
        return self.paths[:, 0]

    def blinded(self, blind: Blind) -> QABatch:
        """The batch with grey frames, or with actions that move nothing."""
        if blind == "image":
            return replace(self, frames=np.full_like(self.frames, _GREY))
        if blind == "actions":
            return replace(self, actions=np.zeros_like(self.actions))
        return self


class SAQADataset:
    """The questions of a folder, sampled in balance.

    Args:
        folder: written by `wm-gym collect-qa`.

    Raises:
        QAError: if there are none or their episodes have changed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise QAError(
                f"{self.folder / INDEX} cannot be read ({error}); make the questions with "
                f"`wm-gym collect-qa --out {self.folder}`"
            ) from error
        if index.get("version") != QA_VERSION:
            raise QAError(
                f"{self.folder / INDEX}: version is {index.get('version')!r}, this wm_gym reads "
                f"{QA_VERSION}; collect the questions again"
            )
        try:
            self.settings: dict = index["settings"]
            self.simulator = str(index.get("simulator", "LangTable-v0"))  # older ones name none
            self.questions = QUESTION_SETS[self.simulator]
            entries = [SourceEntry(**entry) for entry in index["sources"]]
        except (KeyError, TypeError) as error:
            raise QAError(f"{self.folder / INDEX} is damaged ({error}); collect anew") from error
        self.kinds = list(self.questions)
        self.effector = str(index.get("effector", ""))
        self.sources: list[EpisodeDataset] = []
        self._places: list[tuple[np.ndarray, np.ndarray] | None] = []
        columns: dict[str, list[np.ndarray]] = {name: [] for name in (*RECORD, "source")}
        for number, entry in enumerate(entries):
            self.sources.append(self._open(entry))
            self._places.append(self._read_places(entry, self.sources[-1]))
            stored = self._load(entry.file, list(RECORD))
            for name in RECORD:
                columns[name].append(stored[name])
            columns["source"].append(np.full(entry.records, number, np.uint16))
        self.records = {name: np.concatenate(parts) for name, parts in columns.items()}
        behaviours = [np.asarray(source.behaviours) for source in self.sources]
        self.expert = np.concatenate(
            [behaviours[n][episodes] == "expert" for n, episodes in enumerate(columns["episode"])]
        )
        self._blocks: dict[tuple[int, int], tuple[str, ...]] = {}
        self._asked: OrderedDict[tuple[str, ...], list[list[Question]]] = OrderedDict()

    def _open(self, entry: SourceEntry) -> EpisodeDataset:
        dataset = EpisodeDataset(self.folder / entry.folder)
        digest = hashlib.sha256((dataset.folder / "index.json").read_bytes()).hexdigest()
        if digest != entry.index_sha256:
            raise QAError(
                f"the episodes in {dataset.folder} are not those that {self.folder} asks about; "
                "collect the questions again into another folder"
            )
        return dataset

    @property
    def sha256(self) -> str:
        """Hash of the index and of all files of questions."""
        found = hashlib.sha256((self.folder / INDEX).read_bytes())
        for file in sorted(path for path in self.folder.iterdir() if path.suffix == ".npz"):
            found.update(file.read_bytes())
        return found.hexdigest()

    def _load(self, file: str, names: list[str]) -> dict[str, np.ndarray]:
        """Arrays of a file in the folder, which may be absent or damaged."""
        try:
            with np.load(self.folder / file, allow_pickle=False) as stored:
                return {name: stored[name] for name in names}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise QAError(
                f"{self.folder / file} is absent or damaged ({error}); collect the questions "
                "again into another folder"
            ) from error

    def _read_places(
        self, entry: SourceEntry, source: EpisodeDataset
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Places of all frames of a source, and the number of each episode's first frame."""
        if not entry.places:
            return None
        places = self._load(entry.places, ["places"])["places"]
        return places, np.concatenate([[0], np.cumsum(source.lengths + 1)])

    @property
    def has_places(self) -> bool:
        """Whether the folder says where things appear."""
        return all(places is not None for places in self._places)

    def paths(self, source: int, episode: int, frame: int, ahead: int) -> np.ndarray:
        """Where effector and objects appear in a frame and in those that follow.

        Args:
            source: number of the dataset.
            episode: number of the episode.
            frame: number of the frame.
            ahead: n further frames.

        Returns:
            A row of `QABatch.paths`, (n + 1, K, 2); K is 0 if the folder does not say.
        """
        stored = self._places[source]
        if stored is None:
            return np.zeros((ahead + 1, 0, 2), np.float32)
        places, starts = stored
        last = min(starts[episode] + frame + ahead + 1, starts[episode + 1])
        found = places[starts[episode] + frame : last].astype(np.float32)
        gap = ahead + 1 - len(found)
        return np.pad(found, ((0, gap), (0, 0), (0, 0)), constant_values=np.nan)

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.records["yes"])

    @property
    def max_horizon(self) -> int:
        """Largest horizon of any question."""
        return int(self.records["horizon"].max())

    def objects(self, source: int, episode: int) -> tuple[str, ...]:
        """What lies on the table of an episode."""
        return objects_of(self.sources[source][episode].start_state)

    def _instances(self, source: int, episode: int) -> list[list[Question]]:
        """Every question about an episode's blocks, by type; the latest tables are kept."""
        key = (source, episode)
        if key not in self._blocks:
            self._blocks[key] = self.objects(source, episode)
        blocks = self._blocks[key]
        if blocks not in self._asked:
            if len(self._asked) >= _KEPT_TABLES:
                self._asked.popitem(last=False)
            self._asked[blocks] = [self.questions.instances(k.name, blocks) for k in self.kinds]
        return self._asked[blocks]

    def sampler(self, group: Group | None = None, *, clear_only: bool = False) -> BalancedSampler:
        """A balanced sampler over expert episodes, the others, or all.

        Args:
            group: whose episodes.
            clear_only: leave out ambiguous questions.

        Raises:
            QAError: if there are no such questions.
        """
        keep = np.ones(len(self), bool) if group is None else self.expert == (group == "expert")
        if clear_only:
            keep &= np.abs(self.records["slack"]) >= 1
        if not keep.any():
            raise QAError(
                f"{self.folder} holds no questions about {group or 'any'} episodes; collect such "
                "episodes, or change the share of expert episodes"
            )
        return BalancedSampler(self.records, np.flatnonzero(keep))

    def batch(self, rows: np.ndarray, wording: np.ndarray) -> QABatch:
        """The frames, actions and words of questions.

        Args:
            rows: record numbers, (R, M); those of a row share frame and episode.
            wording: number of each question's phrasing, (R, M), see `draw_wording`.
        """
        column = {name: values[rows] for name, values in self.records.items()}
        longest = int(column["horizon"].max())
        frames, actions, questions, paths, things = [], [], [], [], []
        for r in range(len(rows)):
            source, episode = int(column["source"][r, 0]), int(column["episode"][r, 0])
            frame = int(column["frame"][r, 0])
            data = self.sources[source]
            frames.append(data.frames(episode, slice(frame, frame + 1))[0])
            paths.append(self.paths(source, episode, frame, longest))
            ahead = data.actions(episode)[frame : frame + longest]
            actions.append(np.pad(ahead, ((0, longest - len(ahead)), (0, 0))))
            about = self._instances(source, episode)
            things.append((self.effector, *self._blocks[source, episode]))
            columns = (column["type"][r], column["instance"][r], column["horizon"][r], wording[r])
            questions.append(
                [
                    (self.questions.text(about[t][i], w), h)
                    for t, i, h, w in zip(*(c.tolist() for c in columns), strict=True)
                ]
            )
        return QABatch(
            frames=np.stack(frames),
            actions=np.stack(actions).astype(np.float32),
            questions=questions,
            yes=column["yes"],
            slack=column["slack"].astype(np.float32),
            types=column["type"],
            horizons=column["horizon"],
            paths=_stacked(paths),
            things=things,
        )


def _stacked(paths: list[np.ndarray]) -> np.ndarray:
    """Paths of several rows, filled up with NaN where a source knows of fewer things."""
    most = max(path.shape[1] for path in paths)
    filled = [
        np.pad(p, ((0, 0), (0, most - p.shape[1]), (0, 0)), constant_values=np.nan) for p in paths
    ]
    return np.stack(filled)


def draw_wording(
    shape: tuple[int, ...], rng: np.random.Generator, phrasings: Phrasings = "trained"
) -> np.ndarray:
    """Numbers of random phrasings: of trained ones, or of those that are never trained."""
    if phrasings == "trained":
        return rng.integers(TRAINED_PHRASINGS, size=shape)
    return TRAINED_PHRASINGS + rng.integers(UNTRAINED_PHRASINGS, size=shape)


class BalancedSampler:
    """Draws states with questions so that every (type, answer) comes equally often.

    Args:
        records: columns of all questions.
        kept: numbers of those to draw from.
    """

    def __init__(self, records: dict[str, np.ndarray], kept: np.ndarray) -> None:
        keys = [records[name][kept] for name in ("frame", "episode", "source")]
        self.order = kept[np.lexsort(keys)]
        cells = records["type"][self.order].astype(np.int64) * 2 + records["yes"][self.order]
        counts = np.bincount(cells)
        self.cumulative = np.cumsum(1.0 / counts[cells])
        state = np.stack([records[name][self.order] for name in ("source", "episode", "frame")])
        changes = np.flatnonzero((np.diff(state.astype(np.int64)) != 0).any(0)) + 1
        self.starts = np.concatenate([[0], changes])
        self.ends = np.concatenate([changes, [len(self.order)]])
        self.cells = int((counts > 0).sum())

    def draw(self, rows: int, questions: int, rng: np.random.Generator) -> np.ndarray:
        """Record numbers (rows, questions); those of a row are about one state."""
        total = self.cumulative[-1]
        first = np.searchsorted(self.cumulative, rng.random(rows) * total, side="right")
        state = np.searchsorted(self.starts, first, side="right") - 1
        low = np.where(self.starts[state] > 0, self.cumulative[self.starts[state] - 1], 0.0)
        high = self.cumulative[self.ends[state] - 1]
        place = low[:, None] + rng.random((rows, questions)) * (high - low)[:, None]
        found = np.searchsorted(self.cumulative, place, side="right")
        last = self.ends[state][:, None] - 1
        return self.order[np.clip(found, self.starts[state][:, None], last)]


def mixed_rows(
    samplers: Sequence[BalancedSampler],
    shares: Sequence[float],
    rows: int,
    questions: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Record numbers (rows, questions) from several samplers with these shares of the rows."""
    drawn = rng.multinomial(rows, np.asarray(shares, float) / np.sum(shares))
    parts = [s.draw(int(n), questions, rng) for s, n in zip(samplers, drawn, strict=True) if n]
    return rng.permutation(np.concatenate(parts))
