"""Recorded actions are those of the card beside them, or the data are refused."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("pyarrow")

from tests.data import recorded_data
from tests.data.recorded_data import TOP, write_mp4_npz, write_v21, write_v30
from wm_gym.data.episodes import Episode, EpisodeError
from wm_gym.data.latent_clips import LatentClips, allocate_array, precompute_latents
from wm_gym.data.open_dataset import open_dataset
from wm_gym.data.recording_checks import Accepted, check_recordings, recorded_rate
from wm_gym.data.shards import write_shard
from wm_gym.errors import UserError
from wm_gym.spec import ActionSpec

SPEC = ActionSpec(
    names=("code", "row"),
    units=("", ""),
    low=(0.0, -30.0),
    high=(200.0, 0.0),
    gain=(1.0, 1.0),
    bias=(0.0, 0.0),
    width=2,
    control_hz=10.0,
)
WRITERS = {"v2.1": write_v21, "v3.0": write_v30, "mp4": write_mp4_npz}


def reader(writer, folder):
    return open_dataset(WRITERS[writer](folder), None if writer == "mp4" else TOP)


@pytest.fixture(params=list(WRITERS))
def writer(request):
    return request.param


def test_fitting_recordings_pass_and_another_rate_is_refused_by_both_numbers(writer, tmp_path):
    data = reader(writer, tmp_path / "set")
    assert recorded_rate(data) == 10.0
    check_recordings(data, SPEC)
    faster = replace(SPEC, control_hz=30.0)
    with pytest.raises(EpisodeError, match=r"at 10 Hz.*control_hz 30"):
        check_recordings(data, faster)
    check_recordings(data, faster, Accepted(rate=True))
    check_recordings(data, replace(SPEC, control_hz=0.0))  # nobody stated it


def test_an_action_beyond_its_bounds_is_refused_by_episode_and_row(writer, tmp_path):
    data = reader(writer, tmp_path / "set")
    narrow = replace(SPEC, low=(0.0, -9.5))
    with pytest.raises(EpisodeError, match=r"episode 1, row 10 has row = -10, expected -9\.5 to 0"):
        check_recordings(data, narrow)
    check_recordings(data, narrow, Accepted(range=True))
    with pytest.raises(EpisodeError, match=r"shape \(6, 2\), expected \(T, 1\)"):
        check_recordings(
            data,
            ActionSpec(("x",), ("m",), (0.0,), (1.0,), (1.0,), (0.0,), 1, 10.0),
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_no_number_is_refused_wherever_it_is_read(
    writer, bad, tmp_path, monkeypatch
):
    rows = recorded_data._rows

    def broken(episode, first_index):
        made = rows(episode, first_index)
        if episode == 1:
            made["action"][4][1] = bad
        return made

    monkeypatch.setattr(recorded_data, "_rows", broken)
    data = reader(writer, tmp_path / "set")
    data.actions(0)
    for read in (
        lambda: data.actions(1),
        lambda: data[1],
        lambda: check_recordings(data, SPEC, Accepted(rate=True, range=True)),
    ):
        with pytest.raises(EpisodeError, match="episode 1, row 4 of the actions"):
            read()


def pictures(count):
    return np.zeros((count, 8, 8, 3), np.uint8)


def test_a_shard_with_nan_and_one_that_lost_actions_are_refused(tmp_path):
    import gymnasium
    import h5py

    from wm_gym.data.shards import write_index

    actions = np.zeros((3, 2), np.float32)
    episode = Episode(pictures(4), actions, np.zeros((4, 0)), np.zeros(4, bool))
    write_shard(tmp_path / "shards" / "00000.hdf5", [episode, episode], 0)
    with h5py.File(tmp_path / "shards" / "00000.hdf5", "r+") as file:
        file["episode_1/actions"][2, 0] = np.nan
    box = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    space = gymnasium.spaces.Box(-1, 1, (2,))
    write_index(tmp_path, observation_space=box, action_space=space, image_format="exact")
    data = open_dataset(tmp_path)
    assert data.actions(0).shape == (3, 2)
    with pytest.raises(EpisodeError, match="episode 1, row 2 of the actions"):
        data.actions(1)


# ---- folders of latents -------------------------------------------------------------------------


def encode(frames):
    return np.zeros((len(frames), 2, 2, 3), np.float32)


def test_latents_that_do_not_fit_their_actions_are_refused(tmp_path):
    data = reader("v2.1", tmp_path / "set")
    folder = precompute_latents(data, encode, tmp_path / "latents", progress=False)
    assert len(LatentClips(folder, length=3)) > 0
    actions = np.load(folder / "actions.npy")
    np.save(
        folder / "actions.npy", np.where(np.arange(len(actions))[:, None] == 9, np.nan, actions)
    )
    with pytest.raises(EpisodeError, match="episode 1, row 2 of the actions"):
        LatentClips(folder, length=3)
    np.save(folder / "actions.npy", actions[:-1])
    with pytest.raises(EpisodeError, match="different numbers of states"):
        LatentClips(folder, length=3)


def test_the_room_of_latents_is_taken_at_once(tmp_path):
    array = allocate_array(tmp_path / "a.npy", (64, 8, 8, 4))
    array[:] = 1
    taken = (tmp_path / "a.npy").stat().st_blocks * 512
    assert taken >= array.nbytes
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_a_full_disk_is_an_error_that_names_it_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the disk: both refuse to take the room."""
    write_v21(tmp_path / "set")
    code = (
        "import resource, sys, numpy as np\n"
        "from wm_gym.data.open_dataset import open_dataset\n"
        "from wm_gym.data.latent_clips import precompute_latents\n"
        "from wm_gym.errors import UserError\n"
        f"data = open_dataset({str(tmp_path / 'set')!r}, 'top')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))\n"
        "encode = lambda frames: np.zeros((len(frames), 32, 32, 4), np.float32)\n"
        "try:\n"
        f"    precompute_latents(data, encode, {str(tmp_path / 'out')!r}, progress=False)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert "no room for 0.3 MiB of latents" in run.stdout
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["set"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 65536
    assert issubclass(EpisodeError, UserError)
