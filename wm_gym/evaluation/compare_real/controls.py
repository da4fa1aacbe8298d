"""What would undermine a comparison: starts that are goals, idle policies, clipped actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_gym.metrics.statistics import wilson_interval
from wm_gym.policies.action_use import WARN_SHARE, action_use_findings
from wm_gym.policies.records import share_of

if TYPE_CHECKING:
    from wm_gym.policies.runner import EpisodeRecord

    Table = Sequence[Sequence[Sequence[EpisodeRecord]]]
    """Records of policies × tasks × starts."""

NULL = "null policy"


def held_at_reset(true: Table) -> np.ndarray:
    """Starts (K, N) whose goal holds before any action, by the simulator's word."""
    told = [[[bool(r.success_at_reset) for r in cell] for cell in row] for row in true]
    return np.asarray(np.array(told).any(axis=0))


def action_shares(tables: Sequence[Sequence[Sequence[EpisodeRecord]]]) -> dict[str, Any]:
    """Shares of clipped and nearly null actions of one policy, over all its episodes."""
    records = [record for table in tables for cell in table for record in cell]
    return {name: share_of(records, name) for name in ("clipped_share", "null_share")}


def null_report(imagined: Sequence[Sequence[EpisodeRecord]], true: Any, held: np.ndarray) -> Any:
    """Success of the policy that does nothing in both worlds, starts that hold their goal apart."""
    report: dict[str, Any] = {}
    for world, table in (("imagined", imagined), ("true", true)):
        won = np.array([[record.success for record in cell] for cell in table])[~held]
        found = wilson_interval(int(won.sum()), won.size)
        report[f"{world}_success_rate"] = found.estimate
        report[f"{world}_interval"] = [found.low, found.high]
        report[f"{world}_episodes"] = won.size
    return report


def findings(
    names: Sequence[str],
    imagined: Table,
    true: Table,
    held: np.ndarray,
    null: dict[str, Any] | None,
) -> list[str]:
    """A sentence for everything that makes the comparison mean less than it seems to.

    Args:
        names: of the P policies.
        imagined: imagined episodes.
        true: true episodes.
        held: starts whose goal holds at reset, (K, N).
        null: of `null_report`, if the null policy ran.
    """
    found = []
    if held.any():
        found.append(
            f"the goal of {held.sum()} of {held.size} starts holds at reset: their episodes are "
            "left out of all figures; draw other starts with `wm-gym make-start-states`"
        )
    for world in ("imagined", "true"):
        rate = None if null is None else null[f"{world}_success_rate"]
        if rate is not None and rate > WARN_SHARE:
            found.append(
                f"the {NULL}, which does nothing, succeeds in {rate:.0%} of the {world} episodes: "
                f"{world} success says little about a policy"
            )
    for p, name in enumerate(names):
        records = [r for table in (imagined[p], true[p]) for cell in table for r in cell]
        found += action_use_findings(records, name)
    return found
