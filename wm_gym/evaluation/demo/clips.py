"""Demo clips: a few held-out episodes beside a checkpoint, so that a first look needs no simulator.

`demo_clips.npz` holds `frames` as differences modulo 256 from each clip's frame before (a still
background compresses to nothing, and nothing is lost), `actions`, `instructions` and `behaviours`.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wm_gym.checkpoints import Checkpoint, CheckpointError, save_data_file
from wm_gym.errors import UserError

FILENAME = "demo_clips.npz"
REMEDY = "make them from held-out episodes with `wm-gym make-demo-clips --data FOLDER`"


@dataclass(frozen=True)
class DemoClips:
    """N recorded clips of T actions.

    Attributes:
        frames: uint8 (N, T + 1, H, W, 3).
        actions: float32 (N, T, A), physical units; `actions[:, t]` led from frame t to t + 1.
        instructions: N texts.
        behaviours: who acted, e.g. "expert"; empty where the file is older than this field.
    """

    frames: np.ndarray
    actions: np.ndarray
    instructions: tuple[str, ...]
    behaviours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the fields belong together."""
        fits = (
            self.frames.ndim == 5
            and self.frames.dtype == np.uint8
            and self.actions.ndim == 3
            and self.frames.shape[:2] == (len(self.actions), self.actions.shape[1] + 1)
            and len(self.instructions) == len(self.actions)
            and len(self.behaviours) in (0, len(self.actions))
        )
        if not fits:
            raise UserError(
                f"frames {self.frames.dtype} {self.frames.shape}, actions {self.actions.shape} and "
                f"{len(self.instructions)} instructions and {len(self.behaviours)} behaviours are "
                "no demo clips: expected uint8 (N, T + 1, H, W, 3), (N, T, A) and N of each"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """What to call each recording: its instruction, and who acted if that is known."""
        if not self.behaviours:
            return self.instructions
        pairs = zip(self.instructions, self.behaviours, strict=True)
        return tuple(f"{text} ({behaviour})" for text, behaviour in pairs)

    def to_bytes(self) -> bytes:
        """Content of the file."""
        coded = self.frames.copy()
        coded[:, 1:] -= self.frames[:, :-1]  # uint8 wraps around
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            frames=coded,
            actions=self.actions.astype(np.float32),
            instructions=np.array(self.instructions, dtype=str),
            behaviours=np.array(self.behaviours, dtype=str),
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> DemoClips:
        """Read the clips beside a card; nothing is unpickled.

        Raises:
            CheckpointError: if they are missing, damaged or of another layout.
        """
        path = checkpoint.folder / FILENAME
        content = checkpoint.read(FILENAME, REMEDY)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                coded = file["frames"]
                frames = np.add.accumulate(coded, axis=1, dtype=np.uint8)
                behaviours = file.get("behaviours", ())
                texts = (tuple(map(str, found)) for found in (file["instructions"], behaviours))
                return cls(frames, file["actions"], *texts)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} cannot be read as demo clips ({type(error).__name__}: {error}); {REMEDY}"
            ) from error


@dataclass(frozen=True)
class MakeDemoClipsConfig:
    """Store a few held-out episodes beside a checkpoint for `wm-gym demo`."""

    data: Path
    """Folder of held-out episodes, made by `wm-gym collect --held-out --seed 6000`."""
    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """Checkpoint folder to write demo_clips.npz into."""
    episodes: tuple[int, ...] = ()
    """Numbers of the episodes; by default the first ones that are long enough."""
    clips: int = 3
    """How many, if no numbers are given."""
    steps: int = 50
    """Actions per clip."""


def make_demo_clips(config: MakeDemoClipsConfig) -> Path:
    """Run `wm-gym make-demo-clips`.

    Returns:
        The file written.

    Raises:
        ValueError: if episodes are too short or of other actions than the checkpoint's.
    """
    from wm_gym.data.episodes import EpisodeDataset
    from wm_gym.data.frames import resize
    from wm_gym.evaluation.models import open_by_id

    opened = open_by_id(config.id, config.checkpoint)
    frame = opened.spec.frame
    dataset = EpisodeDataset(config.data)
    long_enough = np.flatnonzero(dataset.lengths >= config.steps)
    chosen = [int(i) for i in config.episodes or long_enough[: config.clips]]
    short = sorted(set(chosen) - set(long_enough.tolist()))
    if short or not chosen:
        raise UserError(
            f"{config.data} has {len(long_enough)} episodes of at least {config.steps} actions; "
            f"episodes {short} are not among them: choose others or fewer steps"
        )
    frames, actions = [], []
    for number in chosen:
        states = np.arange(config.steps + 1)
        frames.append(resize(dataset.frames(number, states), frame.height, frame.width))
        actions.append(dataset.actions(number)[: config.steps])
    clips = DemoClips(
        np.stack(frames),
        np.stack(actions),
        tuple(dataset.instructions[i] for i in chosen),
        tuple(dataset.behaviours[i] for i in chosen),
    )
    if clips.actions.shape[-1] != opened.spec.action.size:
        raise UserError(
            f"{config.data} has actions of {clips.actions.shape[-1]} components, the card of "
            f"{opened.spec.name} says {opened.spec.action.size}; use episodes of its domain, "
            "or say with --checkpoint which model they are for"
        )
    path = save_data_file(opened.folder, FILENAME, clips.to_bytes())
    size = path.stat().st_size // 1024
    print(f"wrote {len(chosen)} clips of {config.steps} steps to {path} ({size} KiB)")
    return path
