"""Judges that read colours: verdicts that a test can compute by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wm_gym.judges.verdicts import Verdict, check_batch, no_verdict


class ColourJudge:
    """Scores the mean of one colour over the frames it looks at.

    Args:
        channel: 0 red, 1 green, 2 blue.
        frames: how many frames it looks at.
        silent_about: an instruction that it has no verdict on.
    """

    def __init__(self, channel: int = 0, frames: int = 1, silent_about: str = "") -> None:
        self.name = f"colour{channel}"
        self.channel, self.frames, self.silent_about = channel, frames, silent_about
        self.batches: list[int] = []

    def judge(self, clips, instructions) -> list[Verdict]:
        check_batch(clips, instructions)
        self.batches.append(len(clips))
        found = []
        for clip, text in zip(clips, instructions, strict=True):
            if self.silent_about and text == self.silent_about:
                found.append(no_verdict(self.name, "no opinion", 0.0))
                continue
            score = float(clip.sampled(self.frames).frames[..., self.channel].mean() / 255)
            found.append(Verdict(score, score >= 0.5, f"{text}: {score:.3f}", self.name, 0.0))
        return found


@dataclass(frozen=True)
class ColourJudgeConfig:
    """Parameters of `ColourJudge`."""

    channel: int = 0
    frames: int = 1
    silent_about: str = ""

    def make(self, context) -> ColourJudge:
        return ColourJudge(self.channel, self.frames, self.silent_about)


COLOUR_ENTRY = ("tests.judges.colour_judges", "ColourJudgeConfig")


def plain_clip_frames(*colours: tuple[int, int, int]) -> np.ndarray:
    """Frames (T, 4, 4, 3) of one colour each."""
    return np.array(colours, np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
