"""Success of recorded episodes by a judge, asked about many at once after they have run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from wm_gym.evaluation.report import write_json
from wm_gym.judges.verdicts import Clip, Judge, Verdict, no_verdict
from wm_gym.policies.recordings import read_recording

if TYPE_CHECKING:
    from wm_gym.policies.runner import EpisodeRecord

EPISODES_AT_ONCE = 64
"""Clips in memory at a time; within them a judge asks as many at once as it can."""


def judge_episodes(
    records: Sequence[EpisodeRecord], recordings: Path, judge: Judge, verdicts_file: Path
) -> list[EpisodeRecord]:
    """Let a judge decide the success of episodes that ran without a reward.

    Args:
        records: what `run_policy` returned.
        recordings: the folder it wrote their frames to.
        judge: who decides.
        verdicts_file: JSON file for the verdicts, one per record.

    Returns:
        The records with the judge's word as `success`. An episode that broke down stays as it was;
        one without a verdict has the reason as its `error`.

    Raises:
        RecordingError: if an episode's frames are missing.
    """
    verdicts: dict[int, Verdict] = {}
    whole = [record for record in records if record.error is None]
    starts = range(0, len(whole), EPISODES_AT_ONCE)
    for first in tqdm(starts, desc=f"judging by {judge.name}", disable=len(starts) < 2):
        group = whole[first : first + EPISODES_AT_ONCE]
        clips = [Clip(read_recording(recordings, r.index)).sampled(judge.frames) for r in group]
        found = judge.judge(clips, [record.instruction for record in group])
        verdicts |= {record.index: v for record, v in zip(group, found, strict=True)}
    for record in records:
        if record.error is not None:
            verdicts[record.index] = no_verdict(judge.name, f"broke down: {record.error}", 0.0)
    stored = [{"index": r.index, **verdicts[r.index].to_dict()} for r in records]
    write_json(verdicts_file, {"judge": judge.name, "verdicts": stored})
    return [_decided(record, verdicts[record.index]) for record in records]


def _decided(record: EpisodeRecord, verdict: Verdict) -> EpisodeRecord:
    if record.error is not None:
        return record
    error = None if verdict.error is None else f"no verdict of {verdict.judge}: {verdict.error}"
    return replace(record, success=verdict.success, error=error)
