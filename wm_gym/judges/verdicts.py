"""What a judge is: clips and instructions in, one verdict each out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel

SUCCESS_SCORE = 0.5
"""The least score that counts as success: "partial" and more, as in arXiv:2605.06388."""


SuccessPredicate = Callable[[np.ndarray, str], bool]
"""Whether a privileged state (S,) fulfils an instruction; see `wm_gym.envs.sims.predicates`."""


class JudgeError(UserError, RuntimeError):
    """A judge that cannot be made, or that gave no verdict where one is needed."""


@dataclass(frozen=True)
class Clip:
    """What a judge sees of an episode.

    Attributes:
        frames: (T, H, W, 3) uint8, the first frame and all later ones, in order.
        states: (T, S) float64, the simulator's privileged states, or None; only `OracleJudge`
            reads them.
    """

    frames: np.ndarray
    states: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check shapes and types."""
        frames = self.frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise UserError(
                f"a clip's frames have dtype {frames.dtype} and shape {frames.shape}; expected "
                "uint8 and (T, H, W, 3) with at least one frame"
            )
        if self.states is not None and len(self.states) != len(frames):
            raise UserError(
                f"a clip has {len(frames)} frames and {len(self.states)} states; expected as many"
            )

    def __len__(self) -> int:
        """Number of frames T."""
        return len(self.frames)

    def sampled(self, count: int) -> Clip:
        """The clip at `evenly` many places."""
        chosen = evenly(len(self), count)
        return Clip(self.frames[chosen], None if self.states is None else self.states[chosen])


def evenly(length: int, count: int) -> np.ndarray:
    """Places of at most `count` frames, evenly spaced, first and last included; 1 is the last.

    Args:
        length: frames there are, at least 1.
        count: frames wanted; 0 wants all.

    Example:
        >>> evenly(11, 3).tolist(), evenly(11, 1).tolist(), evenly(2, 8).tolist()
        ([0, 5, 10], [10], [0, 1])
    """
    if count < 0 or length < 1:
        raise UserError(f"length={length}, count={count}; expected a frame or more, and count 0")
    if count == 1:
        return np.array([length - 1])
    if count == 0 or count >= length:
        return np.arange(length)
    return np.round(np.linspace(0, length - 1, count)).astype(int)


@dataclass(frozen=True)
class Verdict:
    """What one judge says about one clip.

    Attributes:
        score: in [0, 1], how far the instruction was carried out or how sure the judge is of it;
            NaN if there is an `error`.
        success: whether that counts as success; False if there is an `error`.
        rationale: why, in words.
        judge: the judge's name.
        seconds: wall time the verdict took; that of the original one if it was stored.
        error: why there is no verdict, or None.
        prompt: version of the prompt, "" if there was none.
        model: the model that was asked, "" if there is only the one of the judge's name.
        revision: its revision, "" if it is not known.
        answers: what the model said, one text per sample.
        members: verdicts that this one was made from.
    """

    score: float
    success: bool
    rationale: str
    judge: str
    seconds: float
    error: str | None = None
    prompt: str = ""
    model: str = ""
    revision: str = ""
    answers: tuple[str, ...] = ()
    members: tuple[Verdict, ...] = ()

    def __post_init__(self) -> None:
        """Check the score."""
        if self.error is not None:
            if not math.isnan(self.score) or self.success:
                raise UserError(f"a verdict with error {self.error!r} has no score and no success")
        elif not 0 <= self.score <= 1:
            raise UserError(f"judge {self.judge!r} gave score {self.score!r}; expected 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a score of NaN becomes None, which JSON has."""
        content = asdict(self)
        content["score"] = None if self.error is not None else self.score
        content["members"] = [member.to_dict() for member in self.members]
        return content


def no_verdict(judge: str, error: str, seconds: float, **facts: Any) -> Verdict:
    """The verdict of a judge that came to none; `facts` are further fields."""
    return Verdict(float("nan"), False, "", judge, seconds, error, **facts)


class Judge(Protocol):
    """Says whether clips show what was asked for.

    Attributes:
        name: named in verdicts.
        frames: how many frames it looks at, see `evenly`: 1 is the last, 0 all of them. Whoever
            has to decode frames first may leave out the others; the verdict is the same.
    """

    name: str
    frames: int

    def judge(self, clips: Sequence[Clip], instructions: Sequence[str]) -> list[Verdict]:
        """Judge N clips.

        Args:
            clips: N clips.
            instructions: what was to be done in each, N texts.

        Returns:
            N verdicts in the same order. Trouble with one clip (no answer, an answer without a
            score) is that verdict's `error`; the others do not suffer from it.

        Raises:
            ValueError: if there are not as many instructions as clips, or an instruction is not
                one that this judge understands.
        """
        ...


def check_batch(clips: Sequence[Clip], instructions: Sequence[str]) -> None:
    """Refuse clips and instructions that do not belong together.

    Raises:
        ValueError: naming both numbers.
    """
    if len(clips) != len(instructions):
        raise UserError(
            f"{len(clips)} clips and {len(instructions)} instructions; expected as many of each"
        )


@dataclass(frozen=True)
class JudgeContext:
    """What a judge may use of the place it is made for.

    Attributes:
        world_model: gives the world model in use, or None if there is none.
        predicate: success by a simulator's privileged states, or None if there are none.
        device: torch device for models.
        simulator: id of the simulator that episodes are of, where no world model says it.
    """

    world_model: Callable[[], LatentWorldModel] | None = None
    predicate: SuccessPredicate | None = None
    device: str = "cpu"
    simulator: str | None = None

    def need_simulator(self, judge: str) -> str | None:
        """Id of the simulator that episodes are of, None if the world model in use has none.

        Raises:
            JudgeError: if there is neither.
        """
        return self.simulator or self.need_world_model(judge).spec.twin

    def need_world_model(self, judge: str) -> LatentWorldModel:
        """The world model in use.

        Raises:
            JudgeError: if there is none.
        """
        if self.world_model is None:
            raise JudgeError(
                f"judge {judge!r} needs a world model and none is in use here; name one: "
                f"'{judge}?checkpoint=FOLDER'"
            )
        return self.world_model()


class JudgeConfig(Protocol):
    """A frozen dataclass of plain values; its fields are the judge's parameters."""

    def make(self, context: JudgeContext) -> Judge:
        """Make the judge."""
        ...
