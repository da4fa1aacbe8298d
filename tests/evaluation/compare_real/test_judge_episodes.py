"""Recorded episodes are judged afterwards; a resumed run has the same recordings."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.judges.colour_judges import ColourJudge
from tests.policies.line_world import LineVectorEnv, Walker
from wm_gym.evaluation.compare_real import judge_episodes as module
from wm_gym.evaluation.compare_real.judge_episodes import judge_episodes
from wm_gym.policies.recordings import RecordingError, read_recording, recording_file
from wm_gym.policies.runner import run_policy

STARTS = [f"s{n}" for n in range(0, 60, 6)]


def run(folder, count=10, **kwargs):
    return run_policy(
        LineVectorEnv(2), Walker(0.1), STARTS[:count], list(range(count)), 5,
        results=folder / "r.jsonl", recordings=folder / "frames", progress=False, **kwargs,
    )  # fmt: skip


def test_recordings_are_the_frames_that_were_seen(tmp_path):
    kept = run(tmp_path / "kept", keep_frames=True)
    records = run(tmp_path / "bare")
    for record, bare in zip(kept, records, strict=True):
        assert bare.frames is None and bare == replace(record, seconds=bare.seconds)
        for name in ("kept", "bare"):
            frames = read_recording(tmp_path / name / "frames", record.index)
            np.testing.assert_array_equal(frames, record.frames)


def test_a_run_that_was_cut_short_records_what_an_uninterrupted_one_does(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "cut", 8)  # one block of two rows
    recording_file(tmp_path / "cut" / "frames", 9).write_bytes(b"of a block that was killed")
    run(tmp_path / "cut")
    for index in range(len(STARTS)):
        one, other = (read_recording(tmp_path / n / "frames", index) for n in ("whole", "cut"))
        np.testing.assert_array_equal(one, other)


def test_the_judge_decides_and_breakdowns_stay_what_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EPISODES_AT_ONCE", 4)
    records = run(tmp_path)
    frames = tmp_path / "frames"
    broken = replace(records[3], error="the policy returned NaN", success=False)
    silent = replace(records[4], instruction="hard")
    judge = ColourJudge(0, frames=0, silent_about="hard")
    given = [*records[:3], broken, silent, *records[5:]]
    found = judge_episodes(given, frames, judge, tmp_path / "v.json")
    stored = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["verdicts"]
    assert [entry["index"] for entry in stored] == list(range(len(STARTS)))
    assert judge.batches == [4, 4, 1]
    assert found[3] == broken and stored[3]["error"] == "broke down: the policy returned NaN"
    assert found[4].error == "no verdict of colour0: no opinion" and not found[4].success
    for record, entry in zip(found, stored, strict=True):
        if record.error is None:
            mean = read_recording(frames, record.index)[..., 0].mean() / 255
            assert entry["score"] == pytest.approx(mean)
            assert record.success == entry["success"] == (mean >= 0.5)


def test_missing_or_damaged_frames_are_named(tmp_path):
    records = run(tmp_path)
    recording_file(tmp_path / "frames", 2).write_bytes(b"PK")
    with pytest.raises(RecordingError, match=r"00002\.npz holds no frames of episode 2"):
        judge_episodes(records, tmp_path / "frames", ColourJudge(), tmp_path / "v.json")
    path = recording_file(tmp_path / "frames", 3)
    content = bytearray(path.read_bytes())
    content[60:100] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"00003\.npz holds no frames of episode 3"):
        read_recording(tmp_path / "frames", 3)
    np.savez_compressed(path, frames=np.zeros((0, 4, 20, 3), np.uint8))
    with pytest.raises(RecordingError, match=r"episode 3 \(they have .* shape \(0, 4, 20, 3\)"):
        read_recording(tmp_path / "frames", 3)
    recording_file(tmp_path / "frames", 2).unlink()
    with pytest.raises(RecordingError, match="run the episodes again"):
        read_recording(tmp_path / "frames", 2)
