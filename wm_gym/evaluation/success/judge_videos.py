"""`wm-gym judge`: did the robot in a video do what it was told?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from wm_gym.data.video import VideoFile
from wm_gym.devices import check_device
from wm_gym.errors import UserError
from wm_gym.evaluation.models import embedded_folder, load_by_id
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.judges.registry import JudgeContext, make_judge, read_judge_name
from wm_gym.judges.verdicts import Clip, Judge, Verdict, evenly


@dataclass(frozen=True)
class JudgeVideosConfig:
    """Judge videos of episodes; several are asked about at once."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Video files, each one episode from its start to its end."""
    instruction: tuple[str, ...]
    """What was to be done: once for all videos, or once for each."""
    judge: str = "classifier"
    """Name of the judge, e.g. semantic?checkpoint=FOLDER or api?model=NAME; see docs/judges.md."""
    id: str = "WM-LangTable-VAE-v0"
    """World-model id, for a judge that belongs to a world model; says what `embedded` means."""
    checkpoint: str = "embedded"
    """World model for such a judge: embedded, a folder, or hf://org/repo@revision."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the verdicts."""

    def __post_init__(self) -> None:
        """Check the judge's name and the number of instructions before anything is loaded."""
        if not self.videos:
            raise UserError("videos=() is empty; expected at least one video")
        if len(self.instruction) not in (1, len(self.videos)):
            raise UserError(
                f"instruction={self.instruction!r}: {len(self.instruction)} for {len(self.videos)} "
                "videos; expected one for all, or one for each"
            )
        read_judge_name(self.judge)


def judge_videos(config: JudgeVideosConfig) -> dict[str, Any]:
    """Run `wm-gym judge`: print a verdict per video, and write them.

    Returns:
        What `--json` writes; `verdicts` holds them in the order of the videos.

    Raises:
        EpisodeError: if a video is missing or cannot be read.
        JudgeError: if the judge needs something that is not there.
    """
    check_device(config.device)
    embedded_folder(config.id)
    files = [VideoFile(path) for path in config.videos]  # before a model is loaded in vain
    context = JudgeContext(
        world_model=lambda: load_by_id(config.id, config.checkpoint, device=config.device),
        device=config.device,
    )
    judge = make_judge(config.judge, context)
    clips = [read_clip(file, judge) for file in files]
    texts = list(config.instruction)
    if len(texts) < len(clips):
        texts *= len(clips)
    verdicts = judge.judge(clips, texts)
    for path, verdict in zip(config.videos, verdicts, strict=True):
        print(f"{path}: {describe(verdict)}")
    content = {
        **measurement_header(),
        "judge": config.judge,
        "verdicts": [
            {"video": str(path), "instruction": text, **verdict.to_dict()}
            for path, text, verdict in zip(config.videos, texts, verdicts, strict=True)
        ],
    }
    if config.json is not None:
        write_json(config.json, content)
    return content


def read_clip(file: VideoFile, judge: Judge) -> Clip:
    """The frames of a video that a judge looks at; the others are not kept."""
    return Clip(np.ascontiguousarray(file.read(evenly(len(file), judge.frames))))


def describe(verdict: Verdict) -> str:
    """A verdict in one line."""
    if verdict.error is not None:
        return f"no verdict: {verdict.error}"
    word = "success" if verdict.success else "no success"
    return f"{word}, score {verdict.score:.2f}: {verdict.rationale}"
