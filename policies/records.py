"""Records of episodes, and the file of JSON lines that an interrupted run goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.run_settings import (
    RunSettingsError,
    check_run_settings,
    differing_settings,
    plain_settings,
    read_run_settings,
)

_REMEDY = "write the results to another file, or remove that one"


@dataclass(frozen=True)
class EpisodeRecord:
    """What became of one episode.

    Attributes:
        index: its place in the list of episodes asked for.
        start: name of its start state, "" if it had none.
        seed: its seed.
        instruction: what was to be done.
        success: whether the goal held at some step.
        steps: steps made.
        error: why it ended early, or None.
        seconds: wall time from its reset to its end, shared with its neighbours.
        start_sha256: hash of what it began from: the options of `reset`, and a stored start's
            content.
        success_at_reset: whether the goal held before any action; None where nothing says so.
        clipped_share: share of its steps whose action lay outside the environment's range, which
            clips it; None where the range is not known or no step was made.
        null_share: share of its steps whose action was nearly null, see
            `wm_gym.policies.action_use`.
        frames: (T+1, H, W, 3) uint8 if frames were kept.
        actions: (T, A) in the environment's units if actions were kept.
    """

    index: int
    start: str
    seed: int
    instruction: str
    success: bool
    steps: int
    error: str | None = None
    seconds: float = 0.0
    start_sha256: str = ""
    success_at_reset: bool | None = None
    clipped_share: float | None = None
    null_share: float | None = None
    frames: np.ndarray | None = field(default=None, compare=False)
    actions: np.ndarray | None = field(default=None, compare=False)

    def to_json(self) -> str:
        """One line of a results file; without frames and actions."""
        content = asdict(self)
        del content["frames"], content["actions"]
        return json.dumps(content)


class ResultsError(RunSettingsError):
    """A results file that belongs to other episodes than those asked for."""


@dataclass(frozen=True)
class EpisodeAsked:
    """An episode that is asked for: name of its start, seed, hash of what it begins from."""

    start: str
    seed: int
    start_sha256: str


def episodes_asked(
    options: Sequence[Mapping[str, Any]], seeds: Sequence[int], contents: Sequence[Any]
) -> list[EpisodeAsked]:
    """The episodes of options of `reset`, seeds, and the content of stored starts as JSON."""
    return [
        EpisodeAsked(
            str(given.get("start", "")),
            int(seed),
            hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
        )
        for given, seed, content in zip(options, seeds, contents, strict=True)
    ]


class ResultsFile:
    """A file of records beside the settings that they depend on, `<file>.settings.json`.

    Whoever uses it holds `wm_gym.run_lock.RunLock.of_file(path)`.

    Args:
        path: file of JSON lines.
        asked: the episodes asked for, in order.
        settings: what all records depend on, as JSON.
        block: episodes that are written at a time.
    """

    def __init__(
        self,
        path: str | Path,
        asked: Sequence[EpisodeAsked],
        settings: Mapping[str, Any],
        block: int,
    ) -> None:
        self.path = Path(path)
        self.asked, self.block = asked, block
        self.settings = plain_settings(settings)
        self._free: set[str] = set()

    @property
    def settings_file(self) -> Path:
        """Says what the records depend on."""
        return self.path.with_name(self.path.name + ".settings.json")

    @property
    def finished_file(self) -> Path:
        """Episodes of a block that was stopped by an error."""
        return self.path.with_name(self.path.name + ".finished")

    def open(self) -> list[EpisodeRecord]:
        """Records of the whole blocks that are there; what a kill left of a block is cut off.

        Raises:
            RunSettingsError: if they depend on other settings, or do not say on which.
            ResultsError: if they are of other episodes, or a line is damaged.
        """
        there = [path for path in (self.path, self.finished_file) if path.exists()]
        if any(path.stat().st_size for path in there):
            stored = read_run_settings(self.settings_file)
            if stored is None:
                raise RunSettingsError(
                    f"{there[0]} holds records without {self.settings_file.name} beside it (an "
                    "older wm_gym wrote none), so nothing says which policy and environment they "
                    f"are of; {_REMEDY}"
                )
            self._free = set(stored.get("changed_by_acting", ()))
            check_run_settings(
                self.path,
                stored.get("settings", {}),
                self.settings,
                free=self._free,
                remedy=_REMEDY,
            )
            records = self._whole_blocks()
        else:
            self._write_settings()
            records = []
        return records

    def _write_settings(self) -> None:
        content = {"settings": self.settings, "changed_by_acting": sorted(self._free)}
        write_atomically(self.settings_file, (json.dumps(content, indent=1) + "\n").encode())

    def allow_changes(self, after: Mapping[str, Any]) -> None:
        """Leave out of later comparisons what acting changed: a counter is no setting.

        Args:
            after: the settings as they are once episodes have run.
        """
        changed = set(differing_settings(self.settings, plain_settings(after)))
        if not changed <= self._free:
            self._free |= changed
            self._write_settings()

    def _whole_blocks(self) -> list[EpisodeRecord]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        records = []
        for number, line in enumerate(content.splitlines(keepends=True)):
            try:
                record = EpisodeRecord(**json.loads(line))
            except (TypeError, ValueError, RecursionError):
                if line.endswith(b"\n"):
                    raise ResultsError(
                        f"{self.path}, line {number + 1}, is no record: remove it"
                    ) from None
                break  # a kill in the middle of a line
            if record.index != number or not self._is_asked(record):
                raise ResultsError(
                    f"{self.path} holds, in line {number + 1}, {self._named(record)}, which is not "
                    "what is asked for; write the results of other episodes to another file"
                )
            records.append(record)
        whole = len(records) == len(self.asked)
        records = records if whole else records[: len(records) // self.block * self.block]
        kept = "".join(record.to_json() + "\n" for record in records).encode()
        if kept != content:
            write_atomically(self.path, kept)
        return records

    def _is_asked(self, record: EpisodeRecord) -> bool:
        found = EpisodeAsked(record.start, record.seed, record.start_sha256)
        return 0 <= record.index < len(self.asked) and self.asked[record.index] == found

    def _named(self, record: EpisodeRecord) -> str:
        named = f"episode {record.index} with start {record.start!r} and seed {record.seed}"
        if not 0 <= record.index < len(self.asked):
            return named
        asked = self.asked[record.index]
        if (asked.start, asked.seed) != (record.start, record.seed):
            return f"{named} (start {asked.start!r} and seed {asked.seed} now)"
        return f"{named} begun with other options or another content of that start"

    def append(self, records: Sequence[EpisodeRecord]) -> None:
        """Add a block of records; what was kept of the block before is done with."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(record.to_json() + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        self.clear()

    def keep(self, finished: Mapping[int, EpisodeRecord]) -> None:
        """Keep the episodes of a block that had ended when an error stopped it."""
        lines = "".join(finished[number].to_json() + "\n" for number in sorted(finished))
        write_atomically(self.finished_file, lines.encode())

    def kept(self, numbers: Collection[int]) -> dict[int, EpisodeRecord]:
        """Episodes of a block that had ended when its run was stopped by an error.

        Those of a block before are among the records: a kill came before the file was removed.

        Raises:
            ResultsError: if the file is damaged or holds other episodes.
        """
        path = self.finished_file
        if not path.exists():
            return {}
        try:
            found = [EpisodeRecord(**json.loads(line)) for line in path.read_bytes().splitlines()]
        except (TypeError, ValueError, RecursionError) as error:
            raise ResultsError(f"{path} holds no records ({error}): remove the file") from error
        for record in found:
            if record.index > max(numbers) or not self._is_asked(record):
                raise ResultsError(
                    f"{path} holds {self._named(record)}, which is not what is asked for: remove "
                    "the file"
                )
        return {record.index: record for record in found if record.index in numbers}

    def clear(self) -> None:
        """Remove what was kept of a block."""
        self.finished_file.unlink(missing_ok=True)


def share_of(records: Iterable[EpisodeRecord], name: str) -> float | None:
    """Mean over steps of a record's share, e.g. "clipped_share"; None where no record knows it."""
    known = [(getattr(r, name), r.steps) for r in records if getattr(r, name) is not None]
    steps = sum(count for _, count in known)
    return sum(share * count for share, count in known) / steps if steps else None
