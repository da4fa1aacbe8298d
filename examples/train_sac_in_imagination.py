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

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import tyro
from stable_baselines3 import SAC
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
    """Train SAC in imagination; measure it in the simulator."""

    checkpoint: str = "embedded"
    """World model to learn in: embedded, a folder, or hf://org/repo@revision."""
    out: Path = Path("outputs/train_sac_in_imagination")
    """Folder for everything; a second call goes on there."""
    target: str = "red moon"
    """Block to reach."""
    observe: Literal["positions", "latents"] = "positions"
    """Positions that the reward model reads, or the latents themselves."""
    steps: int = 30_000
    """Imagined steps in all."""
    rows: int = 8
    """Episodes imagined at once."""
    horizon: int = 25
    """Steps per imagined episode."""
    denoising_steps: int = 2
    """Denoising steps per imagined frame."""
    surprise_penalty: float = 0.1
    """What a unit of surprise costs in each step's reward."""
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
    save_every: int = 4000
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
        agent, args.out, args.steps, settings, save_every=args.save_every, description="SAC"
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
