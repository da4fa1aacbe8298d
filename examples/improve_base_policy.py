r"""Improve a policy without training it: plan from its own proposals in a world model.

A base policy that often fails proposes several action sequences; a world model imagines where each
of them leads; MPPI fits further ones to the best; the first actions of the result are carried out
in the SIMULATOR, where only true success counts. The base policy alone stands beside it, from
the same starts and seeds, and so do random proposals under the same planner: what is the policy's
part, and what the planner's?

The base is the cloned policy that ships, with action noise that makes it fail. Any saved policy
will do: --base FOLDER. With --semantic CHECKPOINT the plan is made with a semantic world model
instead, by gradient ascent on its answers from each proposal (arXiv:2510.19818).

    python examples/improve_base_policy.py
    python examples/improve_base_policy.py --task push --noise 2 --proposals 8
    python examples/improve_base_policy.py --semantic runs/langtable-swm

Small, to see that every part runs:

    python examples/improve_base_policy.py --out outputs/improve_small --starts 2 --max-steps 4 \
        --candidates 4 --iterations 1 --horizon 2 --execute 2 --proposals 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from torch.utils.tensorboard import SummaryWriter

import wm_gym
from wm_gym.checkpoints import assets_folder
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.evaluation.report import write_json
from wm_gym.evaluation.run_folder import PolicySource, claim_folder
from wm_gym.evaluation.strips import write_pictures
from wm_gym.metrics.statistics import wilson_interval
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.base import Observation, Policy
from wm_gym.policies.chunks import Chunks
from wm_gym.policies.latent_planner import LatentPlannerPolicy
from wm_gym.policies.named import open_policy
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.policies.runner import run_policy
from wm_gym.semantic.world_model import load_semantic_model
from wm_gym.world_model import LatentWorldModel

CLONED = assets_folder() / "langtable-bc" / "stage_4"


class OtherSeed(Policy):
    """A policy under other seeds, so that each of several copies proposes something else."""

    def __init__(self, policy: Policy, number: int) -> None:
        super().__init__(policy.action_spec, policy.frame_spec)
        self.policy, self.number = policy, number
        self.frame_history = policy.frame_history

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes with seeds that are this copy's own."""
        sequences = [np.random.SeedSequence([int(seed), self.number]) for seed in seeds]
        own = [int(sequence.generate_state(1)[0]) for sequence in sequences]
        self.policy.reset(rows, own, instructions)

    def act(self, observation: Observation) -> Chunks:
        """What the policy underneath returns."""
        return self.policy.act(observation)


@dataclass(frozen=True)
class Args:
    """Plan from a base policy's proposals, act in the simulator."""

    id: str = "WM-LangTable-VAE-v0"
    """World model to plan in; its twin is acted in."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    semantic: str | None = None
    """Checkpoint of a semantic world model to plan with instead."""
    base: str = str(CLONED)
    """Folder of a saved policy, or module:Class; the cloned policy that ships by default."""
    noise: float = 2.0
    """Standard deviation of the base's action noise, as a fraction of half the action range."""
    proposals: int = 4
    """Action sequences that the base proposes for every plan."""
    task: str = "reach"
    """Task of the stored start states."""
    starts: int = 20
    """Episodes: the first of the task's stored start states, at most 50."""
    max_steps: int = 40
    """Longest episode, in steps."""
    candidates: int = 32
    """Action sequences imagined in every iteration; with --semantic the base's proposals alone."""
    iterations: int = 2
    """Times that plans are fitted to the best, or gradient steps with --semantic."""
    temperature: float = 0.01
    """MPPI: how much better than the others a sequence must be to count, in metres."""
    learning_rate: float = 0.02
    """Gradient ascent: action units per unit of gradient."""
    horizon: int = 6
    """Actions of a plan."""
    execute: int = 3
    """Actions carried out before the next plan."""
    denoising_steps: int = 1
    """Denoising steps per imagined frame."""
    seed: int = 0
    """Seed of the first episode; the next ones follow."""
    out: Path = Path("outputs/improve_base_policy")
    """Folder for records, video and picture; a second call with these settings goes on there."""

    def __post_init__(self) -> None:
        """Check what only the end would notice."""
        if self.starts < 1:
            raise ValueError(f"starts={self.starts}; expected at least 1")


def make_planner(args: Args, model: LatentWorldModel, bases: Sequence[Policy]) -> Policy:
    """MPPI over imagined frames, or gradient ascent on a semantic world model's answers."""
    if args.semantic is not None:
        return PlannerPolicy(
            load_semantic_model(args.semantic),
            GradientConfig(args.iterations, args.learning_rate),
            horizon=args.horizon,
            execute=args.execute,
            bases=bases,
        )
    mppi = MPPIConfig(args.candidates, args.iterations, args.temperature)
    return LatentPlannerPolicy(model, mppi, horizon=args.horizon, execute=args.execute, bases=bases)


def main(args: Args) -> dict:
    """Run the example.

    Returns:
        Success rate and interval by policy.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    dream = WorldModelVectorEnv(
        1, args.id, checkpoint=args.checkpoint, denoising_steps=args.denoising_steps
    )
    card, model = dream.card, dream.engine.model
    kept = {k: str(v) for k, v in asdict(args).items() if k not in ("out", "starts")}
    claim_folder(args.out, kept | {"weights": card.weights_sha256}, [PolicySource.of(args.base)])

    def base() -> Policy:
        """A fresh one each time: what it remembers belongs to one policy."""
        return NoisyPolicy(open_policy(args.base, card.action, card.frame), args.noise)

    proposers = [OtherSeed(base(), number) for number in range(args.proposals)]
    policies: dict[str, Policy] = {
        "base": base(),
        "improved": make_planner(args, model, proposers),
        "planner alone": make_planner(args, model, [RandomPolicy(card.action)]),
    }
    twin = wm_gym.make_twin(dream)
    starts = [f"{args.task}-{6500 + k}" for k in range(args.starts)]
    seeds = [args.seed + k for k in range(args.starts)]
    report: dict = {"args": {k: str(v) for k, v in asdict(args).items()}}
    scene = {}
    with SummaryWriter(str(args.out)) as writer:
        for name, policy in policies.items():
            records = run_policy(
                twin, policy, starts, seeds, args.max_steps,
                results=args.out / f"{name.replace(' ', '_')}.jsonl", description=name,
            )  # fmt: skip
            found = wilson_interval(sum(r.success for r in records), len(records))
            report[name] = {"rate": found.estimate, "interval": [found.low, found.high]}
            report[name]["errors"] = [r.error for r in records if r.error]
            writer.add_scalar(f"true_success_rate/{name}", found.estimate, len(records))
            print(f"{name}: {found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}] true success")
            (filmed,) = run_policy(
                twin, policy, starts[:1], seeds[:1], args.max_steps, keep_frames=True,
                progress=False,
            )  # fmt: skip
            scene[f"{name}: {filmed.instruction}"] = filmed.frames
    write_pictures(args.out, "improve_base_policy", [scene], card.action.control_hz)
    write_json(args.out / "improve_base_policy.json", report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
