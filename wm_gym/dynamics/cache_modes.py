"""How much of the context a rollout computes again: the cache modes, and which of them is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.dynamics.dit_config import DiTConfig
    from wm_gym.spec import ContextSpec

CacheMode = Literal["auto", "off", "exact", "rolling"]
"""`off` recomputes the context at every denoising step, `exact` always equals it, `rolling` never
recomputes; `auto` is the fastest exact one. See `Rollout`; a plain string is checked when the
rollout begins."""


def resolve_cache_mode(cache: str, context: ContextSpec, network: DiTConfig) -> str:
    """The mode that a rollout runs in, never "auto".

    Args:
        cache: one of `CacheMode`.
        context: the card's context.
        network: sizes of the transition network.

    Raises:
        ValueError: if there is no such mode, or card and network disagree about the band.
    """
    banded = context.kind == "banded"
    if banded and network.band != context.length:
        raise UserError(
            f"the card's banded context of {context.length} frames needs a network with the "
            f"same band, got band={network.band}; correct the card's dynamics.network"
        )
    if cache not in get_args(CacheMode):
        raise UserError(f"cache must be 'auto', 'off', 'exact' or 'rolling', got {cache!r}")
    if cache != "auto":
        return cache
    if network.temporal == "joint":
        return "off"
    return "rolling" if banded else "exact"
