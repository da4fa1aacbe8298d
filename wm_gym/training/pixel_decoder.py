"""Recipe: `wm-gym train pixel-decoder`, from frozen latents back to frames, for looking at dreams.

Semantic latents have no decoder of their own. This one is trained on recorded frames and their
precomputed latents; the encoder, the adapter and every world model on these latents stay as they
are. Its loss is the mean absolute error of colours: sharp where latents say what is there. Small
things hardly count in a mean over all pixels, so those that differ from the empty scene may weigh
more (`object_weight`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_gym.data.episodes import EpisodeReader
from wm_gym.data.frames import resize, split_views
from wm_gym.data.open_dataset import open_dataset
from wm_gym.errors import UserError
from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
from wm_gym.latents.registry import PIXEL_DECODER_WEIGHTS
from wm_gym.packed_files import load_tensors
from wm_gym.training.autoencoder import median_frame
from wm_gym.training.frozen_features import FrozenFeatureConfig
from wm_gym.training.latent_frames import LatentFrames
from wm_gym.training.loop import TrainingLoop, generator, planned, row_shares
from wm_gym.training.run_folder import write_run
from wm_gym.training.svae import load_adapter

RECORD = "pixel_decoder.json"
HELD_OUT_FRAMES = 32
OBJECT = 0.2
"""Share of the range counted by `PairedFrames.objects` from which a pixel shows an object."""


@dataclass(frozen=True, kw_only=True)
class TrainPixelDecoderConfig(FrozenFeatureConfig):
    """Train a pixel decoder on precomputed latents and the frames they were made from."""

    data: Path
    """Episodes: of `wm-gym collect`, LeRobot v2.1 or v3.0, or mp4 + npz files."""
    latents: Path
    """Folder of latents of the same episodes (`wm-gym train latents`)."""
    out: Path
    """Run folder: resumable state, logs, pictures, and at the end `pixel_decoder.safetensors` and
    `pixel_decoder.json`."""
    adapter: Path | None = None
    """Run folder of `wm-gym train svae`: the decoder reads latents that this adapter compressed."""
    base_channels: int = 128
    """Channels of the outermost level."""
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 4, 8)
    """Multiples of them, outermost level first; each level but the first doubles the size."""
    res_blocks: int = 2
    """Residual blocks a level."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Resolutions whose level ends with attention, for a grid of 16 x 16."""
    attn_heads: int = 4
    """Heads of every attention."""
    latent_noise: float = 0.0
    """Standard deviation of noise on the latents, in units of theirs: dreams are not encodings."""
    object_weight: float = 0.0
    """Extra weight of pixels that differ from the empty scene (the median frame)."""
    init: Path | None = None
    """Weights to start from (`pixel_decoder.safetensors`), of a decoder of the same sizes."""
    batch: int = 16
    """Frames a step, over all processes."""
    measure_every: int = 500
    """Steps between measurements and pictures."""

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run must share; older runs do not know the newest two."""
        stored = super().fingerprint()
        for name, default in (("object_weight", 0.0), ("init", None)):
            if stored[name] == default:
                del stored[name]
        return stored

    def network(self, latent_dim: int) -> PixelDecoderConfig:
        """Sizes of the decoder for latents of that width."""
        return PixelDecoderConfig(
            latent_dim=latent_dim,
            base_channels=self.base_channels,
            channel_multipliers=self.channel_multipliers,
            num_res_blocks=self.res_blocks,
            attn_resolutions=self.attn_resolutions,
            attn_heads=self.attn_heads,
        )


class PairedFrames:
    """Frames of episodes beside their latents.

    Args:
        data: episodes, opened with the cameras of the latents.
        latents: their latents.
        size: (H, W) of one camera's frames.

    Raises:
        ValueError: if the latents are not of these episodes.
    """

    def __init__(self, data: EpisodeReader, latents: LatentFrames, size: tuple[int, int]) -> None:
        bounds = np.concatenate([[0], np.cumsum(data.lengths + 1)])
        if not np.array_equal(bounds, latents.bounds):
            raise UserError(
                f"{latents.folder} holds latents of {len(latents.bounds) - 1} episodes with "
                f"{latents.bounds[-1]} frames, {data.folder} has {len(data)} with {bounds[-1]}; "
                "give the episodes that the latents were made from"
            )
        self.data, self.latents, self.size = data, latents, size
        scene = split_views(median_frame(data)[None], latents.views)
        self.empty = torch.from_numpy(
            np.stack([resize(view, *size)[0] for view in scene]).astype(np.float32) / 255
        )
        """The empty scene (views, H, W, 3) in [0, 1]."""

    def objects(self, numbers: np.ndarray, colours: Tensor) -> Tensor:
        """How much each pixel of `colours` differs from the empty scene, (B, H, W, 1) in [0, 1]."""
        views = [view for _, _, view in self.latents.locate(numbers)]
        difference = (colours - self.empty[views]).abs().amax(-1, keepdim=True)
        return difference.mul(4).clamp(max=1.0)  # a quarter of the range counts fully

    def colours(self, numbers: np.ndarray) -> Tensor:
        """Frames (B, H, W, 3) float32 in [0, 1] of numbered latents."""
        frames = []
        for episode, state, view in self.latents.locate(numbers):
            seen = self.data.frames(episode, slice(state, state + 1))
            frames.append(resize(split_views(seen, self.latents.views)[view], *self.size)[0])
        return torch.from_numpy(np.stack(frames)).float() / 255


def psnr(found: Tensor, colours: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of colours in [0, 1]."""
    return float(-10 * torch.log10((found - colours).square().mean().clamp_min(1e-12)))


def start_from(decoder: PixelDecoder, weights: Path) -> None:
    """Load the weights of a pixel decoder.

    Raises:
        ValueError: if they are of other sizes, or no such file is there.
    """
    try:
        decoder.load_state_dict(load_tensors(weights))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--init {weights} does not fit a pixel decoder of these sizes: {error}"
        ) from error


def train_pixel_decoder(config: TrainPixelDecoderConfig) -> Path:
    """Train, or resume, and write `pixel_decoder.safetensors` and `pixel_decoder.json`.

    Returns:
        The weights file.

    Raises:
        ValueError: if latents, episodes, adapter and settings do not fit each other.
        FileNotFoundError: if --adapter names no finished run.
    """
    from accelerate import Accelerator
    from PIL import Image

    torch.manual_seed(config.seed)
    latents = LatentFrames(config.latents, config.held_out)
    adapter = None if config.adapter is None else load_adapter(config.adapter)
    if adapter is not None and adapter.cfg.input_dim != latents.channels:
        raise UserError(
            f"--adapter {config.adapter} compresses {adapter.cfg.input_dim} channels, "
            f"{config.latents} has {latents.channels}; leave --adapter out if these latents are "
            "compressed already"
        )
    narrow = latents.channels if adapter is None else adapter.cfg.latent_dim
    network = config.network(narrow)
    size = (latents.grid[0] * network.scale, latents.grid[1] * network.scale)
    cameras = latents.source.get("cameras") or None
    pairs = PairedFrames(open_dataset(config.data, cameras), latents, size)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    if adapter is not None:
        adapter = adapter.to(device)
    decoder = PixelDecoder(network)
    if config.init is not None:
        start_from(decoder, config.init)
    loop = TrainingLoop(
        config.out,
        decoder,
        planned(config.loop, config.epochs, math.ceil(len(latents) / config.batch)),
        fingerprint=config.fingerprint(),
        accelerator=accelerator,
    )

    @torch.no_grad()
    def inputs(raw: Tensor) -> Tensor:
        """What the decoder reads: raw latents, compressed if there is an adapter."""
        raw = raw.to(device)
        return raw if adapter is None else adapter.encode(raw)

    scale = float(inputs(latents.read(latents.draw(config.seed, 0, 64))).std())

    @lru_cache(maxsize=1)  # the parts of a step share one drawing
    def drawn(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        numbers = latents.draw(config.seed, step, config.batch)
        shape = (len(numbers), *latents.grid, narrow)
        noise = torch.randn(shape, generator=generator(config.seed, step, stream=1))
        colours = pairs.colours(numbers)
        weight = 1 + config.object_weight * pairs.objects(numbers, colours)
        return latents.read(numbers), colours, weight, noise

    def part(rows: slice, step: int):
        raw, colours, weight, noise = (tensor[rows].to(device) for tensor in drawn(step))
        seen = inputs(raw) + config.latent_noise * scale * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            found = loop.module(seen)
        error = (found.float() - colours).abs()
        return (weight * error).mean(), {"absolute_error": error.detach().mean()}

    chosen = latents.held_out(HELD_OUT_FRAMES)
    held_out, truth = inputs(latents.read(chosen)), pairs.colours(chosen)
    shown = (pairs.objects(chosen, truth) > OBJECT).expand_as(truth)

    @torch.no_grad()
    def measure(step: int) -> dict[str, float]:
        averaged = PixelDecoder(network).to(device).eval()
        averaged.load_state_dict(loop.weights())
        found = torch.cat([averaged(rows) for rows in held_out.split(8)]).float().cpu()
        pair = torch.cat([truth[:8], found[:8]], dim=1)  # (8, 2H, W, 3)
        picture = (pair.transpose(0, 1).flatten(1, 2) * 255).round().byte().numpy()
        Image.fromarray(picture).save(config.out / f"decoded_{step:06d}.png")
        figures = {"held_out_psnr": psnr(found, truth)}
        if shown.any():
            figures["held_out_object_psnr"] = psnr(found[shown], truth[shown])
        return figures

    shares = row_shares(
        config.batch, config.accumulation, accelerator.process_index, accelerator.num_processes
    )
    loop.run([partial(part, rows) for rows in shares], every=config.measure_every, callback=measure)
    path = config.out / PIXEL_DECODER_WEIGHTS
    if accelerator.is_main_process:
        record = {
            "pixel_decoder": asdict(network),
            "adapter": None if config.adapter is None else str(config.adapter),
            "latents": latents.source,
            "steps": loop.step,
            "hours": round(loop.seconds / 3600, 2),
            "held_out": measure(loop.step),
        }
        write_run(path, loop.weights(), config.out / RECORD, record)
    accelerator.wait_for_everyone()
    return path
