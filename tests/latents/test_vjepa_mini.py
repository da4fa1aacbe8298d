"""vjepa-mini: the contract of a latent space, and what masking may not change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from wm_gym.checkpoints import Checkpoint, save_checkpoint
from wm_gym.latents.adapted import NoDecoderError
from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
from wm_gym.latents.registry import load_latent_space
from wm_gym.latents.vjepa_mini import VJEPAMini, VJEPAMiniConfig, token_coordinates
from wm_gym.spec import LatentSpec

TINY = VJEPAMiniConfig(height=16, width=24, patch=8, dim=24, depth=2, heads=2)


def clips(count: int, length: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, length, 16, 24, 3), generator=noise, dtype=torch.uint8)


@pytest.fixture
def space() -> VJEPAMini:
    torch.manual_seed(0)
    return VJEPAMini(TINY).eval()


def test_a_frame_gives_one_grid_whatever_its_neighbours(space: VJEPAMini):
    frames = clips(5, 1)[:, 0]
    latents = space.encode(frames)
    assert latents.shape == (5, 2, 3, 24) and latents.dtype == torch.float32
    alone = torch.cat([space.encode(frame[None]) for frame in frames])
    torch.testing.assert_close(latents, alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(latents, space.encode(frames))
    # the image path is a clip of length one
    torch.testing.assert_close(space(frames[:, None]), latents.flatten(1, 2))


def test_latents_are_layer_normalised(space: VJEPAMini):
    latents = space.encode(clips(4, 1)[:, 0])
    torch.testing.assert_close(latents.mean(-1), torch.zeros(4, 2, 3), atol=1e-5, rtol=0)
    assert latents.abs().max() < 24**0.5


def test_patches_are_the_pixels_of_their_cell(space: VJEPAMini):
    frames = clips(1, 2)
    patches = space.patches(frames)  # (1, 2 · 2 · 3, 192)
    cell = frames[0, 1, 8:16, 16:24].permute(2, 0, 1).float() / 127.5 - 1
    last = token_coordinates(2, (2, 3)).tolist().index([1.0, 1.0, 2.0])
    torch.testing.assert_close(patches[0, last], cell.flatten())


def test_hidden_tokens_change_nothing(space: VJEPAMini):
    seen = clips(2, 3)
    kept = torch.tensor([[0, 4, 6, 13], [1, 2, 9, 17]])
    features = space(seen, kept)
    painted = space.patches(seen).clone()
    hidden = torch.ones(2, 18, dtype=torch.bool).scatter(1, kept, False)
    painted[hidden] = 7.0
    space.patches = lambda clips: painted
    assert torch.equal(space(seen, kept), features)
    assert not torch.allclose(space(seen).gather(1, kept[..., None].expand(-1, -1, 24)), features)


def test_positions_are_relative(space: VJEPAMini):
    """A token says what is there, not where: the same picture later in time is the same."""
    seen = clips(1, 1)
    places = token_coordinates(1, (2, 3))[None, None]
    x = space.patchify(space.patches(seen))
    here = there = x
    from wm_gym.latents.rotary import rotation

    for block in space.blocks:
        here = block(here, rotation(places, 12))
        there = block(there, rotation(places + torch.tensor([5.0, 3.0, 1.0]), 12))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)


def test_it_loads_from_beside_a_card_with_a_decoder(space: VJEPAMini, tiny_checkpoint, tmp_path):
    card = Checkpoint.open(Path(tiny_checkpoint)).spec
    painter = PixelDecoder(PixelDecoderConfig(24, 8, (1, 1, 1, 1), 1))
    from dataclasses import replace

    sizes = asdict(TINY) | {"pixel_decoder": asdict(painter.cfg)}
    latent = LatentSpec("vjepa-mini", (2, 3), 24, (0.0,) * 24, (1.0,) * 24, sizes)
    weights = {
        "latent.safetensors": space.state_dict(),
        "pixel_decoder.safetensors": painter.state_dict(),
    }
    save_checkpoint(tmp_path, replace(card, latent=latent, weights_sha256={}), weights)
    loaded = load_latent_space(Checkpoint.open(tmp_path).spec.latent, Checkpoint.open(tmp_path))
    frames = clips(2, 1)[:, 0]
    latents = loaded.encode(frames)
    assert torch.equal(latents, space.encode(frames))
    expected = (painter.requires_grad_(False).eval()(latents) * 255).round().byte()
    assert torch.equal(loaded.decode(latents), expected)
    assert (loaded.name, loaded.grid, loaded.channels) == ("vjepa-mini", (2, 3), 24)


def test_what_it_cannot_do_is_said(space: VJEPAMini):
    with pytest.raises(NoDecoderError, match="vjepa-mini has no pixel decoder"):
        space.decode(torch.zeros(1, 2, 3, 24))
    with pytest.raises(ValueError, match=r"uint8 frames of shape \(B, 16, 24, 3\)"):
        space.encode(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="dim 20 over 4 heads: expected an even number"):
        VJEPAMiniConfig(dim=20, heads=4)
    with pytest.raises(ValueError, match="frame 60x64 is not a multiple of patch 8"):
        VJEPAMiniConfig(height=60)
