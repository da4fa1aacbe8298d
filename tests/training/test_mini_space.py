"""Latent spaces trained here, read from what ships instead of from their training's run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.latents.registry import load_latent_space
from wm_gym.packed_files import read_file
from wm_gym.training.assemble import adapter_parts, painter_parts
from wm_gym.training.mini_space import part_sizes, read_mini_space
from wm_gym.training.svae import load_adapter

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.mark.parametrize("model", ["bridge-vae-mini", "bridge-vjepa-mini", "langtable-vae-mini"])
def test_a_checkpoint_serves_as_the_run_folder_of_its_space(model: str):
    checkpoint = Checkpoint.open(ASSETS / model)
    mini = read_mini_space(checkpoint.folder)
    assert mini.space == checkpoint.spec.latent.space
    height, width = mini.network["height"], mini.network["width"]
    frames = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    spec = checkpoint.spec
    assert torch.equal(
        mini.load().encode(frames), load_latent_space(spec.latent, checkpoint).encode(frames)
    )


def test_a_compressed_space_gives_the_wide_one_its_adapter_and_its_decoder():
    folder = ASSETS / "bridge-vjepa96-mini"
    mini = read_mini_space(folder)
    assert mini.space == "vjepa-mini" and "adapter" not in mini.network
    sizes, weights = adapter_parts(folder)
    assert sizes["input_dim"] == mini.load().channels == 96
    narrow = load_adapter(folder)
    assert {key: value.shape for key, value in narrow.state_dict().items()} == {
        key: value.shape for key, value in weights.items()
    }
    painted, _ = painter_parts(folder, sizes["latent_dim"])
    assert painted["latent_dim"] == sizes["latent_dim"]


def test_what_is_no_source_of_a_space_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="--encoder takes the run folder of a finished"):
        read_mini_space(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"holds no adapter\.json, and is no checkpoint with"
    ):
        part_sizes(ASSETS / "bridge-vjepa-mini", "adapter.json", "adapter")
    damaged = shutil.copytree(ASSETS / "bridge-vae-mini", tmp_path / "damaged")
    weights = damaged / "latent.safetensors"
    weights.write_bytes(read_file(weights)[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"latent.safetensors has SHA-256"):
        read_mini_space(damaged)
