"""Recipe: `wm-gym train vjepa`, vjepa-mini by masked latent prediction; no pixel is reconstructed.

V-JEPA's objective (arXiv:2404.08471, section 3.1): an encoder sees a clip with most of it masked
out, a predictor says what a teacher's features of the whole clip are, and the teacher is the moving
average of the encoder. The error is the mean absolute one of layer-normalised features. As V-JEPA
2.1 does, visible tokens are predicted too, with a smaller weight, so that features stay local; and
single frames are trained on beside clips, because a world model encodes frames one by one.

Nothing in the objective keeps features from becoming all alike but teacher and predictor, so rank
and spread of held-out features are logged (`wm_gym.metrics.features`) and end up in the record.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.data.camera_frames import CameraFrames
from wm_gym.data.clips import ClipStarts
from wm_gym.data.open_dataset import open_dataset
from wm_gym.errors import UserError
from wm_gym.latents.rotary import rotation
from wm_gym.latents.vjepa_mini import (
    RotaryBlock,
    VJEPAMini,
    VJEPAMiniConfig,
    check_heads,
    rows_of,
    token_coordinates,
)
from wm_gym.metrics.features import collapse_figures
from wm_gym.training.loop import LoopConfig, TrainingLoop
from wm_gym.training.masks import LONG_RANGE, SHORT_RANGE, draw_masks
from wm_gym.training.mini_space import write_mini_space

WEIGHTS = "encoder.safetensors"
HELD_OUT_CLIPS = 64


@dataclass(frozen=True)
class PredictorConfig:
    """Sizes of the predictor, which is thrown away after training."""

    dim: int = 64
    """Width."""
    depth: int = 3
    """Blocks."""
    heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        """Check the heads."""
        check_heads(self.dim, self.heads)


@dataclass(frozen=True)
class TrainVJEPAConfig:
    """Train vjepa-mini on the frames of a dataset of episodes."""

    data: Path
    """Folder of episodes: written by `wm-gym collect`, LeRobot v2.1 or v3.0, or mp4 + npz files;
    frames of another size than the network's are resized."""
    out: Path
    """Run folder: resumable state, logs, and at the end `encoder.safetensors` and its record."""
    network: VJEPAMiniConfig = field(default_factory=VJEPAMiniConfig)
    """Network sizes."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """Predictor sizes."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=2000,
            learning_rate=1e-3,
            final_learning_rate_fraction=0.02,
            warmup_steps=200,
            ema=0.998,
            ema_from_start=True,
            weight_decay=4e-2,
            save_every=100,
        )
    )
    """Optimisation; the moving average is the teacher, and what is kept."""
    batch: int = 12
    """Clips a step."""
    clip_frames: int = 4
    """Frames of a clip."""
    frame_stride: int = 3
    """Steps of the episode between the frames of a clip."""
    image_every: int = 3
    """Every so many steps the batch's frames are single images instead of clips; 0 is never."""
    visible_weight: float = 0.5
    """Weight of the error on visible tokens; 0 is V-JEPA's and V-JEPA 2's loss."""
    held_out: int = 20
    """Episodes at the end of the dataset kept out of training, for what is logged."""
    measure_every: int = 250
    """Steps between measurements."""
    bf16: bool = True
    """Linear layers in bfloat16."""
    seed: int = 0
    """Seed of initialisation, batches and masks."""
    camera: str = ""
    """Camera of the dataset, if it has several."""

    def __post_init__(self) -> None:
        """Check the settings once."""
        if min(self.batch, self.clip_frames, self.frame_stride, self.held_out) < 1:
            raise UserError(
                f"batch={self.batch}, clip_frames={self.clip_frames}, "
                f"frame_stride={self.frame_stride} and held_out={self.held_out} must be at least 1"
            )
        if not 0 < self.loop.ema < 1:
            raise UserError(
                f"loop.ema={self.loop.ema}: the teacher is the moving average of the encoder; "
                "expected a decay between 0 and 1, e.g. 0.998"
            )


class Predictor(nn.Module):
    """From features of visible tokens to the teacher's, there and where nothing is seen."""

    def __init__(self, features: int, config: PredictorConfig) -> None:
        super().__init__()
        self.head = config.dim // config.heads
        self.embed = nn.Linear(features, config.dim)
        self.hidden_token = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.blocks = nn.ModuleList(
            RotaryBlock(config.dim, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, features)

    def forward(self, visible: Tensor, coordinates: Tensor) -> Tensor:
        """Predict.

        Args:
            visible: features (B, K, D) of the visible tokens.
            coordinates: (B, K + M, 3) of the visible tokens, then of the hidden ones.

        Returns:
            (B, K + M, D).
        """
        x = self.embed(visible)
        hidden = coordinates.shape[1] - x.shape[1]
        x = torch.cat([x, self.hidden_token.to(x).expand(len(x), hidden, -1)], dim=1)
        turned_by = rotation(coordinates[:, None], self.head)
        for block in self.blocks:
            x = block(x, turned_by)
        return self.out(self.norm(x))


class Learner(nn.Module):
    """Encoder and predictor, which learn together."""

    def __init__(self, config: TrainVJEPAConfig) -> None:
        super().__init__()
        self.encoder = VJEPAMini(config.network)
        self.predictor = Predictor(config.network.dim, config.predictor)

    def forward(self, clips: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predicted features (B, K + M, D) of the visible (B, K), then the hidden (B, M) tokens."""
        seen = self.encoder(clips, visible)
        places = token_coordinates(clips.shape[1], self.encoder.grid).to(seen)
        return self.predictor(seen, places[torch.cat([visible, hidden], dim=1)]).float()


class Clips:
    """Random clips of some episodes, a function of (seed, step).

    Args:
        data: frames.
        episodes: numbers of the episodes.
        length: frames of a clip.
        stride: steps between them.
    """

    def __init__(self, data: CameraFrames, episodes: range, length: int, stride: int) -> None:
        self.data, self.episodes, self.length, self.stride = data, episodes, length, stride
        lengths = data.lengths[episodes.start : episodes.stop]
        self.starts = ClipStarts(lengths, length, stride, 0, 0)

    def draw(self, seed: int, step: int, count: int) -> Tensor:
        """Clips (B, T, H, W, 3) uint8."""
        numbers, starts = self.starts.place(self.starts.draw(seed, step, count))
        reach = self.stride * (self.length - 1) + 1
        clips = [
            self.data.frames(self.episodes[int(number)], slice(start, start + reach, self.stride))
            for number, start in zip(numbers, starts.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(clips))


def prediction_error(
    learner: nn.Module, clips: Tensor, features: Tensor, rng: np.random.Generator, grid: tuple
) -> tuple[Tensor, Tensor]:
    """Mean absolute errors on hidden and on visible tokens, over both kinds of masks.

    Args:
        learner: gives predictions.
        clips: (B, T, H, W, 3) uint8.
        features: (B, T·P, D) of the teacher.
        rng: draws the masks.
        grid: (h, w).
    """
    target = F.layer_norm(features, features.shape[-1:])
    errors = []
    for blocks in (SHORT_RANGE, LONG_RANGE):
        visible, hidden = draw_masks(rng, len(clips), clips.shape[1], grid, blocks)
        visible, hidden = visible.to(clips.device), hidden.to(clips.device)
        wanted = rows_of(target, torch.cat([visible, hidden], dim=1))
        error = (learner(clips, visible, hidden) - wanted).abs()
        seen = visible.shape[1]
        errors.append(torch.stack([error[:, seen:].mean(), error[:, :seen].mean()]))
    hidden_error, visible_error = torch.stack(errors).mean(0)
    return hidden_error, visible_error


def teacher_of(loop: TrainingLoop, config: VJEPAMiniConfig) -> VJEPAMini:
    """The encoder whose weights ARE the loop's moving average, now and after every step."""
    teacher = VJEPAMini(config)
    average = {
        key.removeprefix("encoder."): value
        for key, value in loop.ema.items()
        if key.startswith("encoder.")
    }
    teacher.load_state_dict(average, assign=True)  # shares memory with what the loop updates
    return teacher.requires_grad_(False).eval()


def train_vjepa(config: TrainVJEPAConfig) -> Path:
    """Train, or resume, and write `encoder.safetensors`, the teacher's weights, with its record.

    Returns:
        The weights file.

    Raises:
        ValueError: if no episode is long enough for a clip.
    """
    torch.manual_seed(config.seed)
    data = CameraFrames(
        open_dataset(config.data, config.camera or None),
        config.network.height,
        config.network.width,
    )
    split = len(data) - config.held_out
    if split < 1:
        raise UserError(
            f"{config.data} holds {len(data)} episodes, expected more than the {config.held_out} "
            "kept out; collect more or change --held-out"
        )
    training = Clips(data, range(split), config.clip_frames, config.frame_stride)
    kept_out = Clips(data, range(split, len(data)), config.clip_frames, config.frame_stride)
    loop = TrainingLoop(
        config.out,
        Learner(config),
        config.loop,
        fingerprint=asdict(config) | {"loop": None, "out": None, "measure_every": None},
    )
    device = loop.accelerator.device
    teacher = teacher_of(loop, config.network)
    held_out = kept_out.draw(config.seed, 0, HELD_OUT_CLIPS).to(device)

    def errors(clips: Tensor, step: int, stream: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            with torch.no_grad():
                features = teacher(clips)
            rng = np.random.default_rng([config.seed, step, stream])
            return prediction_error(loop.module, clips, features, rng, teacher.grid)

    def step_function(step: int):
        clips = training.draw(config.seed, step, config.batch).to(device)
        if config.image_every and step % config.image_every == 0:
            clips = clips.flatten(0, 1)[:, None]
        hidden, visible = errors(clips, step, 0)
        loss = hidden + config.visible_weight * visible
        return loss, {"hidden_error": hidden.detach(), "visible_error": visible.detach()}

    @torch.no_grad()
    def measure(step: int) -> dict[str, float]:
        hidden, visible = errors(held_out[:16], 0, 1)  # the same masks every time
        figures = collapse_figures(teacher.encode(held_out[:, 0]))
        return {
            "held_out_hidden_error": float(hidden),
            "held_out_visible_error": float(visible),
            **figures,
        }

    loop.run(step_function, every=config.measure_every, callback=measure)
    figures: dict[str, Any] = {
        "steps": loop.step,
        "hours": round(loop.seconds / 3600, 2),
        "held_out": measure(loop.step),
    }
    return write_mini_space(config.out, teacher, teacher.state_dict(), WEIGHTS, figures)
