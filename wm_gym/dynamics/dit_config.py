"""Shape of the latent DiT, and the published sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wm_gym.errors import UserError


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a `DiT`. State dict keys and shapes follow from it, and from nothing else.

    Attributes:
        channels: latent channels C.
        dim: width D.
        depth: number of PAIRS of a spatial and a temporal block.
        heads: attention heads N.
        patch: side of a square patch in latent cells.
        action_width: width of the normalised action.
        head: `plain` (final layer under the full condition) or `wide` (projection to `wide_dim`
            under the timestep only).
        wide_dim: width of the wide head.
        num_views: cameras side by side along the latent width.
        band: frame i attends to frames j with i - band < j <= i; None lets it see all before it.
        temporal: `factored` attends over time per patch; `joint` over all patches of all frames so
            far (`forward` only: no stored context).
        neighbourhood: a patch attends to patches up to so many rows and columns away in its frame;
            None (the published models) lets it see the whole frame. A network of `depth` pairs then
            sees depth * neighbourhood patches each way, so a crop gives the whole frame's result
            for every patch that lies so far from the crop's edges.
    """

    channels: int
    dim: int
    depth: int
    heads: int
    patch: int = 1
    action_width: int = 7
    head: Literal["plain", "wide"] = "plain"
    wide_dim: int = 2048
    num_views: int = 1
    band: int | None = None
    temporal: Literal["factored", "joint"] = "factored"
    neighbourhood: int | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "dim", "depth", "heads", "patch", "action_width", "wide_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"DiTConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.heads or self.dim // self.heads % (4 if self.num_views == 1 else 2):
            raise UserError(
                f"dim {self.dim} over {self.heads} heads must give a head width divisible by "
                f"{4 if self.num_views == 1 else 2}: choose another number of heads"
            )
        if self.head not in ("plain", "wide"):
            raise UserError(f"head must be 'plain' or 'wide', got {self.head!r}")
        if self.temporal not in ("factored", "joint"):
            raise UserError(f"temporal must be 'factored' or 'joint', got {self.temporal!r}")
        if self.num_views < 1:
            raise UserError(f"num_views {self.num_views} must be at least 1")
        if self.band is not None and self.band < 1:
            raise UserError(f"band {self.band} must be at least 1, or None for no band")
        if self.neighbourhood is not None and self.neighbourhood < 1:
            raise UserError(
                f"neighbourhood {self.neighbourhood} must be at least 1 patch, or None for whole "
                "frames"
            )
        if self.neighbourhood is not None and (self.num_views > 1 or self.temporal == "joint"):
            raise UserError(
                f"neighbourhood {self.neighbourhood} needs one view and temporal='factored', got "
                f"{self.num_views} views and temporal={self.temporal!r}"
            )

    @property
    def head_dim(self) -> int:
        """Channels E of one head."""
        return self.dim // self.heads


DIT_SIZES: dict[str, dict[str, int]] = {
    "S": {"dim": 384, "depth": 12, "heads": 6},
    "B": {"dim": 768, "depth": 12, "heads": 12},
    "L": {"dim": 1024, "depth": 24, "heads": 16},
}
"""Published sizes, as keyword arguments of `DiTConfig`."""
