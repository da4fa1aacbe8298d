"""Packed files hold exactly what they were made from, and damage is named."""

import hashlib
import json
import lzma
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wm_gym.checkpoints import Checkpoint, CheckpointError, assets_folder, save_checkpoint
from wm_gym.packed_files import (
    PackedFileError,
    is_stored,
    load_tensors,
    pack,
    packed_path,
    plain_path,
    read_file,
)
from wm_gym.policies.base import PolicyError, load_policy, save_policy

CLONED = assets_folder() / "langtable-bc" / "stage_1"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    numbers = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    save_file({"a": numbers.bfloat16(), "b": numbers}, path)
    return path


def test_packing_loses_nothing_and_is_the_same_every_time(weights):
    content, tensors = weights.read_bytes(), load_file(weights)
    packed = pack(weights)
    assert packed == packed_path(weights) and not weights.exists() and is_stored(weights)
    assert plain_path(packed) == weights and packed.stat().st_size < len(content)
    assert read_file(weights) == content == lzma.decompress(packed.read_bytes())
    assert all(torch.equal(load_tensors(weights)[key], value) for key, value in tensors.items())
    first = packed.read_bytes()
    weights.write_bytes(content)
    assert pack(weights).read_bytes() == first


def test_what_cannot_shrink_and_links_stay(weights, tmp_path):
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(hashlib.shake_256(b"0").digest(4096))
    assert pack(noise) == noise and noise.exists()
    link = tmp_path / "link.safetensors"
    link.symlink_to(weights)
    assert pack(link) == link and link.is_symlink()


def test_a_plain_file_comes_before_a_packed_one(weights):
    content = weights.read_bytes()
    pack(weights)
    weights.write_bytes(b"newer")
    assert read_file(weights) == b"newer" != content


def test_a_damaged_packed_file_is_named(weights):
    packed = pack(weights)
    whole = packed.read_bytes()
    for damaged in (whole[:-20], whole[:40], b"", b"no xz file", whole[:99] + b"?" + whole[100:]):
        packed.write_bytes(damaged)
        with pytest.raises(PackedFileError, match=str(packed)):
            read_file(weights)
    packed.unlink()
    with pytest.raises(FileNotFoundError, match=str(weights)):
        read_file(weights)


def test_a_damaged_policy_is_named(tmp_path):
    folder = Path(shutil.copytree(CLONED, tmp_path / "policy"))
    packed = folder / "policy.safetensors.xz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(PolicyError, match=str(packed)):
        load_policy(folder)
    packed.unlink()
    with pytest.raises(PolicyError, match=r"policy\.safetensors is missing"):
        load_policy(folder)


def test_saving_replaces_the_packed_weights(tmp_path):
    folder = Path(shutil.copytree(CLONED, tmp_path / "policy"))
    policy = load_policy(folder)
    save_policy(policy, folder)
    assert not (folder / "policy.safetensors.xz").exists()
    first, again = policy.weights(), load_policy(folder).weights()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_a_checkpoint_is_read_packed_and_its_card_stays(tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "packed"))
    opened = Checkpoint.open(folder)
    name = opened.spec.dynamics.weights
    before = opened.load(name)
    pack(folder / name)
    packed = Checkpoint.open(folder)
    assert packed.spec == opened.spec
    assert all(torch.equal(packed.load(name)[key], value) for key, value in before.items())
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["weights_sha256"][name] = "0" * 64
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{name} has SHA-256"):
        Checkpoint.open(folder).load(name)
    save_checkpoint(folder, opened.spec, {name: before})
    assert not packed_path(folder / name).exists()
    assert all(torch.equal(opened.load(name)[key], value) for key, value in before.items())
