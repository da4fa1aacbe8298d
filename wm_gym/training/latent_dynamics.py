"""Recipe: `wm-gym train latent-dynamics`, a diffusion transformer over precomputed latents.

Flow matching with an independent time per frame, two history frames, and noise on the context, as
published (facts of arXiv:2605.06388). Two ways to show the past to a frame that is being denoised:

- `context="noisy"`: the other frames of the clip at their own noise levels, the published protocol.
- `context="clean"`: the clean frames, lightly noised, through cached keys and values, which is
what a
  rollout does. Every frame of a clip then trains exactly the inference case, and several noisy
  copies share one pass over the context: far more action-following per CPU-hour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wm_gym.checkpoints import CheckpointError
from wm_gym.data.latent_clips import LatentClips
from wm_gym.dynamics import flow
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.spec import ActionSpec
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator


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
    change_weight: float = 1.0
    """Weight of tokens that differ from the frame before, relative to the others."""
    change_threshold: float = 0.1
    """Mean absolute latent change above which a token counts as changed."""
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
    """Safetensors file of weights to start from (fine-tuning)."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=100_000, ema=0.9995))
    """Optimisation."""


@dataclass(frozen=True)
class Batch:
    """One global batch: normalised latents (B, T, h, w, D) and network actions (B, T, width)."""

    latents: Tensor
    actions: Tensor


class LatentBatches:
    """Batches of normalised latents and network actions, each a function of (seed, step)."""

    def __init__(self, config: LatentDynamicsConfig, action: ActionSpec) -> None:
        episodes = len(np.load(config.latents / "bounds.npy")) - 1
        if episodes <= config.held_out:
            raise ValueError(
                f"{config.latents} holds {episodes} episodes, expected more than the "
                f"{config.held_out} kept out; collect more or lower --held-out"
            )
        self.config, self.action = config, action
        split = episodes - config.held_out

        def clips(chosen: np.ndarray) -> LatentClips:
            return LatentClips(
                config.latents,
                config.clip_length,
                action.frame_skip,
                action.alignment,
                pad_start=config.history - 1,
                episodes=chosen,
                in_memory=True,
            )

        self.training = clips(np.arange(split))
        self.held_out = clips(np.arange(split, episodes))
        normalisation = json.loads((config.latents / "normalisation.json").read_text())
        self.mean = torch.tensor(normalisation["mean"])
        self.std = torch.tensor(normalisation["std"])

    def prepare(self, clip: Any) -> Batch:
        """Normalise a clip; slots without a known action get the null action."""
        latents = (torch.from_numpy(np.asarray(clip.frames, np.float32)) - self.mean) / self.std
        actions = torch.from_numpy(clip.actions[..., : self.action.size].astype(np.float32))
        actions = self.action.normalise(actions)
        known = torch.from_numpy(clip.known)[..., None]
        return Batch(latents, torch.where(known, actions, self.action.null_action()))

    def train(self, step: int) -> Batch:
        """The training batch of a step."""
        return self.prepare(self.training.sample(self.config.seed, step, self.config.batch))

    def probe(self, count: int = 24) -> Batch:
        """A fixed held-out batch."""
        return self.prepare(self.held_out.sample(0, 0, count))


def changed_tokens(latents: Tensor, threshold: float) -> Tensor:
    """Which cells differ from the frame before: bool (B, T, h, w), the first frame all False."""
    changed = torch.zeros(latents.shape[:-1], dtype=torch.bool)
    change = (latents[:, 1:] - latents[:, :-1]).abs().mean(-1)
    changed[:, 1:] = change > threshold
    return changed


class DynamicsLoss:
    """The flow-matching loss of a batch, split over processes.

    Args:
        config: recipe.
        shift: noise-schedule shift.
        context_label: flow time written on clean context frames.
    """

    def __init__(self, config: LatentDynamicsConfig, shift: float, context_label: float) -> None:
        self.config, self.shift, self.context_label = config, shift, context_label

    def times(self, shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
        """Training times (B, N, M)."""
        if self.config.times == "logit-normal":
            return flow.sample_times(shape, self.shift, noise)
        copies = torch.arange(shape[1])[None, :, None]
        return (copies + torch.rand(shape, generator=noise)) / shape[1]

    def __call__(
        self, network: torch.nn.Module, batch: Batch, noise: torch.Generator, rows: slice
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of the given rows of a global batch; random numbers are drawn for all rows."""
        config = self.config
        count, frames = batch.latents.shape[:2]
        predicted = frames - config.history
        copies = config.copies if config.context == "clean" else 1
        t = self.times((count, copies, predicted), noise)
        target_latents = batch.latents[:, None, config.history :].expand(-1, copies, *(-1,) * 4)
        eps = torch.randn(target_latents.shape, generator=noise)
        context = flow.noise_history(batch.latents, noise, config.history_noise)
        dropped = torch.rand(count, generator=noise) < config.action_dropout
        null = torch.zeros(batch.actions.shape[-1])
        null[-1] = 1.0
        actions = torch.where(dropped[:, None, None], null, batch.actions)
        weight = 1.0 + (config.change_weight - 1.0) * changed_tokens(
            batch.latents, config.change_threshold
        )
        weight = weight[:, None, config.history :, :, :, None]
        weight = weight / weight.mean()

        device = next(network.parameters()).device
        noisy = flow.add_noise(target_latents, eps, t)[rows].to(device)
        times = (t * flow.TIMESTEP_SCALE)[rows].to(device)
        context, actions = context[rows].to(device), actions[rows].to(device)
        if config.context == "clean":
            labels = torch.full(context.shape[:2], self.context_label * flow.TIMESTEP_SCALE)
            velocity = network(noisy, times, context, labels.to(device), actions)
        else:
            clip = torch.cat([context[:, : config.history], noisy[:, 0]], dim=1)
            labels = torch.cat([times.new_zeros(len(times), config.history), times[:, 0]], dim=1)
            velocity = network(clip, labels, actions)[:, None, config.history :]
        target = flow.velocity_target(target_latents, eps)[rows].to(device)
        error = (velocity - target).pow(2)
        loss = (weight[rows].to(device) * error).mean()
        return loss, {"velocity_error": error.detach().mean()}


class TeacherForced(torch.nn.Module):
    """Calls `DiT.teacher_forced_forward`, so that data-parallel wrappers see a forward pass."""

    def __init__(self, network: DiT) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """See `DiT.teacher_forced_forward`."""
        return self.network.teacher_forced_forward(*inputs)


@torch.no_grad()
def action_sensitivity(
    network: DiT, batch: Batch, context_label: float, threshold: float, t: float
) -> dict[str, float]:
    """One-frame error on changed tokens, with true and with shuffled actions.

    The last frame of each clip is predicted from its clean past at flow time `t`; the error is that
    of the implied clean latent, in units of the latents' standard deviation.
    """
    device = next(network.parameters()).device
    noise = torch.randn(batch.latents[:, -1:].shape, generator=generator(0, 0))
    times = torch.full((len(batch.latents), 1, 1), t)
    noisy = flow.add_noise(batch.latents[:, None, -1:], noise[:, None], times).to(device)
    labels = torch.full(batch.latents.shape[:2], context_label * flow.TIMESTEP_SCALE).to(device)
    changed = changed_tokens(batch.latents, threshold)[:, -1]
    errors = {}
    for name, order in (("true", 0), ("shuffled", 1)):
        actions = batch.actions.clone()
        actions[:, -1] = batch.actions[:, -1].roll(order, dims=0)
        velocity = network.teacher_forced_forward(
            noisy,
            (times * flow.TIMESTEP_SCALE).to(device),
            batch.latents.to(device),
            labels,
            actions.to(device),
        )
        clean = (noisy - t * velocity)[:, 0, 0].float().cpu()
        error = (clean - batch.latents[:, -1]).pow(2).mean(-1)
        errors[f"changed_error_{name}_t{t:g}"] = float(error[changed].mean())
    moved = (batch.latents[:, -1] - batch.latents[:, -2]).pow(2).mean(-1)
    return errors | {"changed_error_copy": float(moved[changed].mean())}


def train_latent_dynamics(config: LatentDynamicsConfig) -> Path:
    """Train, or resume, and write `dynamics.safetensors` (averaged weights) and `dynamics.json`.

    Returns:
        The weights file.
    """
    from accelerate import Accelerator
    from safetensors.torch import load_file, save_file

    torch.manual_seed(config.seed)
    action = ActionSpec(**json.loads((config.latents / "action.json").read_text()))
    batches = LatentBatches(config, action)
    grid, channels = batches.training.latents.shape[1:3], batches.training.latents.shape[3]
    network_config = DiTConfig(
        channels=channels,
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        patch=config.patch,
        action_width=action.width,
        head=config.head,
        band=config.band or None,
    )
    shift = config.shift or flow.schedule_shift(
        grid[0] * grid[1] // config.patch**2, channels * config.patch**2
    )
    network = DiT(network_config)
    if config.init is not None:
        try:
            network.load_state_dict({k: v.float() for k, v in load_file(config.init).items()})
        except RuntimeError as error:
            raise CheckpointError(
                f"--init {config.init} does not fit the network: {error}"
            ) from error
    if config.bf16:
        network.set_linear_dtype(torch.bfloat16)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    loop = TrainingLoop(
        config.out,
        TeacherForced(network) if config.context == "clean" else network,
        config.loop,
        fingerprint=asdict(config) | {"loop": None, "out": None, "compile": None},
        accelerator=accelerator,
    )
    if config.compile:
        loop.module.compile()
    label = 0.01 if config.context == "clean" else 0.0
    loss_function = DynamicsLoss(config, shift, label)
    share = config.batch // accelerator.num_processes
    if share * accelerator.num_processes != config.batch:
        raise ValueError(
            f"batch {config.batch} does not divide over {accelerator.num_processes} processes"
        )
    rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    probe = batches.probe()
    prefix = "network." if config.context == "clean" else ""

    def step_function(step: int):
        noise = generator(config.seed, step, stream=1)
        return loss_function(loop.module, batches.train(step), noise, rows)

    def measure(step: int) -> dict[str, float]:
        averaged = DiT(network_config)
        averaged.load_state_dict(_strip(loop.weights(), prefix))
        averaged.eval()
        measured: dict[str, float] = {}
        for t in (1.0, 0.7):
            measured |= action_sensitivity(averaged, probe, 0.01, config.change_threshold, t)
        return measured

    loop.run(step_function, every=config.probe_every, callback=measure)
    path = config.out / "dynamics.safetensors"
    if accelerator.is_main_process:
        weights = _strip(loop.weights(), prefix)
        save_file({k: v.contiguous().cpu() for k, v in weights.items()}, path)
        record = {
            "network": asdict(network_config),
            "objective": "flow",
            "shift": shift,
            "steps": loop.step,
            "hours": round(loop.seconds / 3600, 2),
        }
        (config.out / "dynamics.json").write_text(json.dumps(record, indent=1))
    return path


def _strip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items()}
