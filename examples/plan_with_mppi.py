r"""Let a robot plan in its imagination: MPPI over frames of a latent world model.

From the newest frame many action sequences are imagined, the model's own reward model says how far
each leaves the goal, and MPPI fits the next ones to the best. The first few actions of the plan are
carried out in the SIMULATOR, where only true success counts; beside it the same without planning
(uniform random actions), from the same starts.

    python examples/plan_with_mppi.py
    python examples/plan_with_mppi.py --candidates 64 --iterations 4 --execute 2

Small, to see that every part runs:

    python examples/plan_with_mppi.py --out outputs/plan_small \
        --starts 2 --max-steps 4 --candidates 4 --iterations 1 --horizon 2 --execute 2
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import wm_gym
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.evaluation.report import write_json
from wm_gym.evaluation.run_folder import claim_folder
from wm_gym.evaluation.strips import write_pictures
from wm_gym.metrics.statistics import wilson_interval
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.base import Policy
from wm_gym.policies.latent_planner import LatentPlannerPolicy
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.policies.runner import EpisodeRecord, run_policy
from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class Args:
    """Plan in a latent world model, act in the simulator."""

    id: str = "WM-LangTable-VAE-v0"
    """World model to plan in; its twin is acted in."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    task: str = "reach"
    """Task of the stored start states."""
    starts: int = 10
    """Episodes: the first of the task's stored start states, at most 50."""
    max_steps: int = 40
    """Longest episode, in steps."""
    candidates: int = 32
    """Action sequences imagined in every iteration."""
    iterations: int = 2
    """Times that the next sequences are fitted to the best."""
    temperature: float = 0.01
    """How much better than the others a sequence must be to count, in metres."""
    horizon: int = 6
    """Actions of a plan."""
    execute: int = 3
    """Actions carried out before the next plan."""
    score: Literal["distance", "success"] = "distance"
    """What makes an imagined frame good."""
    denoising_steps: int = 1
    """Denoising steps per imagined frame."""
    seed: int = 0
    """Seed of the first episode; the next ones follow."""
    out: Path = Path("outputs/plan_with_mppi")
    """Folder for records, video and picture; a second call with these settings goes on there."""

    def __post_init__(self) -> None:
        """Check what only the end would notice."""
        if self.starts < 1:
            raise ValueError(f"starts={self.starts}; expected at least 1")


def make_planner(args: Args, model: LatentWorldModel) -> LatentPlannerPolicy:
    """The policy that plans."""
    mppi = MPPIConfig(args.candidates, args.iterations, args.temperature)
    return LatentPlannerPolicy(
        model, mppi, horizon=args.horizon, execute=args.execute, score=args.score
    )


def first_episode(args: Args, twin, policy: Policy) -> EpisodeRecord:
    """The first start once more, with its frames."""
    starts = [f"{args.task}-6500"]
    (record,) = run_policy(
        twin, policy, starts, [args.seed], args.max_steps, keep_frames=True, progress=False
    )
    return record


def main(args: Args) -> dict:
    """Run the example.

    Returns:
        Success rate and interval by policy.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    dream = WorldModelVectorEnv(
        1, args.id, checkpoint=args.checkpoint, denoising_steps=args.denoising_steps
    )
    settings = {k: str(v) for k, v in asdict(args).items() if k not in ("out", "starts")}
    claim_folder(args.out, settings | {"weights": dream.card.weights_sha256}, ())
    policies: dict[str, Policy] = {
        "planner": make_planner(args, dream.engine.model),
        "random": RandomPolicy(dream.card.action),
    }
    twin = wm_gym.make_twin(dream)
    starts = [f"{args.task}-{6500 + k}" for k in range(args.starts)]
    seeds = [args.seed + k for k in range(args.starts)]
    report: dict = {"args": {k: str(v) for k, v in asdict(args).items()}}
    clips = {}
    with SummaryWriter(str(args.out)) as writer:
        for name, policy in tqdm(policies.items(), desc="policies"):
            records = run_policy(
                twin, policy, starts, seeds, args.max_steps,
                results=args.out / f"{name}.jsonl", description=name,
            )  # fmt: skip
            found = wilson_interval(sum(r.success for r in records), len(records))
            report[name] = {"rate": found.estimate, "interval": [found.low, found.high]}
            for k, record in enumerate(records):
                writer.add_scalar(f"steps/{name}", record.steps, k)
            writer.add_scalar(f"true_success_rate/{name}", found.estimate, len(records))
            clips[name] = first_episode(args, twin, policy)
            print(f"{name}: {found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}] true success")
    scene = {f"{name}: {shown.instruction}": shown.frames for name, shown in clips.items()}
    write_pictures(args.out, "plan_with_mppi", [scene], dream.card.action.control_hz)
    write_json(args.out / "plan_with_mppi.json", report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
