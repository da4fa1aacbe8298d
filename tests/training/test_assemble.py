"""Parts that were trained here become a checkpoint of a published latent space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.recorded_data import write_mp4_npz
from tests.training.test_frozen_features import adapter_recipe
from wm_gym.checkpoints import Checkpoint, assets_folder
from wm_gym.data.episodes import EpisodeError
from wm_gym.latents.vjepa21 import VJEPA21Space
from wm_gym.latents.vjepa_mini import VJEPAMini, VJEPAMiniConfig
from wm_gym.training.assemble import AssembleConfig, assemble, reward_spec
from wm_gym.training.encode_latents import EncodeLatentsConfig, encode_latents
from wm_gym.training.latent_dynamics import LatentDynamicsConfig, train_latent_dynamics
from wm_gym.training.loop import LoopConfig
from wm_gym.training.mini_space import write_mini_space
from wm_gym.training.pixel_decoder import TrainPixelDecoderConfig, train_pixel_decoder
from wm_gym.training.svae import load_adapter, train_svae
from wm_gym.world_model import load_world_model

WIDE = 1024
loaded_with: list[dict] = []


class ToyEncoder:
    """Stands in for V-JEPA: 256-pixel frames to 16 x 16 cells of their mean colour, mixed."""

    name, grid, channels, frame_size = "VJEPA", (16, 16), WIDE, (256, 256)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        cells = frames.float().unflatten(2, (16, 16)).unflatten(1, (16, 16)).mean((2, 4)) / 255
        mixing = torch.randn(3, WIDE, generator=torch.Generator().manual_seed(0))
        return (cells - 0.5) @ mixing

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raise AssertionError("semantic latents have no decoder of their own")


def pretend(patch: pytest.MonkeyPatch) -> None:
    """Let the toy encoder be what `VJEPA` loads."""

    def load(**options):
        loaded_with.append(options)
        return ToyEncoder()

    patch.setattr(VJEPA21Space, "load", staticmethod(load))


@pytest.fixture
def runs(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run folders, for one test to change."""
    pretend(monkeypatch)
    shutil.copytree(built, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run folders of every part of a VJEPA96 model, a step or two each."""
    pytest.importorskip("av")
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        yield build(tmp_path_factory.mktemp("runs"))


def build(tmp_path: Path) -> Path:
    """Run every recipe once."""
    data = write_mp4_npz(tmp_path / "data")
    common = {"domain": "data", "sha256": {"vjepa2_1_vitl_dist_vitG_384.pt": "0" * 64}}
    encode_latents(EncodeLatentsConfig(data, tmp_path / "wide", "VJEPA", **common))
    adapter = adapter_recipe(tmp_path / "wide", tmp_path / "adapter", steps=1, batch=1)
    train_svae(adapter)
    encode_latents(
        EncodeLatentsConfig(
            data, tmp_path / "narrow", "VJEPA96", adapter=tmp_path / "adapter", **common
        )
    )
    loop = LoopConfig(steps=1, warmup_steps=1)
    painter = TrainPixelDecoderConfig(
        data=data, latents=tmp_path / "wide", out=tmp_path / "painter",
        adapter=tmp_path / "adapter", base_channels=4, channel_multipliers=(1, 1, 1, 1, 1),
        res_blocks=1, attn_heads=1, attn_resolutions=(), batch=1, held_out=1, bf16=False, loop=loop,
    )  # fmt: skip
    train_pixel_decoder(painter)
    dynamics = LatentDynamicsConfig(
        tmp_path / "narrow", tmp_path / "dynamics", dim=16, depth=1, heads=1, batch=2,
        head="wide", clip_length=5, held_out=1, bf16=False, loop=loop,
    )  # fmt: skip
    train_latent_dynamics(dynamics)
    return tmp_path


def settings(runs: Path, **changes) -> AssembleConfig:
    config = AssembleConfig(
        "mine", runs / "out", runs / "narrow", runs / "dynamics", adapter=runs / "adapter",
        pixel_decoder=runs / "painter", embedded=False, denoising_steps=2,
    )  # fmt: skip
    return replace(config, **changes)


def test_a_variant_trained_here_is_a_checkpoint_that_steps_and_shows(runs: Path):
    wide, narrow = (np.load(runs / name / "latents.npy") for name in ("wide", "narrow"))
    assert (wide.shape[1:], narrow.shape[1:]) == ((16, 16, WIDE), (16, 16, 4))
    with torch.no_grad():
        expected = load_adapter(runs / "adapter").encode(torch.from_numpy(wide[:3]).float())
    np.testing.assert_allclose(narrow[:3], expected.numpy(), atol=0.02)

    spec = assemble(settings(runs))
    assert (spec.latent.space, spec.latent.channels) == ("VJEPA96", 4)
    assert (spec.context.kind, spec.context.length, spec.twin) == ("window", 5, None)
    assert spec.action.names == ("action_0", "action_1")
    assert "It is not one of the published models" in spec.description
    assert spec.recipe["commands"][-1] == "wm-gym train assemble"
    assert "wm-gym train svae" in spec.recipe["commands"]
    assert "wm-gym train reward" not in spec.recipe["commands"]
    model = load_world_model(runs / "out")
    # what pinned the encoder in training pins it in the card
    assert loaded_with[-1]["sha256"] == {"vjepa2_1_vitl_dist_vitG_384.pt": "0" * 64}
    frames = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    rollout = model.begin(frames, seeds=[0])
    latents = rollout.step(torch.zeros(1, 7, 2))  # the window slides
    assert latents.shape == (1, 7, 16, 16, 4)
    assert latents.isfinite().all()
    assert rollout.frames().shape == (1, 256, 256, 3)


def test_the_classifier_of_a_checkpoint_over_the_same_latents_is_kept(tmp_path: Path):
    shipped = assets_folder() / "langtable-vae-mini"
    card = Checkpoint.open(shipped).spec
    same = {"mean": list(card.latent.mean), "std": list(card.latent.std)}
    assert reward_spec(shipped, same) == card.reward
    with pytest.raises(ValueError, match="saw latents of another space or normalisation"):
        reward_spec(shipped, {**same, "mean": [0.0] * len(card.latent.mean)})
    bare = shutil.copytree(shipped, tmp_path / "bare")
    content = json.loads((bare / "card.json").read_text(encoding="utf-8"))
    (bare / "card.json").write_text(json.dumps({**content, "reward": None}), encoding="utf-8")
    with pytest.raises(ValueError, match="langtable-vae-mini has no success classifier"):
        reward_spec(bare, same)
    with pytest.raises(FileNotFoundError, match=r"no reward.json\) and is no checkpoint"):
        reward_spec(tmp_path, same)


def test_parts_that_do_not_belong_together_are_refused(runs: Path):
    with pytest.raises(ValueError, match="VJEPA96 latents need --adapter"):
        assemble(settings(runs, adapter=None))
    with pytest.raises(FileNotFoundError, match=r"no finished training \(no dynamics.json\)"):
        assemble(settings(runs, dynamics=runs / "none"))
    with pytest.raises(FileNotFoundError, match=r"no source.json.*wm-gym train latents"):
        assemble(settings(runs, latents=runs / "none"))
    record = json.loads((runs / "painter" / "pixel_decoder.json").read_text(encoding="utf-8"))
    record["pixel_decoder"]["latent_dim"] = WIDE
    (runs / "painter" / "pixel_decoder.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match="reads latents of 1024 channels, expected 4"):
        assemble(settings(runs))
    source = json.loads((runs / "narrow" / "source.json").read_text(encoding="utf-8"))
    (runs / "narrow" / "source.json").write_text(
        json.dumps({**source, "card": "published"}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="encoded with the checkpoint 'published'"):
        assemble(settings(runs))
    mini = {**source, "space": "vae-mini"}
    (runs / "narrow" / "source.json").write_text(
        json.dumps({**mini, "card": "small"}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="encoded with the checkpoint 'small'"):
        assemble(settings(runs))
    (runs / "narrow" / "source.json").write_text(json.dumps(mini), encoding="utf-8")
    with pytest.raises(ValueError, match="vae-mini latents, which need --encoder"):
        assemble(settings(runs))
    assert not (runs / "out").exists()


def test_bridge_actions_can_be_asked_for(runs: Path, tmp_path: Path):
    for path in (runs / "data").glob("*.npz"):
        arrays = dict(np.load(path))
        arrays["actions"] = np.zeros((len(arrays["actions"]), 7), np.float32)
        np.savez(path, **arrays)
    config = EncodeLatentsConfig(
        runs / "data", tmp_path / "bridge", "VJEPA", domain="bridge-published"
    )
    with pytest.raises(EpisodeError, match=r"10 Hz.*control_hz 5"):
        encode_latents(config)
    config = replace(config, any_rate=True)
    action = json.loads((encode_latents(config) / "action.json").read_text(encoding="utf-8"))
    assert (action["width"], action["frame_skip"], action["alignment"]) == (10, 2, "source")
    assert action["names"][-1] == "gripper"


def test_an_adapter_belongs_to_compressed_spaces_only(runs: Path, tmp_path: Path):
    config = EncodeLatentsConfig(runs / "data", tmp_path / "x", "VJEPA", domain="data")
    with pytest.raises(ValueError, match="--space VJEPA has no adapter, got --adapter"):
        encode_latents(replace(config, adapter=runs / "adapter"))
    with pytest.raises(ValueError, match="--space VJEPA96 needs an adapter, got --adapter None"):
        encode_latents(replace(config, space="VJEPA96"))


def test_the_card_says_what_the_command_was_told(runs: Path):
    assemble(settings(runs, licence="CC-BY-4.0", training_data="mine", horizon=7))
    read = Checkpoint.open(runs / "out").spec
    assert read.dynamics.unchanged_threshold == 0.0
    assert (read.licence, read.training_data, read.horizon) == ("CC-BY-4.0", "mine", 7)
    assemble(settings(runs, unchanged_threshold=0.12))
    assert load_world_model(runs / "out").sampler.unchanged_threshold == 0.12  # pyright: ignore


def test_an_adapter_on_a_space_trained_here(tmp_path: Path):
    pytest.importorskip("av")
    data = write_mp4_npz(tmp_path / "data")
    torch.manual_seed(0)
    mini = VJEPAMini(VJEPAMiniConfig(height=16, width=16, patch=4, dim=24, depth=1, heads=2))
    write_mini_space(tmp_path / "mini", mini, mini.state_dict(), "encoder.safetensors", {})
    encode = EncodeLatentsConfig(data, tmp_path / "wide", encoder=tmp_path / "mini", domain="data")
    encode_latents(encode)
    train_svae(adapter_recipe(tmp_path / "wide", tmp_path / "adapter", steps=1, batch=1))
    encode_latents(replace(encode, out=tmp_path / "narrow", adapter=tmp_path / "adapter"))
    wide, narrow = (np.load(tmp_path / name / "latents.npy") for name in ("wide", "narrow"))
    assert (wide.shape[1:], narrow.shape[1:]) == ((4, 4, 24), (4, 4, 4))
    assert (
        json.loads((tmp_path / "narrow/source.json").read_text(encoding="utf-8"))["space"]
        == "vjepa-mini-svae"
    )
    dynamics = LatentDynamicsConfig(
        tmp_path / "narrow", tmp_path / "dynamics", dim=16, depth=1, heads=1, batch=2,
        clip_length=5, held_out=1, bf16=False, loop=LoopConfig(steps=1, warmup_steps=1),
    )  # fmt: skip
    train_latent_dynamics(dynamics)
    parts = AssembleConfig(
        "mine", tmp_path / "out", tmp_path / "narrow", tmp_path / "dynamics",
        encoder=tmp_path / "mini", adapter=tmp_path / "adapter", domain="data",
    )  # fmt: skip
    with pytest.raises(ValueError, match="vjepa-mini-svae latents, which need --encoder and the"):
        assemble(replace(parts, adapter=None))
    with pytest.raises(ValueError, match="vjepa-mini latents, which need --encoder and no --ada"):
        assemble(replace(parts, latents=tmp_path / "wide"))
    spec = assemble(parts)
    assert (spec.latent.space, spec.latent.channels) == ("vjepa-mini-svae", 4)
    assert spec.latent.config["adapter"]["input_dim"] == 24
    frames = torch.randint(0, 255, (3, 16, 16, 3), dtype=torch.uint8)
    world = load_world_model(str(tmp_path / "out"))
    by_hand = load_adapter(tmp_path / "adapter").encode(mini.eval().encode(frames))
    # the checkpoint's weights are rounded to bfloat16
    torch.testing.assert_close(world.latent_space.encode(frames), by_hand, atol=0.1, rtol=0.05)
