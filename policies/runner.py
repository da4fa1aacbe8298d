"""The one runner: a policy through many episodes, imagined or real; results survive a kill."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from wm_gym.errors import UserError
from wm_gym.in_use import sole_user
from wm_gym.policies.action_use import ActionUse, warn_of_action_use
from wm_gym.policies.base import Observation, Policy, check_policy, policies_within
from wm_gym.policies.chunks import ChunkError, read_chunk
from wm_gym.policies.compatibility import ActionConversion, check_compatible
from wm_gym.policies.recordings import write_recording
from wm_gym.policies.records import (
    EpisodeAsked,
    EpisodeRecord,
    ResultsError,
    ResultsFile,
    episodes_asked,
)
from wm_gym.policies.rows import EpisodeRows, as_rows
from wm_gym.policies.run_identity import rows_environments, run_identity, start_contents
from wm_gym.run_lock import RunLock

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

__all__ = ["BLOCK_ROUNDS", "EpisodeRecord", "ResultsError", "run_policy"]

BLOCK_ROUNDS = 4  # episodes that share a block, as a multiple of the rows


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
    same file as one that was not (wall times apart). What all of them depend on stands in
    `<results>.settings.json` and is compared first: policy, environment and `max_steps`. Nobody
    else may write to the file meanwhile.

    Every record says how much of the action range was used and whether the goal held at reset, and
    a run warns if more than a fifth of its actions were clipped or nearly null.

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
        RunSettingsError: if they are of another policy, environment or `max_steps`, or do not say.
        InUseError: if another process writes to `results`, or another thread uses the policy or the
            environment.
    """
    check_policy(policy)
    rows = as_rows(env)
    if len(starts) != len(seeds) or max_steps < 1:
        raise UserError(
            f"{len(starts)} starts, {len(seeds)} seeds, max_steps={max_steps}; expected as many "
            "seeds as starts and at least one step"
        )
    if rows.action_spec is not None:
        conversion = check_compatible(policy, rows.action_spec, rows.frame_spec)
    else:
        conversion = ActionConversion(tuple(range(policy.action_spec.size)), (1.0,), (0.0,))
    options = [{"start": start} if isinstance(start, str) else dict(start) for start in starts]
    block = _Block(
        rows, policy, conversion, max_steps, keep_frames or recordings is not None, keep_actions
    )
    size = BLOCK_ROUNDS * rows.count
    with contextlib.ExitStack() as held:
        held.enter_context(
            sole_user(
                [*policies_within(policy), *(env.unwrapped for env in rows_environments(rows))],
                f"run_policy ({description})",
                "make or load one for each run_policy, or run them one after the other",
            )
        )
        stored = None
        asked = episodes_asked(options, seeds, start_contents(rows, options))
        if results is not None:
            held.enter_context(RunLock.of_file(results))
            settings = run_identity(rows, policy, max_steps)
            stored = ResultsFile(results, asked, settings, size)
        if recordings is not None:
            held.enter_context(RunLock.of_folder(recordings))
        bar = held.enter_context(
            tqdm(total=len(options), desc=description, unit="episode", disable=not progress)
        )
        records = stored.open() if stored is not None else []
        bar.update(len(records))
        for first in range(len(records), len(options), size):
            numbers = range(first, min(first + size, len(options)))
            finished = stored.kept(numbers) if stored is not None else {}
            bar.update(len(finished))
            try:
                done = block.run(numbers, options, asked, bar, finished)
            except BaseException:
                if stored is not None and finished:
                    stored.allow_changes(run_identity(rows, policy, max_steps))
                    _write_recordings(recordings, finished.values())
                    stored.keep(finished)
                raise
            _write_recordings(recordings, done)
            if not keep_frames:
                done = [replace(record, frames=None) for record in done]
            if stored is not None:
                stored.allow_changes(run_identity(rows, policy, max_steps))
                stored.append(done)
            records += done
        if stored is not None:  # what a kill left between the last block and its removal
            stored.clear()
    if policy.kind != "null":  # that one is meant to do nothing
        warn_of_action_use(records, description)
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
    success_at_reset: bool | None = None
    clipped: int = 0
    null: int = 0


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
        asked: Sequence[EpisodeAsked],
        bar: tqdm,
        done: dict[int, EpisodeRecord],
    ) -> list[EpisodeRecord]:
        """Runs the episodes that are not in `done`, which gets each as it ends."""
        waiting = [number for number in numbers if number not in done]
        running: dict[int, _Running] = {}
        use = ActionUse.of_rows(self.rows)

        def end(row: int, success: bool, error: str | None) -> None:
            episode = running.pop(row)
            done[episode.index] = EpisodeRecord(
                episode.index,
                asked[episode.index].start,
                asked[episode.index].seed,
                episode.instruction,
                success,
                episode.steps,
                error,
                round(time.monotonic() - episode.began, 3),
                asked[episode.index].start_sha256,
                episode.success_at_reset,
                round(episode.clipped / episode.steps, 4) if use and episode.steps else None,
                round(episode.null / episode.steps, 4) if use and episode.steps else None,
                np.stack(episode.frames) if self.keep_frames else None,
                np.asarray(episode.actions, np.float32) if self.keep_actions else None,
            )
            bar.update()

        while waiting or running:
            free = [row for row in range(self.rows.count) if row not in running][: len(waiting)]
            if free:
                begun = [waiting.pop(0) for _ in free]
                running |= self._begin(free, begun, options, asked)
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
                if result.error is None:
                    episode.steps += 1
                    episode.clipped += use is not None and use.clipped(actions[row])
                    episode.null += use is not None and use.nearly_null(actions[row])
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
        asked: Sequence[EpisodeAsked],
    ) -> dict[int, _Running]:
        own = [asked[number].seed for number in begun]
        starts = self.rows.reset(free, own, [options[number] for number in begun])
        self.policy.reset(free, own, [starts[row].instruction for row in free])
        now = time.monotonic()
        history = self.policy.frame_history
        return {
            row: _Running(
                number,
                start.instruction,
                start.frame,
                now,
                deque([start.frame.copy()] * history, history),
                frames=[start.frame.copy()] if self.keep_frames else [],
                success_at_reset=start.success,
            )
            for row, number in zip(free, begun, strict=True)
            for start in (starts[row],)
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


def _write_recordings(folder: str | Path | None, records: Iterable[EpisodeRecord]) -> None:
    """Frames of episodes that ran in this process; those of earlier ones are there already."""
    for record in records:
        if folder is not None and record.frames is not None:
            write_recording(Path(folder), record.index, record.frames)
