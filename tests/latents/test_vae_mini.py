"""vae-mini: shapes, the fine painter, and the weights it starts from."""

import pytest
import torch
from safetensors.torch import save_file

from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig
from wm_gym.training.autoencoder import start_from

SMALL = {"height": 24, "width": 36, "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}


def frames(count: int = 2) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 24, 36, 3), generator=noise, dtype=torch.uint8)


@pytest.mark.parametrize("fine", [0, 8])
def test_frames_become_cells_and_come_back(fine: int):
    torch.manual_seed(0)
    model = VAEMini(VAEMiniConfig(**SMALL, fine=fine))
    latents = model.encode(frames())
    assert latents.shape == (2, 2, 3, 16) and latents.dtype == torch.float32
    painted = model.decode(latents)
    assert painted.shape == (2, 24, 36, 3) and painted.dtype == torch.uint8
    alone = torch.cat([model.decode(row[None]) for row in latents])
    assert (alone.int() - painted.int()).abs().max() <= 1


def test_where_nothing_is_foreground_the_background_is_exact():
    model = VAEMini(VAEMiniConfig(**SMALL, fine=8))
    model.background.copy_(torch.linspace(-1, 1, 3 * 24 * 36).reshape(3, 24, 36))
    with torch.no_grad():
        model.get_parameter("fine_painter.paint.bias")[3] = -1e4
    painted = model.paint(torch.randn(1, 2, 3, 16))
    assert torch.equal(painted[0], model.background)


def test_an_autoencoder_without_fine_painter_can_be_gone_on_with(tmp_path):
    torch.manual_seed(0)
    plain = VAEMini(VAEMiniConfig(**SMALL))
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    fine = VAEMini(VAEMiniConfig(**SMALL, fine=8))
    start_from(fine, tmp_path / "plain.safetensors")
    latents = plain.encode(frames()).clone()
    assert torch.equal(fine.encode(frames()), latents)
    same = VAEMini(VAEMiniConfig(**SMALL, fine=8))
    save_file(fine.state_dict(), tmp_path / "fine.safetensors")
    start_from(same, tmp_path / "fine.safetensors")
    assert torch.equal(same.paint(latents), fine.paint(latents))
    with pytest.raises(ValueError, match="does not fit the autoencoder"):
        start_from(plain, tmp_path / "fine.safetensors")
    other = VAEMini(VAEMiniConfig(**SMALL | {"dim": 32}, fine=8))
    with pytest.raises(ValueError, match="does not fit the autoencoder"):
        start_from(other, tmp_path / "plain.safetensors")


def test_what_looks_alike_has_the_same_latents_everywhere_if_asked_for():
    sizes = SMALL | {"encoder_depth": 0, "overlap": 2}
    torch.manual_seed(0)
    alike = VAEMini(VAEMiniConfig(**sizes, same_everywhere=True))
    placed = VAEMini(VAEMiniConfig(**sizes))
    empty = torch.full((1, 24, 36, 3), 127, dtype=torch.uint8)
    for model in (alike, placed):
        model.background.copy_(torch.full((3, 24, 36), 127 / 127.5 - 1.0))
    shifted = [empty.clone(), empty.clone()]
    for column, frame in enumerate(shifted):  # the same spot, one cell of 12 pixels further
        frame[:, 4:8, 12 * column + 4 : 12 * column + 8] = 255
    bare, here, there = (alike.encode(frame)[0] for frame in (empty, *shifted))
    assert (bare == bare[0, 0]).all()
    assert torch.equal(here[0, 0], there[0, 1]) and not torch.equal(here[0, 0], bare[0, 0])
    assert torch.equal(here[1, 2], bare[1, 2])  # an encoder without blocks sees no further
    places = placed.encode(empty)[0].flatten(0, 1)
    assert len(places.unique(dim=0)) == len(places)


def test_a_patch_that_fine_cells_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="patch 6 is not a multiple of the 4 pixels"):
        VAEMiniConfig(**SMALL | {"patch": 6}, fine=8)
    assert VAEMiniConfig(**SMALL | {"patch": 6}).grid == (4, 6)
