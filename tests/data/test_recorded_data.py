"""Readers of LeRobot and mp4 + npz folders: frame i and action i belong together, always."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("pyarrow")

from tests.data.recorded_data import (
    FPS,
    LENGTHS,
    TASKS,
    TOP,
    WRIST,
    coded_frame,
    decode_frame,
    row_number,
    view_numbers,
    write_mp4_npz,
    write_v21,
    write_v30,
    write_video,
)
from wm_gym.data.clips import ClipDataset
from wm_gym.data.episodes import EpisodeError
from wm_gym.data.lerobot import LeRobotDataset
from wm_gym.data.mp4_npz import Mp4NpzDataset
from wm_gym.data.open_dataset import open_dataset, read_actions_as
from wm_gym.data.video import VideoFile
from wm_gym.domains import LANGTABLE
from wm_gym.training.import_checkpoint import bridge_actions

WRITERS = {"v2.1": write_v21, "v3.0": write_v30, "mp4": write_mp4_npz}


@pytest.fixture(scope="module", params=[(w, g) for w in WRITERS for g in (1, 12, 250)], ids=str)
def dataset(request, tmp_path_factory):
    """Every layout, with key frames only, some in an episode, and one at the start of a file."""
    writer, gop = request.param
    folder = WRITERS[writer](tmp_path_factory.mktemp("data") / "set", gop=gop)
    return open_dataset(folder, None if writer == "mp4" else "top")


def numbers(episode: int, rows) -> list[int]:
    return [row_number(episode, int(row)) for row in rows]


def test_lengths_and_instructions(dataset):
    assert len(dataset) == len(LENGTHS)
    assert dataset.lengths.tolist() == [n - 1 for n in LENGTHS]
    assert dataset.instructions == list(TASKS)
    assert dataset.fps == FPS


def test_every_frame_stands_beside_its_action(dataset):
    for index, episode in enumerate(dataset):
        rows = np.arange(LENGTHS[index])
        assert decode_frame(episode.frames).tolist() == numbers(index, rows)
        assert episode.actions[:, 0].tolist() == numbers(index, rows[:-1])
        assert episode.actions.dtype == np.float32
        assert episode.privileged.shape == (LENGTHS[index], 0)


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_single_states_are_found_wherever_the_seek_lands(dataset, order):
    places = [(e, s) for e, n in enumerate(LENGTHS) for s in range(n)]
    if order == "backward":
        places.reverse()
    elif order == "random":
        places = np.random.default_rng(0).permutation(places).tolist()
    for episode, state in places:
        seen = dataset.frames(episode, np.asarray([state]))
        assert decode_frame(seen).tolist() == numbers(episode, [state])


def test_states_may_be_slices_repeats_and_in_any_order(dataset):
    for states in ([5, 2, 2, 6], [6, 0], [0], []):
        seen = dataset.frames(1, np.asarray(states, int))
        assert decode_frame(seen).tolist() == numbers(1, states)
    last = LENGTHS[1] - 1
    assert decode_frame(dataset.frames(1, slice(-1, None))).tolist() == numbers(1, [last])
    assert decode_frame(dataset.frames(-1, slice(0, 1))).tolist() == numbers(2, [0])
    with pytest.raises(IndexError, match="episode 3 does not exist"):
        dataset.frames(3)


@pytest.mark.parametrize("alignment", ["target", "source"])
def test_clips_never_slip(dataset, alignment):
    clips = ClipDataset(dataset, length=5, alignment=alignment, pad_start=1)
    for clip in (clips[i] for i in range(len(clips))):
        shown = decode_frame(clip.frames)
        assert shown.tolist() == numbers(int(clip.episode), clip.states)
        offset = 1 if alignment == "target" else 0
        said = clip.actions[clip.known, 0] + offset
        assert said.tolist() == shown[clip.known].tolist()


def test_a_pickled_dataset_reads_the_same(dataset):
    dataset.frames(0)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again.frames(2), dataset.frames(2))


@pytest.mark.parametrize("writer", [write_v21, write_v30])
def test_success_of_a_row_is_about_the_state_after_it(writer, tmp_path: Path):
    episode = open_dataset(writer(tmp_path / "set"), TOP)[1]
    assert np.flatnonzero(episode.success).tolist() == [LENGTHS[1] - 2, LENGTHS[1] - 1]


def test_mp4_npz_success_is_that_of_the_last_state(tmp_path: Path):
    episodes = Mp4NpzDataset(write_mp4_npz(tmp_path / "set"))
    assert [int(e.success.sum()) for e in episodes] == [0, 1, 0]
    assert episodes[1].success[-1]


@pytest.mark.parametrize("writer", [write_v21, write_v30, "views"])
def test_several_cameras_stand_side_by_side(writer, tmp_path: Path):
    if writer == "views":
        folder, cameras = write_mp4_npz(tmp_path / "set", views=True), ("view1", "view0")
    else:
        folder, cameras = writer(tmp_path / "set"), ("wrist", TOP)
    frames = open_dataset(folder, cameras).frames(2)
    left, right = np.split(frames, 2, axis=2)
    assert decode_frame(left).tolist() == view_numbers(WRIST, 2)
    assert decode_frame(right).tolist() == view_numbers(TOP, 2)


def test_pictures_in_the_table(tmp_path: Path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder = write_v21(tmp_path / "set")
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    info["features"][TOP]["dtype"] = "image"
    (folder / "meta" / "info.json").write_text(json.dumps(info), encoding="utf-8")
    path = folder / "data" / "chunk-000" / "episode_000002.parquet"
    table = pq.read_table(path)
    codes = []
    for number in view_numbers(TOP, 2):
        code = io.BytesIO()
        Image.fromarray(coded_frame(number)).save(code, "png")
        codes.append({"bytes": code.getvalue(), "path": None})
    # rows out of order: the frame index decides
    pq.write_table(table.append_column(TOP, pa.array(codes)).take(list(range(12))[::-1]), path)
    dataset = LeRobotDataset(folder, "top")
    assert decode_frame(dataset.frames(2, slice(3, 6))).tolist() == numbers(2, [3, 4, 5])
    assert dataset.actions(2)[3, 0] == row_number(2, 3)


# ---- what is wrong is named ------------------------------------------------------------------


@pytest.mark.parametrize("writer", [write_v21, write_v30])
def test_an_unknown_version_is_named(writer, tmp_path: Path):
    folder = writer(tmp_path / "set")
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    (folder / "meta" / "info.json").write_text(
        json.dumps(info | {"codebase_version": "v1.6"}), encoding="utf-8"
    )
    with pytest.raises(EpisodeError, match=r"'v1.6', expected one of .*v3.0.*convert"):
        open_dataset(folder, TOP)


def test_cameras_and_actions_that_are_not_there_are_named(tmp_path: Path):
    folder = write_v21(tmp_path / "set")
    with pytest.raises(EpisodeError, match=r"no camera 'side', expected one of .*images.top"):
        open_dataset(folder, "side")
    with pytest.raises(EpisodeError, match="several cameras"):
        open_dataset(folder)
    with pytest.raises(EpisodeError, match=r"no feature 'act' .* \['action'\]"):
        LeRobotDataset(folder, TOP, action="act")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_video_is_named(keep: float, tmp_path: Path):
    folder = write_v21(tmp_path / "set")
    path = folder / "videos" / "chunk-000" / TOP / "episode_000001.mp4"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    dataset = open_dataset(folder, TOP)
    assert len(dataset.frames(0)) == LENGTHS[0]
    with pytest.raises(EpisodeError, match=r"episode_000001.mp4.*truncated"):
        dataset.frames(1)


def test_a_video_cut_off_behind_its_index_is_named(tmp_path: Path):
    """With the index at the front such a file opens; its last frames are not there."""
    import av

    whole, front = tmp_path / "whole.mp4", tmp_path / "front.mp4"
    write_video(whole, list(range(100)), gop=12)
    with (
        av.open(str(whole)) as source,
        av.open(str(front), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert decode_frame(VideoFile(front).read(np.asarray([99])))[0] == 99
    front.write_bytes(front.read_bytes()[: int(0.7 * front.stat().st_size)])
    video = VideoFile(front)
    assert decode_frame(video.read(np.arange(5))).tolist() == list(range(5))
    with pytest.raises(EpisodeError, match=r"front.mp4.*truncated"):
        video.read(np.asarray([99]))


@pytest.mark.parametrize("writer", [write_v21, write_v30])
def test_a_video_shorter_than_its_episode_is_named(writer, tmp_path: Path):
    folder = writer(tmp_path / "set")
    path = next(iter(sorted((folder / "videos").glob(f"*{TOP}*/**/*.mp4"))), None) or next(
        iter(sorted((folder / "videos").glob(f"**/{TOP}/*.mp4")))
    )
    write_video(path, view_numbers(TOP, 0)[:4])
    with pytest.raises(EpisodeError, match=r"holds 4 frames, expected .*truncated"):
        open_dataset(folder, TOP).frames(0)


def test_a_missing_video_and_a_missing_episode_are_named(tmp_path: Path):
    folder = write_mp4_npz(tmp_path / "set")
    (folder / "000000001.mp4").unlink()
    with pytest.raises(EpisodeError, match=r"000000001.mp4 is missing beside 000000001.npz"):
        open_dataset(folder)
    folder = write_v21(tmp_path / "lerobot")
    lines = (folder / "meta" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines[:2]), encoding="utf-8")
    with pytest.raises(EpisodeError, match="lists 2 episodes, expected 3"):
        open_dataset(folder, TOP)


def test_rows_that_do_not_fit_their_video_are_named(tmp_path: Path):
    folder = write_mp4_npz(tmp_path / "set")
    write_video(folder / "000000000.mp4", view_numbers(TOP, 0)[:-1])
    with pytest.raises(EpisodeError, match=r"has 6 frames, expected 7, one for each action"):
        open_dataset(folder).frames(0)


def test_an_unknown_folder_says_what_is_expected(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(EpisodeError, match=r"found: \['notes.txt'\].*meta/info.json"):
        open_dataset(tmp_path)
    write_mp4_npz(tmp_path / "bridge" / "train")
    with pytest.raises(EpisodeError, match=r"open one of its folders \['train'\]"):
        open_dataset(tmp_path / "bridge")


def test_network_inputs_of_the_published_data_become_physical_actions(tmp_path: Path):
    folder, action = write_mp4_npz(tmp_path / "split"), bridge_actions(10)
    low, high = np.array(action.low), np.array(action.high)
    given = []
    for path in sorted(folder.glob("*.npz")):
        rows = len(np.load(path)["actions"])
        physical = np.random.default_rng(rows).uniform(low, high, (rows, 7)).astype(np.float32)
        np.savez(path, actions=action.normalise(torch.from_numpy(physical)).numpy())
        given.append(physical[:-1])
    data = open_dataset(folder)
    assert data.actions(0).shape[1] == 10
    assert read_actions_as(data, action) is data
    for index, expected in enumerate(given):
        np.testing.assert_allclose(data.actions(index), expected, atol=1e-6)


def test_physical_actions_of_the_published_layout_are_left_alone(tmp_path: Path):
    data = open_dataset(write_mp4_npz(tmp_path / "split"))
    before = data.actions(0).copy()
    assert np.array_equal(read_actions_as(data, LANGTABLE.action).actions(0), before)
