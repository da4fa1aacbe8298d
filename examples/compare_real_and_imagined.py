r"""Does success in the dream predict success in reality? Ask it of policies of your own.

Two policies are written here, one that drifts over the table and one that hardly moves, and
measured beside the cloned policies that ship: each acts from the same starts in the world model and
in the simulator it imitates. What comes out are success rates with intervals, their correlation
(Pearson, Spearman), the mean maximum rank violation, a scatter plot, and a video of the policy on
which dream and simulator disagree most, because that is where a world model errs.

    python examples/compare_real_and_imagined.py
    python examples/compare_real_and_imagined.py --policies my_policies:Mine runs/cloned

Small, to see that every part runs:

    python examples/compare_real_and_imagined.py --out outputs/compare_small \
        --policies drift jitter --noise 0 --starts 2 --max-steps 4 --rows 2 --resamples 50
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from torch.utils.tensorboard import SummaryWriter

from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.envs.twin import make_twin
from wm_gym.evaluation.compare_real.run import CompareRealConfig, compare_real
from wm_gym.evaluation.strips import write_pictures
from wm_gym.policies.base import Observation, Policy
from wm_gym.policies.named import open_policy
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.runner import run_policy
from wm_gym.spec import ActionSpec, FrameSpec


class Drift(Policy):
    """Goes one way, which the row's seed decides; turns now and then."""

    persistence = 6

    def __init__(self, action_spec: ActionSpec, frame_spec: FrameSpec | None = None) -> None:
        super().__init__(action_spec, frame_spec)
        self.seeds: dict[int, int] = {}

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins episodes."""
        self.seeds.update(zip(rows, seeds, strict=True))

    def act(self, observation: Observation) -> np.ndarray:
        """Chunks (B, persistence, A): the same random action again and again."""
        low, high = np.asarray(self.action_spec.low), np.asarray(self.action_spec.high)
        ways = [
            np.random.default_rng((self.seeds[int(row)], int(step))).uniform(low, high)
            for row, step in zip(observation.rows, observation.steps, strict=True)
        ]
        return np.stack(ways)[:, None].repeat(self.persistence, axis=1)


class Jitter(Drift):
    """The same, but another way at every step: it hardly moves."""

    persistence = 1


OWN = {"drift": Drift, "jitter": Jitter}


@dataclass(frozen=True)
class Args:
    """Measure how well a world model predicts which policies work."""

    id: str = "WM-LangTable-VAE-v0"
    """World model."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    policies: tuple[str, ...] = ("embedded", "drift", "jitter")
    """embedded: those that ship; drift, jitter: those of this file; or folders and module:Class."""
    noise: tuple[float, ...] = (0.0, 0.6)
    """Action noise levels of each policy, as fractions of half the action range."""
    tasks: tuple[str, ...] = ("reach",)
    """Tasks."""
    starts: int = 20
    """Start states per task."""
    max_steps: int = 40
    """Longest episode."""
    rows: int = 10
    """Episodes at once."""
    denoising_steps: int = 1
    """Denoising steps per imagined frame."""
    resamples: int = 2000
    """Bootstrap resamples."""
    shown: int = 3
    """Episodes in the video."""
    seed: int = 0
    """Seed of the first episode; the next ones follow."""
    out: Path = Path("outputs/compare_real_and_imagined")
    """Folder for records, report, plot and video; a second call goes on there."""

    def __post_init__(self) -> None:
        """Check what only the end would notice."""
        if self.shown < 1:
            raise ValueError(f"shown={self.shown}; expected at least 1")


def full_name(policy: str) -> str:
    """What `open_policy` is given: this file's own policies are `module:Class`."""
    if policy not in OWN:
        return policy
    name = Path(__file__).stem
    sys.modules.setdefault(name, sys.modules[__name__])  # run as a script, it is called __main__
    return f"{name}:{OWN[policy].__name__}"


def difference(entry: dict[str, Any]) -> float:
    """How much more often a policy of the report succeeds in the dream than in the simulator."""
    return entry["imagined_success_rate"] - entry["true_success_rate"]


def show(args: Args, entry: dict[str, Any]) -> None:
    """Film the policy that dream and simulator disagree about most, in both."""
    dream = WorldModelVectorEnv(
        args.shown,
        args.id,
        autoreset_mode="Disabled",
        checkpoint=args.checkpoint,
        denoising_steps=args.denoising_steps,
        horizon=args.max_steps,
    )
    policy = open_policy(entry["folder"], dream.card.action, dream.card.frame)
    policy = NoisyPolicy(policy, entry["noise"])
    starts = [f"{args.tasks[0]}-{6500 + k}" for k in range(min(args.shown, args.starts))]
    seeds = [args.seed + k for k in range(len(starts))]
    filmed = [
        run_policy(world, policy, starts, seeds, args.max_steps, keep_frames=True, progress=False)
        for world in (dream, make_twin(dream))
    ]
    scenes = [
        {
            f"imagined: {dreamed.instruction}, {outcome(dreamed.success)}": dreamed.frames,
            f"simulator: {outcome(real.success)}": real.frames,
        }
        for dreamed, real in zip(*filmed, strict=True)
    ]
    fps = dream.card.action.control_hz
    write_pictures(args.out, "compare_real_and_imagined", scenes, fps)


def outcome(success: bool) -> str:
    """In a word."""
    return "success" if success else "no success"


def main(args: Args) -> dict[str, Any]:
    """Run the example.

    Returns:
        The report of `wm-gym compare-real`.
    """
    unchanged = (
        "id", "checkpoint", "noise", "tasks", "starts", "max_steps", "rows", "denoising_steps",
        "resamples", "seed", "out",
    )  # fmt: skip
    report = compare_real(
        CompareRealConfig(
            policies=tuple(map(full_name, args.policies)),
            **{name: getattr(args, name) for name in unchanged},
        )
    )
    ranked = sorted(report["policies"], key=lambda entry: -abs(difference(entry)))
    with SummaryWriter(str(args.out)) as writer:
        for step, entry in enumerate(ranked):
            print(f"{entry['name']:28s} dream minus simulator {difference(entry):+.2f}")
            for world in ("imagined", "true"):
                writer.add_scalar(f"success_rate/{world}", entry[f"{world}_success_rate"], step)
    show(args, ranked[0])
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
