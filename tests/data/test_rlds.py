"""RLDS folders as TensorFlow Datasets writes them, read without TensorFlow."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeError
from wm_gym.data.open_dataset import open_dataset

writer = pytest.importorskip("tfrecord.writer")
LENGTHS = (4, 9, 5)
TOP, WRIST = "steps/observation/image_0", "steps/observation/image_1"


def feature(kind, **described):
    return {"pythonClassName": f"tensorflow_datasets.core.features.{kind}", **described}


def node(**children):
    return feature("features_dict.FeaturesDict", featuresDict={"features": children})


def tensor(dtype, *shape):
    sides = {"dimensions": [str(side) for side in shape]} if shape else {}
    return feature("tensor_feature.Tensor", tensor={"shape": sides, "dtype": dtype})


def image():
    shape = {"dimensions": ["8", "12", "3"]}
    described = {"shape": shape, "dtype": "uint8", "encodingFormat": "png"}
    return feature("image_feature.Image", image=described)


FEATURES = node(
    steps=feature(
        "dataset_feature.Dataset",
        sequence={
            "feature": node(
                action=tensor("float32", 2),
                reward=tensor("float32"),
                is_last=tensor("bool"),
                language_instruction=feature("text_feature.Text", text={}),
                observation=node(image_0=image(), image_1=image()),
            )
        },
    ),
    episode_metadata=node(file_path=feature("text_feature.Text", text={})),
)


def frames(episode, camera=0):
    rng = np.random.default_rng([episode, camera])
    return rng.integers(0, 256, (LENGTHS[episode], 8, 12, 3), np.uint8)


def actions(episode):
    return np.random.default_rng([episode, 9]).normal(size=(LENGTHS[episode], 2)).astype(np.float32)


def png(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, split="train", **changes):
    """Two files: episodes 0 and 1, then 2. `changes` replace features of episode 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(FEATURES), encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    for number, episodes in enumerate(((0, 1), (2,))):
        file = writer.TFRecordWriter(str(folder / f"toy-{split}.tfrecord-0000{number}-of-00002"))
        for e in episodes:
            steps = LENGTHS[e]
            record = {
                TOP: ([png(f) for f in frames(e)], "byte"),
                WRIST: ([png(f) for f in frames(e, 1)], "byte"),
                "steps/action": (actions(e).ravel().tolist(), "float"),
                "steps/reward": ([0.0] * (steps - 1) + [float(e != 1)], "float"),
                "steps/is_last": ([0] * (steps - 1) + [1], "int"),
                "steps/language_instruction": (["schieb die Möhre".encode()] * steps, "byte"),
            }
            file.write(record | (changes if e == 1 else {}))
        file.close()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rlds") / "1.0.0")


def test_frames_actions_and_words_of_a_step_belong_together(folder):
    data = open_dataset(folder, "image_0")
    assert len(data) == 3
    assert data.lengths.tolist() == [3, 8, 4]
    for e in range(3):
        np.testing.assert_array_equal(data.frames(e), frames(e))
        np.testing.assert_array_equal(data.actions(e), actions(e)[:-1])
        assert data.instructions[e] == "schieb die Möhre"
    np.testing.assert_array_equal(data.frames(1, np.array([5, 2])), frames(1)[[5, 2]])
    assert data.action_names == ("action_0", "action_1")


def test_cameras_stand_side_by_side_and_must_be_chosen(folder):
    data = open_dataset(folder, ["image_1", "image_0"])
    expected = np.concatenate([frames(0, 1), frames(0, 0)], axis=2)
    np.testing.assert_array_equal(data.frames(0), expected)
    np.testing.assert_array_equal(open_dataset(folder, WRIST).frames(0), frames(0, 1))
    with pytest.raises(EpisodeError, match="several cameras"):
        open_dataset(folder)
    with pytest.raises(EpisodeError, match="'image_7'"):
        open_dataset(folder, "image_7")


def test_a_reward_of_one_is_success_of_the_state_it_led_to(folder):
    data = open_dataset(folder, "image_0")
    assert data.labels(0)[1].tolist() == [False, False, False, True]
    assert not data.labels(1)[1].any()


def test_it_travels_to_other_processes(folder):
    data = open_dataset(folder, "image_0")
    data.frames(0)
    copied = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copied.frames(2), frames(2))


def test_it_is_converted_like_any_other_data_set(folder, tmp_path):
    words = ["convert", str(folder), "--out", str(tmp_path / "lerobot"), "--cameras", "image_0"]
    assert main(words) == 2  # RLDS does not store the rate
    assert not (tmp_path / "lerobot").exists()
    assert main([*words, "--fps", "5", "--codec", "lossless"]) == 0
    back = open_dataset(tmp_path / "lerobot")
    for e in range(3):
        np.testing.assert_array_equal(back.frames(e), frames(e))
        np.testing.assert_array_equal(back.actions(e), actions(e)[:-1])


def test_damage_is_named(tmp_path):
    data = write(tmp_path / "cut")
    path = sorted(data.glob("*.tfrecord-*"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(EpisodeError, match="truncated"):
        open_dataset(data, "image_0")
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    opened = open_dataset(data, "image_0")
    with pytest.raises(EpisodeError, match="checksum"):
        opened.frames(0)
    np.testing.assert_array_equal(open_dataset(data, "image_0")._record(1)["steps/is_last"][-1], 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps/action": ([1.0] * 17, "float")}, "17 numbers of steps/action"),
        ({TOP: ([b"no picture"] * 9, "byte")}, "picture 0 of episode 1"),
    ],
)
def test_an_episode_that_contradicts_itself_is_named(changes, named, tmp_path):
    data = open_dataset(write(tmp_path / "wrong", **changes), "image_0")
    with pytest.raises(EpisodeError, match=named):
        data[1]
    np.testing.assert_array_equal(data[0].frames, frames(0))


def test_folders_that_are_none_are_refused(tmp_path):
    data = write(tmp_path / "other", split="val")
    with pytest.raises(EpisodeError, match=r"no split 'train'.*'val'"):
        open_dataset(data, "image_0")
    (data / "features.json").write_text("{", encoding="utf-8")
    with pytest.raises(EpisodeError, match=r"features\.json"):
        open_dataset(data, "image_0")
    (data / "features.json").write_text(json.dumps(node(image=image())), encoding="utf-8")
    with pytest.raises(EpisodeError, match="no feature `steps`"):
        open_dataset(data, "image_0")
