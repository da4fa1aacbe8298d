import pytest
import torch

from wm_gym.metrics.idm import TransformerIDM, TransformerIDMConfig

CONFIG = TransformerIDMConfig(8, 4, 6, horizon=2, model_dim=32, num_layers=1, num_heads=2)


def test_a_clip_is_read_on_its_own():
    torch.manual_seed(0)
    idm = TransformerIDM(CONFIG).eval()
    clips = torch.randn(3, 3, 4, 6, 8)
    with torch.no_grad():
        actions = idm(clips)
        torch.testing.assert_close(idm(clips[1:2]), actions[1:2])
    assert actions.shape == (3, 2, 7)


def test_patches_gather_neighbouring_latents():
    torch.manual_seed(0)
    patched = TransformerIDMConfig(8, 4, 6, model_dim=32, num_layers=1, num_heads=2, patch_size=2)
    idm = TransformerIDM(patched)
    assert idm.spatial_pos_emb.shape == (6, 32)
    assert idm.input_proj.in_features == 2 * 2 * 8
    assert idm(torch.randn(1, 5, 4, 6, 8)).shape == (1, 4, 7)


@pytest.mark.parametrize("shape", [(1, 2, 4, 6, 8), (1, 3, 4, 4, 8), (1, 3, 4, 6, 9)])
def test_other_clips_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, 4, 6, 8\)"):
        TransformerIDM(CONFIG)(torch.zeros(shape))


def test_a_grid_that_patches_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="no multiple of patch_size 3"):
        TransformerIDM(TransformerIDMConfig(8, 4, 6, patch_size=3))
