"""Checkpoint folders: a card that states everything, and files that are the ones it means."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from wm_gym.checkpoints import Checkpoint, CheckpointError, save_checkpoint, save_data_file
from wm_gym.cli import main
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.envs.start_states import FILENAME
from wm_gym.evaluation.demo.clips import DemoClips
from wm_gym.packed_files import packed_path, plain_path
from wm_gym.spec import CardError, WorldModelSpec, spec_from_dict
from wm_gym.world_model import load_world_model

NESTED = [
    ("action", "alignment"),
    ("action", "frame_skip"),
    ("frame", "camera"),
    ("latent", "config"),
    ("context", "kind"),
    ("context", "history"),
    ("dynamics", "objective"),
    ("dynamics", "denoising_steps"),
    ("reward", "weights"),
]


@pytest.fixture
def folder(tiny_checkpoint, tmp_path) -> Path:
    """A copy of the tiny checkpoint to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def card(tiny_checkpoint) -> dict:
    return json.loads((Path(tiny_checkpoint) / "card.json").read_text(encoding="utf-8"))


def make(folder: Path) -> gymnasium.Env:
    return gymnasium.make("WM-LangTable-VAE-v0", checkpoint=str(folder), reward="none")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", [f.name for f in fields(WorldModelSpec)])
def test_a_card_without_a_field_is_refused_by_its_name(card, name):
    del card[name]
    with pytest.raises(CardError, match=rf"\b{name}\b"):
        spec_from_dict(card)


@pytest.mark.parametrize(("part", "name"), NESTED)
def test_a_card_without_a_nested_field_is_refused_by_its_name(card, part, name):
    del card[part][name]
    with pytest.raises(CardError, match=rf"{part}\.{name}: this field is missing"):
        spec_from_dict(card)


def test_every_fault_of_a_card_is_named_at_once(card):
    del card["tasks"], card["context"]["kind"]
    card["colour"] = "red"
    card["action"]["width"] = "wide"
    with pytest.raises(CardError) as error:
        spec_from_dict(card, "here/card.json")
    for expected in ("here/card.json", "tasks: this", "context.kind: this", "colour", "action.wid"):
        assert expected in str(error.value)


def test_a_card_of_an_earlier_layout_is_read(card):
    spec = spec_from_dict(card)
    assert spec.reward is not None
    del card["reward"]["window"], card["reward"]["episode_threshold"]
    assert spec_from_dict(card | {"card_version": 2}) == spec
    assert spec_from_dict(card | {"card_version": 2, "reward": None}).reward is None
    del card["data_sha256"]
    del card["action"]["kinds"]
    old = spec_from_dict(card | {"card_version": 1})
    assert old == replace(spec, data_sha256={})
    for version in (0, 5, "3"):
        with pytest.raises(CardError, match=rf"card_version is {version!r}, this wm_gym reads 4"):
            spec_from_dict(card | {"card_version": version})


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
@pytest.mark.parametrize("name", ["latent.safetensors", "dynamics.safetensors", FILENAME])
def test_a_damaged_file_is_refused_by_its_name(folder, name, damage):
    damage(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} has SHA-256 .*, its card says .*again"):
        make(folder)


def test_a_damaged_reward_model_is_refused_by_its_name(folder):
    flip_a_bit(folder / "reward.safetensors")
    with pytest.raises(CheckpointError, match=r"reward\.safetensors has SHA-256"):
        gymnasium.make("WM-LangTable-VAE-v0", checkpoint=str(folder))


def test_no_damaged_file_of_a_model_that_ships_is_taken(shipped_checkpoint, shipped_id, tmp_path):
    folder = Path(shutil.copytree(shipped_checkpoint, tmp_path / "damaged"))
    weights = sorted(Checkpoint.open(folder).spec.weights_sha256)
    assert {"dynamics.safetensors", "latent.safetensors", "reward.safetensors"} <= set(weights)
    for name in weights:
        whole, packed = Checkpoint.open(folder).read(name), packed_path(folder / name)
        stored = packed.read_bytes()
        for damage in (flip_a_bit, cut_off):
            damage(packed)
            with pytest.raises(CheckpointError, match=rf"{packed.name} cannot be decompressed"):
                gymnasium.make(shipped_id, checkpoint=str(folder))
            packed.write_bytes(stored)
            (folder / name).write_bytes(whole)
            damage(folder / name)
            with pytest.raises(CheckpointError, match=rf"{name} has SHA-256"):
                gymnasium.make(shipped_id, checkpoint=str(folder))
            (folder / name).unlink()
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    del card["action"]["gain"]
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CardError, match="gain"):
        gymnasium.make(shipped_id, checkpoint=str(folder))


@pytest.mark.slow
def test_a_model_that_ships_is_the_same_after_saving_it_again(shipped_checkpoint, tmp_path):
    opened = Checkpoint.open(Path(shipped_checkpoint))
    weights = {name: opened.load(name) for name in opened.spec.weights_sha256}
    save_checkpoint(tmp_path / "again", opened.spec, weights)

    def rolled(folder) -> torch.Tensor:
        model = load_world_model(folder)
        frame, action = model.spec.frame, model.spec.action
        start = torch.zeros(1, frame.height, frame.width, 3, dtype=torch.uint8)
        rollout = model.begin(start, seeds=[0])
        for _ in range(3):
            rollout.step(torch.tensor([action.high]))
        return rollout.frames()

    torch.testing.assert_close(
        rolled(tmp_path / "again"), rolled(shipped_checkpoint), atol=0, rtol=0
    )


def test_start_states_that_the_card_states_must_be_there(folder):
    (folder / FILENAME).unlink()
    with pytest.raises(CheckpointError, match=r"start_states\.npz is missing; .*make-start-states"):
        make(folder)


def test_hash_files_mends_an_old_card_and_refuses_a_damaged_file(folder, card, capsys):
    stated = card["data_sha256"]
    assert set(stated) == {FILENAME}
    del card["data_sha256"]
    (folder / "card.json").write_text(json.dumps(card | {"card_version": 1}), encoding="utf-8")
    with pytest.raises(CardError, match=rf"no SHA-256 of {FILENAME}.*wm-gym hash-files {folder}"):
        make(folder)
    assert main(["hash-files", str(folder)]) == 0
    assert f"added {FILENAME} {stated[FILENAME]}" in capsys.readouterr().out
    assert Checkpoint.open(folder).spec.data_sha256 == stated
    make(folder).close()
    before = (folder / "card.json").read_bytes()
    flip_a_bit(folder / FILENAME)
    assert main(["hash-files", str(folder)]) == 2
    assert "its card says" in capsys.readouterr().err
    assert (folder / "card.json").read_bytes() == before


def test_a_checkpoint_that_is_read_and_written_is_the_same(folder, tmp_path):
    opened = Checkpoint.open(folder)
    weights = {name: opened.load(name) for name in opened.spec.weights_sha256}
    copy = tmp_path / "copy"
    save_checkpoint(copy, replace(opened.spec, weights_sha256={}), weights)
    save_data_file(copy, FILENAME, opened.read(FILENAME))
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert Checkpoint.open(copy).spec == opened.spec
    one, two = make(folder), make(copy)
    np.testing.assert_array_equal(one.reset(seed=3)[0], two.reset(seed=3)[0])
    action = np.array([0.01, -0.02], np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(one.step(action)[0], two.step(action)[0])


def test_writing_weights_keeps_the_hashes_of_data_that_is_there(folder):
    opened = Checkpoint.open(folder)
    name = "reward.safetensors"
    bare = replace(opened.spec, data_sha256={"gone.npz": "0"})
    written = save_checkpoint(folder, bare, {name: opened.load(name)})
    assert written.data_sha256 == opened.spec.data_sha256
    elsewhere = save_checkpoint(folder.parent / "new", opened.spec, {name: opened.load(name)})
    assert elsewhere.data_sha256 == {}


def test_a_data_file_is_written_with_its_hash(folder):
    save_data_file(folder, "more.npz", b"content")
    opened = Checkpoint.open(folder)
    assert opened.read("more.npz") == b"content"
    assert set(opened.spec.data_sha256) == {FILENAME, "more.npz"}


def test_every_file_that_ships_is_the_one_its_card_means(shipped_checkpoint):
    opened = Checkpoint.open(Path(shipped_checkpoint))
    files = {plain_path(path).name for path in opened.folder.iterdir()} - {"card.json"}
    assert files == opened.spec.weights_sha256.keys() | opened.spec.data_sha256.keys()
    for name in files:
        assert opened.read(name)


def test_start_states_and_demo_clips_are_written_with_their_hashes(folder, tmp_path):
    words = ["--checkpoint", str(folder), "--tasks", "reach", "--count", "1"]
    assert main(["make-start-states", *words]) == 0
    env = make(folder)
    assert env.reset(seed=0)[1]["start"] == "reach-6500"
    data = CollectConfig(
        tmp_path / "data", episodes=1, steps=6, frame_size="32x32", workers=1,
        behaviours={"random": 1.0}, tasks=("reach",),
    )  # fmt: skip
    recorded = collect(data, progress=False)[0]
    words = ["--checkpoint", str(folder), "--data", str(data.out), "--clips", "1", "--steps", "6"]
    assert main(["make-demo-clips", *words]) == 0
    opened = Checkpoint.open(folder)
    assert set(opened.spec.data_sha256) == {FILENAME, "demo_clips.npz"}
    clips = DemoClips.read(opened)
    assert clips.behaviours == ("random",)
    assert (clips.frames[0] == recorded.frames).all() and (
        clips.actions[0] == recorded.actions
    ).all()


@pytest.mark.parametrize(("part", "entry"), [("action", "width"), ("latent", "channels")])
def test_a_card_that_its_network_contradicts_is_refused(folder, card, part, entry):
    card[part][entry] += 1
    if part == "latent":
        card[part] |= {"mean": [*card[part]["mean"], 0.0], "std": [*card[part]["std"], 1.0]}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CardError, match=rf"'{part}.{entry}': \d.*its network reads"):
        make(folder)


@pytest.mark.parametrize(("name", "value"), [("control_hz", -10.0), ("frame_skip", 0)])
def test_a_rate_that_no_robot_has_is_refused(card, name, value):
    card["action"][name] = value
    with pytest.raises(CardError, match=rf"action.{name} {value}"):
        spec_from_dict(card)


def test_a_rule_for_episodes_that_cannot_hold_is_refused(card):
    reward = card["reward"]
    task = next(iter(reward["threshold"]))
    whole = spec_from_dict(card | {"reward": reward | {"window": 3}})
    assert whole.reward is not None and whole.reward.episode_threshold == {}
    with pytest.raises(CardError, match=r"reward.window=0 must be at least 1 step"):
        spec_from_dict(card | {"reward": reward | {"window": 0}})
    some = {"window": 3, "episode_threshold": {task: 0.5}}
    with pytest.raises(CardError, match=r"reward.episode_threshold says nothing about \['"):
        spec_from_dict(card | {"reward": reward | some})
