"""Trains an image behaviour-cloning policy of a simulated domain, and saves it at several stages.

Episodes come from `wm-gym collect`, examples and labels from `cloning_examples`. The simulator's
state serves as label only, also for an auxiliary loss that says where effector and objects are; the
policy sees frames and words. `benchmarks/recipes/*-bc.sh` hold the commands, from nothing to the
stages that ship. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import DOMAINS, Domain, domain_of
from wm_gym.envs.sims.teachers import TEACHERS
from wm_gym.errors import UserError
from wm_gym.policies.base import save_policy
from wm_gym.policies.behaviour_cloning import (
    BehaviourCloningConfig,
    BehaviourCloningNetwork,
    BehaviourCloningPolicy,
)
from wm_gym.policies.cloning_examples import CloningExamples, Labels, PlacedFrames
from wm_gym.policies.goal_encoder import cell_centres, encode_goals
from wm_gym.spec import FrameSpec
from wm_gym.training.encode_latents import simulator_of
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator


@dataclass(frozen=True)
class TrainBehaviourCloningConfig:
    """What to train on, for how long, and what to keep."""

    data: tuple[Path, ...]
    """Folders of collected datasets with privileged states, to imitate."""
    out: Path
    """Folder for checkpoint, TensorBoard log and stages."""
    look: tuple[Path, ...] = ()
    """Folders of further datasets, by whomever, that only teach where things are."""
    domain: str = "auto"
    """Simulated domain, e.g. langtable: actions, words, expert; auto takes that of the episodes."""
    tasks: tuple[str, ...] = ()
    """Tasks to learn; all of the domain by default."""
    behaviours: tuple[str, ...] = ("expert", "noisy_expert")
    """Whose episodes to use."""
    labels: Labels = "clean"
    """What to imitate in every state: what an expert without noise would do, or what was done."""
    batch: int = 48
    """Frames to imitate per step."""
    look_batch: int = 16
    """Frames of `look` per step."""
    auxiliary_weight: float = 0.1
    """Weight of the loss on where things are."""
    stages: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0)
    """Fractions of `loop.steps` after which the policy is saved."""
    head_steps: int = 4000
    """Steps of a second phase that trains the action head alone, on frozen features."""
    head_batch: int = 256
    """Examples per step of the second phase."""
    head_stages: tuple[float, ...] = (0.1, 1.0)
    """Fractions of the second phase after which the policy is saved."""
    execute: int = 2
    """How many actions of a predicted chunk the saved policies carry out."""
    chunk: int = 4
    """Actions predicted at once."""
    seed: int = 0
    """Seed of weights, batches and augmentation."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=4000,
            learning_rate=1.5e-3,
            final_learning_rate_fraction=0.0,
            warmup_steps=100,
            weight_decay=1e-2,
            save_every=250,
        )
    )
    """How long and how to optimise."""

    def __post_init__(self) -> None:
        """Check the stages."""
        if not self.stages or not all(0 < stage <= 1 for stage in self.stages):
            raise UserError(f"stages={self.stages}: expected fractions above 0 and at most 1")

    @property
    def stage_steps(self) -> dict[int, int]:
        """Stage number, from 1, by the step after which it is saved."""
        return {
            max(1, round(stage * self.loop.steps)): k
            for k, stage in enumerate(sorted(self.stages), 1)
        }


def augment(frames: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Brightness for all rows, blur for every other, noise for every fourth: float (B, H, W, 3).

    An imagined frame is softer than a rendered one; a policy that needs every pixel would fail
    there for reasons that say nothing about the dynamics.
    """
    x = frames.to(torch.float32)
    planes = x[::2].permute(0, 3, 1, 2)
    smooth = F.avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    x[::2] = smooth.permute(0, 2, 3, 1)
    x *= 1 + 0.1 * (torch.rand(len(x), 1, 1, 1, generator=random) - 0.5)
    some = x[::4]
    sigma = 10 * torch.rand(len(some), 1, 1, 1, generator=random)
    some += sigma * torch.randn(some.shape, generator=random)
    return x.clamp_(0, 255)


def place_loss(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between attention and a bump of one cell's width around the truth.

    Args:
        logits: (B, K, P) over a square grid of cells.
        positions: (B, K, 2) within ±1; NaN for what is not there, which has no part in the loss.
    """
    side = math.isqrt(logits.shape[-1])
    centres = cell_centres(side, side).to(positions)
    there = positions.isfinite().all(-1)  # (B, K)
    squared = (positions.nan_to_num()[:, :, None] - centres).square().sum(-1)  # (B, K, P)
    bump = (-0.5 * squared * (side / 2) ** 2).softmax(dim=-1)
    return -(bump * logits.log_softmax(dim=-1)).sum(-1)[there].mean()


def _masked_l1(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    known = ~target.isnan()
    return (prediction - target.nan_to_num()).abs()[known].mean()


def choose_domain(name: str, datasets: Sequence[EpisodeDataset]) -> Domain:
    """The domain of a name, or that all episodes come from.

    Raises:
        ValueError: if the name is unknown, or the episodes are of several simulators or of none.
    """
    if name in DOMAINS:
        return DOMAINS[name]
    simulators = {simulator_of(dataset) for dataset in datasets}
    domain = domain_of(simulators.pop()) if len(simulators) == 1 else None
    if name != "auto" or domain is None:
        raise UserError(
            f"domain={name!r}: expected one of {list(DOMAINS)}, or auto and episodes of one of "
            f"their simulators; {[str(dataset.folder) for dataset in datasets]} are of "
            f"{sorted({str(simulator_of(dataset)) for dataset in datasets})}"
        )
    return domain


def train_behaviour_cloning(config: TrainBehaviourCloningConfig) -> list[Path]:
    """Trains, or goes on with, a policy.

    The whole network first; when that is done, or out of time (`loop.max_minutes`), the action head
    alone, on features that are computed once.

    Args:
        config: what to train on and for how long.

    Returns:
        Folders of the saved stages, in order.
    """
    torch.manual_seed(config.seed)
    datasets = [EpisodeDataset(folder) for folder in config.data]
    domain = choose_domain(config.domain, datasets)
    teacher = TEACHERS[domain.twin]
    tasks = config.tasks or tuple(domain.tasks)
    examples = CloningExamples(
        datasets,
        teacher,
        domain.action,
        tasks=tasks,
        behaviours=config.behaviours,
        chunk=config.chunk,
        cache=Path(config.out) / "expert_labels.npz",
        labels=config.labels,
    )
    placed = PlacedFrames([EpisodeDataset(folder) for folder in config.look], teacher)
    network_config = BehaviourCloningConfig(
        {task: domain.tasks[task] for task in tasks},
        domain.objects,
        action_size=domain.action.size,
        chunk=config.chunk,
    )
    network = BehaviourCloningNetwork(network_config)
    network.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    out = Path(config.out)
    identity = {**asdict(config), "out": None, "loop": {**asdict(config.loop), "max_minutes": 0}}
    identity = {key: value for key, value in identity.items() if not key.startswith("head_")}
    if config.labels == "clean":  # so were all, before there was a choice
        del identity["labels"]
    loop = TrainingLoop(out, network, config.loop, fingerprint=identity)
    device = loop.accelerator.device

    def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rng = np.random.default_rng((config.seed, step))
        frames, goals, actions, positions = examples.batch(
            rng.integers(len(examples), size=config.batch)
        )
        if len(placed) and config.look_batch:
            more, where = placed.batch(rng.integers(len(placed), size=config.look_batch))
            frames, positions = torch.cat([frames, more]), torch.cat([positions, where])
            goals += [goals[0]] * len(more)  # their actions are not looked at
        frames = augment(frames, generator(config.seed, step))
        tasks, objects = encode_goals(network_config, goals)
        with torch.autocast(device.type, torch.bfloat16):
            predicted, seen = loop.module(frames.to(device), tasks.to(device), objects.to(device))
        action = _masked_l1(predicted[: len(actions)].float(), actions.to(device))
        position = place_loss(seen.float(), positions.to(device))
        loss = action + config.auxiliary_weight * position
        return loss, {"action": action.detach(), "position": position.detach()}

    def save(step: int) -> None:
        if step in config.stage_steps:
            folder = out / f"stage_{config.stage_steps[step]}"
            _save_stage(folder, network, config, domain, examples, step, loop.seconds)

    loop.run(losses, every=1, callback=save)
    stages = [out / f"stage_{k}" for step, k in config.stage_steps.items() if step <= loop.step]
    return stages + _train_head(network.eval(), examples, config, domain, len(stages), loop)


def _train_head(
    network: BehaviourCloningNetwork,
    examples: CloningExamples,
    config: TrainBehaviourCloningConfig,
    domain: Domain,
    stages: int,
    loop: TrainingLoop,
) -> list[Path]:
    """The second phase: minutes of encoding once, then steps that cost next to nothing."""
    if not config.head_steps:
        return []
    features, labels = [], []
    order = np.arange(len(examples))
    for number, indices in enumerate(tqdm(np.array_split(order, len(order) // 64 + 1), "encoding")):
        frames, goals, actions, _ = examples.batch(indices)
        tasks, objects = encode_goals(network.config, goals)
        frames = augment(frames, generator(config.seed, number, 1))
        with torch.inference_mode():
            features.append(network.features(frames, tasks, objects)[0])
        labels.append(actions)
    inputs, targets = torch.cat(features).clone(), torch.cat(labels)
    optimiser = torch.optim.AdamW(network.head.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.head_steps)
    saved = {
        round(fraction * config.head_steps): config.out / f"stage_{stages + k}"
        for k, fraction in enumerate(sorted(config.head_stages), 1)
    }
    for step in tqdm(range(1, config.head_steps + 1), "action head", mininterval=5):
        rows = torch.randint(
            len(inputs), (config.head_batch,), generator=generator(config.seed, step, 2)
        )
        loss = _masked_l1(network.actions(inputs[rows]), targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in saved:
            print(f"head step {step}: action loss {loss.item():.4f}")
            _save_stage(
                saved[step], network, config, domain, examples, loop.step, loop.seconds, step
            )
    return list(saved.values())


def _save_stage(
    folder: Path,
    network: BehaviourCloningNetwork,
    config: TrainBehaviourCloningConfig,
    domain: Domain,
    examples: CloningExamples,
    step: int,
    seconds: float,
    head_step: int = 0,
) -> None:
    height, width = examples.datasets[0].frames(0, slice(0, 1)).shape[1:3]
    policy = BehaviourCloningPolicy(
        domain.action,
        FrameSpec(height, width, domain.frame.camera),
        network,
        execute=config.execute,
    )
    training = {
        "recipe": "wm-gym train behaviour-cloning",
        "settings": json.loads(json.dumps(asdict(config), default=str)),
        "examples": len(examples),
        "step": step,
        "head_step": head_step,
        "seconds": round(seconds),
    }
    save_policy(policy, folder, training=training, dtype=torch.bfloat16)


if __name__ == "__main__":
    import tyro

    for stage in train_behaviour_cloning(tyro.cli(TrainBehaviourCloningConfig)):
        print(stage)
