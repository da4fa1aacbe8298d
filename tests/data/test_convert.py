"""Data sets written in another layout: what was there is there again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.data.recorded_data import TOP, write_v21
from wm_gym.cli import main
from wm_gym.data.episodes import Episode, EpisodeError
from wm_gym.data.lerobot import LeRobotDataset
from wm_gym.data.lerobot_writer import CAMERA, LeRobotSettings, write_lerobot
from wm_gym.data.open_dataset import open_dataset
from wm_gym.domains import LANGTABLE
from wm_gym.instructions import Goal

av = pytest.importorskip("av")
pq = pytest.importorskip("pyarrow.parquet")
LENGTHS = (3, 7, 1)


def episode(number: int, actions: int, states: int = 4) -> Episode:
    rng = np.random.default_rng(number)
    return Episode(
        frames=rng.integers(0, 256, (actions + 1, 16, 24, 3), np.uint8),
        actions=rng.uniform(-0.03, 0.03, (actions, 2)).astype(np.float32),
        privileged=rng.normal(size=(actions + 1, states)),
        success=rng.random(actions + 1) > 0.5,
        instruction=("reach the red moon", "push the Möhre")[number % 2],
        goal=Goal("reach", ("red moon",)),
        seed=100 + number,
        behaviour="expert",
        start_state={"pose": rng.normal(size=3), "task": "reach"},
    )


EPISODES = [episode(i, n) for i, n in enumerate(LENGTHS)]
SETTINGS = LeRobotSettings(fps=10.0, action=LANGTABLE.action, codec="lossless", episodes_per_file=2)


def same(one: Episode, other: Episode) -> None:
    for name in ("frames", "actions", "privileged", "success"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("instruction", "goal", "seed", "behaviour"):
        assert getattr(one, name) == getattr(other, name)
    assert one.start_state.keys() == other.start_state.keys()
    np.testing.assert_array_equal(one.start_state["pose"], other.start_state["pose"])


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    return write_lerobot(EPISODES, tmp_path_factory.mktemp("lerobot") / "data", SETTINGS)


def test_lossless_lerobot_keeps_every_bit_and_minari_after_it(lossless, tmp_path):
    dataset = open_dataset(lossless)
    assert len(dataset) == len(EPISODES)
    assert (
        main(["convert", str(lossless), "--out", str(tmp_path / "minari"), "--to", "minari"]) == 0
    )
    back = open_dataset(tmp_path / "minari")
    assert main(["convert", str(tmp_path / "minari"), "--out", str(tmp_path / "again"),
                 "--codec", "lossless", "--fps", "10"]) == 0  # fmt: skip
    again = open_dataset(tmp_path / "again")
    for i, expected in enumerate(EPISODES):
        for found in (dataset[i], back[i], again[i]):
            same(found, expected)


def test_frames_of_h264_are_close(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(24))[None, :, :, None].repeat(4, 0).repeat(3, 3)
    shown = replace(EPISODES[0], frames=(smooth * 4).astype(np.uint8))
    folder = write_lerobot([shown], tmp_path / "data", replace(SETTINGS, codec="h264"))
    found = open_dataset(folder).frames(0)
    assert np.abs(found.astype(int) - shown.frames).mean() < 3


def test_the_tables_are_those_of_the_layout(lossless):
    info = json.loads((lossless / "meta" / "info.json").read_text(encoding="utf-8"))
    rows = pq.read_table(lossless / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10
    assert info["total_frames"] == sum(LENGTHS) + len(LENGTHS)
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}
    assert [row["dataset_from_index"] for row in rows] == [0, 4, 12]
    assert [row["dataset_to_index"] for row in rows] == [4, 12, 14]
    assert [row["data/file_index"] for row in rows] == [0, 0, 1]
    begins = [row[f"videos/{CAMERA}/from_timestamp"] for row in rows]
    assert begins == pytest.approx([0.0, 0.4, 0.0])
    table = pq.read_table(lossless / "data/chunk-000/file-000.parquet")
    assert set(info["features"]) - {CAMERA} == set(table.column_names)
    assert table["index"].to_pylist() == list(range(12))
    assert table["next.done"].to_pylist() == [False] * 3 + [True] + [False] * 7 + [True]
    assert table["timestamp"].to_pylist()[:4] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    # a delta has nothing to do in the last state
    assert table["action"].to_pylist()[3] == [0.0, 0.0]
    np.testing.assert_array_equal(table["action"].to_pylist()[:3], EPISODES[0].actions)


def test_instructions_are_the_index_as_pandas_writes_it(lossless):
    table = pq.read_table(lossless / "meta" / "tasks.parquet")
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert dict(zip(*(table[c].to_pylist() for c in ("task", "task_index")), strict=True)) == {
        "reach the red moon": 0,
        "push the Möhre": 1,
    }


def test_statistics_are_those_of_all_rows(lossless):
    found = json.loads((lossless / "meta" / "stats.json").read_text(encoding="utf-8"))
    pixels = np.concatenate([e.frames.reshape(-1, 3) for e in EPISODES]) / 255
    np.testing.assert_allclose(np.ravel(found[CAMERA]["mean"]), pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found[CAMERA]["std"]), pixels.std(0), rtol=1e-9)
    assert np.shape(found[CAMERA]["min"]) == (3, 1, 1)
    dataset = LeRobotDataset(lossless)
    states = np.concatenate([dataset.labels(i)[0] for i in range(len(dataset))])
    for name, value in (("min", states.min(0)), ("max", states.max(0)), ("std", states.std(0))):
        np.testing.assert_allclose(found["observation.environment_state"][name], value, rtol=1e-9)


def test_a_recorded_data_set_comes_along_camera_by_camera(tmp_path):
    source = write_v21(tmp_path / "v21")
    assert main(["convert", str(source), "--out", str(tmp_path / "out")]) == 2  # two cameras
    assert not (tmp_path / "out").exists()
    words = ["convert", str(source), "--out", str(tmp_path / "out"), "--codec", "lossless"]
    assert main([*words, "--cameras", TOP]) == 0
    before, after = open_dataset(source, TOP), open_dataset(tmp_path / "out")
    for i in range(len(before)):
        one, other = before[i], after[i]
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.success, other.success)
        assert one.instruction == other.instruction


@pytest.mark.parametrize(
    ("episodes", "settings", "named"),
    [
        ([], SETTINGS, "no episodes"),
        ([EPISODES[0], episode(5, 2, states=3)], SETTINGS, "episode 1"),
        (
            [replace(EPISODES[0], actions=EPISODES[0].actions * np.nan)],
            SETTINGS,
            "row 0 of actions",
        ),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(episodes, settings, named, tmp_path):
    with pytest.raises(EpisodeError, match=named):
        write_lerobot(episodes, tmp_path / "data", settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_written_over(lossless):
    with pytest.raises(EpisodeError, match="is there already"):
        write_lerobot(EPISODES, lossless, SETTINGS)
    assert len(open_dataset(lossless)) == len(EPISODES)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(EpisodeError, match="fps="):
        replace(SETTINGS, fps=fps)


def test_an_interrupted_conversion_leaves_nothing_and_can_be_repeated(tmp_path):
    def interrupted():
        yield EPISODES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lerobot(interrupted(), tmp_path / "data", SETTINGS)
    assert not list(tmp_path.iterdir())
    same(open_dataset(write_lerobot(EPISODES, tmp_path / "data", SETTINGS))[2], EPISODES[2])
