r"""Evaluate a policy inside a world model and, from the same starts, in the simulator it imitates.

Success in the dream is what one gets without a robot; success in the twin is what it is worth. Both
are counted with a 95 % Wilson interval over the same stored start states, and the first episodes
are put beside each other in a video: the same policy, the same start, dream and truth.

    python examples/evaluate_policy.py
    python examples/evaluate_policy.py --policy runs/my_policy --task push
    python examples/evaluate_policy.py --policy my_policies:Right     # a class of your own

Small, to see that every part runs:

    python examples/evaluate_policy.py --out outputs/evaluate_small \
        --starts 3 --max-steps 6 --rows 3
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
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
from wm_gym.policies.base import Policy
from wm_gym.policies.named import open_policy
from wm_gym.policies.runner import EpisodeRecord, run_policy

CLONED = assets_folder() / "langtable-bc" / "stage_4"


@dataclass(frozen=True)
class Args:
    """Count a policy's successes in the dream and in the simulator."""

    id: str = "WM-LangTable-VAE-v0"
    """World model."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    policy: str = str(CLONED)
    """Folder of a saved policy, or module:Class; the cloned policy that ships by default."""
    task: str = "reach"
    """Task of the stored start states."""
    starts: int = 20
    """Episodes: the first of the task's stored start states, at most 50."""
    max_steps: int = 40
    """Longest episode, in steps."""
    rows: int = 10
    """Episodes imagined at once."""
    denoising_steps: int = 1
    """Denoising steps per imagined frame."""
    shown: int = 3
    """Episodes in the video."""
    seed: int = 0
    """Seed of the first episode; the next ones follow."""
    out: Path = Path("outputs/evaluate_policy")
    """Folder for records, video and picture; a second call with these settings goes on there."""

    def __post_init__(self) -> None:
        """Check what only the end would notice."""
        if min(self.starts, self.shown) < 1:
            raise ValueError(f"starts={self.starts}, shown={self.shown}; expected at least 1")


def run(args: Args, env: gym.Env | WorldModelVectorEnv, policy: Policy, world: str) -> list:
    """Episodes of one world; those that are in the results file already are not run again."""
    starts = [f"{args.task}-{6500 + k}" for k in range(args.starts)]
    seeds = [args.seed + k for k in range(args.starts)]
    results = args.out / f"{world}.jsonl"
    return run_policy(
        env, policy, starts, seeds, args.max_steps, results=results, description=world
    )


def show(args: Args, env: gym.Env | WorldModelVectorEnv, policy: Policy) -> list[EpisodeRecord]:
    """The first episodes again, with their frames."""
    starts = [f"{args.task}-{6500 + k}" for k in range(min(args.shown, args.starts))]
    seeds = [args.seed + k for k in range(len(starts))]
    return run_policy(env, policy, starts, seeds, args.max_steps, keep_frames=True, progress=False)


def main(args: Args) -> dict:
    """Run the example.

    Returns:
        Success rate and interval by world.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    dream = gym.make_vec(
        args.id,
        num_envs=args.rows,
        checkpoint=args.checkpoint,
        task=args.task,
        denoising_steps=args.denoising_steps,
        autoreset_mode="Disabled",
    )
    assert isinstance(dream, WorldModelVectorEnv)
    policy = open_policy(args.policy, dream.card.action, dream.card.frame)
    free = ("out", "starts", "shown")
    kept = {k: str(v) for k, v in asdict(args).items() if k not in free}
    claim_folder(
        args.out, kept | {"weights": dream.card.weights_sha256}, [PolicySource.of(args.policy)]
    )
    twin = wm_gym.make_twin(dream)
    report: dict = {"args": {k: str(v) for k, v in asdict(args).items()}}
    with SummaryWriter(str(args.out)) as writer:
        for world, env in (("imagined", dream), ("simulator", twin)):
            records = run(args, env, policy, world)
            for k in range(len(records)):
                rate = np.mean([r.success for r in records[: k + 1]])
                writer.add_scalar(f"success_rate/{world}", float(rate), k + 1)
            found = wilson_interval(sum(r.success for r in records), len(records))
            report[world] = {"rate": found.estimate, "interval": [found.low, found.high]}
            report[world]["errors"] = [r.error for r in records if r.error]
            print(f"{world}: {found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}]")
    shown = zip(show(args, dream, policy), show(args, twin, policy), strict=True)
    scenes = [
        {f"imagined: {dreamed.instruction}": dreamed.frames, "simulator": real.frames}
        for dreamed, real in shown
    ]
    write_pictures(args.out, "evaluate_policy", scenes, dream.card.action.control_hz)
    write_json(args.out / "evaluate_policy.json", report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
