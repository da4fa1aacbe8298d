r"""Train PPO inside a world model, and see what it can do in the simulator.

The agent learns to move the peg to one block of the table. It never touches the simulator: every
step of its training is imagined by `WM-LangTable-VAE-v0`, from stored pictures of a table. Then it
acts in the simulator, from a hundred starts that neither it nor the world model has seen, beside
itself before it has learned anything.

    python examples/train_ppo_in_imagination.py

It writes to --out: `agent/` (a policy for wm-gym record and compare-real), `learning.png`,
`episodes.mp4`, `report.json`, and TensorBoard's curves. A second call goes on where the first was
stopped. To see in a few minutes that every part runs, make it small:

    python examples/train_ppo_in_imagination.py --out outputs/ppo_small --steps 256 --rows 8 \
        --horizon 8 --n-steps 8 --batch-size 32 --test-episodes 4 --test-steps 8

Why these settings:

* What the agent observes are the positions that the checkpoint's reward model reads in the latents
  (--observe positions, eighteen numbers). With --observe latents it learns to see by itself,
  through `LatentGridExtractor`, which is expected to take many times as long.
* The reward is dense (metres of progress, 1 at success). The classifier's alone is met by chance
  too rarely, and its probability is nearly flat far from success.
* Episodes of 25 steps: 36 cm of table at 3 cm a step take 12, and a short dream strays less.
* Two denoising steps, the fewest that know `surprise`, a unit of which costs --surprise-penalty:
  an agent that leaves what the world model has seen pays for it. 0 leaves that out.
* 32 rows: a step of many rows costs less a row than a step of few.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from wm_gym.evaluation.learn_in_imagination import ImaginedTraining, train_in_imagination
from wm_gym.policies.sb3.features import LatentGridExtractor


@dataclass(frozen=True)
class Args(ImaginedTraining):
    """Train PPO in imagination; measure it in the simulator."""

    out: Path = Path("outputs/train_ppo_in_imagination")
    """Folder for everything; a second call goes on there."""
    steps: int = 20_480
    """Imagined steps in all; by 12 000 the dream has no failures left."""
    n_steps: int = 32
    """Steps of every row between updates."""
    batch_size: int = 128
    """Samples per gradient step."""
    epochs: int = 8
    """Passes over the samples of an update."""
    learning_rate: float = 1e-3
    """Of Adam."""
    gamma: float = 0.95
    """Discount: a success ten steps later is worth 0.6."""


def make_agent(args: Args, envs: VecEnv) -> PPO:
    """PPO with random weights."""
    extractor = {"features_extractor_class": LatentGridExtractor}
    return PPO(
        "MlpPolicy",
        envs,
        learning_rate=args.learning_rate,
        n_steps=args.n_steps,
        batch_size=args.batch_size,
        n_epochs=args.epochs,
        gamma=args.gamma,
        gae_lambda=0.9,
        tensorboard_log=str(args.out / "tensorboard"),
        policy_kwargs=extractor if args.observe == "latents" else None,
        seed=args.seed,
        device=args.device,
    )


if __name__ == "__main__":
    train_in_imagination(tyro.cli(Args), make_agent)
