"""Trains a diffusion policy of a simulated domain, and saves it at several stages.

Examples and labels are those of behaviour cloning (`cloning_examples`). The published policies are
trained for one task each (arXiv:2510.19818, appendix); this one learns all tasks from instructions.
`benchmarks/recipes/*-diffusion-policy.sh` hold the commands. Interrupted, the same command goes on
where it was.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import Domain
from wm_gym.envs.sims.teachers import TEACHERS
from wm_gym.errors import UserError
from wm_gym.policies.base import load_policy, save_policy
from wm_gym.policies.behaviour_cloning import BehaviourCloningPolicy
from wm_gym.policies.cloning_examples import CloningExamples
from wm_gym.policies.diffusion_policy.examples import ChunkExamples
from wm_gym.policies.diffusion_policy.network import (
    DiffusionNetwork,
    DiffusionNetworkConfig,
    Vocabulary,
)
from wm_gym.policies.diffusion_policy.noise import NoiseConfig, training_scheduler
from wm_gym.policies.diffusion_policy.policy import DiffusionPolicy
from wm_gym.policies.diffusion_policy.vision import AttentionEncoder
from wm_gym.policies.goal_encoder import encode_goals
from wm_gym.policies.train_behaviour_cloning import augment, choose_domain, place_loss
from wm_gym.spec import FrameSpec
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator, planned


@dataclass(frozen=True)
class TrainDiffusionPolicyConfig:
    """What to train on, for how long, and what to keep."""

    data: tuple[Path, ...]
    """Folders of collected datasets with privileged states, to imitate."""
    out: Path
    """Folder for checkpoint, TensorBoard log and stages."""
    domain: str = "auto"
    """Simulated domain, e.g. langtable: actions, words, expert; auto takes that of the episodes."""
    tasks: tuple[str, ...] = ()
    """Tasks to learn; all of the domain by default."""
    behaviours: tuple[str, ...] = ("expert", "noisy_expert")
    """Whose episodes to use."""
    network: DiffusionNetworkConfig = field(default_factory=DiffusionNetworkConfig)
    """Sizes; the published ones by default, which want a GPU."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Noise of training; the published one by default."""
    encoder_from: Path | None = None
    """Saved behaviour-cloning policy whose encoder the attention encoder begins with."""
    freeze_encoder: bool = False
    """Leave that encoder as it is: every frame is looked at once, before the first step."""
    batch: int = 128
    """Examples per step."""
    copies: int = 1
    """Noisy chunks per example and step; frames are looked at once for all of them."""
    end_padding: int = 12
    """Labels of a chunk that may lie after the episode's end, where its last label is repeated."""
    auxiliary_weight: float = 0.1
    """Weight of an attention encoder's loss on where things are."""
    stages: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0)
    """Fractions of all steps after which the policy is saved."""
    execute: int = 8
    """How many actions of a predicted chunk the saved policies carry out."""
    denoising_steps: int = 10
    """Denoising steps of the saved policies."""
    epochs: int = 100
    """Length where --loop.steps is 0."""
    seed: int = 0
    """Seed of weights, batches, noise and augmentation."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=0,
            learning_rate=1e-4,
            final_learning_rate_fraction=0.0,
            warmup_steps=500,
            betas=(0.95, 0.999),
            weight_decay=1e-6,
            clip=10.0,
            ema=0.9999,
            save_every=250,
        )
    )
    """How long and how to optimise."""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if not self.stages or not all(0 < stage <= 1 for stage in self.stages):
            raise UserError(f"stages={self.stages}: expected fractions above 0 and at most 1")
        if self.batch < 1 or self.copies < 1:
            raise UserError(f"batch={self.batch}, copies={self.copies}: expected at least 1 each")
        if self.encoder_from is not None and self.network.encoder != "attention":
            raise UserError(
                f"encoder_from={self.encoder_from} fits encoder='attention', not "
                f"{self.network.encoder!r}"
            )
        if self.freeze_encoder and self.encoder_from is None:
            raise UserError("freeze_encoder=True freezes what encoder_from names, and it is None")

    def stage_steps(self, steps: int) -> dict[int, int]:
        """Stage number, from 1, by the step of `steps` after which it is saved."""
        return {max(1, round(stage * steps)): k for k, stage in enumerate(sorted(self.stages), 1)}


def random_crop(
    frames: torch.Tensor, crop: tuple[int, int], random: torch.Generator
) -> torch.Tensor:
    """Frames (B, n, H, W, 3) cut to a height and width, at one place for the frames of a row."""
    room = torch.tensor(frames.shape[2:4]) - torch.tensor(crop) + 1
    if (room < 1).any():
        raise UserError(f"crop={crop} is larger than the frames, {tuple(frames.shape[2:4])}")
    corners = (torch.rand(len(frames), 2, generator=random) * room).long().tolist()
    return torch.stack(
        [
            row[:, top : top + crop[0], left : left + crop[1]]
            for row, (top, left) in zip(frames, corners, strict=True)
        ]
    )


def train_diffusion_policy(config: TrainDiffusionPolicyConfig) -> list[Path]:
    """Trains, or goes on with, a policy.

    Args:
        config: what to train on and for how long.

    Returns:
        Folders of the saved stages, in order.
    """
    torch.manual_seed(config.seed)
    datasets = [EpisodeDataset(folder) for folder in config.data]
    domain = choose_domain(config.domain, datasets)
    tasks = config.tasks or tuple(domain.tasks)
    out = Path(config.out)
    cloned = CloningExamples(
        datasets,
        TEACHERS[domain.twin],
        domain.action,
        tasks=tasks,
        behaviours=config.behaviours,
        chunk=config.network.horizon,
        cache=out / "expert_labels.npz",
    )
    examples = ChunkExamples(
        cloned,
        domain.action,
        observations=config.network.observations,
        horizon=config.network.horizon,
        end_padding=config.end_padding,
    )
    vocabulary = Vocabulary({task: domain.tasks[task] for task in tasks}, domain.objects)
    network = DiffusionNetwork(config.network, vocabulary, domain.action.size)
    if config.encoder_from is not None:
        _take_encoder(network, config.encoder_from)
    looked = None
    if config.freeze_encoder:
        assert isinstance(network.rgb_encoder, AttentionEncoder)
        network.rgb_encoder.look.requires_grad_(False)
        looked = _look_once(network, examples, config.seed)
    network.train()
    identity = {**asdict(config), "out": None, "loop": {**asdict(config.loop), "max_minutes": 0}}
    settings = planned(config.loop, config.epochs, math.ceil(len(examples) / config.batch))
    loop = TrainingLoop(out, network, settings, fingerprint=identity)
    stage_steps = config.stage_steps(settings.steps)
    device, goal_config = loop.accelerator.device, vocabulary.encoder_config()
    scheduler = training_scheduler(config.noise)

    def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rng, random = np.random.default_rng((config.seed, step)), generator(config.seed, step)
        chosen = rng.integers(len(examples), size=config.batch)
        batch = examples.batch(chosen, frames=looked is None)
        if looked is None:
            # the frames of a row side by side, so that what is done to one is done to all
            rows = augment(batch.frames.flatten(1, 2), random)
            frames = rows.unflatten(1, batch.frames.shape[1:3])
            if config.network.crop is not None:
                frames = random_crop(frames, config.network.crop, random)
        else:
            frames = torch.stack(
                [looked[n, e][torch.from_numpy(examples.states(t))] for n, e, t in batch.where]
            )
        tasks, objects = encode_goals(goal_config, batch.goals)
        actions = batch.actions.repeat_interleave(config.copies, dim=0)
        noise = torch.randn(actions.shape, generator=random)
        times = torch.randint(config.noise.steps, (len(actions),), generator=random)
        noisy = scheduler.add_noise(actions, noise, times)  # pyright: ignore[reportArgumentType]
        predicted, logits = loop.module(
            frames.to(device),
            tasks.to(device),
            objects.to(device),
            noisy.to(device),
            times.to(device),
            looked=looked is not None,
        )
        wanted = noise if config.noise.prediction == "epsilon" else actions
        denoising = F.mse_loss(predicted, wanted.to(device))
        logs = {"denoising": denoising.detach()}
        if logits is None:
            return denoising, logs
        position = place_loss(logits.float(), batch.positions.flatten(0, 1).to(device))
        logs["position"] = position.detach()
        return denoising + config.auxiliary_weight * position, logs

    def save(step: int) -> None:
        if step in stage_steps:
            averaged = DiffusionNetwork(config.network, vocabulary, domain.action.size)
            averaged.load_state_dict(loop.weights())
            _save_stage(
                out / f"stage_{stage_steps[step]}", averaged, config, domain, examples, loop
            )

    loop.run(losses, every=1, callback=save)
    return [out / f"stage_{k}" for step, k in stage_steps.items() if step <= loop.step]


def _take_encoder(network: DiffusionNetwork, folder: Path) -> None:
    """Copies the encoder of a saved behaviour-cloning policy.

    Raises:
        ValueError: if the folder holds no such policy, or one for other words.
    """
    policy, encoder = load_policy(folder), network.rgb_encoder
    if not isinstance(policy, BehaviourCloningPolicy):
        raise UserError(
            f"encoder_from={folder} holds a {policy.kind!r} policy; expected 'behaviour-cloning'"
        )
    assert isinstance(encoder, AttentionEncoder)
    theirs, ours = policy.network.config, encoder.look.config
    if (theirs.templates, theirs.objects) != (ours.templates, ours.objects):
        raise UserError(
            f"encoder_from={folder} understands {theirs.templates} with {list(theirs.objects)}; "
            f"expected {ours.templates} with {list(ours.objects)}: train both with the same --tasks"
        )
    weights = {
        name: tensor
        for name, tensor in policy.network.state_dict().items()
        if not name.startswith("head.")
    }
    encoder.look.load_state_dict(weights)


@torch.inference_mode()
def _look_once(
    network: DiffusionNetwork, examples: ChunkExamples, seed: int
) -> dict[tuple[int, int], torch.Tensor]:
    """What the encoder sees in every state of every episode, (T+1, F) by dataset and episode."""
    looked = {}
    episodes = sorted({(number, episode) for number, episode, _ in examples.where})
    for number, at in enumerate(tqdm(episodes, "looking", unit="episode")):
        frames = torch.from_numpy(np.array(examples.examples.datasets[at[0]].frames(at[1])))
        frames = augment(frames, generator(seed, number, 1))[:, None]
        goals = [examples.examples.goals[at]] * len(frames)
        tasks, objects = encode_goals(network.vocabulary.encoder_config(), goals)
        looked[at] = network.look(frames, tasks, objects)[0][:, 0].clone()
    return looked


def _save_stage(
    folder: Path,
    network: DiffusionNetwork,
    config: TrainDiffusionPolicyConfig,
    domain: Domain,
    examples: ChunkExamples,
    loop: TrainingLoop,
) -> None:
    height, width = examples.examples.datasets[0].frames(0, slice(0, 1)).shape[1:3]
    policy = DiffusionPolicy(
        domain.action,
        FrameSpec(height, width, domain.frame.camera),
        network,
        low=examples.low.tolist(),
        high=examples.high.tolist(),
        noise=config.noise,
        execute=config.execute,
        steps=config.denoising_steps,
    )
    settings = replace(config, loop=loop.config)
    training = {
        "recipe": "wm-gym train diffusion-policy",
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
        "examples": len(examples),
        "step": loop.step,
        "seconds": round(loop.seconds),
    }
    save_policy(policy, folder, training=training, dtype=torch.bfloat16)
