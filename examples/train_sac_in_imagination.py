r"""Train SAC inside a world model, and see what it can do in the simulator.

The agent learns to move the peg to one block of the table. It never touches the simulator: every
step of its training is imagined by `WM-LangTable-VAE-v0`, from stored pictures of a table. Then it
acts in the simulator, from a hundred starts that neither it nor the world model has seen, beside
itself before it has learned anything.

    python examples/train_sac_in_imagination.py

It writes to --out: `agent/` (a policy for wm-gym record and compare-real), `learning.png`,
`episodes.mp4`, `report.json`, and TensorBoard's curves. A second call goes on where the first was
stopped. To see in a few minutes that every part runs, make it small:

    python examples/train_sac_in_imagination.py --out outputs/sac_small --steps 256 --rows 8 \
        --horizon 8 --learning-starts 64 --batch-size 32 --test-episodes 4 --test-steps 8

Why these settings (those of the dream are explained in examples/train_ppo_in_imagination.py):

* SAC learns from every imagined step many times, so half as many steps should do. A step of eight
  rows is followed by --gradient-steps updates.
* Eight rows, because a step of eight is followed by as many updates as one of thirty-two: more
  rows would mean staler data for the same number of updates.
* The replay buffer holds positions, so it is small enough to be saved with the agent. With
  --observe latents a step takes 8 KB of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv

from wm_gym.evaluation.learn_in_imagination import ImaginedTraining, train_in_imagination
from wm_gym.policies.sb3.features import LatentGridExtractor


@dataclass(frozen=True)
class Args(ImaginedTraining):
    """Train SAC in imagination; measure it in the simulator."""

    out: Path = Path("outputs/train_sac_in_imagination")
    """Folder for everything; a second call goes on there."""
    steps: int = 30_000
    """Imagined steps in all."""
    rows: int = 8
    """Episodes imagined at once."""
    save_every: int = 4000
    """Imagined steps between saves."""
    gradient_steps: int = 2
    """Gradient steps after a step of all rows."""
    batch_size: int = 256
    """Samples per gradient step."""
    buffer_size: int = 50_000
    """Imagined steps that are remembered."""
    learning_starts: int = 800
    """Imagined steps with random actions before the first update."""
    learning_rate: float = 1e-3
    """Of Adam."""
    gamma: float = 0.95
    """Discount: a success ten steps later is worth 0.6."""


def make_agent(args: Args, envs: VecEnv) -> SAC:
    """SAC with random weights."""
    extractor = {"features_extractor_class": LatentGridExtractor}
    return SAC(
        "MlpPolicy",
        envs,
        learning_rate=args.learning_rate,
        buffer_size=args.buffer_size,
        learning_starts=args.learning_starts,
        batch_size=args.batch_size,
        train_freq=1,
        gradient_steps=args.gradient_steps,
        gamma=args.gamma,
        tensorboard_log=str(args.out / "tensorboard"),
        policy_kwargs=extractor if args.observe == "latents" else None,
        seed=args.seed,
        device=args.device,
    )


if __name__ == "__main__":
    train_in_imagination(tyro.cli(Args), make_agent)
