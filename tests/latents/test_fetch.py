import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wm_gym.checkpoints import CheckpointError
from wm_gym.latents import fetch
from wm_gym.latents.cosmos import COSMOS, CosmosSpace
from wm_gym.latents.fetch import PublishedModel, fetch_model, file_sha256, load_pickle
from wm_gym.latents.sd3_vae import SD3_VAE, SD3VAESpace
from wm_gym.latents.siglip2 import SIGLIP2, SigLIP2Space
from wm_gym.latents.va_vae import VA_VAE, select_vae_weights
from wm_gym.latents.vjepa21 import VJEPA21, VJEPA21Config, VJEPA21Encoder, select_encoder_weights
from wm_gym.latents.web_dino import WEB_DINO, WebDINOSpace

MODEL = PublishedModel(
    name="Toy", repo_id="org/toy", files=("sub/a.bin",), page="https://x.org/toy", licence="MIT"
)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("layout", ["as published", "flat", "the file itself"])
def test_a_local_path_needs_no_network(tmp_path, layout):
    path = tmp_path / ("a.bin" if layout == "flat" else "sub/a.bin")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"weights")
    local = path if layout == "the file itself" else tmp_path
    assert fetch_model(MODEL, local=local) == [path]


def test_the_models_folder_of_the_environment_is_used(tmp_path, monkeypatch):
    path = tmp_path / "org" / "toy" / "sub" / "a.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    monkeypatch.setenv(fetch.MODELS_VARIABLE, str(tmp_path))
    assert fetch_model(MODEL) == [path]


@pytest.mark.parametrize("model", [SD3_VAE, VA_VAE, COSMOS, WEB_DINO, VJEPA21])
def test_offline_or_gated_names_the_model_its_page_and_the_local_path(model, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("401 Client Error: you need to accept the terms")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *a, **k: None)
    with pytest.raises(CheckpointError) as error:
        fetch_model(model)
    for part in (model.name, model.page, "local='/path/to/folder'", model.files[0]):
        assert part in str(error.value)


def test_a_missing_local_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no sub/a.bin, which Toy needs"):
        fetch_model(MODEL, local=tmp_path)


def test_a_checksum_that_does_not_match_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"weights")
    digest = file_sha256(tmp_path / "a.bin")
    assert fetch_model(MODEL, local=tmp_path, sha256={"sub/a.bin": digest.upper()})
    with pytest.raises(CheckpointError, match=r"SHA-256 .* expected 00"):
        fetch_model(MODEL, local=tmp_path, sha256={"sub/a.bin": "00"})


def test_an_unpinned_download_logs_the_commit_it_got(tmp_path, monkeypatch, caplog):
    path = tmp_path / "snapshots" / "abc123" / "a.bin"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(path))
    with caplog.at_level(logging.WARNING):
        assert fetch_model(MODEL) == [path]
        assert "revision='abc123'" in caplog.text
        caplog.clear()
        fetch_model(MODEL, revision="abc123")
        assert not caplog.text


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    target = tmp_path / "owned"
    torch.save({"model": Bomb(str(target))}, tmp_path / "new.pt")
    torch.save({"m": Bomb(str(target))}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Bomb(str(target))))
    for name in ("new.pt", "old.pt", "bare.pt"):
        with pytest.raises(CheckpointError, match=r"is refused: it asks to run code") as refused:
            load_pickle(tmp_path / name, "Toy")
        assert "weights_only" not in str(refused.value)  # torch advises to turn it off
    assert not target.exists()
    with pytest.raises(CheckpointError, match=r"while it is read \(posix\.mkdir\)"):
        load_pickle(tmp_path / "new.pt", "Toy")


def test_a_web_page_in_the_place_of_weights_is_no_attack(tmp_path):
    (tmp_path / "page.pt").write_text(
        "<!DOCTYPE html><html>404: Not Found</html>", encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"no whole file of weights \(not in torch's format"):
        load_pickle(tmp_path / "page.pt", "Toy")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.98])
def test_a_half_downloaded_file_is_named(tmp_path, kept):
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(5000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="no whole file of weights"):
        load_pickle(path, "Toy")


def test_a_file_of_another_kind_says_which(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "a.pt")
    torch.save({"w": torch.zeros(3)}, tmp_path / "b.safetensors")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "c.pt"))
    for read, name, message in (
        (load_pickle, "a.pt", "a safetensors file by its beginning; rename it"),
        (fetch.load_safetensors, "b.safetensors", r"torch's format by its beginning; .* in \.pt"),
        (load_pickle, "c.pt", "a TorchScript archive, which is a program"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path / name, "Toy")


@pytest.fixture
def cosmos_folder(tmp_path):
    torch.jit.script(torch.nn.Conv2d(3, 16, 16, stride=16)).save(str(tmp_path / "encoder.jit"))
    decoder = torch.nn.ConvTranspose2d(16, 3, 16, stride=16)
    torch.jit.script(decoder).save(str(tmp_path / "decoder.jit"))
    return tmp_path


def test_torchscript_needs_a_checksum_or_the_flag(cosmos_folder):
    with pytest.raises(CheckpointError, match=r"runs the code inside.*allow_torchscript=True"):
        CosmosSpace.load(local=cosmos_folder)
    assert CosmosSpace.load(local=cosmos_folder, allow_torchscript=True).grid == (16, 16)
    digests = {n: file_sha256(cosmos_folder / n) for n in COSMOS.files}
    space = CosmosSpace.load(local=cosmos_folder, sha256=digests)
    frames = torch.randint(0, 256, (1, 256, 256, 3)).byte()
    assert space.encode(frames).shape == (1, 16, 16, 16)
    assert space.decode(space.encode(frames)).shape == frames.shape
    with pytest.raises(CheckpointError, match="SHA-256"):
        CosmosSpace.load(local=cosmos_folder, sha256={**digests, "decoder.jit": "0" * 64})


def test_sd3_vae_loads_from_a_folder_and_refuses_faulty_parameters(tmp_path):
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file, save_file

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=16,
        norm_num_groups=2,
    )
    vae.save_pretrained(tmp_path / "vae")
    space = SD3VAESpace.load(local=tmp_path)
    assert (space.grid, space.channels) == ((32, 32), 16)
    for key, value in vae.state_dict().items():
        assert torch.equal(space.vae.state_dict()[key], value)
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    key = "encoder.conv_in.weight"
    for faulty in (
        {k: v for k, v in weights.items() if k != key},
        {**weights, key: weights[key] / 0},
    ):
        save_file(faulty, path)
        with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight"):
            SD3VAESpace.load(local=tmp_path)


def test_web_dino_loads_from_a_folder_and_refuses_missing_parameters(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import Dinov2Config, Dinov2Model

    cfg = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224)
    model = Dinov2Model(cfg)
    model.save_pretrained(tmp_path)
    space = WebDINOSpace.load(local=tmp_path)
    assert torch.equal(space.encoder.layernorm.weight, model.layernorm.weight)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 parameters of Web-DINO"):
        WebDINOSpace.load(local=tmp_path)


def test_siglip_loads_its_vision_tower_from_the_file_of_the_whole_model(tmp_path):
    from transformers import SiglipConfig, SiglipModel

    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = {**small, "image_size": 224, "patch_size": 14}
    model = SiglipModel(SiglipConfig(text_config={**small, "vocab_size": 8}, vision_config=vision))
    model.save_pretrained(tmp_path)
    space = SigLIP2Space.load(local=tmp_path)
    assert (space.grid, space.channels) == ((16, 16), 16)
    tower = model.vision_model
    found = space._tower.encoder.layers[0].mlp.fc1.weight
    assert torch.equal(found, tower.encoder.layers[0].mlp.fc1.weight)


def test_vjepa_takes_the_ema_encoder_without_its_wrappers():
    net = VJEPA21Encoder(VJEPA21Config(dim=24, depth=1, heads=2))
    wrapped = {f"module.backbone.{k}": v for k, v in net.state_dict().items()}
    checkpoint = {"encoder": {}, "ema_encoder": wrapped, "predictor": {}, "epoch": 1}
    fetch.load_strictly(net, select_encoder_weights(checkpoint, "file"), "file")
    with pytest.raises(CheckpointError, match=r"V-JEPA 2.0 has no image path"):
        select_encoder_weights({"target_encoder": {}}, "file")


def test_va_vae_leaves_losses_and_dinov2_behind():
    checkpoint = {"state_dict": {"encoder.a": 1, "loss.b": 2, "foundation_model.model.c": 3}}
    assert select_vae_weights(checkpoint, "file") == {"encoder.a": 1}
    with pytest.raises(CheckpointError, match="no LDM autoencoder"):
        select_vae_weights({"state_dict": {"loss.b": 2}}, "file")


def test_strict_loading_names_what_does_not_fit():
    net = torch.nn.Linear(2, 3)
    good = {k: v.clone() for k, v in net.state_dict().items()}
    for change, message in (
        ({"weight": None}, "1 keys missing"),
        ({"extra": torch.zeros(1)}, r"1 keys unexpected \(extra\)"),
        ({"weight": torch.zeros(3, 4)}, r"weight \(3, 4\), expected \(3, 2\)"),
        ({"bias": torch.tensor([0.0, float("nan"), 0.0])}, "NaN or infinite"),
        (
            {"bias": torch.zeros(3, dtype=torch.int64)},
            r"no floating-point numbers \(bias torch.int",
        ),
    ):
        weights = {k: v for k, v in {**good, **change}.items() if v is not None}
        with pytest.raises(CheckpointError, match=message):
            fetch.load_strictly(net, weights, "file")


# ---- pins: what is known about the files, and what a user can pin ------------------------------

PUBLISHED = (SD3_VAE, VA_VAE, COSMOS, WEB_DINO, SIGLIP2, VJEPA21)


@pytest.mark.parametrize("model", PUBLISHED)
def test_entries_do_not_claim_what_was_not_seen(model):
    """No hub was reachable when the entries were written: a pin needs files that were looked at."""
    if model.revision is None:
        assert "revision not verified" in model.provenance
    assert ("no checksum known" in model.provenance) == bool(set(model.files) - set(model.sha256))
    assert model.licence
    assert model.page in model.provenance
    assert model.provenance in fetch.ways_to_get(model)


def test_a_pinned_entry_says_so():
    pinned = replace(MODEL, revision="abc", sha256={"sub/a.bin": "0" * 64})
    assert pinned.provenance == "Toy from https://x.org/toy: revision abc, checksums known"


def test_a_checksum_of_a_file_that_is_never_loaded_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"sha256 names \['a.bin'\].*files are \['sub/a.bin'"):
        fetch_model(MODEL, local=tmp_path, sha256={"a.bin": "0" * 64})


def test_the_revision_asked_for_is_the_one_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(repo, name, revision):
        asked.append((repo, name, revision))
        return str(tmp_path / "a.bin")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    fetch_model(replace(MODEL, revision="pinned"))
    fetch_model(replace(MODEL, revision="pinned"), revision="mine")
    assert [revision for _, _, revision in asked] == ["pinned", "mine"]


def test_what_is_not_on_the_hub_has_no_revision_and_logs_its_checksum(
    tmp_path, monkeypatch, caplog
):
    model = replace(MODEL, url="https://x.org/files", files=("a.bin",))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        "torch.hub.download_url_to_file", lambda url, path: Path(path).write_bytes(b"weights")
    )
    with pytest.raises(CheckpointError, match=r"revision 'v1' cannot be chosen.*pass sha256"):
        fetch_model(model, revision="v1")
    with caplog.at_level(logging.WARNING):
        (path,) = fetch_model(model)
    assert file_sha256(path) in caplog.text
    assert fetch_model(model, sha256={"a.bin": file_sha256(path)}) == [path]
    with pytest.raises(CheckpointError, match="SHA-256"):
        fetch_model(model, sha256={"a.bin": "0" * 64})


def test_the_docs_state_every_entry_s_licence_and_pins():
    page = (Path(__file__).parents[2] / "docs" / "published-models.md").read_text(encoding="utf-8")
    for model in PUBLISHED:
        (row,) = [line for line in page.splitlines() if f"({model.page})" in line]
        assert model.licence in row
        assert (model.revision or "not verified") in row
        for name in model.files:
            assert f"`{name}`" in row
