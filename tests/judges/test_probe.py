import pytest
import torch

from wm_gym.judges.probe import SpatiotemporalProbe, SpatiotemporalProbeConfig


@pytest.fixture
def probe():
    torch.manual_seed(0)
    cfg = SpatiotemporalProbeConfig(8, n_frames=3, n_heads=2, model_dim=16, text_dim=4)
    return SpatiotemporalProbe(cfg).eval()


def test_masked_words_do_not_matter_and_a_row_without_words_reads_none(probe):
    clips, text = torch.randn(2, 3, 8, 8, 8), torch.randn(2, 5, 4)
    mask = torch.tensor([[True, True, False, False, False], [False] * 5])
    changed = text.clone()
    changed[~mask] += 10
    with torch.no_grad():
        torch.testing.assert_close(probe(clips, changed, mask), probe(clips, text, mask))
        torch.testing.assert_close(probe(clips, text, mask)[:1], probe(clips[:1], text[:1, :2]))
        torch.testing.assert_close(probe(clips, text, mask)[1:], probe(clips[1:]))


def test_both_pooled_grids_are_read():
    for side in (4, 8):
        cfg = SpatiotemporalProbeConfig(
            8, n_frames=2, n_heads=2, model_dim=16, pool_mode=f"super_patch_{side}x{side}"
        )
        assert SpatiotemporalProbe(cfg)(torch.zeros(1, 2, 16, 16, 8)).shape == (1,)
        assert cfg.pooled == (side, side)


def test_other_clips_and_pool_modes_are_refused(probe):
    with pytest.raises(ValueError, match=r"expected \(B, 3, h, w, 8\)"):
        probe(torch.zeros(1, 4, 8, 8, 8))
    with pytest.raises(ValueError, match="pool_mode 'mean' is unknown"):
        SpatiotemporalProbe(SpatiotemporalProbeConfig(8, pool_mode="mean"))
