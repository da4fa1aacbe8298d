"""`oracle`: the simulator's own predicate on a clip's last state; the truth, where there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from wm_gym.judges.verdicts import (
    Clip,
    JudgeContext,
    JudgeError,
    SuccessPredicate,
    Verdict,
    check_batch,
    no_verdict,
)


@dataclass(frozen=True)
class OracleJudgeConfig:
    """The simulator's predicate on its privileged state."""

    def make(self, context: JudgeContext) -> OracleJudge:
        """Make the judge."""
        if context.predicate is None:
            raise JudgeError(
                "judge 'oracle' reads a simulator's states, and here are none: a dream has no "
                "state; use it on recorded or simulated episodes, e.g. with `wm-gym "
                "calibrate-judge`"
            )
        return OracleJudge(context.predicate)


class OracleJudge:
    """Score 1 if the last state fulfils the instruction, else 0.

    Args:
        predicate: whether a privileged state fulfils an instruction.
    """

    name = "oracle"
    frames = 1

    def __init__(self, predicate: SuccessPredicate) -> None:
        self.predicate = predicate

    def judge(self, clips: Sequence[Clip], instructions: Sequence[str]) -> list[Verdict]:
        """Judge clips that have states, see `Judge.judge`."""
        check_batch(clips, instructions)
        verdicts = []
        for clip, instruction in zip(clips, instructions, strict=True):
            began = time.monotonic()
            if clip.states is None:
                verdicts.append(no_verdict(self.name, "the clip has no simulator states", 0.0))
                continue
            success = bool(self.predicate(clip.states[-1], instruction))
            rationale = "the state fulfils the goal" if success else "the state does not"
            seconds = time.monotonic() - began
            verdicts.append(Verdict(float(success), success, rationale, self.name, seconds))
        return verdicts
