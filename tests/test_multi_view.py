"""Several cameras side by side: encoded, rolled out, decoded, trained and evaluated per camera."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import wm_gym  # noqa: F401
from wm_gym.checkpoints import Checkpoint, save_card
from wm_gym.data.frames import join_views, resize, resize_views, split_views
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig
from wm_gym.spec import CardError
from wm_gym.training.assemble import AssembleConfig, assemble
from wm_gym.training.encode_latents import EncodeLatentsConfig, encode_latents
from wm_gym.training.latent_dynamics import LatentDynamicsConfig, train_latent_dynamics
from wm_gym.training.loop import LoopConfig
from wm_gym.training.mini_space import write_mini_space
from wm_gym.world_model import load_world_model

VIEWS = 2


@pytest.fixture(scope="module")
def two_views(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny world model with two cameras; positions in the network have no weights."""
    folder = tmp_path_factory.mktemp("views") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "start_states.npz").unlink(missing_ok=True)
    spec = Checkpoint.open(folder).spec
    latent, dynamics = spec.latent, spec.dynamics
    spec = replace(
        spec,
        twin=None,
        tasks={},
        data_sha256={},
        reward=None,
        frame=replace(spec.frame, width=32 * VIEWS),
        latent=replace(latent, grid=(4, 4 * VIEWS), config={**latent.config, "num_views": VIEWS}),
        dynamics=replace(dynamics, network={**dynamics.network, "num_views": VIEWS}),
    )
    save_card(folder, spec)
    for file in folder.iterdir():  # start states belong to the single camera
        if file.suffix not in (".json", ".safetensors"):
            file.unlink()
    return str(folder)


def pictures(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 32, 32 * VIEWS, 3), np.uint8)


def test_every_camera_is_encoded_and_decoded_on_its_own(two_views: str, tiny_model):
    model = load_world_model(two_views)
    frames = pictures(3)
    latents = model.encode(torch.from_numpy(frames))
    assert latents.shape == (3, 4, 8, 4)
    for camera, seen in enumerate(split_views(frames, VIEWS)):
        here = slice(4 * camera, 4 * camera + 4)
        single = tiny_model.encode(torch.from_numpy(seen))
        torch.testing.assert_close(latents[:, :, here], single, atol=1e-5, rtol=1e-5)
        painted = split_views(model.decode(latents).numpy(), VIEWS)[camera]
        alone = tiny_model.decode(single).numpy()
        assert np.abs(painted.astype(int) - alone).max() <= 1


def test_rollouts_of_several_cameras_are_exact_and_their_cameras_see_each_other(two_views: str):
    model = load_world_model(two_views)
    frames = torch.from_numpy(pictures(2))
    actions = torch.tensor([[0.02, -0.01], [-0.03, 0.01]])
    rollouts = [model.begin(frames, seeds=[1, 2], cache=cache) for cache in ("off", "auto")]
    for _ in range(8):
        off, auto = (rollout.step(actions) for rollout in rollouts)
        torch.testing.assert_close(auto, off, atol=1e-4, rtol=0)
    assert rollouts[1].frames().shape == (2, 32, 64, 3)
    other = frames.clone()
    other[:, :, 32:] = 255 - other[:, :, 32:]
    left = model.begin(frames, seeds=[1, 2]).step(actions)[:, :, :4]
    changed = model.begin(other, seeds=[1, 2]).step(actions)[:, :, :4]
    assert (left - changed).abs().max() > 1e-3


def test_an_environment_shows_the_cameras_side_by_side(two_views: str):
    options = {"checkpoint": two_views, "reward": "none", "horizon": 3}
    env = gym.make("WM-LangTable-VAE-v0", **options)
    frames = pictures(1)[0]
    observation, _ = env.reset(seed=0, options={"frames": frames})
    assert env.observation_space.shape == (32, 64, 3)
    np.testing.assert_array_equal(observation, frames)
    shown = [env.step(np.array([0.01, 0.0], np.float32))[0] for _ in range(3)]
    assert all(picture.shape == (32, 64, 3) and picture.dtype == np.uint8 for picture in shown)
    with pytest.raises(ValueError, match=r"\(32, 64, 3\)"):
        env.reset(options={"frames": frames[:, :32]})


def test_a_card_whose_parts_disagree_about_the_cameras_is_refused(two_views: str, tmp_path: Path):
    folder = tmp_path / "wrong"
    shutil.copytree(two_views, folder)
    spec = Checkpoint.open(folder).spec
    network = {**spec.dynamics.network, "num_views": 1}
    save_card(folder, replace(spec, dynamics=replace(spec.dynamics, network=network)))
    with pytest.raises(CardError, match="network reads 1 views, the latent space encodes 2"):
        load_world_model(folder)
    save_card(folder, replace(spec, frame=replace(spec.frame, width=63)))
    with pytest.raises(CardError, match=r"'frame.width': 63"):
        load_world_model(folder)


# ---- frames ----------------------------------------------------------------------------------


def test_views_come_apart_and_together_again():
    frames = pictures(2)
    views = split_views(frames, VIEWS)
    assert views.shape == (2, 2, 32, 32, 3)
    np.testing.assert_array_equal(join_views(views), frames)
    with pytest.raises(ValueError, match="width 64 do not hold 3 cameras"):
        split_views(frames, 3)


def test_resizing_mixes_no_pixels_of_two_cameras():
    frames = np.zeros((1, 32, 64, 3), np.uint8)
    frames[:, :, 32:] = 255
    apart = resize_views(frames, 10, 20, VIEWS)
    assert set(np.unique(apart[:, :, :10])) == {0}
    assert set(np.unique(apart[:, :, 10:])) == {255}
    np.testing.assert_array_equal(resize_views(frames, 10, 20), resize(frames, 10, 20))
    with pytest.raises(ValueError, match="width 21 is no multiple of 2 views"):
        resize_views(frames, 10, 21, VIEWS)


# ---- from recordings of two cameras to a model that is evaluated on them -----------------------


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    from tests.data.recorded_data import write_mp4_npz

    return write_mp4_npz(tmp_path_factory.mktemp("recorded") / "set", views=True)


CAMERAS = ("view1", "view0")


def test_recordings_of_two_cameras_train_a_model_that_rolls_out(recordings: Path, tmp_path: Path):
    from wm_gym.evaluation.open_loop.measure import OpenLoopConfig, evaluate_open_loop
    from wm_gym.evaluation.parity.diagnose import DiagnoseConfig, diagnose

    torch.manual_seed(0)
    mini = VAEMini(VAEMiniConfig(16, 80, 8, 2, 4, 16, 1, 1, 2))
    write_mini_space(tmp_path / "ae", mini, mini.state_dict(), "autoencoder.safetensors", {})
    latents = encode_latents(
        EncodeLatentsConfig(
            recordings, tmp_path / "latents", encoder=tmp_path / "ae", cameras=CAMERAS,
            domain="data",
        )
    )  # fmt: skip
    assert np.load(latents / "latents.npy").shape[1:] == (2, 20, 4)
    loop = LoopConfig(steps=2, warmup_steps=1)
    train_latent_dynamics(
        LatentDynamicsConfig(
            latents, tmp_path / "dynamics", dim=16, depth=1, heads=1, num_views=2, batch=2,
            clip_length=5, held_out=1, bf16=False, loop=loop,
        )
    )  # fmt: skip
    parts = AssembleConfig(
        "two", tmp_path / "out", latents, tmp_path / "dynamics", encoder=tmp_path / "ae",
        domain="data", embedded=False, denoising_steps=2,
    )  # fmt: skip
    spec = assemble(parts)
    assert (spec.num_views, spec.latent.grid, spec.frame.width) == (2, (2, 20), 160)
    assert (spec.context.kind, spec.context.length) == ("window", 5)
    assert spec.frame.camera == "view1, view0"
    stored = load_file(tmp_path / "dynamics" / "dynamics.safetensors")
    network = load_world_model(tmp_path / "out").network
    assert all(torch.allclose(v, stored[k], atol=1e-2) for k, v in network.state_dict().items())

    config = OpenLoopConfig(
        data=recordings, checkpoint=str(tmp_path / "out"), cameras=CAMERAS, horizons=(1, 2),
        clips=3, out=tmp_path / "pictures", json=tmp_path / "open_loop.json",
    )  # fmt: skip
    report = evaluate_open_loop(config)
    assert report["open_loop"]["held_out"] is None
    assert report["open_loop"]["horizon_2"]["clips"] == 3
    found = diagnose(
        DiagnoseConfig(str(tmp_path / "out"), recordings, cameras=CAMERAS, clips=3, steps=1)
    )
    assert found["clips"] == 3
    with pytest.raises(ValueError, match=r"sees 2 camera\(s\) side by side, got --cameras \[\]"):
        evaluate_open_loop(replace(config, cameras=()))
    # the card itself encodes more recordings, camera by camera
    again = encode_latents(
        EncodeLatentsConfig(recordings, tmp_path / "again", str(tmp_path / "out"), cameras=CAMERAS)
    )
    one, two = (np.load(folder / "latents.npy") for folder in (latents, again))
    np.testing.assert_allclose(one, two, atol=0.05)  # weights of the card are bfloat16
    with pytest.raises(ValueError, match=r"model of 2 cameras side by side, got --cameras \[\]"):
        encode_latents(EncodeLatentsConfig(recordings, tmp_path / "no", str(tmp_path / "out")))


def test_clips_of_two_cameras_show_each_where_it_belongs(recordings: Path, two_views: str):
    from wm_gym.data.open_dataset import open_dataset
    from wm_gym.data.recording_checks import Accepted
    from wm_gym.evaluation.open_loop.clips import open_recorded, sample_clips

    spec = Checkpoint.open(Path(two_views)).spec
    data = open_recorded(recordings, spec, CAMERAS, Accepted(range=True))
    clips = sample_clips(data, spec, clips=2, steps=3, seed=0)
    assert clips.frames.shape == (2, 5, 32, 64, 3)
    row = int(clips.actions[0, 0, 0])  # the first action component names the row, see recorded_data
    episode, state = divmod(row - 1, 40)
    for camera, name in enumerate(CAMERAS):
        alone = open_dataset(recordings, name).frames(episode, slice(state, state + 1))
        seen = split_views(clips.frames[0, :1], VIEWS)[camera]
        np.testing.assert_array_equal(seen, resize(alone, 32, 32))


def test_the_context_is_that_of_training(tmp_path: Path):
    """A banded network is assembled with its own band, and another one is refused."""
    from wm_gym.training.assemble import context_of

    config = AssembleConfig("x", tmp_path, tmp_path, tmp_path)
    banded = {"network": {"band": 6}}
    assert (context_of(config, banded).kind, context_of(config, banded).length) == ("banded", 6)
    assert context_of(config, {"network": {}}).length == 10
    recorded = {"network": {}, "clip_length": 7, "history": 3}
    assert (context_of(config, recorded).length, context_of(config, recorded).history) == (7, 3)
    with pytest.raises(ValueError, match="--band 4 is not the band of 6"):
        context_of(replace(config, band=4), banded)
