r"""Train an agent of Stable-Baselines3 inside a world model, then measure it in the simulator.

The agent learns to move the peg to one block of the table. It never touches the simulator: every
step of its training is imagined by `WM-LangTable-VAE-v0`, from stored pictures of a table. Then it
acts in the simulator, from a hundred starts that neither it nor the world model has seen, beside
itself before it has learned anything.

    python examples/train_in_imagination.py --algorithm ppo

It writes to --out: `agent/` (a policy for wm-gym record and compare-real), `learning.png`,
`episodes.mp4` and `report.json`. To see in a few minutes that every part runs, make it small:

    python examples/train_in_imagination.py --algorithm ppo --out outputs/train_small --steps 256 \
        --rows 8 --horizon 8 --n-steps 8 --batch-size 32 --test-episodes 4 --test-steps 8

Reasons for the settings:

* The agent observes the positions that the checkpoint's reward model reads in the latents
  (--observe positions, eighteen numbers). With --observe latents it learns to see by itself,
  through `LatentGridExtractor`, which is expected to take many times as long.
* The reward is dense (metres of progress, 1 at success). The classifier's alone is met by chance
  too rarely, and its probability is nearly flat far from success.
* Episodes of 25 steps: 36 cm of table at 3 cm a step take 12, and errors add up over a rollout.
* Two denoising steps, the fewest that know `surprise`, a unit of which costs --surprise-penalty:
  an agent that leaves what the world model has seen pays for it. 0 leaves that out.
* PPO imagines 32 rows at once: a step of many rows costs less a row than a step of few. SAC, which
  learns from every step many times, takes eight: more rows would mean staler data for the same
  number of updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from matplotlib.figure import Figure
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import wm_gym  # noqa: F401  registers the ids
from wm_gym.envs.video import tile, write_mp4
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.evaluation.strips import of_one_length
from wm_gym.instructions import InstructionSet
from wm_gym.metrics.statistics import Interval, wilson_interval
from wm_gym.policies.base import Policy, PolicyError, save_policy
from wm_gym.policies.named import open_policy, short_name
from wm_gym.policies.rows import SimulatorRows
from wm_gym.policies.runner import EpisodeRecord, run_policy
from wm_gym.policies.sb3.features import LatentGridExtractor
from wm_gym.policies.sb3.policy import SB3Policy
from wm_gym.policies.sb3.positions import ReadPositions
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv
from wm_gym.spec import WorldModelSpec

DEFAULTS = {
    "ppo": {"steps": 20_480, "rows": 32, "batch_size": 128},
    "sac": {"steps": 30_000, "rows": 8, "batch_size": 256},
}
TEST_ROWS = 4
FILMED = 9


@dataclass(frozen=True)
class Args:
    """Train an agent in imagination; measure it in the simulator."""

    algorithm: Literal["ppo", "sac"] = "ppo"
    """Algorithm of Stable-Baselines3."""
    checkpoint: str = "embedded"
    """World model to learn in: embedded, a folder, or hf://org/repo@revision."""
    out: Path = Path("outputs/train_in_imagination")
    """Folder for everything that is written."""
    instruction: str = "reach the red moon"
    """What to learn; pushes want a longer --horizon and --test-steps."""
    observe: Literal["positions", "latents"] = "positions"
    """Positions that the reward model reads, or the latents themselves."""
    steps: int | None = None
    """Imagined steps in all: 20 480 for PPO, 30 000 for SAC."""
    rows: int | None = None
    """Episodes imagined at once: 32 for PPO, 8 for SAC."""
    batch_size: int | None = None
    """Samples per gradient step: 128 for PPO, 256 for SAC."""
    horizon: int = 25
    """Steps per imagined episode."""
    denoising_steps: int = 2
    """Denoising steps per imagined frame."""
    surprise_penalty: float = 0.1
    """Cost of a unit of surprise in each step's reward."""
    learning_rate: float = 1e-3
    """Of Adam."""
    gamma: float = 0.95
    """Discount: a success ten steps later is worth 0.6."""
    n_steps: int = 32
    """PPO: steps of every row between updates."""
    epochs: int = 8
    """PPO: passes over the samples of an update."""
    gradient_steps: int = 2
    """SAC: gradient steps after a step of all rows."""
    buffer_size: int = 50_000
    """SAC: imagined steps that are remembered."""
    learning_starts: int = 800
    """SAC: imagined steps with random actions before the first update."""
    report_every: int = 4096
    """Imagined steps between points of the learning curve."""
    device: str = "cpu"
    """Torch device of world model and agent."""
    seed: int = 0
    """Seed of agent and world model."""
    beside: tuple[str, ...] = ()
    """Policies to measure from the same starts: saved folders, module:Class or agents' .zip."""
    test_episodes: int = 100
    """Episodes in the simulator."""
    test_seed: int = 8000
    """Seed of the first of them; the world model was trained on lower ones."""
    test_steps: int = 40
    """Longest of them."""


def make_imagined(args: Args, rows: int) -> VecEnv:
    """The environment of the training: nothing but a world model."""
    imagined = gym.make_vec(
        "WM-LangTable-VAE-v0",
        num_envs=rows,
        checkpoint=args.checkpoint,
        obs="latents",  # nothing is decoded
        reward="distance",
        horizon=args.horizon,
        denoising_steps=args.denoising_steps,
        surprise_penalty=args.surprise_penalty,
        device=args.device,
        autoreset_mode="Disabled",  # the bridge to SB3 restarts rows itself
    )
    envs = VecMonitor(ImaginedVecEnv(imagined, options={"instruction": args.instruction}))
    return ReadPositions(envs) if args.observe == "positions" else envs


def make_agent(args: Args, envs: VecEnv) -> BaseAlgorithm:
    """An agent with random weights."""
    shared: dict[str, Any] = {
        "learning_rate": args.learning_rate,
        "batch_size": args.batch_size,
        "gamma": args.gamma,
        "seed": args.seed,
        "device": args.device,
    }
    if args.observe == "latents":
        shared["policy_kwargs"] = {"features_extractor_class": LatentGridExtractor}
    if args.algorithm == "ppo":
        return PPO(
            "MlpPolicy",
            envs,
            n_steps=args.n_steps,
            n_epochs=args.epochs,
            gae_lambda=0.9,
            **shared,
        )
    return SAC(
        "MlpPolicy",
        envs,
        buffer_size=args.buffer_size,
        learning_starts=args.learning_starts,
        train_freq=1,
        gradient_steps=args.gradient_steps,
        **shared,
    )


class LearningCurve(BaseCallback):
    """Keeps the imagined success of the last hundred episodes, and the surprise of every step."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.points: list[dict[str, float | None]] = []
        self.surprises: list[float] = []

    def _on_step(self) -> bool:
        known = [info["surprise"] for info in self.locals["infos"]]
        self.surprises += [value for value in known if value >= 0]  # -1 is not known
        if self.num_timesteps >= (len(self.points) + 1) * self.every:
            self.add_point()
        return True

    def _on_training_end(self) -> None:
        if not self.points or self.points[-1]["steps"] != self.num_timesteps:
            self.add_point()

    def add_point(self) -> None:
        """Note where the agent stands."""
        episodes = self.model.ep_info_buffer or []
        point = {
            "steps": self.num_timesteps,
            "success": mean(list(self.model.ep_success_buffer or [])),
            "length": mean([episode["l"] for episode in episodes]),
            "surprise": mean(self.surprises),
        }
        self.points.append(point)
        self.surprises = []
        print(f"{self.num_timesteps} imagined steps: imagined success {point['success'] or 0:.2f}")


def mean(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing."""
    return float(np.mean(values)) if len(values) else None


def run_in_simulator(
    card: WorldModelSpec, policy: Policy, args: Args, episodes: int, *, film: bool = False
) -> list[EpisodeRecord]:
    """Episodes from random starts of the simulator, the same ones for every policy."""
    simulators = SimulatorRows.make(
        lambda: gym.make(
            "LangTable-v0",
            frame_size=(card.frame.height, card.frame.width),
            blocks=",".join(card.objects),
            horizon=args.test_steps,
        ),
        TEST_ROWS,
        card.action,
        card.frame,
    )
    seeds = range(args.test_seed, args.test_seed + episodes)
    starts = [{"instruction": args.instruction}] * episodes
    try:
        return run_policy(simulators, policy, starts, seeds, args.test_steps, keep_frames=film)
    finally:
        simulators.close()


def draw(path: Path, curve: Sequence[dict[str, float | None]], rates: dict[str, Interval]) -> None:
    """Plot imagined success while learning, and success in the simulator afterwards."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    known = [point for point in curve if point["success"] is not None]
    left.plot([p["steps"] for p in known], [p["success"] for p in known], marker=".")
    left.set(xlabel="imagined steps", ylabel="imagined success (classifier)", ylim=(-0.03, 1.03))
    for k, rate in enumerate(rates.values()):
        errors = [[rate.estimate - rate.low], [rate.high - rate.estimate]]
        right.bar(k, rate.estimate, yerr=errors, color=f"C{k}", capsize=4)
    right.set_xticks(range(len(rates)), list(rates))
    right.set(ylabel="success in the simulator", ylim=(0, 1.03))
    figure.savefig(path, dpi=130)


def main(args: Args) -> dict[str, Any]:
    """Train, save, measure and report; returns what `report.json` holds."""
    chosen = DEFAULTS[args.algorithm]
    args = replace(args, **{k: v for k, v in chosen.items() if getattr(args, k) is None})
    assert args.steps is not None and args.rows is not None

    envs = make_imagined(args, args.rows)
    card = envs.get_attr("card")[0]
    InstructionSet(card.tasks, card.objects).parse(args.instruction)  # unknown ones end here
    names = ["untrained", *map(short_name, args.beside), "trained"]
    if len(set(names)) < len(names):
        raise PolicyError(
            f"the policies are called {names} in the report; expected different names: rename the "
            "folders of --beside"
        )
    policies: dict[str, Policy] = {
        short_name(name): open_policy(name, card.action, card.frame) for name in args.beside
    }
    args.out.mkdir(parents=True, exist_ok=True)

    # another agent with the same weights: a policy shares its agent's network
    policies = {"untrained": SB3Policy.from_agent(make_agent(args, envs)), **policies}
    agent = make_agent(args, envs)
    curve = LearningCurve(args.report_every)
    agent.learn(args.steps, curve)
    policies["trained"] = SB3Policy.from_agent(agent)
    settings = {**asdict(args), "out": str(args.out)}
    save_policy(policies["trained"], args.out / "agent", training=settings)

    rates: dict[str, Interval] = {}
    measured: dict[str, dict[str, Any]] = {}
    for name, policy in policies.items():
        records = run_in_simulator(card, policy, args, args.test_episodes)
        rate = wilson_interval(sum(record.success for record in records), len(records))
        rates[name] = rate
        measured[name] = {
            "success_rate": rate.estimate,
            "interval": [rate.low, rate.high],
            "episodes": len(records),
            "errors": sum(record.error is not None for record in records),
            "mean_steps": mean([record.steps for record in records]),
        }
        print(f"{name}: success {rate.estimate:.2f} [{rate.low:.2f}, {rate.high:.2f}]")

    filmed = run_in_simulator(card, policies["trained"], args, FILMED, film=True)
    frames = of_one_length([r.frames for r in filmed if r.frames is not None])
    write_mp4(
        args.out / "episodes.mp4",
        [tile(row) for row in np.stack(frames, axis=1)],
        card.action.control_hz,
    )
    draw(args.out / "learning.png", curve.points, rates)
    report = measurement_header(seeds=[args.test_seed + k for k in range(args.test_episodes)]) | {
        "settings": settings,
        "world_model": card.name,
        "imagined_steps": agent.num_timesteps,
        "history": curve.points,
        "true_success": measured,
    }
    write_json(args.out / "report.json", report)
    print(f"wm-gym record LangTable-v0 --policy {args.out / 'agent'}")
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
