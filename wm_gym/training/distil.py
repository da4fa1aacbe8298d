"""Recipe: `wm-gym train distil`, a few-step student of a trained transition network.

The teacher walks its K-step trajectory from noise to latents; the student learns to make each of
its
few, long steps in one pass: at the start of a segment it regresses the mean velocity that leads to
the
teacher's point at the segment's end. Only modulation, time and action embeddings and the output
head
may be trained (`trained="modulation"`), which keeps the shipped difference small, or everything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch

from wm_gym.data.latent_clips import read_action_spec
from wm_gym.dynamics import flow
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.errors import UserError
from wm_gym.packed_files import load_tensors
from wm_gym.training.dynamics_loss import TeacherForced, action_sensitivity, changed_tokens
from wm_gym.training.latent_dynamics import LatentBatches, LatentDynamicsConfig
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator
from wm_gym.training.run_folder import write_run


@dataclass(frozen=True)
class DistilConfig:
    """Distil a few-step student."""

    teacher: Path
    """Run folder of `wm-gym train latent-dynamics`."""
    latents: Path
    """Folder of precomputed latents."""
    out: Path
    """Run folder; at the end `distilled.safetensors` and `distilled.json`."""
    steps: int = 2
    """Denoising steps of the student."""
    teacher_steps: int = 8
    """Denoising steps of the teacher, a multiple of the student's."""
    trained: Literal["all", "modulation"] = "all"
    """Which weights are trained."""
    clip_length: int = 12
    """Frames per clip."""
    predicted: int = 4
    """Frames at the end of each clip that are trained."""
    history_noise: float = 0.2
    """Sigma of the noise level on context frames."""
    change_weight: float = 6.0
    """Weight of tokens that differ from the frame before."""
    change_threshold: float = 0.1
    """Mean absolute latent change above which a token counts as changed."""
    batch: int = 8
    """Clips a step."""
    bf16: bool = True
    """Linear layers in bfloat16."""
    seed: int = 0
    """Seed of batches and noise."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=600,
            learning_rate=3e-4,
            final_learning_rate_fraction=0.05,
            warmup_steps=50,
            ema=0.99,
            save_every=100,
        )
    )
    """Optimisation."""


def train_distil(config: DistilConfig) -> Path:
    """Train, or resume, and write the student.

    Returns:
        The weights file.

    Raises:
        ValueError: if the teacher's steps are not a multiple of the student's.
    """
    if config.teacher_steps % config.steps:
        raise UserError(
            f"--teacher-steps {config.teacher_steps} is not a multiple of --steps {config.steps}"
        )
    torch.manual_seed(config.seed)
    record = json.loads((config.teacher / "dynamics.json").read_text(encoding="utf-8"))
    network_config = DiTConfig(**record["network"])
    weights = load_tensors(config.teacher / "dynamics.safetensors")
    teacher, student = DiT(network_config), DiT(network_config)
    for network in (teacher, student):
        network.load_state_dict(weights)
        if config.bf16:
            network.set_linear_dtype(torch.bfloat16)
    teacher.requires_grad_(False).eval()
    if config.trained == "modulation":
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(
                any(
                    part in name for part in ("adaLN", "final_layer", "timestep", "action_embedder")
                )
            )
    loop = TrainingLoop(
        config.out,
        TeacherForced(student),
        config.loop,
        fingerprint=asdict(config) | {"loop": None, "out": None},
    )
    device = loop.accelerator.device
    teacher.to(device)
    data_config = LatentDynamicsConfig(
        latents=config.latents,
        out=config.out,
        clip_length=config.clip_length,
        batch=config.batch,
        seed=config.seed,
    )
    action = read_action_spec(config.latents)
    batches = LatentBatches(data_config, action)
    times = flow.FlowSampler(config.teacher_steps, record["shift"]).schedule
    stride = config.teacher_steps // config.steps

    def step_function(step: int):
        noise = generator(config.seed, step)
        batch = batches.train(step)
        count = len(batch.latents)
        context = flow.noise_history(batch.latents, noise, config.history_noise).to(device)
        labels = torch.full(context.shape[:2], 0.01 * flow.TIMESTEP_SCALE, device=device)
        actions = batch.actions.to(device)
        shape = (count, 1, config.predicted, *batch.latents.shape[2:])
        x = torch.randn(shape, generator=noise).to(device)
        corners = [x]
        with torch.no_grad():
            for now, after in pairwise(times):
                t = torch.full(shape[:3], float(now) * flow.TIMESTEP_SCALE, device=device)
                velocity = teacher.teacher_forced_forward(x, t, context, labels, actions)
                x = x - float(now - after) * velocity
                corners.append(x)
        starts = corners[:-1:stride]
        ends = corners[stride::stride]
        noisy = torch.cat(starts, dim=1)  # (B, student steps, M, h, w, D)
        begin, end = times[:-1:stride], times[stride::stride]
        t = begin[None, :, None].expand(noisy.shape[:3]).to(device) * flow.TIMESTEP_SCALE
        velocity = loop.module(noisy, t, context, labels, actions)
        spans = (begin - end).to(device)[None, :, None, None, None, None]
        # errors of the points reached, not of velocities: long steps weigh more
        error = (velocity * spans - (noisy - torch.cat(ends, dim=1))).pow(2)
        changed = changed_tokens(batch.latents, config.change_threshold)
        weight = 1.0 + (config.change_weight - 1.0) * changed[:, -config.predicted :, :, :, None]
        weight = (weight / weight.mean()).to(device)[:, None]
        return (weight * error).mean(), {"step_error": error.detach().mean()}

    probe = batches.probe()

    def measure(step: int) -> dict[str, float]:
        averaged = DiT(network_config)
        averaged.load_state_dict({k.removeprefix("network."): v for k, v in loop.weights().items()})
        return action_sensitivity(averaged.eval(), probe, 0.01, config.change_threshold, 1.0)

    loop.run(step_function, every=100, callback=measure)
    path = config.out / "distilled.safetensors"
    weights = {k.removeprefix("network."): v for k, v in loop.weights().items()}
    figures = {
        "network": record["network"],
        "denoising_steps": config.steps,
        "hours": round(loop.seconds / 3600, 2),
    }
    return write_run(path, weights, config.out / "distilled.json", figures)
