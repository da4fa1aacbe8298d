"""Latents of any dataset in any latent space: whose frames, whose scale, whose actions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.counter_env import CounterFactory
from wm_gym.checkpoints import Checkpoint
from wm_gym.cli import main
from wm_gym.data.latent_clips import read_action_spec
from wm_gym.data.open_dataset import open_dataset
from wm_gym.domains import LANGTABLE
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.latents.registry import load_latent_space
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig
from wm_gym.spec import ActionSpec
from wm_gym.training import encode_latents as recipe
from wm_gym.training.encode_latents import EncodeLatentsConfig, encode_latents
from wm_gym.training.mini_space import write_mini_space

TINY = VAEMiniConfig(16, 16, 8, 2, 4, 16, 1, 1, 2)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "episodes"
    config = CollectConfig(
        out=out, env_id="counter", episodes=3, behaviours={"random": 1.0}, tasks=("count",),
        steps=6, shard_episodes=3, workers=1,
    )  # fmt: skip
    collect(config, CounterFactory(), progress=False)
    return out


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    from tests.data.recorded_data import write_v30

    return write_v30(tmp_path_factory.mktemp("lerobot") / "set")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    mini = VAEMini(TINY)
    write_mini_space(tmp_path / "run", mini, mini.state_dict(), "autoencoder.safetensors", {})
    return tmp_path / "run"


def stored(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_a_checkpoint_gives_encoder_scale_and_actions(own: Path, tiny_checkpoint, tmp_path: Path):
    out = encode_latents(
        EncodeLatentsConfig(own, tmp_path / "out", tiny_checkpoint, any_range=True)
    )
    card = Checkpoint.open(Path(tiny_checkpoint))
    assert tuple(stored(out, "normalisation")["mean"]) == card.spec.latent.mean
    assert stored(out, "action")["gain"] == list(card.spec.action.gain)
    assert stored(out, "source")["space"] == "vae-mini"
    space = load_latent_space(card.spec.latent, card)
    latents = np.load(out / "latents.npy", mmap_mode="r")
    data = open_dataset(own)
    assert latents.shape == (sum(data.lengths + 1), 4, 4, 4)
    row = data.lengths[0] + 1 + 2  # the third state of the second episode
    frame = recipe.resize(data.frames(1, slice(2, 3)), 32, 32)
    expected = space.encode(torch.from_numpy(np.array(frame)))[0]
    np.testing.assert_allclose(latents[row], expected, atol=2e-3)


def test_lerobot_cameras_are_encoded_one_by_one(lerobot: Path, encoder: Path, tmp_path: Path):
    def encoded(*cameras: str) -> Path:
        out = tmp_path / "-".join(cameras)
        config = EncodeLatentsConfig(lerobot, out, encoder=encoder, cameras=cameras)
        return encode_latents(config)

    both = np.load(encoded("wrist", "top") / "latents.npy")
    alone = [np.load(encoded(camera) / "latents.npy") for camera in ("wrist", "top")]
    np.testing.assert_array_equal(both, np.concatenate(alone, axis=2))
    assert stored(tmp_path / "wrist-top", "source")["cameras"] == ["wrist", "top"]
    assert not np.array_equal(*alone)


def test_actions_of_foreign_data_are_scaled_by_their_own_statistics(
    lerobot: Path, encoder: Path, tmp_path: Path
):
    config = EncodeLatentsConfig(lerobot, tmp_path / "out", encoder=encoder, cameras=("top",))
    out = encode_latents(config)
    action = ActionSpec(**stored(out, "action"))
    assert tuple(action.names) == ("code", "row")
    assert action.width == 3
    assert action.control_hz == 10
    data = open_dataset(lerobot, "top")
    every = torch.from_numpy(np.concatenate([data.actions(i) for i in range(len(data))]))
    scaled = action.normalise(every)[:, :2]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    bounds = np.load(out / "bounds.npy")
    # the last state of an episode has no action
    np.testing.assert_array_equal(np.load(out / "actions.npy")[bounds[1:] - 1], 0)


def test_a_published_space_is_fetched_by_its_name(own: Path, tmp_path: Path, monkeypatch):
    asked = []

    class Space:
        def encode(self, frames):
            assert frames.shape[1:] == (256, 256, 3)
            pooled = frames.float().unflatten(1, (16, 16)).unflatten(3, (16, 16)).mean((2, 4))
            return pooled.repeat(1, 1, 1, 6)[..., :16] / 255

    def load(latent, checkpoint=None, *, device):
        asked.append((latent.space, latent.grid, latent.channels, latent.config))
        return Space()

    monkeypatch.setattr(recipe, "load_latent_space", load)
    config = EncodeLatentsConfig(own, tmp_path / "out", "Cosmos", local=Path("weights"))
    latents = np.load(encode_latents(config) / "latents.npy", mmap_mode="r")
    assert asked == [("Cosmos", (16, 16), 16, {"local": str(Path("weights").resolve())})]
    assert latents.shape[1:] == (16, 16, 16)
    scale = stored(tmp_path / "out", "normalisation")
    np.testing.assert_allclose(scale["mean"], latents.astype(np.float32).mean((0, 1, 2)), atol=1e-2)


def test_a_domain_named_by_the_user_wins(own: Path, encoder: Path, tmp_path: Path):
    config = EncodeLatentsConfig(
        own, tmp_path / "out", encoder=encoder, domain="langtable", any_range=True
    )
    assert stored(encode_latents(config), "action")["gain"] == list(LANGTABLE.action.gain)


def test_actions_of_another_width_are_named(encoder: Path, tmp_path: Path):
    pytest.importorskip("av")
    from tests.data.recorded_data import write_mp4_npz

    folder = write_mp4_npz(tmp_path / "set")
    for path in folder.glob("*.npz"):
        actions = np.load(path)["actions"]
        np.savez(path, actions=np.pad(actions, ((0, 0), (0, 8))))
    config = EncodeLatentsConfig(folder, tmp_path / "out", encoder=encoder, domain="langtable")
    with pytest.raises(ValueError, match=r"actions of 10 components, expected 2: .*domain data"):
        encode_latents(config)


def test_what_cannot_be_loaded_is_named(own: Path, tmp_path: Path):
    def settings(space: str, **changes) -> EncodeLatentsConfig:
        return EncodeLatentsConfig(own, tmp_path / "out", space, **changes)

    with pytest.raises(ValueError, match="vjepa-mini is trained here: give --encoder"):
        encode_latents(settings("vjepa-mini"))
    for space, encoder in (("", None), ("VJEPA", tmp_path)):
        with pytest.raises(ValueError, match=r"got --space .* and --encoder .*; give one of them"):
            encode_latents(settings(space, encoder=encoder))
    with pytest.raises(FileNotFoundError, match=r"latent_space.json is missing: --encoder takes"):
        encode_latents(settings("", encoder=tmp_path))
    with pytest.raises(ValueError, match=r"VJEPA96 needs an adapter.*imported checkpoint"):
        encode_latents(settings("VJEPA96"))
    with pytest.raises(ValueError, match=r"'Foo' is unknown; expected one of .*VJEPA"):
        encode_latents(settings("Foo"))
    assert not (tmp_path / "out").exists()


def test_flags_without_use_and_missing_files_are_refused_before_anything_is_encoded(
    own: Path, encoder: Path, tiny_checkpoint, tmp_path: Path
):
    def settings(**changes) -> EncodeLatentsConfig:
        return EncodeLatentsConfig(own, tmp_path / "out", **changes)

    for changes in ({"adapter": tmp_path}, {"local": tmp_path}, {"sha256": {"a": "b"}}):
        with pytest.raises(ValueError, match=f"a checkpoint, .* takes no --{next(iter(changes))}"):
            encode_latents(settings(space=tiny_checkpoint, **changes))
    with pytest.raises(ValueError, match=r"--encoder .* takes no --revision \(got main\)"):
        encode_latents(settings(encoder=encoder, revision="main"))
    with pytest.raises(FileNotFoundError):
        encode_latents(settings(encoder=encoder, normalisation=tmp_path / "none.json"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_domain_is_named(own: Path, tiny_checkpoint, tmp_path: Path):
    config = EncodeLatentsConfig(own, tmp_path / "out", tiny_checkpoint, domain="mars")
    with pytest.raises(ValueError, match=r"domain 'mars' is unknown; expected one of"):
        encode_latents(config)


def test_a_folder_without_latents_is_told_with_the_command_that_makes_them(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no source.json and no latents.npy.*latents"):
        read_action_spec(tmp_path)
    for name in ("source.json", "latents.npy"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"action.json is missing.*train latents"):
        read_action_spec(tmp_path)
    for command in ("latent-dynamics", "svae", "idm", "reward"):
        paths = ["--latents", str(tmp_path / "none"), "--out", str(tmp_path / "o")]
        words = ["train", command, *paths]
        if command in ("idm", "reward"):
            words += ["--held-out", str(tmp_path / "none")]
        assert main(words) == 2
        assert not (tmp_path / "o").exists()
