"""Whose error it is: the judge is asked about recorded episodes of the simulator too.

Imagined success may differ from true success because the judge is wrong about what it sees, or
because the dream shows something else than would have happened. The policies' episodes in the
simulator are recorded as long as an imagined one would last, beyond their success, and judged as
those of the dream are. Judged against true success is the judge's error; imagined against judged
success, with one judge on both sides, the dream's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_gym.evaluation.compare_real.summary import Bootstrap, agreement, outcomes
from wm_gym.policies.rows import EpisodeRows, RowStart, RowStep

if TYPE_CHECKING:
    from wm_gym.evaluation.compare_real.policies import NamedPolicy
    from wm_gym.policies.runner import EpisodeRecord


class UnendingRows:
    """Rows whose episodes go on after a success, for `max_steps`; success is never reported.

    Args:
        rows: simulators.
        max_steps: length of every episode without an error.
    """

    def __init__(self, rows: EpisodeRows, max_steps: int) -> None:
        self.rows, self.max_steps = rows, max_steps
        self.count = rows.count
        self.action_spec, self.frame_spec = rows.action_spec, rows.frame_spec
        self._steps = [0] * rows.count

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], options: Sequence[Mapping[str, Any]]
    ) -> dict[int, RowStart]:
        """Begins episodes; see `EpisodeRows.reset`."""
        for row in rows:
            self._steps[row] = 0
        return self.rows.reset(rows, seeds, options)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, RowStep]:
        """Steps the rows that have an action; see `EpisodeRows.step`."""
        found = {}
        for row, result in self.rows.step(actions).items():
            self._steps[row] += 1
            ended = result.error is not None or self._steps[row] >= self.max_steps
            found[row] = replace(result, ended=ended, success=False)
        return found


def split_report(
    policies: Sequence[NamedPolicy],
    imagined: list[list[list[EpisodeRecord]]],
    recorded: list[list[list[EpisodeRecord]]],
    true: list[list[list[EpisodeRecord]]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """How far judge and dream are off, each by itself.

    Args:
        policies: P of them.
        imagined: imagined episodes, policies × tasks × starts.
        recorded: the simulator's, judged as the imagined ones are.
        true: the simulator's, with true success.
        bootstrap: resampling of the intervals.

    Returns:
        `judge` (judged against true) and `dream` (imagined against judged), each with the
        statistics over policies and `missed` and `invented`: shares of the other side's successes
        that were not seen, and of its failures that were taken for successes; None of none. And
        `policies`, the judged success rate of each.
    """
    dream, judged, real = outcomes(imagined), outcomes(recorded), outcomes(true)
    return {
        "judge": agreement(judged, real, bootstrap) | _wrong(judged, real),
        "dream": agreement(dream, judged, bootstrap) | _wrong(dream, judged),
        "policies": {entry.name: float(judged[p].mean()) for p, entry in enumerate(policies)},
    }


def _wrong(found: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    return {
        "missed": float((~found[reference]).mean()) if reference.any() else None,
        "invented": float(found[~reference].mean()) if not reference.all() else None,
    }


def describe_split(split: dict[str, Any]) -> str:
    """Two lines for the console."""
    lines = []
    for part, sides in (("judge", "judged against true"), ("dream", "imagined against judged")):
        row = split[part]
        shares = [
            f"{name} {'-' if row[name] is None else format(row[name], '.1%')}"
            for name in ("missed", "invented")
        ]
        lines.append(
            f"the {part}'s part ({sides}): pearson {row['pearson']:.3f} "
            f"[{row['pearson_interval'][0]:.3f}, {row['pearson_interval'][1]:.3f}], "
            f"{shares[0]} of successes, {shares[1]} of failures"
        )
    return "\n".join(lines)
