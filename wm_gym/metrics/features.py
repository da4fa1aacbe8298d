"""Has a representation collapsed? How many directions features use, and how much they change."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """RankMe (arXiv:2210.02885, equation 1) of features (N, D): 1 is collapsed, min(N, D) is full.

    The exponential of the entropy of the singular values, divided by their sum.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-300)
    return float(torch.special.entr(shares).sum().exp())


def collapse_figures(latents: Tensor) -> dict[str, float]:
    """What tells whether latents (N, h, w, D) of N different frames still say anything.

    Returns:
        `feature_std`: spread of a channel, on average; `feature_rank`: effective rank of all
        tokens around their mean; `change_share`: share of the variance that is not the same in
        every frame, i.e. not explained by a cell's place; `change_rank`: effective rank of that
        part.
    """
    tokens = latents.flatten(1, 2).float()  # (N, P, D)
    around_mean = tokens - tokens.mean((0, 1))
    around_place = tokens - tokens.mean(0)
    variance = around_mean.square().mean()
    return {
        "feature_std": float(around_mean.square().mean((0, 1)).sqrt().mean()),
        "feature_rank": effective_rank(around_mean.flatten(0, 1)),
        "change_share": float(around_place.square().mean() / variance.clamp_min(1e-12)),
        "change_rank": effective_rank(around_place.flatten(0, 1)),
    }
