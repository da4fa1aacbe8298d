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

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import wm_gym  # noqa: F401  registers the ids
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.evaluation.true_success import measure_learning
from wm_gym.policies.base import save_policy
from wm_gym.policies.sb3.features import LatentGridExtractor
from wm_gym.policies.sb3.learning import learn
from wm_gym.policies.sb3.policy import SB3Policy
from wm_gym.policies.sb3.positions import ReadPositions
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv


@dataclass(frozen=True)
class Args:
    """Train PPO in imagination; measure it in the simulator."""

    checkpoint: str = "embedded"
    """World model to learn in: embedded, a folder, or hf://org/repo@revision."""
    out: Path = Path("outputs/train_ppo_in_imagination")
    """Folder for everything; a second call goes on there."""
    target: str = "red moon"
    """Block to reach."""
    observe: Literal["positions", "latents"] = "positions"
    """Positions that the reward model reads, or the latents themselves."""
    steps: int = 60_000
    """Imagined steps in all."""
    rows: int = 32
    """Episodes imagined at once."""
    horizon: int = 25
    """Steps per imagined episode."""
    denoising_steps: int = 2
    """Denoising steps per imagined frame."""
    surprise_penalty: float = 0.1
    """What a unit of surprise costs in each step's reward."""
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
    save_every: int = 4096
    """Imagined steps between saves."""
    device: str = "cpu"
    """Torch device of world model and agent."""
    seed: int = 0
    """Seed of agent and dream."""
    test_episodes: int = 100
    """Episodes in the simulator."""
    test_seed: int = 8000
    """Seed of the first of them; the world model was trained on lower ones."""
    test_steps: int = 40
    """Longest of them."""


def make_dream(args: Args) -> VecEnv:
    """The environment of the training: nothing but a world model."""
    dream = gym.make_vec(
        "WM-LangTable-VAE-v0",
        num_envs=args.rows,
        checkpoint=args.checkpoint,
        obs="latents",  # nothing is decoded
        reward="distance",
        horizon=args.horizon,
        denoising_steps=args.denoising_steps,
        surprise_penalty=args.surprise_penalty,
        device=args.device,
        autoreset_mode="Disabled",
    )
    envs = VecMonitor(ImaginedVecEnv(dream, options={"instruction": f"reach the {args.target}"}))
    return ReadPositions(envs) if args.observe == "positions" else envs


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


def main(args: Args) -> dict[str, Any]:
    """Train, then measure the agent before and after.

    Returns:
        What is written to `report.json`.
    """
    envs = make_dream(args)
    untrained = SB3Policy.from_agent(make_agent(args, envs))
    agent = make_agent(args, envs)
    settings = {
        name: value
        for name, value in asdict(args).items()
        if name not in ("out", "steps", "save_every") and not name.startswith("test")
    }
    progress = learn(
        agent, args.out, args.steps, settings, save_every=args.save_every, description="PPO"
    )
    trained = SB3Policy.from_agent(agent)
    save_policy(trained, args.out / "agent", training={**settings, "steps": progress.steps})
    spec = envs.get_attr("card")[0]
    seeds = range(args.test_seed, args.test_seed + args.test_episodes)
    rates = measure_learning(
        args.out,
        spec,
        {"untrained": (untrained, 0), "trained": (trained, progress.steps)},
        progress.history,
        f"reach the {args.target}",
        seeds,
        args.test_steps,
    )
    print(f"\nThe agent: wm-gym record LangTable-v0 --task reach --policy {args.out / 'agent'}")
    report = measurement_header(seeds=list(seeds)) | {
        "settings": {**asdict(args), "out": str(args.out)},
        "world_model": spec.name,
        "imagined_steps": progress.steps,
        "history": progress.history,
        "true_success": rates,
    }
    write_json(args.out / "report.json", report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
