from dataclasses import replace

import pytest
import torch

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.latents.registry import LATENT_SPACES, find_space, load_latent_space
from wm_gym.spec import CardError, LatentSpec


@pytest.fixture
def checkpoint(tiny_checkpoint):
    from pathlib import Path

    return Checkpoint.open(Path(tiny_checkpoint))


def published(space, **config):
    entry = find_space(space)
    ones = (1.0,) * entry.channels
    return LatentSpec(space, entry.grid, entry.channels, ones, ones, config)


def test_the_nine_published_spaces_and_the_minis_are_there():
    names = ("VJEPA", "WebDINO", "SigLIP2", "VAE", "VAVAE", "Cosmos")
    narrow = ("VJEPA96", "WebDINO96", "SigLIP296")
    assert set(LATENT_SPACES) == {*names, *narrow, "vae-mini", "vjepa-mini", "vjepa-mini-svae"}
    for entry in LATENT_SPACES.values():
        assert callable(entry.space_class)
    tokens = {n: e.grid[0] * e.grid[1] // e.patch**2 for n, e in LATENT_SPACES.items() if e.grid}
    assert set(tokens.values()) == {256}


def test_vae_mini_loads_from_beside_its_card(checkpoint):
    space = load_latent_space(checkpoint.spec.latent, checkpoint)
    frames = torch.randint(0, 256, (2, 32, 32, 3)).byte()
    assert space.name == "vae-mini"
    assert space.encode(frames).shape == (2, 4, 4, 4)
    weights = checkpoint.load("latent.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in space.state_dict().items())


def test_an_unknown_space_names_the_known_ones():
    with pytest.raises(CardError, match=r"'Foo' is unknown; expected one of .*SigLIP296"):
        find_space("Foo")


def test_a_card_that_states_another_grid_is_refused(checkpoint):
    wrong = replace(checkpoint.spec.latent, grid=(8, 8))
    with pytest.raises(CardError, match=r"states vae-mini latents of grid \(8, 8\)"):
        load_latent_space(wrong, checkpoint)


def test_unknown_sizes_and_arguments_are_named(checkpoint, monkeypatch):
    latent = checkpoint.spec.latent
    wrong = replace(latent, config={**latent.config, "colour": 3})
    with pytest.raises(CardError, match=r"VAEMini has no sizes \['colour'\]"):
        load_latent_space(wrong, checkpoint)
    with pytest.raises(CardError, match=r"Cosmos has an unknown entry: .*colour"):
        load_latent_space(published("Cosmos", colour=3))


def test_a_compressed_space_needs_its_adapter():
    with pytest.raises(CardError, match=r"VJEPA96 needs the sizes of its adapter"):
        load_latent_space(published("VJEPA96"))
    with pytest.raises(CheckpointError, match="SVAE needs a checkpoint folder"):
        load_latent_space(published("VJEPA96", adapter={"input_dim": 1024}))


def test_without_the_weights_the_error_says_how_to_get_them(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no config.json, which Web-DINO .* needs"):
        load_latent_space(published("WebDINO", local=str(tmp_path)))
