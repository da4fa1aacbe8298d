"""The recipes around a frozen encoder: S-VAE adapter and pixel decoder, at tiny size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wm_gym.checkpoints import CheckpointError
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeReader
from wm_gym.data.mp4_npz import Mp4NpzDataset
from wm_gym.latents.pixel_decoder import PixelDecoder, infer_pixel_decoder_config
from wm_gym.latents.svae import SVAEConfig, infer_svae_config
from wm_gym.run_settings import RunSettingsError
from wm_gym.training import pixel_decoder as painting
from wm_gym.training.latent_frames import LatentFrames
from wm_gym.training.loop import LoopConfig
from wm_gym.training.pixel_decoder import (
    PairedFrames,
    TrainPixelDecoderConfig,
    train_pixel_decoder,
)
from wm_gym.training.svae import TrainSVAEConfig, load_adapter, train_svae

EPISODES, STATES, GRID, WIDE, SIDE = 6, 8, 4, 16, 16


class Colours:
    """Episodes whose frames are four plain squares; their latents tell the colours."""

    def __init__(self, folder: Path, views: int = 1) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        squares = rng.integers(40, 216, (EPISODES, STATES, 2, 2 * views, 3))
        self.pictures = squares.repeat(SIDE // 2, 2).repeat(SIDE // 2, 3).astype(np.uint8)

    def __len__(self) -> int:
        return EPISODES

    @property
    def lengths(self) -> np.ndarray:
        return np.full(EPISODES, STATES - 1)

    def frames(self, index: int, states: slice) -> np.ndarray:
        return self.pictures[index, states]


def write_latents(folder: Path, data: Colours, cameras: tuple[str, ...] = ()) -> Path:
    """Features of the mean colour of every cell through a fixed mixing, far from unit scale."""
    folder.mkdir()
    pictures = data.pictures.reshape(-1, *data.pictures.shape[2:]).astype(np.float32) / 255
    cells = pictures[:, 1 :: SIDE // GRID, 1 :: SIDE // GRID]
    mixing = np.random.default_rng(1).standard_normal((3, WIDE)).astype(np.float32)
    np.save(folder / "latents.npy", (20 * np.tanh(cells - 0.5) @ mixing + 3).astype(np.float16))
    np.save(folder / "bounds.npy", np.arange(EPISODES + 1) * STATES)
    source = {"space": "toy", "cameras": list(cameras)} if cameras else {"space": "toy"}
    (folder / "source.json").write_text(json.dumps(source), encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Colours:
    colours = Colours(tmp_path / "episodes")
    monkeypatch.setattr(painting, "open_dataset", lambda folder, cameras: colours)
    return colours


@pytest.fixture
def latents(data: Colours, tmp_path: Path) -> Path:
    return write_latents(tmp_path / "latents", data)


def adapter_recipe(latents: Path, out: Path, steps: int = 6, **changes) -> TrainSVAEConfig:
    loop = LoopConfig(
        steps=steps, learning_rate=3e-3, warmup_steps=2, log_every=1, save_every=2, ema=0.9
    )
    config = TrainSVAEConfig(
        latents=latents, out=out, latent_dim=4, layers=1, heads=2, intermediate_size=32,
        batch=8, held_out=1, measure_every=3, bf16=False, loop=loop,
    )  # fmt: skip
    return replace(config, **changes)


def decoder_recipe(data: Colours, latents: Path, out: Path, **changes) -> TrainPixelDecoderConfig:
    loop = LoopConfig(
        steps=6, learning_rate=3e-3, warmup_steps=2, log_every=1, save_every=2, ema=0.9
    )
    config = TrainPixelDecoderConfig(
        data=data.folder, latents=latents, out=out, base_channels=8,
        channel_multipliers=(1, 1, 2), res_blocks=1, attn_heads=1, batch=4, held_out=1,
        measure_every=3, bf16=False, loop=loop,
    )  # fmt: skip
    return replace(config, **changes)


def logged(folder: Path, name: str) -> list[float]:
    lines = [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line[name] for line in lines if name in line]


def assert_same_bits(one: Path, two: Path) -> None:
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def shorter(config, steps: int):
    """The run as a kill after `steps` leaves it: the schedule is that of the whole run."""
    return replace(config, loop=replace(config.loop, max_minutes=1e-9, save_every=steps))


# ---- S-VAE -----------------------------------------------------------------------------------


def test_the_adapter_learns_features_it_was_not_shown(latents: Path, tmp_path: Path):
    config = adapter_recipe(latents, tmp_path / "run", steps=250, measure_every=250)
    weights = train_svae(config)
    errors = logged(config.out, "relative_error")
    assert np.mean(errors[:3]) > 0.5
    record = json.loads((config.out / "adapter.json").read_text(encoding="utf-8"))
    assert record["held_out"]["held_out_relative_error"] < 0.1
    assert record["held_out"]["held_out_angle"] < 0.05
    # three colours lie in sixteen channels: four are enough
    svae = load_adapter(config.out)
    assert svae.cfg == SVAEConfig(**record["adapter"])
    assert infer_svae_config(load_file(weights), num_heads=2).latent_dim == 4
    frames = LatentFrames(latents, 1)
    raw = frames.read(frames.held_out(8))
    with torch.no_grad():
        back = svae.decode(svae.encode(raw))
    assert (back - raw).square().mean() < 0.1 * raw.flatten(0, -2).var(0).mean()


def test_an_untrained_adapter_answers_the_mean_of_the_features(latents: Path, tmp_path: Path):
    config = adapter_recipe(latents, tmp_path / "run", steps=1)
    train_svae(config)
    assert logged(config.out, "relative_error")[0] < 2.5


@pytest.mark.parametrize("stop", [2, 4])
def test_a_stopped_adapter_resumes_at_the_exact_step(latents: Path, tmp_path: Path, stop: int):
    whole = adapter_recipe(latents, tmp_path / "whole")
    train_svae(whole)
    parts = replace(whole, out=tmp_path / "parts")
    for _ in range(stop):  # every call makes one step and is out of time
        train_svae(shorter(parts, stop))
    assert torch.load(parts.out / "state.pt", weights_only=True)["step"] == stop
    train_svae(parts)
    assert_same_bits(whole.out / "adapter.safetensors", parts.out / "adapter.safetensors")
    assert logged(whole.out, "loss") == logged(parts.out, "loss")


def test_accumulated_parts_of_an_adapter_step_equal_the_whole(latents: Path, tmp_path: Path):
    whole = adapter_recipe(latents, tmp_path / "whole")
    parts = replace(whole, out=tmp_path / "parts", accumulation=4)
    train_svae(whole)
    train_svae(parts)
    assert logged(parts.out, "loss") == pytest.approx(logged(whole.out, "loss"), rel=1e-4)
    with pytest.raises(ValueError, match=r"batch 8 does not divide .* multiple of 3"):
        train_svae(replace(whole, out=tmp_path / "thirds", accumulation=3))


@pytest.mark.parametrize("changes", [{"progressive": True, "layers": 2}, {"latent_layers": 1}])
def test_other_layouts_of_the_adapter_train_and_load(latents: Path, tmp_path: Path, changes):
    config = adapter_recipe(latents, tmp_path / "run", steps=2, **changes)
    train_svae(config)
    svae = load_adapter(config.out)
    assert svae.encode(torch.zeros(1, 4, 4, WIDE)).shape == (1, 4, 4, 4)


def test_adapter_settings_that_do_not_fit_are_named(latents: Path, tmp_path: Path):
    config = adapter_recipe(latents, tmp_path / "run")
    with pytest.raises(ValueError, match="--heads 3 do not divide the 16 channels"):
        train_svae(replace(config, heads=3))
    with pytest.raises(ValueError, match="holds 6 episodes, expected more than the 6"):
        train_svae(replace(config, held_out=6))
    with pytest.raises(FileNotFoundError, match="finished `wm-gym train svae`"):
        load_adapter(tmp_path / "nowhere")
    train_svae(config)
    with pytest.raises(RunSettingsError, match=r"kl_weight.*another --out"):
        train_svae(replace(config, kl_weight=1.0))


def test_the_published_optimiser_is_the_default():
    for config in (
        TrainSVAEConfig(latents=Path(), out=Path()),
        TrainPixelDecoderConfig(data=Path(), latents=Path(), out=Path()),
    ):
        loop = config.loop
        assert (loop.learning_rate, loop.betas, loop.weight_decay) == (1e-4, (0.9, 0.99), 2e-3)
        assert (loop.clip, loop.ema, loop.final_learning_rate_fraction) == (1.0, 0.9995, 0.7)
        assert (loop.steps, loop.warmup_steps, config.epochs) == (0, 0, 100)
    assert TrainSVAEConfig(latents=Path(), out=Path()).network(1024) == SVAEConfig(1024)
    decoder = TrainPixelDecoderConfig(data=Path(), latents=Path(), out=Path()).network(96)
    assert decoder.channel_multipliers == (1, 1, 2, 4, 8)
    assert (decoder.scale, decoder.attn_resolutions) == (16, (16,))


# ---- pixel decoder ---------------------------------------------------------------------------


def test_the_decoder_paints_frames_it_was_not_shown(data: Colours, latents: Path, tmp_path: Path):
    config = decoder_recipe(data, latents, tmp_path / "run")
    config = replace(config, loop=replace(config.loop, steps=150), measure_every=150)
    weights = load_file(train_pixel_decoder(config))
    errors = logged(config.out, "absolute_error")
    assert errors[-1] < 0.4 * errors[0]
    record = json.loads((config.out / "pixel_decoder.json").read_text(encoding="utf-8"))
    assert record["held_out"]["held_out_psnr"] > 18
    assert (config.out / "decoded_000150.png").exists()
    decoder = PixelDecoder(infer_pixel_decoder_config(weights, attn_heads=1))
    decoder.load_state_dict(weights, strict=True)
    frames = LatentFrames(latents, 1)
    chosen = frames.held_out(8)
    truth = PairedFrames(data, frames, (SIDE, SIDE)).colours(chosen)  # pyright: ignore
    with torch.no_grad():
        found = decoder(frames.read(chosen))
    assert painting.psnr(found, truth) == pytest.approx(
        record["held_out"]["held_out_psnr"], abs=1.0
    )


def test_a_stopped_decoder_resumes_at_the_exact_step(data: Colours, latents: Path, tmp_path: Path):
    whole = decoder_recipe(data, latents, tmp_path / "whole", latent_noise=0.1)
    train_pixel_decoder(whole)
    parts = replace(whole, out=tmp_path / "parts")
    for _ in range(3):
        train_pixel_decoder(shorter(parts, 3))
    train_pixel_decoder(parts)
    name = "pixel_decoder.safetensors"
    assert_same_bits(whole.out / name, parts.out / name)
    assert logged(whole.out, "loss") == logged(parts.out, "loss")


def test_the_decoder_reads_what_an_adapter_compressed(data: Colours, latents: Path, tmp_path: Path):
    adapter = adapter_recipe(latents, tmp_path / "adapter", steps=2)
    train_svae(adapter)
    before = (adapter.out / "adapter.safetensors").read_bytes()
    config = decoder_recipe(data, latents, tmp_path / "run", adapter=adapter.out)
    weights = load_file(train_pixel_decoder(config))
    assert weights["proj_in.weight"].shape[1] == 4
    assert (adapter.out / "adapter.safetensors").read_bytes() == before
    narrow = write_latents(tmp_path / "narrow", data)
    np.save(narrow / "latents.npy", np.zeros((EPISODES * STATES, 4, 4, 4), np.float16))
    with pytest.raises(ValueError, match=r"compresses 16 channels, .* has 4; leave --adapter out"):
        train_pixel_decoder(replace(config, latents=narrow, out=tmp_path / "other"))


def test_latents_of_other_episodes_are_refused(data: Colours, latents: Path, tmp_path: Path):
    np.save(latents / "bounds.npy", np.asarray([0, 5, 16, 24, 32, 40, 48]))
    with pytest.raises(ValueError, match="give the episodes that the latents were made from"):
        train_pixel_decoder(decoder_recipe(data, latents, tmp_path / "run"))


def test_every_camera_is_a_frame_of_its_own(tmp_path: Path):
    data = Colours(tmp_path / "episodes", views=2)
    frames = LatentFrames(write_latents(tmp_path / "two", data, ("left", "right")), 1)
    assert (frames.grid, len(frames)) == ((4, 4), 5 * STATES * 2)
    numbers = np.asarray([0, 1, 2 * STATES + 5])
    assert frames.locate(numbers) == [(0, 0, 0), (0, 0, 1), (1, 2, 1)]
    seen = frames.read(numbers)
    stored = torch.from_numpy(np.load(tmp_path / "two" / "latents.npy")).float()
    assert torch.equal(seen[0], stored[0, :, :4])
    assert torch.equal(seen[1], stored[0, :, 4:])
    colours = PairedFrames(data, frames, (SIDE, SIDE)).colours(numbers)  # pyright: ignore
    expected = torch.from_numpy(data.pictures[1, 2, :, SIDE:]).float() / 255
    assert torch.equal(colours[2], expected)


def test_decoder_and_recorded_episodes_meet_by_row(tmp_path: Path):
    pytest.importorskip("av")
    from tests.data.recorded_data import decode_frame, row_number, write_mp4_npz

    data = Mp4NpzDataset(write_mp4_npz(tmp_path / "set"))
    folder = tmp_path / "latents"
    folder.mkdir()
    bounds = np.concatenate([[0], np.cumsum(data.lengths + 1)])
    np.save(folder / "bounds.npy", bounds)
    np.save(folder / "latents.npy", np.zeros((bounds[-1], 2, 10, 3), np.float16))
    (folder / "source.json").write_text("{}", encoding="utf-8")
    pairs = PairedFrames(data, LatentFrames(folder, 1), (16, 80))
    seen = pairs.colours(np.asarray([3, 9]))
    numbers = decode_frame((seen.numpy() * 255).round())
    assert numbers.tolist() == [row_number(0, 3), row_number(1, 9 - int(bounds[1]))]


@pytest.mark.parametrize("name", ["svae", "pixel-decoder"])
def test_help_explains_every_setting(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["train", name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--latents" in shown
    assert "--loop.learning-rate" in shown
    assert "kept out of training" in shown


def test_weights_of_an_adapter_are_checked_when_loaded(latents: Path, tmp_path: Path):
    config = adapter_recipe(latents, tmp_path / "run", steps=1)
    train_svae(config)
    record = json.loads((config.out / "adapter.json").read_text(encoding="utf-8"))
    record["adapter"]["latent_dim"] = 8
    (config.out / "adapter.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not fit SVAE"):
        load_adapter(config.out)


@pytest.mark.parametrize("cameras", [(), ("left", "right")])
def test_pixels_that_differ_from_the_empty_scene_are_known(tmp_path: Path, cameras):
    colours = Colours(tmp_path / "episodes", max(1, len(cameras)))
    still = colours.pictures[0, 0]
    colours.pictures[:] = still
    colours.pictures[2, 1, :4, :4] = 255 - still[:4, :4]  # something in a corner of the first view
    frames = LatentFrames(write_latents(tmp_path / "latents", colours, cameras), 1)
    pairs = PairedFrames(cast(EpisodeReader, colours), frames, (SIDE, SIDE))
    number = (2 * STATES + 1) * frames.views
    numbers = np.array([0, number, number + frames.views - 1])
    objects = pairs.objects(numbers, pairs.colours(numbers))
    assert objects.shape == (3, SIDE, SIDE, 1)
    assert not objects[0].any() and not objects[1, 4:].any() and not objects[1, :, 4:].any()
    strong = np.abs(255 - 2 * still[:4, :4].astype(float)).max(-1) > 64
    assert (objects[1, :4, :4, 0].numpy()[strong] == 1).all()
    if cameras:
        assert not objects[2].any(), "the second camera sees nothing of it"


def test_a_weight_on_objects_changes_what_is_learned_and_a_run_can_start_from_another(
    data: Colours, latents: Path, tmp_path: Path
):
    plain = train_pixel_decoder(decoder_recipe(data, latents, tmp_path / "plain"))
    config = decoder_recipe(data, latents, tmp_path / "weighted", object_weight=5.0)
    weighted = train_pixel_decoder(config)
    first, second = load_file(plain), load_file(weighted)
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert "held_out_object_psnr" in (config.out / "log.jsonl").read_text(encoding="utf-8")
    onward = replace(config, out=tmp_path / "onward", init=plain)
    onward = replace(onward, loop=replace(onward.loop, steps=1, learning_rate=1e-9, ema=0.0))
    third = load_file(train_pixel_decoder(onward))
    assert all(torch.allclose(first[key], third[key], atol=1e-6) for key in first)
    with pytest.raises(ValueError, match="does not fit a pixel decoder of these sizes"):
        train_pixel_decoder(replace(onward, out=tmp_path / "other", base_channels=16))
