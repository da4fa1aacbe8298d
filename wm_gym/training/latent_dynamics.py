"""Recipe: `wm-gym train latent-dynamics`, a diffusion transformer over precomputed latents.

Flow matching with an independent time per frame, two history frames, and noise on the context, as
published (facts of arXiv:2605.06388). Two ways to show the past to a frame that is being denoised:

- `context="noisy"`: the other frames of the clip at their own noise levels, the published protocol.
- `context="clean"`: the clean frames, lightly noised, through cached keys and values, which is what
  a rollout does. Every frame of a clip then trains exactly the inference case, and several noisy
  copies share one pass over the context: far more action-following per CPU-hour.

`accelerate launch` (or torchrun) runs the same recipe on several devices: every process takes its
share of the same global batch, so the number of processes changes nothing but the time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.data.latent_clips import LatentClips, changed_cells, read_action_spec
from wm_gym.dynamics import flow
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.errors import UserError
from wm_gym.packed_files import load_tensors
from wm_gym.spec import ActionSpec
from wm_gym.training.dynamics_loss import (
    Batch,
    DynamicsLoss,
    NoisyBatch,
    TeacherForced,
    action_sensitivity,
    changed_tokens,
    crop_clips,
)
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator, planned, row_shares
from wm_gym.training.run_folder import write_run

EPOCHS, MULTI_VIEW_EPOCHS = 100, 20
NOT_LEARNED = ("loop", "out", "compile", "epochs", "accumulation", "in_memory")
"""Settings that a resumed run may change."""
ADDED = (
    "history_max",
    "num_views",
    "own_context",
    "own_context_passes",
    "change_sampling",
    "neighbourhood",
    "crop",
    "crop_margin",
    "unchanged_threshold",
)
"""Settings that older runs do not know; they count as unchanged at their defaults."""


@dataclass(frozen=True)
class LatentDynamicsConfig:
    """Train a latent world model's transition network."""

    latents: Path
    """Folder of precomputed latents (`wm-gym train latents`)."""
    out: Path
    """Run folder: resumable state, logs and at the end `dynamics.safetensors`."""
    dim: int = 384
    """Transformer width."""
    depth: int = 12
    """Pairs of a spatial and a temporal block."""
    heads: int = 6
    """Attention heads."""
    patch: int = 1
    """Latent cells per token and axis."""
    head: Literal["plain", "wide"] = "plain"
    """Output head."""
    band: int = 0
    """Frames in the causal temporal band; 0 trains a `window` model."""
    clip_length: int = 10
    """Frames per training clip."""
    history: int = 2
    """Frames at the start of a clip that are given and carry no loss."""
    context: Literal["noisy", "clean"] = "noisy"
    """What a frame sees of its past in training."""
    copies: int = 1
    """Noisy copies per frame that share one context pass (context="clean")."""
    times: Literal["logit-normal", "uniform"] = "logit-normal"
    """Distribution of training times; "uniform" is stratified over the copies."""
    shift: float = 0.0
    """Noise-schedule shift; 0 takes sqrt(numbers per frame / 4096)."""
    history_noise: float = 0.3
    """Sigma of the noise level on context frames."""
    own_context: float = 0.0
    """Share of steps whose context frames are the network's own one-step predictions instead of the
    recorded ones (context="clean"): what it will see in a rollout."""
    own_context_passes: int = 1
    """Such a step predicts its context anew, from the context predicted before, between 1 and this
    many times: the mistakes of that many steps of a rollout (own_context)."""
    change_sampling: float = 0.0
    """Clips are drawn in proportion to the mean of (changed cells + 1) ** this over their frames;
    0 draws all alike, 2 shows more of the frames in which objects move."""
    change_weight: float = 1.0
    """Weight of tokens that differ from the frame before, relative to the others."""
    change_threshold: float = 0.1
    """Mean absolute latent change above which a token counts as changed."""
    neighbourhood: int = 0
    """Patches up to which a patch sees its own frame, in rows and columns; 0 is the whole frame, as
    published."""
    crop: int = 0
    """Side, in latent cells, of the square around something that changes that a clip trains on; 0
    trains on whole frames, as published. Needs --neighbourhood, so that what is learned on crops
    holds in whole frames."""
    crop_margin: int = 1
    """Cells along the edges of a crop that carry no loss, because what comes in there is not
    seen; edges of the frame itself are no such edges."""
    unchanged_threshold: float = 0.0
    """With --own-context: the network's own frames keep a cell exactly as it was where its mean
    absolute change is below this, as a rollout with the same option does; 0 is off."""
    action_dropout: float = 0.1
    """Share of clips that train with null actions."""
    batch: int = 8
    """Clips a step, over all processes."""
    held_out: int = 64
    """Episodes at the end of the data kept out of training, for the logged errors."""
    bf16: bool = True
    """Linear layers in bfloat16, attention in float32."""
    compile: bool = False
    """Compile the network with torch.compile: a minute at the start, then about twice the speed on
    a CPU."""
    probe_every: int = 200
    """Steps between measurements with true and with shuffled actions."""
    init: Path | None = None
    """Weights to start from (fine-tuning): a safetensors file, or a checkpoint folder, whose card
    then gives the network's sizes and the schedule shift."""
    history_max: int = 0
    """Variable history: every clip gives between 1 and this many frames; 0 always `history`."""
    num_views: int = 1
    """Cameras whose latents stand side by side along the width."""
    epochs: int = 0
    """Length where --loop.steps is 0: passes over as many clips as there are different ones; 0 is
    100, and 20 where a multi-view model is fine-tuned (--num-views with --init)."""
    accumulation: int = 1
    """Parts that a process computes its share of the batch in, one after the other."""
    in_memory: bool = False
    """Read all latents at the start instead of mapping the file (slow disks)."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=0, warmup_steps=0, ema=0.9995)
    )
    """Optimisation; steps=0 takes --epochs, then warmup_steps=0 takes one epoch."""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        given = max(self.history, self.history_max)
        if self.history < 1 or self.history_max < 0 or given >= self.clip_length:
            raise UserError(
                f"history {self.history} and history_max {self.history_max} must be at least 1 (0 "
                f"for a fixed history) and less than clip_length {self.clip_length}, so that a "
                "frame is left to predict"
            )
        if self.own_context and self.context != "clean":
            raise UserError(
                f"own_context {self.own_context} needs context='clean', whose context is frames "
                f"of their own; got context={self.context!r}"
            )
        if self.own_context_passes < 1 or self.change_sampling < 0:
            raise UserError(
                f"own_context_passes {self.own_context_passes} must be at least 1, "
                f"change_sampling {self.change_sampling} at least 0"
            )
        if self.crop and (not self.neighbourhood or self.patch > 1):
            raise UserError(
                f"crop={self.crop} needs a neighbourhood of at least 1 and patch=1, got "
                f"neighbourhood={self.neighbourhood} and patch={self.patch}"
            )
        if min(self.neighbourhood, self.crop, self.crop_margin, self.unchanged_threshold) < 0 or (
            self.crop and self.crop <= 2 * self.crop_margin
        ):
            raise UserError(
                f"neighbourhood={self.neighbourhood}, crop={self.crop}, crop_margin="
                f"{self.crop_margin} and unchanged_threshold={self.unchanged_threshold} must be at "
                "least 0, and a crop wider than its two margins"
            )
        if self.accumulation < 1 or self.num_views < 1 or self.epochs < 0:
            raise UserError(
                f"accumulation {self.accumulation} and num_views {self.num_views} must be at least "
                f"1, epochs {self.epochs} at least 0"
            )

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        stored = asdict(self) | {name: None for name in ("loop", "out", "compile")}
        defaults = {f.name: f.default for f in fields(self)}
        for name in {*NOT_LEARNED, *ADDED} - {"loop", "out", "compile"}:
            if name in NOT_LEARNED or stored[name] == defaults[name]:
                del stored[name]
        return stored

    def planned_loop(self, clips: int) -> LoopConfig:
        """The optimisation, with steps and warm-up counted from epochs of `clips` clips."""
        fine_tuning = self.num_views > 1 and self.init is not None
        epochs = self.epochs or (MULTI_VIEW_EPOCHS if fine_tuning else EPOCHS)
        return planned(self.loop, epochs, math.ceil(clips / self.batch))


class LatentBatches:
    """Batches of normalised latents and network actions, each a function of (seed, step)."""

    def __init__(self, config: LatentDynamicsConfig, action: ActionSpec) -> None:
        episodes = len(np.load(config.latents / "bounds.npy")) - 1
        if episodes <= config.held_out:
            raise UserError(
                f"{config.latents} holds {episodes} episodes, expected more than the "
                f"{config.held_out} kept out; collect more or lower --held-out"
            )
        self.config, self.action = config, action
        split = episodes - config.held_out
        normalisation = json.loads(
            (config.latents / "normalisation.json").read_text(encoding="utf-8")
        )
        self.mean = torch.tensor(normalisation["mean"])
        self.std = torch.tensor(normalisation["std"])

        def clips(chosen: np.ndarray, weights: np.ndarray | None = None) -> LatentClips:
            return LatentClips(
                config.latents,
                config.clip_length,
                action.frame_skip,
                action.alignment,
                pad_start=max(config.history, config.history_max) - 1,
                episodes=chosen,
                in_memory=config.in_memory,
                frame_weights=weights,
            )

        self.training = clips(np.arange(split), self.sampling_weights())
        self.held_out = clips(np.arange(split, episodes))

    def sampling_weights(self) -> np.ndarray | None:
        """Weight (N,) of every state in the choice of training clips; None where all are alike."""
        config = self.config
        if not config.change_sampling:
            return None
        latents = np.load(config.latents / "latents.npy", mmap_mode="r")
        bounds = np.load(config.latents / "bounds.npy")
        counts = changed_cells(latents, bounds, self.std.numpy(), config.change_threshold)
        return (counts + 1.0) ** config.change_sampling

    def prepare(self, clip: Any) -> Batch:
        """Normalise a clip; slots without a known action get the null action."""
        latents = (torch.from_numpy(np.asarray(clip.frames, np.float32)) - self.mean) / self.std
        actions = torch.from_numpy(clip.actions[..., : self.action.size].astype(np.float32))
        actions = self.action.normalise(actions)
        known = torch.from_numpy(clip.known)[..., None]
        return Batch(
            latents=latents,
            actions=torch.where(known, actions, self.action.null_action()),
            repeated=torch.from_numpy(np.argmax(clip.valid, axis=-1)),
        )

    def train(self, step: int) -> Batch:
        """The training batch of a step, cropped if the recipe asks for it."""
        config = self.config
        batch = self.prepare(self.training.sample(config.seed, step, config.batch))
        if not config.crop:
            return batch
        changed = changed_tokens(batch.latents, config.change_threshold)
        rng = np.random.default_rng([config.seed, step, 3])
        return crop_clips(batch, changed, config.crop, config.crop_margin, rng)

    def probe(self, count: int = 24) -> Batch:
        """A fixed held-out batch."""
        return self.prepare(self.held_out.sample(0, 0, count))


def initial_network(config: LatentDynamicsConfig, batches: LatentBatches) -> tuple[DiT, float]:
    """The network before training, and the noise-schedule shift.

    Raises:
        CheckpointError: if the weights to start from do not fit network or latents.
        ValueError: if the latents do not hold the views asked for.
    """
    height, width, channels = batches.training.latents.shape[1:]
    source = json.loads((config.latents / "source.json").read_text(encoding="utf-8"))
    views = len(source.get("cameras", ())) or config.num_views
    if views != config.num_views or width % (views * config.patch):
        raise UserError(
            f"{config.latents} holds {views} view(s) on a grid of {height}x{width}, expected "
            f"{config.num_views} of equal width; pass --num-views {views}"
        )
    sizes: dict[str, Any] = {
        name: getattr(config, name) for name in ("dim", "depth", "heads", "patch", "head")
    } | {"band": config.band or None, "neighbourhood": config.neighbourhood or None}
    # one view's tokens decide: a multi-view model goes on with the schedule it was trained with
    tokens = height * (width // views) // config.patch**2
    shift = config.shift or flow.schedule_shift(tokens, channels * config.patch**2)
    weights = None
    if config.init is not None and config.init.is_dir():
        card = Checkpoint.open(config.init)
        if card.spec.dynamics.objective != "flow":
            raise CheckpointError(
                f"--init {config.init} was trained with {card.spec.dynamics.objective}, expected "
                "flow matching, which is what this recipe goes on with"
            )
        latent = card.spec.latent
        scales = torch.tensor(latent.mean), torch.tensor(latent.std)
        if latent.channels != channels or not all(
            torch.allclose(a, b) for a, b in zip(scales, (batches.mean, batches.std), strict=True)
        ):
            raise CheckpointError(
                f"{config.latents} is not of the latent space and normalisation of --init "
                f"{config.init}; encode the data with `wm-gym train latents --space {config.init}`"
            )
        sizes = dict(card.spec.dynamics.network)
        shift = config.shift or card.spec.dynamics.shift
        weights = card.load(card.spec.dynamics.weights)
    elif config.init is not None:
        weights = {key: value.float() for key, value in load_tensors(config.init).items()}
    sizes |= {
        "channels": channels,
        "action_width": batches.action.width,
        "num_views": config.num_views,
    }
    network = DiT(DiTConfig(**sizes))
    if weights is not None:
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"--init {config.init} does not fit the network: {error}"
            ) from error
    return network, shift


def shares(config: LatentDynamicsConfig, process: int, processes: int) -> list[slice]:
    """Rows of the global batch that a process computes, one slice per accumulated part.

    Raises:
        ValueError: if the batch cannot be divided equally.
    """
    return row_shares(config.batch, config.accumulation, process, processes)


def train_latent_dynamics(config: LatentDynamicsConfig) -> Path:
    """Train, or resume, and write `dynamics.safetensors` (averaged weights) and `dynamics.json`.

    Returns:
        The weights file.
    """
    from accelerate import Accelerator

    torch.manual_seed(config.seed)
    action = read_action_spec(config.latents)
    batches = LatentBatches(config, action)
    network, shift = initial_network(config, batches)
    network_config = network.config
    if config.bf16:
        network.set_linear_dtype(torch.bfloat16)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    loop = TrainingLoop(
        config.out,
        TeacherForced(network) if config.context == "clean" else network,
        config.planned_loop(len(batches.training)),
        fingerprint=config.fingerprint(),
        accelerator=accelerator,
    )
    if config.compile:
        loop.module.compile(dynamic=False)  # few shapes, each worth its own code
    label = 0.01 if config.context == "clean" else 0.0
    loss_function = DynamicsLoss(config, shift, label)
    probe = batches.probe()
    prefix = "network." if config.context == "clean" else ""

    @lru_cache(maxsize=1)  # the parts of a step share one drawing
    def drawn(step: int) -> NoisyBatch:
        return loss_function.draw(batches.train(step), generator(config.seed, step, stream=1))

    def part(rows: slice, step: int):
        return loss_function(loop.module, drawn(step), rows)

    def measure(step: int) -> dict[str, float]:
        averaged = DiT(network_config)
        averaged.load_state_dict(_strip(loop.weights(), prefix))
        averaged.eval().to(accelerator.device)
        measured: dict[str, float] = {}
        for t in (1.0, 0.7):
            measured |= action_sensitivity(averaged, probe, 0.01, config.change_threshold, t)
        return measured

    parts = [
        partial(part, rows)
        for rows in shares(config, accelerator.process_index, accelerator.num_processes)
    ]
    run = parts if len(parts) > 1 else parts[0]
    loop.run(run, every=config.probe_every, callback=measure)
    path = config.out / "dynamics.safetensors"
    if accelerator.is_main_process:
        weights = _strip(loop.weights(), prefix)
        record = {
            "network": asdict(network_config),
            "objective": "flow",
            "shift": shift,
            "clip_length": config.clip_length,
            "history": config.history,
            "steps": loop.step,
            "hours": round(loop.seconds / 3600, 2),
        }
        write_run(path, weights, config.out / "dynamics.json", record)
    accelerator.wait_for_everyone()
    return path


def _strip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items()}
