"""The one runner: a policy through many episodes, imagined or real; results survive a kill."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from wm_gym.checkpoints import write_atomically
from wm_gym.policies.base import Observation, Policy, check_policy
from wm_gym.policies.chunks import ChunkError, read_chunk
from wm_gym.policies.compatibility import ActionConversion, check_compatible
from wm_gym.policies.recordings import write_recording
from wm_gym.policies.rows import EpisodeRows, as_rows

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

BLOCK_ROUNDS = 4  # episodes that share a block, as a multiple of the rows


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
    frames: np.ndarray | None = field(default=None, compare=False)
    actions: np.ndarray | None = field(default=None, compare=False)

    def to_json(self) -> str:
        """One line of a results file; without frames and actions."""
        content = asdict(self)
        del content["frames"], content["actions"]
        return json.dumps(content)


class ResultsError(ValueError):
    """A results file that belongs to other episodes than those asked for."""


def run_policy(
    env: EpisodeRows | VectorEnv | gymnasium.Env | Sequence[gymnasium.Env],
    policy: Policy,
    starts: Sequence[str | Mapping[str, Any]],
    seeds: Sequence[int],
    max_steps: int,
    *,
    results: str | Path | None = None,
    keep_frames: bool = False,
    keep_actions: bool = False,
    recordings: str | Path | None = None,
    progress: bool = True,
    description: str = "episodes",
) -> list[EpisodeRecord]:
    """Runs one episode per start, as many at once as there are rows.

    An episode ends with its success, with the environment's own end, after `max_steps` or with an
    error: a policy that returns NaN or a wrong shape ends the episodes it did that to, with the
    reason in `error`, and no others. Rows are filled again as soon as they are free.

    An error that the policy or the environment raises ends the run. Episodes that have ended by
    then are kept in `<results>.finished` and not run again.

    With `results`, records are appended to a file of JSON lines, a block of episodes at a time, and
    blocks that are there already are not run again: an interrupted run, started again, gives the
    same file as one that was not (wall times apart).

    Args:
        env: a vector environment (autoreset "Disabled"), a simulator, twin or several, or rows.
        policy: the policy.
        starts: per episode, the name of a start state or the options of `reset`.
        seeds: one per episode, for environment and policy.
        max_steps: longest episode.
        results: file of JSON lines.
        keep_frames: keep all frames in the records (not in the file).
        keep_actions: keep all actions in the records (not in the file).
        recordings: folder for the frames of every episode (see `wm_gym.policies.recordings`),
            written before its record is; belongs to the same `results`.
        progress: whether to show a progress bar.
        description: its label.

    Returns:
        One record per start, in order.

    Raises:
        PolicyError: if `policy` is none, naming what is missing.
        IncompatiblePolicyError: if policy and environment speak different languages.
        ResultsError: if `results` holds other episodes.
    """
    check_policy(policy)
    rows = as_rows(env)
    if len(starts) != len(seeds) or max_steps < 1:
        raise ValueError(
            f"{len(starts)} starts, {len(seeds)} seeds, max_steps={max_steps}; expected as many "
            "seeds as starts and at least one step"
        )
    if rows.action_spec is not None:
        conversion = check_compatible(policy, rows.action_spec, rows.frame_spec)
    else:
        conversion = ActionConversion(tuple(range(policy.action_spec.size)), (1.0,), (0.0,))
    options = [{"start": start} if isinstance(start, str) else dict(start) for start in starts]
    records: list[EpisodeRecord] = []
    size = BLOCK_ROUNDS * rows.count
    if results is not None:
        records = _read_results(Path(results), options, seeds, size)
    with_frames = keep_frames or recordings is not None
    block = _Block(rows, policy, conversion, max_steps, with_frames, keep_actions)
    with tqdm(
        total=len(options),
        initial=len(records),
        desc=description,
        unit="episode",
        disable=not progress,
    ) as bar:
        for first in range(len(records), len(options), size):
            numbers = range(first, min(first + size, len(options)))
            finished: dict[int, EpisodeRecord] = {}
            if results is not None:
                finished = _read_finished(Path(results), numbers, options, seeds)
                bar.update(len(finished))
            try:
                done = block.run(numbers, options, seeds, bar, finished)
            except BaseException:
                if results is not None and finished:
                    _write_recordings(recordings, finished.values())
                    _write_finished(Path(results), finished)
                raise
            _write_recordings(recordings, done)
            if not keep_frames:
                done = [replace(record, frames=None) for record in done]
            if results is not None:
                _append(Path(results), done)
                _finished_file(Path(results)).unlink(missing_ok=True)
            records += done
    if results is not None:  # what a kill left between the last block and its removal
        _finished_file(Path(results)).unlink(missing_ok=True)
    return records


@dataclass
class _Running:
    """An episode under way."""

    index: int
    instruction: str
    frame: np.ndarray
    began: float
    history: deque[np.ndarray]
    chunk: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    steps: int = 0


@dataclass
class _Block:
    """Episodes that are run together; nothing carries over from one block to the next."""

    rows: EpisodeRows
    policy: Policy
    conversion: ActionConversion
    max_steps: int
    keep_frames: bool
    keep_actions: bool

    def run(
        self,
        numbers: range,
        options: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        bar: tqdm,
        done: dict[int, EpisodeRecord],
    ) -> list[EpisodeRecord]:
        """Runs the episodes that are not in `done`, which gets each as it ends."""
        waiting = [number for number in numbers if number not in done]
        running: dict[int, _Running] = {}

        def end(row: int, success: bool, error: str | None) -> None:
            episode = running.pop(row)
            done[episode.index] = EpisodeRecord(
                episode.index,
                str(options[episode.index].get("start", "")),
                int(seeds[episode.index]),
                episode.instruction,
                success,
                episode.steps,
                error,
                round(time.monotonic() - episode.began, 3),
                np.stack(episode.frames) if self.keep_frames else None,
                np.asarray(episode.actions, np.float32) if self.keep_actions else None,
            )
            bar.update()

        while waiting or running:
            free = [row for row in range(self.rows.count) if row not in running][: len(waiting)]
            if free:
                begun = [waiting.pop(0) for _ in free]
                running |= self._begin(free, begun, options, seeds)
            for row, error in self._ask(running).items():
                end(row, False, error)
            if not running:
                continue
            actions = {row: episode.chunk.pop(0) for row, episode in running.items()}
            for row, result in self.rows.step(actions).items():
                episode = running[row]
                if self.policy.frame_history:
                    episode.history.append(episode.frame.copy())
                episode.frame = result.frame
                episode.steps += result.error is None
                if self.keep_frames:
                    episode.frames.append(result.frame.copy())
                if self.keep_actions:
                    episode.actions.append(actions[row])
                if result.success or result.ended or episode.steps >= self.max_steps:
                    end(row, result.success, result.error)
        return [done[number] for number in numbers]

    def _begin(
        self,
        free: list[int],
        begun: list[int],
        options: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
    ) -> dict[int, _Running]:
        own = [int(seeds[number]) for number in begun]
        frames, instructions = self.rows.reset(free, own, [options[number] for number in begun])
        self.policy.reset(free, own, [instructions[row] for row in free])
        now = time.monotonic()
        return {
            row: _Running(
                number,
                instructions[row],
                frames[row],
                now,
                deque([frames[row].copy()] * self.policy.frame_history, self.policy.frame_history),
                frames=[frames[row].copy()] if self.keep_frames else [],
            )
            for row, number in zip(free, begun, strict=True)
        }

    def _ask(self, running: dict[int, _Running]) -> dict[int, str]:
        """Gets new chunks for the rows that need one; returns the errors by row."""
        asking = sorted(row for row, episode in running.items() if not episode.chunk)
        if not asking:
            return {}
        observation = Observation(
            np.stack([running[row].frame for row in asking]),
            tuple(running[row].instruction for row in asking),
            np.array([running[row].steps for row in asking]),
            np.array(asking),
            np.stack([np.stack(running[row].history) for row in asking])
            if self.policy.frame_history
            else None,
        )
        chunks = self.policy.act(observation)
        errors = {}
        for k, row in enumerate(asking):
            try:
                chunk = read_chunk(chunks, k, len(asking), self.policy.action_spec.size)
            except ChunkError as error:
                errors[row] = str(error)
            else:
                running[row].chunk = list(self.conversion(chunk))
        return errors


def _read_results(
    path: Path, options: Sequence[Mapping[str, Any]], seeds: Sequence[int], size: int
) -> list[EpisodeRecord]:
    """Records of the whole blocks that a file holds; what a kill left of a block is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    records = []
    for number, line in enumerate(content.splitlines(keepends=True)):
        try:
            record = EpisodeRecord(**json.loads(line))
        except (TypeError, ValueError):
            if line.endswith(b"\n"):
                raise ResultsError(f"{path}, line {number + 1}, is no record: remove it") from None
            break  # a kill in the middle of a line
        if number >= len(options) or (record.index, record.seed, record.start) != (
            number,
            int(seeds[number]),
            str(options[number].get("start", "")),
        ):
            raise ResultsError(
                f"{path} holds, in line {number + 1}, episode {record.index} with start "
                f"{record.start!r} and seed {record.seed}, which is not what is asked for; write "
                "the results of other episodes to another file"
            )
        records.append(record)
    kept = len(records) if len(records) == len(options) else len(records) // size * size
    records = records[:kept]
    whole = "".join(record.to_json() + "\n" for record in records).encode()
    if whole != content:
        write_atomically(path, whole)
    return records


def _append(path: Path, records: Sequence[EpisodeRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(record.to_json() + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


def _write_recordings(folder: str | Path | None, records: Iterable[EpisodeRecord]) -> None:
    """Frames of episodes that ran in this process; those of earlier ones are there already."""
    for record in records:
        if folder is not None and record.frames is not None:
            write_recording(Path(folder), record.index, record.frames)


def _finished_file(results: Path) -> Path:
    return results.with_name(results.name + ".finished")


def _write_finished(results: Path, finished: Mapping[int, EpisodeRecord]) -> None:
    lines = "".join(finished[number].to_json() + "\n" for number in sorted(finished))
    write_atomically(_finished_file(results), lines.encode())


def _read_finished(
    results: Path, numbers: range, options: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> dict[int, EpisodeRecord]:
    """Episodes of a block that had ended when its run was stopped by an error.

    Those of a block before are among the results: a kill came before the file was removed.
    """
    path = _finished_file(results)
    if not path.exists():
        return {}
    try:
        found = [EpisodeRecord(**json.loads(line)) for line in path.read_bytes().splitlines()]
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path} holds no records ({error}): remove the file") from error
    for record in found:
        number = record.index
        if not 0 <= number < numbers.stop or (record.seed, record.start) != (
            int(seeds[number]),
            str(options[number].get("start", "")),
        ):
            raise ResultsError(
                f"{path} holds episode {number} with start {record.start!r} and seed "
                f"{record.seed}, which is not what is asked for: remove the file"
            )
    return {record.index: record for record in found if record.index in numbers}
