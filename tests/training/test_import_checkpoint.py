import os
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
from wm_gym.latents.svae import SVAE, SVAEConfig
from wm_gym.spec import CardError
from wm_gym.training.import_checkpoint import (
    ImportOptions,
    bridge_actions,
    import_checkpoint,
)

CONFIG = DiTConfig(channels=16, dim=64, depth=2, heads=1, action_width=10)


def dit(cfg=CONFIG, seed=0):
    torch.manual_seed(seed)
    net = DiT(cfg)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def same(folder, filename, net):
    found = Checkpoint.open(folder).load(filename)
    expected = net.state_dict()
    assert found.keys() == expected.keys()
    return all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "DiT.pt"
    torch.save(dit().state_dict(), path)
    return path


def test_the_folder_holds_the_weights_and_a_valid_card(released, tmp_path):
    spec = import_checkpoint(released, "Cosmos", tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").spec == spec
    assert same(tmp_path / "out", "dynamics.safetensors", dit())
    assert DiTConfig(**spec.dynamics.network) == CONFIG
    assert (spec.latent.space, spec.latent.grid, spec.latent.channels) == ("Cosmos", (16, 16), 16)
    assert (spec.context.kind, spec.context.length, spec.context.history) == ("window", 10, 2)
    assert (spec.dynamics.objective, spec.action.alignment) == ("flow", "source")


def test_averaged_weights_are_preferred_and_wrappers_removed(tmp_path):
    def wrap(net, prefix):
        return {prefix + k: v for k, v in net.state_dict().items()}

    checkpoint = {
        "model": wrap(dit(seed=1), "module._orig_mod."),
        "ema": {"step": 3, "shadow": wrap(dit(seed=2), "_orig_mod.module.")},
        "optimizer": {"state": {}, "lr": 1e-4},
    }
    torch.save(checkpoint, tmp_path / "training.pt")
    import_checkpoint(tmp_path / "training.pt", "Cosmos", tmp_path / "out")
    assert same(tmp_path / "out", "dynamics.safetensors", dit(seed=2))


@pytest.mark.parametrize(
    ("space", "cfg", "shift"),
    [
        ("VAE", replace(CONFIG, patch=2), 1.0),
        ("Cosmos", replace(CONFIG, head="wide", wide_dim=32), 1.0),
        ("VAVAE", replace(CONFIG, channels=32), 1.414),
        ("VJEPA", replace(CONFIG, channels=1024), 8.0),
        ("SigLIP2", replace(CONFIG, channels=1152), 8.485),
    ],
)
def test_sizes_and_schedule_follow_from_the_file(tmp_path, space, cfg, shift):
    save_file(dit(cfg).state_dict(), tmp_path / "w.safetensors")
    spec = import_checkpoint(tmp_path / "w.safetensors", space, tmp_path / "out")
    assert DiTConfig(**spec.dynamics.network) == cfg
    assert spec.dynamics.shift == pytest.approx(shift, abs=1e-3)


def test_options_are_written_on_the_card(released, tmp_path):
    options = ImportOptions(
        objective="ddpm", alignment="target", heads=2, frame_skip=4, space_config={"local": "/x"}
    )
    spec = import_checkpoint(released, "Cosmos", tmp_path / "out", options=options)
    assert spec.dynamics.objective == "ddpm"
    assert (spec.action.alignment, spec.action.frame_skip) == ("target", 4)
    assert spec.dynamics.network["heads"] == 2
    assert spec.latent.config == {"local": "/x"}


def test_bridge_actions_map_their_bounds_as_published():
    action = bridge_actions(10)
    scaled = action.normalise(torch.tensor([action.low, action.high]))
    assert scaled.shape == (2, 10)
    torch.testing.assert_close(scaled[1, :6], torch.tensor([1.75] * 3 + [1.4] * 3))
    torch.testing.assert_close(scaled[0, :6], -scaled[1, :6])
    assert (scaled[0, 6], scaled[1, 6]) == (1, -1)  # closed, open
    assert not scaled[:, 7:].any()


def adapted_files(tmp_path, latent_dim=96):
    sizes = {"num_heads": 4, "num_layers": 1, "intermediate_size": 32}
    svae = SVAE(SVAEConfig(1024, latent_dim, **sizes))
    torch.save(
        {"adapter": svae.state_dict(), "adapter_config": {"type": "svae", **sizes}},
        tmp_path / "adapter.pt",
    )
    decoder = PixelDecoder(PixelDecoderConfig(latent_dim, 8, (1, 1, 1, 1, 1), 1))
    torch.save(decoder.state_dict(), tmp_path / "decoder.pt")
    torch.save(dit(replace(CONFIG, channels=96)).state_dict(), tmp_path / "DiT.pt")
    return svae, decoder


def test_adapter_and_pixel_decoder_come_along(tmp_path):
    svae, decoder = adapted_files(tmp_path)
    spec = import_checkpoint(
        tmp_path / "DiT.pt",
        "VJEPA96",
        tmp_path / "out",
        adapter=tmp_path / "adapter.pt",
        pixel_decoder=tmp_path / "decoder.pt",
    )
    assert SVAEConfig(**spec.latent.config["adapter"]) == svae.cfg
    assert PixelDecoderConfig(**spec.latent.config["pixel_decoder"]) == decoder.cfg
    assert same(tmp_path / "out", "adapter.safetensors", svae)
    assert same(tmp_path / "out", "pixel_decoder.safetensors", decoder)
    assert spec.dynamics.shift == pytest.approx(2.449, abs=1e-3)


def test_an_adapted_space_loads_from_the_folder(tmp_path, monkeypatch):
    from wm_gym.latents.registry import load_latent_space
    from wm_gym.latents.vjepa21 import VJEPA21Config, VJEPA21Encoder, VJEPA21Space

    svae, _ = adapted_files(tmp_path)
    folder = tmp_path / "out"
    spec = import_checkpoint(
        tmp_path / "DiT.pt", "VJEPA96", folder, adapter=tmp_path / "adapter.pt"
    )
    base = VJEPA21Space(VJEPA21Encoder(VJEPA21Config(depth=1, mlp_ratio=0.1)))
    monkeypatch.setattr(VJEPA21Space, "load", classmethod(lambda cls, **kwargs: base))
    space = load_latent_space(spec.latent, Checkpoint.open(folder))
    frames = torch.randint(0, 256, (1, 256, 256, 3)).byte()
    latents = space.encode(frames)
    assert (space.name, latents.shape) == ("VJEPA96", (1, 16, 16, 96))
    with torch.no_grad():
        torch.testing.assert_close(latents, svae.eval().encode(base.encode(frames)))


def refusal(tmp_path, *args, error=CheckpointError, **kwargs):
    """What an import that fails says; it leaves nothing behind."""
    with pytest.raises(error) as caught:
        import_checkpoint(*args, tmp_path / "out", **kwargs)
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    return str(caught.value)


def test_weights_of_another_space_are_refused(released, tmp_path):
    said = refusal(tmp_path, released, "VAVAE")
    assert "16 channels in patches of 1" in said and "fits Cosmos" in said
    assert "latent space 'Foo' is unknown" in refusal(tmp_path, released, "Foo", error=CardError)
    said = refusal(tmp_path, released, "vae-mini")
    assert "no published transition models" in said and "'VAVAE', 'Cosmos'" in said


def test_another_action_width_is_refused(released, tmp_path):
    options = ImportOptions(action=bridge_actions(7))
    said = refusal(tmp_path, released, "Cosmos", options=options)
    assert "actions 10 wide" in said and " 7 wide" in said
    torch.save(dit(replace(CONFIG, action_width=5)).state_dict(), tmp_path / "five.pt")
    assert "5 wide, Bridge's have 7" in refusal(tmp_path, tmp_path / "five.pt", "Cosmos")


def test_nan_weights_are_refused(tmp_path):
    weights = dit().state_dict()
    weights["blocks.1.t_block.ffwd.w3.bias"][3] = float("nan")
    torch.save(weights, tmp_path / "nan.pt")
    said = refusal(tmp_path, tmp_path / "nan.pt", "Cosmos")
    assert "NaN or infinite values (blocks.1.t_block" in said


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_half_downloaded_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"half{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(dit().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "no whole file of weights" in refusal(tmp_path, path, "Cosmos")


def test_missing_parameters_are_refused(tmp_path):
    weights = dit().state_dict()
    for dropped, message in (
        ("action_embedder.bias", "1 keys missing"),
        ("action_embedder.weight", "not a whole transition model"),
        ("x_proj.weight", "file of another network"),
    ):
        torch.save({k: v for k, v in weights.items() if k != dropped}, tmp_path / "part.pt")
        assert message in refusal(tmp_path, tmp_path / "part.pt", "Cosmos")


def test_numbers_of_another_kind_are_refused(tmp_path):
    for dtype in (torch.int32, torch.complex64):
        torch.save({k: v.to(dtype) for k, v in dit().state_dict().items()}, tmp_path / "cast.pt")
        said = refusal(tmp_path, tmp_path / "cast.pt", "Cosmos")
        assert f"no floating-point numbers (x_proj.weight {dtype}" in said


def test_a_folder_is_no_file_and_a_file_no_folder(released, tmp_path):
    assert "is a folder; name the file of weights" in refusal(tmp_path, tmp_path, "Cosmos")
    for out, message in (
        (released, "is a file, no folder"),
        (released / "in", "cannot be written"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_checkpoint(released, "Cosmos", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DiT.pt"]


@pytest.mark.parametrize(
    "name", ["heads", "num_views", "frame_skip", "denoising_steps", "pixel_decoder_heads"]
)
def test_what_is_counted_is_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name}=0; expected at least 1"):
        ImportOptions(**{name: 0})


def test_a_local_folder_is_found_from_anywhere(released, tmp_path, monkeypatch, capsys):
    from wm_gym.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["import-checkpoint", str(released), "--space", "Cosmos", "--to", "out", "--local"]
    assert main([*words, "weights"]) == 2
    assert "--local weights does not exist" in capsys.readouterr().err
    (tmp_path / "weights").mkdir()
    assert main([*words, "weights"]) == 0
    local = Checkpoint.open(tmp_path / "out").spec.latent.config["local"]
    assert local == str((tmp_path / "weights").resolve())


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({**dit().state_dict(), "x": Bomb()}, tmp_path / "bomb.pt")
    said = refusal(tmp_path, tmp_path / "bomb.pt", "Cosmos")
    assert "is refused: it asks to run code" in said
    assert not (tmp_path / "owned").exists()


def test_an_existing_checkpoint_is_not_replaced_by_accident(released, tmp_path):
    out = tmp_path / "out"
    first = import_checkpoint(released, "Cosmos", out)
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        import_checkpoint(released, "Cosmos", out, options=ImportOptions(name="second"))
    assert Checkpoint.open(out).spec == first
    second = ImportOptions(name="second")
    import_checkpoint(released, "Cosmos", out, options=second, overwrite=True)
    assert Checkpoint.open(out).spec.name == "second" != first.name


def test_an_adapter_that_is_missing_or_of_another_width_is_refused(tmp_path):
    adapted_files(tmp_path, latent_dim=32)
    released, adapter = tmp_path / "DiT.pt", tmp_path / "adapter.pt"
    assert "made by an S-VAE adapter" in refusal(tmp_path, released, "VJEPA96")
    said = refusal(tmp_path, released, "VJEPA96", adapter=adapter)
    assert "adapter for 32 channels" in said
    said = refusal(tmp_path, released, "VJEPA96", adapter=released)
    assert "no network with the key" in said


def test_network_fields_on_the_card_are_complete(released, tmp_path):
    spec = import_checkpoint(released, "Cosmos", tmp_path / "out")
    assert spec.dynamics.network == asdict(CONFIG)


@pytest.mark.parametrize("views", [1, 2])
def test_an_imported_checkpoint_is_a_world_model_that_steps(tmp_path, views):
    from wm_gym.world_model import load_world_model

    cfg = replace(CONFIG, depth=1, num_views=views)
    torch.save(dit(cfg).state_dict(), tmp_path / "DiT.pt")
    for name, layer in (
        ("encoder", torch.nn.Conv2d(3, 16, 16, stride=16)),
        ("decoder", torch.nn.ConvTranspose2d(16, 3, 16, stride=16)),
    ):
        torch.jit.script(layer).save(str(tmp_path / f"{name}.jit"))
    trusted = {"local": str(tmp_path), "allow_torchscript": True}
    options = ImportOptions(num_views=views, denoising_steps=2, space_config=trusted)
    import_checkpoint(tmp_path / "DiT.pt", "Cosmos", tmp_path / "out", options=options)
    model = load_world_model(tmp_path / "out")
    frames = torch.randint(0, 256, (1, 256, 256 * views, 3)).byte()
    rollout = model.begin(frames, seeds=[0])
    actions = torch.tensor([[0.01, 0, 0, 0, 0, 0, 1.0]])
    assert rollout.step(actions).shape == (1, 16, 16 * views, 16)
    assert rollout.frames().shape == frames.shape
    assert rollout.latents.isfinite().all()


def test_the_command_takes_pins_and_refuses_another_file(released, tmp_path):
    from wm_gym.cli import main
    from wm_gym.latents.fetch import file_sha256

    words = ["import-checkpoint", str(released), "--space", "Cosmos", "--to", str(tmp_path / "out")]
    pins = ["--revision", "abc", "--space-sha256", "encoder.jit", "0" * 64]
    assert main([*words, *pins, "--sha256", "1" * 64]) == 2
    assert not (tmp_path / "out").exists()
    assert main([*words, *pins, "--sha256", file_sha256(released).upper()]) == 0
    config = Checkpoint.open(tmp_path / "out").spec.latent.config
    assert config == {"revision": "abc", "sha256": {"encoder.jit": "0" * 64}}


def test_pins_of_the_card_hold_when_its_latent_space_is_loaded(released, tmp_path):
    from wm_gym.world_model import load_world_model

    (tmp_path / "encoder.jit").write_bytes(b"another file")
    (tmp_path / "decoder.jit").write_bytes(b"another file")
    pins = {"local": str(tmp_path), "sha256": {"encoder.jit": "0" * 64}}
    options = ImportOptions(space_config=pins)
    import_checkpoint(released, "Cosmos", tmp_path / "out", options=options)
    with pytest.raises(CheckpointError, match=r"encoder.jit .* has SHA-256 .* expected 0000"):
        load_world_model(tmp_path / "out")
