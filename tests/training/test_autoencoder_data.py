"""The autoencoder's data: recordings of any layout and size, and runs that began before there were.

What it learns is tested in test_pipeline.py.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wm_gym.data.camera_frames import CameraFrames
from wm_gym.data.frames import resize
from wm_gym.data.open_dataset import open_dataset
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig
from wm_gym.training.autoencoder import AutoencoderConfig, sample_frames, train_autoencoder
from wm_gym.training.loop import LoopConfig

TINY = VAEMiniConfig(16, 32, 8, 2, 4, 16, 1, 1, 2)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    from tests.data.recorded_data import write_mp4_npz

    return write_mp4_npz(tmp_path_factory.mktemp("recorded") / "set", views=True)


def test_recordings_of_two_cameras_train_the_autoencoder(recordings: Path, tmp_path: Path):
    config = AutoencoderConfig(
        recordings, tmp_path, network=TINY, loop=LoopConfig(steps=2, warmup_steps=1), batch=4,
        held_out=1, bf16=False, pictures_every=2, cameras=("view0", "view1"),
    )  # fmt: skip
    weights = load_file(train_autoencoder(config))
    VAEMini(TINY).load_state_dict(weights, strict=True)
    assert weights["background"].shape == (3, 16, 32)
    assert (tmp_path / "reconstruction_000002.png").exists()


def test_every_camera_counts_at_the_network_s_size(recordings: Path):
    both = CameraFrames(open_dataset(recordings, ("view0", "view1")), 16, 32, 2)
    seen = both.frames(1, slice(3, 5))
    assert seen.shape == (4, 16, 32, 3)
    for camera, rows in (("view0", slice(0, 2)), ("view1", slice(2, 4))):
        alone = open_dataset(recordings, camera).frames(1, slice(3, 5))
        np.testing.assert_array_equal(seen[rows], resize(alone, 16, 32))
    drawn = sample_frames(both, np.arange(2), 6, seed=0, step=0)
    assert drawn.shape == (12, 16, 32, 3)
    assert torch.equal(drawn, sample_frames(both, np.arange(2), 6, seed=0, step=0))


def test_a_run_that_knew_no_cameras_goes_on():
    config = AutoencoderConfig(Path("data"), Path("out"))
    before = asdict(config) | {"loop": None, "out": None}
    del before["cameras"]
    assert config.fingerprint() == before
    assert "cameras" in replace(config, cameras=("a",)).fingerprint()


@pytest.mark.parametrize("held_out", [0, 99])
def test_too_few_episodes_are_told_before_training(recordings: Path, tmp_path: Path, held_out):
    config = AutoencoderConfig(
        recordings, tmp_path / "out", network=TINY, held_out=held_out, cameras=("view0",)
    )
    with pytest.raises(ValueError, match=rf"more than the {held_out} kept out.*--held-out"):
        train_autoencoder(config)
    assert not (tmp_path / "out").exists()
