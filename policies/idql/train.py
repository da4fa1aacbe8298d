"""Trains the critics of an IDQL policy on recorded episodes, and saves it at several stages.

The defaults are those of the baseline of arXiv:2510.19818 (appendix): offline episodes of any
quality together with an expert's, a binary reward, implicit Q-learning on chunks of 8 actions. The
diffusion policy underneath is trained before. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.func import functional_call

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.errors import UserError
from wm_gym.policies.base import load_policy, save_policy
from wm_gym.policies.diffusion_policy.policy import DiffusionPolicy
from wm_gym.policies.idql.critics import Choice, Critics, CriticsConfig, iql_losses
from wm_gym.policies.idql.policy import IDQLPolicy
from wm_gym.policies.idql.transitions import Transitions
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator


@dataclass(frozen=True)
class TrainIDQLConfig:
    """What to train on, for how long, and what to keep."""

    policy: Path
    """Folder of a saved diffusion policy; the actions it carries out are a chunk."""
    data: tuple[Path, ...]
    """Folders of collected datasets, of any behaviour; tasks the policy does not know are left out.
    """
    out: Path
    """Folder for checkpoint, TensorBoard log and stages."""
    expectile: float = 0.8
    """Expectile of the value function."""
    gamma: float = 0.99
    """Discount of a step."""
    hidden: int = 256
    """Width of the critics' layers."""
    layers: int = 3
    """Hidden layers of each critic."""
    ensemble: int = 2
    """Number of Q functions."""
    batch: int = 128
    """Chunks per step."""
    samples: int = 1000
    """Chunks that the saved policies sample in every state."""
    choice: Choice = "softmax"
    """Which of them is carried out: weighted by exp(Q / temperature), by the critics' expectile, or
    the best."""
    temperature: float = 0.5
    """Temperature of the choice softmax."""
    stages: tuple[float, ...] = (1.0,)
    """Fractions of all steps after which the policy is saved."""
    seed: int = 0
    """Seed of weights and batches."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=250_000,
            learning_rate=3e-4,
            final_learning_rate_fraction=1.0,
            warmup_steps=0,
            betas=(0.9, 0.999),
            weight_decay=0.0,
            clip=10.0,
            ema=0.995,
            ema_from_start=True,
            save_every=5000,
            log_every=500,
        )
    )
    """How long and how to optimise; the average of the weights is the target network."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.stages or not all(0 < stage <= 1 for stage in self.stages):
            raise UserError(f"stages={self.stages}: expected fractions above 0 and at most 1")
        if not 0 < self.expectile < 1 or not 0 < self.gamma <= 1:
            raise UserError(
                f"expectile={self.expectile}, gamma={self.gamma}: expected between 0 and 1, and "
                "above 0 and at most 1"
            )
        if not self.loop.ema:
            raise UserError("loop.ema=0 leaves no target network: pass --loop.ema 0.995")


def train_idql(config: TrainIDQLConfig) -> list[Path]:
    """Trains, or goes on with, the critics.

    Args:
        config: what to train on and for how long.

    Returns:
        Folders of the saved stages, in order.

    Raises:
        ValueError: if `policy` holds another kind, or the data no usable episode.
    """
    torch.manual_seed(config.seed)
    base = load_policy(config.policy)
    if not isinstance(base, DiffusionPolicy):
        raise UserError(
            f"policy={config.policy} holds a {base.kind!r} policy; expected 'diffusion-policy', "
            "which `wm-gym train diffusion-policy` makes"
        )
    # stages are stored in bfloat16: the critics learn from what the stored encoder sees
    base.network.to(torch.bfloat16).float()
    transitions = Transitions(
        [EpisodeDataset(folder) for folder in config.data],
        base.network,
        base.normalise,
        chunk=base.execute,
        gamma=config.gamma,
    )
    sizes = CriticsConfig(
        transitions.features.shape[1],
        transitions.chunks.shape[1],
        config.hidden,
        config.layers,
        config.ensemble,
    )
    critics = Critics(sizes)
    identity = {**asdict(config), "out": None, "loop": {**asdict(config.loop), "max_minutes": 0}}
    loop = TrainingLoop(Path(config.out), critics, config.loop, fingerprint=identity)
    device = loop.accelerator.device
    stages = {
        round(stage * config.loop.steps): Path(config.out) / f"stage_{k}"
        for k, stage in enumerate(sorted(config.stages), 1)
    }

    def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows = torch.randint(
            len(transitions), (config.batch,), generator=generator(config.seed, step)
        )
        features = transitions.features[transitions.begin[rows]].to(device)
        after = transitions.features[transitions.end[rows]].to(device)
        chunks = transitions.chunks[rows].to(device)
        with torch.no_grad():
            target_q = functional_call(critics.q, _of(loop.ema, "q."), (features, chunks))
        found = loop.module(features, chunks, after)
        v_loss, q_loss = iql_losses(
            found,
            target_q,
            transitions.reward[rows].to(device),
            transitions.discount[rows].to(device),
            config.expectile,
        )
        logs = {"v_loss": v_loss.detach(), "q_loss": q_loss.detach(), "v": found[1].mean().detach()}
        return v_loss + q_loss, logs

    def save(step: int) -> None:
        if step in stages:
            kept = Critics(sizes)
            kept.load_state_dict(critics.state_dict())
            kept.q.load_state_dict(_of(loop.ema, "q."))  # samples are judged by the target network
            policy = IDQLPolicy(
                base,
                kept,
                mean=transitions.mean.tolist(),
                std=transitions.std.tolist(),
                samples=config.samples,
                choice=config.choice,
                temperature=config.temperature,
                expectile=config.expectile,
            )
            training = {
                "recipe": "wm-gym train idql",
                "settings": json.loads(json.dumps(asdict(config), default=str)),
                "chunks": len(transitions),
                "rewarded": round(transitions.rewarded, 4),
                "step": step,
                "seconds": round(loop.seconds),
            }
            save_policy(policy, stages[step], training=training, dtype=torch.bfloat16)

    loop.run(losses, every=1, callback=save)
    return [folder for step, folder in stages.items() if step <= loop.step]


def _of(weights: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The weights of one part, under the names that they have in it."""
    return {
        name.removeprefix(part): tensor for name, tensor in weights.items() if name.startswith(part)
    }
