"""Recordings that contradict themselves: forks, rates, uneven times, words in other forms."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("pyarrow")

from tests.data import recorded_data
from tests.data.recorded_data import (
    LENGTHS,
    TASKS,
    TOP,
    decode_frame,
    row_number,
    write_mp4_npz,
    write_v21,
    write_v30,
)
from wm_gym.data.clips import ClipDataset
from wm_gym.data.episodes import EpisodeError
from wm_gym.data.open_dataset import open_dataset
from wm_gym.data.video import VideoFile
from wm_gym.instructions import InstructionError, as_text

WRITERS = {"v2.1": write_v21, "v3.0": write_v30, "mp4": write_mp4_npz}


@pytest.fixture(scope="module", params=list(WRITERS))
def dataset(request, tmp_path_factory):
    folder = WRITERS[request.param](tmp_path_factory.mktemp("data") / "set")
    return open_dataset(folder, None if request.param == "mp4" else "top")


# ---- forks --------------------------------------------------------------------------------------


def in_fork(work, seconds=60):
    """Exit status of a forked process that does some work and ends as Python does."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def test_a_fork_reads_what_its_parent_had_open(dataset):
    expected = decode_frame(dataset.frames(1, slice(0, 9))).tolist()

    def read():
        again = decode_frame(dataset.frames(1, slice(3, 9))).tolist() == expected[3:]
        return again and dataset.actions(1)[0, 0] == row_number(1, 0)

    assert in_fork(read) == 0
    assert decode_frame(dataset.frames(1, slice(3, 9))).tolist() == expected[3:], (
        "the parent's stay"
    )


def test_a_fork_may_drop_what_its_parent_had_open(dataset):
    opened = open_dataset(dataset.folder, None if len(dataset.cameras[0]) == 5 else "top")
    opened.frames(0, slice(0, 3))
    held = [opened]

    def drop():
        held[0]._videos._files.clear()
        held.clear()
        return True

    assert in_fork(drop) == 0


def leave(path):
    """Ends through the interpreter's own clean-up."""


def test_a_fork_ends_by_itself(dataset):
    dataset.frames(0, slice(0, 3))
    process = multiprocessing.get_context("fork").Process(target=leave, args=(dataset,))
    process.start()
    process.join(60)
    hangs = process.is_alive()
    process.kill()
    assert not hangs and process.exitcode == 0


def test_a_video_file_itself_survives_a_fork(tmp_path):
    recorded_data.write_video(tmp_path / "a.mp4", list(range(1, 13)))
    video = VideoFile(tmp_path / "a.mp4")
    video.read(np.arange(3))

    def read():
        video.close()
        return decode_frame(video.read(np.asarray([7]))).tolist() == [8]

    assert in_fork(read) == 0


class _Frames(torch.utils.data.Dataset):
    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return torch.from_numpy(self.clips[index].frames)


def test_a_data_loader_forks_beside_open_videos(dataset):
    clips = ClipDataset(dataset, length=3)
    expected = np.stack([clips[i].frames for i in range(len(clips))])
    loader = torch.utils.data.DataLoader(
        _Frames(clips), 4, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), expected)


# ---- rates and times ----------------------------------------------------------------------------


def state_rate(folder, fps):
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(info | {"fps": fps}), encoding="utf-8")


@pytest.mark.parametrize("fps", [9, 9.99, 10.01, 30])
@pytest.mark.parametrize("writer", [write_v21, write_v30])
def test_a_rate_that_is_not_the_videos_is_refused_from_the_first_frame(writer, fps, tmp_path):
    folder = writer(tmp_path / "set")
    state_rate(folder, fps)
    for states in (slice(0, 1), slice(3, 5), slice(None)):
        with pytest.raises(EpisodeError, match=rf"{fps:g}"):
            open_dataset(folder, TOP).frames(1, states)


def test_frames_a_little_off_their_rows_are_refused(tmp_path, monkeypatch):
    """The same rate, but the episode begins a third of a frame later than its table says."""
    import pyarrow.parquet as pq

    folder = write_v30(tmp_path / "set")
    table = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(table).to_pylist()
    for row in rows:
        row[f"videos/{TOP}/from_timestamp"] += 0.03
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), table)
    with pytest.raises(EpisodeError, match=r"shows nothing at 0\.0300 s.*0\.0300 s away"):
        open_dataset(folder, TOP).frames(0, slice(0, 2))


@pytest.mark.parametrize("writer", [write_v21, write_v30])
def test_rows_at_uneven_times_are_refused(writer, tmp_path, monkeypatch):
    rows = recorded_data._rows

    def uneven(episode, first_index):
        made = rows(episode, first_index)
        made["timestamp"] = [t + 0.0003 * i for i, t in enumerate(made["timestamp"])]
        return made

    monkeypatch.setattr(recorded_data, "_rows", uneven)
    data = open_dataset(writer(tmp_path / "set"), TOP)
    for read in (lambda: data.actions(1), lambda: data.frames(1, slice(0, 1))):
        with pytest.raises(EpisodeError, match=r"row 1 of episode 1 has timestamp 0\.100300 s"):
            read()


def test_float32_times_of_a_long_recording_are_even(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded_data, "LENGTHS", (7, 23, 12))
    data = open_dataset(write_v21(tmp_path / "set"), TOP)
    monkeypatch.setattr(data, "fps", 30.0)
    times = (np.arange(300_000) / 30).astype(np.float32)
    monkeypatch.setattr(data, "_table", lambda index, columns: {"timestamp": times.tolist()})
    data._check_times(0)
    assert data._timed == {0}


@pytest.mark.parametrize("extra", [-1, 2])
@pytest.mark.parametrize("writer", [write_v21, write_v30])
def test_a_video_with_other_frames_than_rows_is_refused(writer, extra, tmp_path, monkeypatch):
    numbers = recorded_data.view_numbers

    def other(camera, episode):
        made = numbers(camera, episode)
        if episode < 2:
            return made
        return made[:extra] if extra < 0 else made + [900] * extra

    monkeypatch.setattr(recorded_data, "view_numbers", other)
    data = open_dataset(writer(tmp_path / "set"), TOP)
    with pytest.raises(EpisodeError, match=f"{LENGTHS[2] + extra} frames, expected {LENGTHS[2]}"):
        data.frames(2, slice(0, 1))


def test_an_mp4_folder_of_two_rates_is_refused(tmp_path, monkeypatch):
    folder = write_mp4_npz(tmp_path / "set")
    monkeypatch.setattr(recorded_data, "FPS", 15)
    recorded_data.write_video(folder / f"{1:09d}.mp4", recorded_data.view_numbers(TOP, 1))
    data = open_dataset(folder)
    assert data.frames(0, slice(0, 1)).shape[0] == 1
    with pytest.raises(EpisodeError, match=r"runs at 15 .*says 10"):
        data.frames(1, slice(0, 1))


def test_a_video_of_uneven_frames_is_refused(tmp_path):
    import av

    folder = write_mp4_npz(tmp_path / "set")
    path = folder / f"{0:09d}.mp4"
    from fractions import Fraction

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 80, 16, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(LENGTHS[0]):
            frame = av.VideoFrame.from_ndarray(recorded_data.coded_frame(i), format="rgb24")
            frame.pts, frame.time_base = 100 * i + (40 if i == 3 else 0), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(EpisodeError, match="not evenly spaced"):
        open_dataset(folder).frames(0)


# ---- words --------------------------------------------------------------------------------------

WORDS = "put the Möhre down"


@pytest.mark.parametrize(
    "value",
    [
        WORDS,
        np.str_(WORDS),
        WORDS.encode(),
        np.bytes_(WORDS.encode()),
        np.array(WORDS),
        np.array(WORDS.encode()),
        np.array([WORDS.encode()]),
        np.array(WORDS, object),
        bytearray(WORDS.encode()),
    ],
)
def test_words_are_text_in_whatever_form_they_come(value):
    assert as_text(value) == WORDS and type(as_text(value)) is str


@pytest.mark.parametrize(
    "value", [3, 2.5, ["a", "b"], {"a": 1}, np.array([b"a", b"b"]), b"\xff", np.array(1.0)]
)
def test_what_is_no_text_is_refused_by_name(value):
    with pytest.raises(InstructionError, match="the label is"):
        as_text(value, "the label")
    assert as_text(None) == ""


@pytest.mark.parametrize("encode", [np.array, lambda w: np.array(w.encode()), np.bytes_])
def test_instructions_of_npz_files_are_words(encode, tmp_path):
    folder = write_mp4_npz(tmp_path / "set")
    path = folder / f"{0:09d}.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    words = encode(WORDS) if encode is not np.bytes_ else np.bytes_(WORDS.encode())
    np.savez(path, **arrays | {"language_instruction": words})
    assert open_dataset(folder).instructions == [WORDS, *TASKS[1:]]
    np.savez(path, **arrays | {"language_instruction": np.array([1, 2])})
    with pytest.raises(InstructionError, match=r"000000000\.npz: language_instruction is"):
        open_dataset(folder).instructions  # noqa: B018


def test_tasks_of_other_types_are_refused(tmp_path):
    folder = write_v21(tmp_path / "set")
    path = folder / "meta" / "episodes.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'["{TASKS[1]}"]', "[5]"), encoding="utf-8")
    with pytest.raises(InstructionError, match="a task is 5 of type int"):
        open_dataset(folder, TOP).instructions  # noqa: B018
    path.write_text(text.replace(f'["{TASKS[1]}"]', f'"{TASKS[1]}"'), encoding="utf-8")
    assert open_dataset(folder, TOP).instructions == list(TASKS)
