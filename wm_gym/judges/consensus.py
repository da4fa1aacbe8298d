"""`consensus`: several judges and a rule; `paper`: the pair of VLMs of arXiv:2605.06388."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from wm_gym.errors import UserError
from wm_gym.judges.verdicts import (
    SUCCESS_SCORE,
    Clip,
    Judge,
    JudgeContext,
    Verdict,
    check_batch,
    no_verdict,
)

Rule = Literal["all", "majority", "mean"]


@dataclass(frozen=True)
class ConsensusJudgeConfig:
    """Several judges and a rule."""

    judge: tuple[str, ...]
    """Names of the judges, each as `judge_name` writes it."""
    rule: Rule = "all"
    """all: success if all see it; majority: if more than half do; mean: if the mean score is at
    least 0.5."""

    def __post_init__(self) -> None:
        """Check the members before any of them is made."""
        from wm_gym.judges.registry import read_judge_name

        if len(self.judge) < 2:
            raise UserError(f"judge={self.judge}: a consensus needs at least two judges")
        for name in self.judge:
            read_judge_name(name)

    def make(self, context: JudgeContext) -> ConsensusJudge:
        """Make the judges."""
        from wm_gym.judges.registry import make_judge

        return ConsensusJudge([make_judge(name, context) for name in self.judge], self.rule)


@dataclass(frozen=True)
class PaperJudgeConfig:
    """The paper's judges: InternVL 3.5 14B and Qwen3.6 27B, both of which must see success."""

    internvl: str = "vlm?model=OpenGVLab/InternVL3_5-14B-HF"
    """Who asks the first model: a judge name, `api?…` if a server runs it."""
    qwen: str = "vlm?model=Qwen/Qwen3.6-27B"
    """Who asks the second one."""

    def __post_init__(self) -> None:
        """Check both before any of them is loaded."""
        ConsensusJudgeConfig((self.internvl, self.qwen))

    def make(self, context: JudgeContext) -> ConsensusJudge:
        """Make the pair."""
        judge = ConsensusJudgeConfig((self.internvl, self.qwen)).make(context)
        judge.name = "paper"
        return judge


class ConsensusJudge:
    """Asks every member about every clip.

    The score is the least of the members' (`all`), their median (`majority`) or their mean
    (`mean`). If a member has no verdict on a clip, there is none.

    Args:
        members: the judges.
        rule: how they are combined.
    """

    def __init__(self, members: Sequence[Judge], rule: Rule = "all") -> None:
        self.name = "consensus"
        self.members, self.rule = list(members), rule
        wanted = {member.frames for member in members}
        # all frames, unless everybody looks at the same ones
        self.frames = wanted.pop() if len(wanted) == 1 else 0

    def judge(self, clips: Sequence[Clip], instructions: Sequence[str]) -> list[Verdict]:
        """Judge clips, see `Judge.judge`."""
        check_batch(clips, instructions)
        columns = [member.judge(clips, instructions) for member in self.members]
        return [self._combine(verdicts) for verdicts in zip(*columns, strict=True)]

    def _combine(self, verdicts: tuple[Verdict, ...]) -> Verdict:
        seconds = sum(verdict.seconds for verdict in verdicts)
        failed = [f"{v.judge} {v.model}: {v.error}" for v in verdicts if v.error is not None]
        if failed:
            return no_verdict(self.name, "; ".join(failed), seconds, members=verdicts)
        scores = [verdict.score for verdict in verdicts]
        agreeing = sum(verdict.success for verdict in verdicts)
        if self.rule == "all":
            score, success = min(scores), agreeing == len(verdicts)
        elif self.rule == "majority":
            score, success = median(scores), 2 * agreeing > len(verdicts)
        else:
            score = fmean(scores)
            success = score >= SUCCESS_SCORE
        said = "; ".join(f"{v.judge} {v.score:.2f}: {v.rationale}" for v in verdicts)
        rationale = f"{agreeing} of {len(verdicts)} see success ({self.rule}): {said}"
        return Verdict(score, success, rationale, self.name, seconds, members=verdicts)
