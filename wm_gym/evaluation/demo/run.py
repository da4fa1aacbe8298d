"""The demo: recorded actions in imagination, beside the recorded frames."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wm_gym.errors import UserError

STRIP_COLUMNS = 7


@dataclass(frozen=True)
class DemoConfig:
    """Imagine held-out episodes from their recorded actions; write a video and a strip."""

    id: str = "WM-LangTable-VAE-v0"
    """World-model id."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    clips: int = 3
    """Recorded episodes to show, at most as many as are stored beside the checkpoint."""
    steps: int = 50
    """Steps to imagine, at most as many as are recorded."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    seed: int = 0
    """Seed of the noise."""
    device: str = "cpu"
    """Torch device."""
    gif: bool = False
    """Also write the video as an animated GIF."""
    out: Path = Path("outputs")
    """Folder for the video and the picture."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.clips < 1 or self.steps < 1:
            raise UserError(f"clips={self.clips} and steps={self.steps} must be at least 1")


def demo(config: DemoConfig) -> tuple[Path, Path]:
    """Run `wm-gym demo`.

    Returns:
        The video and the picture.

    Raises:
        CheckpointError: if the checkpoint or its demo clips are missing.
    """
    import torch
    from imageio.v3 import imwrite
    from tqdm import trange

    from wm_gym.checkpoints import Checkpoint
    from wm_gym.envs.video import write_gif, write_mp4
    from wm_gym.evaluation.demo.clips import DemoClips
    from wm_gym.evaluation.models import load_by_id
    from wm_gym.evaluation.strips import frame_strip, side_by_side

    began = time.perf_counter()
    model = load_by_id(
        config.id, config.checkpoint, denoising_steps=config.denoising_steps, device=config.device
    )
    assert model.folder is not None
    clips = DemoClips.read(Checkpoint(model.folder, model.spec))
    frames, actions = clips.frames[: config.clips], clips.actions[: config.clips]
    known = model.spec.context.history - 1
    steps = min(config.steps, actions.shape[1] - known)
    print(f"{config.id}: {model.spec.name} ({model.spec.description})")
    rollout = model.begin(
        torch.from_numpy(frames[:, : known + 1]),
        torch.from_numpy(actions[:, :known]),
        seeds=[config.seed + row for row in range(len(frames))],
    )
    imagined_frames = [frames[:, known]]
    for step in trange(steps, desc="imagining", unit="step"):
        rollout.step(torch.from_numpy(actions[:, known + step]))
        imagined_frames.append(rollout.frames().cpu().numpy())
    imagined, recorded = np.stack(imagined_frames, 1), frames[:, known : known + 1 + steps]

    rows = [
        side_by_side({f"recorded: {text}": recorded[row], "imagined": imagined[row]})
        for row, text in enumerate(clips.labels[: config.clips])
    ]
    fps = model.spec.action.control_hz / model.spec.action.frame_skip
    pages = list(np.concatenate(rows, 1))
    video = write_mp4(config.out / f"demo_{config.id}.mp4", pages, fps)
    if config.gif:
        write_gif(video.with_suffix(".gif"), pages, fps)
    shown = np.linspace(0, steps, min(STRIP_COLUMNS, steps + 1)).round().astype(int)
    table = {}
    for row, text in enumerate(clips.labels[: config.clips]):
        table[f"recorded {row + 1}: {text}"] = recorded[row, shown]
        table[f"imagined {row + 1}"] = imagined[row, shown]
    picture = config.out / f"demo_{config.id}.png"
    imwrite(picture, frame_strip(table, [f"step {index}" for index in shown]))
    print(f"video:   {video.resolve()}\npicture: {picture.resolve()}")
    print(f"{steps} steps of {len(frames)} episodes in {time.perf_counter() - began:.1f} s")
    return video, picture
