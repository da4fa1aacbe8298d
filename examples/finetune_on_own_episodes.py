r"""Fine-tune a world model on your own episodes, and see what it gains.

The embedded LangTable model has seen eight blocks, and a peg that goes as far as it is told. On
your table stand six others, whose colours and shapes it never saw together ("red cube", "purple
pentagon", …), and your robot's controller covers only part of the way of each command before the
next one comes. About a hundred episodes are collected, encoded by the model's own latent space, and
its transition network is trained on, from its own weights. The errors of rollouts under recorded
actions are measured on held-out episodes before and after.

    python examples/finetune_on_own_episodes.py                 # about half an hour of one core
    python examples/finetune_on_own_episodes.py --data my_robot/train --held-out my_robot/test

To see in a few minutes that every part runs, make it small; a model trained so briefly may well be
worse than before, and the example says so:

    python examples/finetune_on_own_episodes.py --out outputs/finetune_small --episodes 6 \
        --held-out-episodes 3 --episode-steps 20 --train-steps 20 --horizons 1 5 10

Your own data may be episodes of `wm-gym collect`, a LeRobot folder or mp4 + npz files; their
actions must be in the units of the model's card.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

from wm_gym.checkpoints import Checkpoint, save_checkpoint
from wm_gym.data.open_dataset import open_dataset
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.envs.sims.behaviours import Behaviours, langtable_behaviours
from wm_gym.evaluation.models import checkpoint_folder
from wm_gym.evaluation.open_loop.clips import sample_clips
from wm_gym.evaluation.open_loop.measure import (
    OpenLoopConfig,
    horizon_scores,
    reconstruct,
    roll_out,
)
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.training.encode_latents import EncodeLatentsConfig, encode_latents
from wm_gym.training.latent_dynamics import LatentDynamicsConfig, train_latent_dynamics
from wm_gym.training.loop import LoopConfig
from wm_gym.world_model import load_world_model


@dataclass(frozen=True)
class Args:
    """Fine-tune a world model on episodes it has never seen the like of."""

    checkpoint: str = "embedded"
    """World model to start from: embedded, a folder, or hf://org/repo@revision."""
    out: Path = Path("outputs/finetune_on_own_episodes")
    """Folder for episodes, latents, the run and the new checkpoint; a second call goes on there."""
    data: Path | None = None
    """Own training episodes; None collects them in LangTable with other blocks."""
    held_out: Path | None = None
    """Own episodes to measure on; give it with --data."""
    blocks: str = "ood"
    """Blocks on the table: ood, or names separated by commas."""
    action_gain: float = 0.6
    """Part of a commanded way that the own robot covers; above 0, and 1 for all of it, as in the
    episodes the embedded model was trained on."""
    episodes: int = 100
    """Episodes to collect for training."""
    held_out_episodes: int = 24
    """Episodes to collect for measuring."""
    episode_steps: int = 60
    """Actions per collected episode, at most."""
    train_steps: int = 400
    """Optimiser steps."""
    learning_rate: float = 3e-4
    """Peak learning rate; below that of training from nothing."""
    batch: int = 6
    """Clips per optimiser step."""
    horizons: tuple[int, ...] = (1, 5, 10, 20)
    """Steps at which rollouts are compared with the recording."""
    seed: int = 0
    """Seed of the training episodes and of the training."""


class PartialMotion(gym.ActionWrapper):
    """A robot that covers only part of each commanded way.

    Args:
        env: with actions that are displacements.
        gain: part of the way, above 0.
    """

    def __init__(self, env: gym.Env, gain: float) -> None:
        super().__init__(env)
        self._gain = gain

    def action(self, action: Any) -> Any:
        """Returns the displacement that a command leads to."""
        return action * self._gain


@dataclass(frozen=True)
class OwnRobot:
    """LangTable with other blocks and another controller, and who acts in it."""

    blocks: str
    action_gain: float
    frame_size: str
    steps: int

    def __call__(self) -> tuple[gym.Env, Behaviours]:
        """The simulator and its behaviours."""
        import wm_gym  # noqa: F401  registers the ids

        env = gym.make(
            "LangTable-v0",
            blocks=self.blocks,
            frame_size=self.frame_size,
            horizon=self.steps,
            terminate_on_success=False,
            disable_env_checker=True,
        )
        return PartialMotion(env, self.action_gain), langtable_behaviours()


def collect_episodes(args: Args, card: Checkpoint) -> tuple[Path, Path]:
    """Training and held-out episodes of the own robot; the held-out seeds start at 6000."""
    frame_size = f"{card.spec.frame.height}x{card.spec.frame.width}"
    factory = OwnRobot(args.blocks, args.action_gain, frame_size, args.episode_steps)
    robot = f"{args.action_gain:g}"  # episodes of another controller do not belong with these
    folders = args.out / f"episodes-{robot}", args.out / f"held_out-{robot}"
    shared: dict[str, Any] = {
        "frame_size": frame_size, "steps": args.episode_steps, "shard_episodes": 10, "workers": 1,
    }  # fmt: skip
    training = CollectConfig(folders[0], episodes=args.episodes, seed=args.seed, **shared)
    held_out = CollectConfig(
        folders[1], episodes=args.held_out_episodes, seed=6000, held_out=True,
        stop_on_success=False, **shared,
    )  # fmt: skip
    for config in (training, held_out):
        collect(config, factory)
    return folders


def measure(args: Args, checkpoint: Path, held_out: Path) -> dict[str, dict[str, Any]]:
    """Compare rollouts under recorded actions with the recording, by horizon."""
    config = OpenLoopConfig(held_out, horizons=args.horizons, clips=args.held_out_episodes)
    model = load_world_model(checkpoint)
    clips = sample_clips(
        open_dataset(held_out), model.spec, config.clips, max(config.horizons), config.seed
    )
    others = clips.actions.copy()
    others[:, clips.history - 1 :] = others[:, clips.history - 1 :][::-1]
    versions = {
        "rollout": roll_out(model, clips, clips.actions, config)[0],
        "reconstruction": reconstruct(model, clips.truth),
        "copy_first": clips.start[:, None].repeat(clips.truth.shape[1], axis=1),
        "shuffled_actions": roll_out(model, clips, others, config)[0],
    }
    reached = [n for n in sorted(args.horizons) if (clips.steps >= n).any()]
    return {f"horizon_{n}": horizon_scores(clips, versions, n) for n in reached}


def fine_tune(args: Args, card: Checkpoint, data: Path) -> Path:
    """Encode the episodes with the model's own latent space and train its network on.

    Returns:
        The checkpoint folder of the fine-tuned model.
    """
    from safetensors.torch import load_file

    spec = card.spec
    # the checkpoint as --space: its encoder, its normalisation, its action language
    latents = encode_latents(EncodeLatentsConfig(data, args.out / "latents", str(card.folder)))
    episodes = len(open_dataset(data))
    config = LatentDynamicsConfig(
        latents=latents,
        out=args.out / "dynamics",
        init=card.folder,  # weights, network sizes and schedule shift
        context="clean",  # every frame trains exactly what a rollout does
        copies=2,
        times="uniform",
        clip_length=spec.context.length + spec.context.history,
        history=spec.context.history,
        history_noise=0.2,
        change_weight=6.0,
        batch=args.batch,
        held_out=max(1, episodes // 10),
        probe_every=max(1, args.train_steps // 4),
        seed=args.seed,
        loop=LoopConfig(
            steps=args.train_steps,
            learning_rate=args.learning_rate,
            final_learning_rate_fraction=0.05,
            warmup_steps=max(1, args.train_steps // 20),
            ema=0.99,
            save_every=100,
        ),
    )
    trained = train_latent_dynamics(config)
    replaced = {spec.dynamics.weights, spec.distilled.weights if spec.distilled else ""}
    weights = {name: card.load(name) for name in spec.weights_sha256.keys() - replaced}
    weights[spec.dynamics.weights] = load_file(trained)
    settings = json.loads(json.dumps(asdict(args), default=str))
    new = replace(
        spec,
        name=f"{spec.name}-finetuned",
        description=f"{spec.name}, fine-tuned by examples/finetune_on_own_episodes.py.",
        embedded=False,
        training_data=f"{spec.training_data} Then {episodes} episodes of {data.name}.",
        recipe={"fine_tuned_from": spec.name, "settings": settings},
        distilled=None,  # it imitates the network as it was
        metrics={},
        weights_sha256={},
    )
    save_checkpoint(args.out / "checkpoint", new, weights)
    return args.out / "checkpoint"


def print_gain(before: dict[str, Any], after: dict[str, Any]) -> None:
    """PSNR over the pixels that changed, in dB: between copying and what the decoder allows."""
    print(f"\n{'horizon':>8} {'copy first':>11} {'before':>8} {'after':>8} {'reconstruction':>15}")
    for horizon in before:
        old, new = before[horizon], after[horizon]
        cells = (
            old["changed_psnr_copy_first"], old["changed_psnr"], new["changed_psnr"],
            new["changed_psnr_reconstruction"],
        )  # fmt: skip
        copied, was, now, best = ("-" if cell is None else f"{cell:.2f}" for cell in cells)
        steps = horizon.removeprefix("horizon_")
        print(f"{steps:>8} {copied:>11} {was:>8} {now:>8} {best:>15}")


def horizons_lost(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Horizons, in steps, at which the fine-tuned model's PSNR over changed pixels is lower."""
    lost = []
    for horizon in before:
        was, now = before[horizon]["changed_psnr"], after[horizon]["changed_psnr"]
        if was is not None and now is not None and now < was:
            lost.append(horizon.removeprefix("horizon_"))
    return lost


def main(args: Args) -> dict[str, Any]:
    """Collect, measure, fine-tune, measure again.

    Returns:
        What is written to `gain.json`.
    """
    if (args.data is None) != (args.held_out is None):
        raise SystemExit("--data and --held-out belong together: give both, or neither to collect")
    if args.action_gain <= 0:
        raise SystemExit(f"--action-gain {args.action_gain}: expected above 0, e.g. 0.6")
    card = Checkpoint.open(checkpoint_folder("WM-LangTable-VAE-v0", args.checkpoint))
    if args.data is not None and args.held_out is not None:
        data, held_out = args.data, args.held_out
    else:
        data, held_out = collect_episodes(args, card)
    before = measure(args, card.folder, held_out)
    tuned = fine_tune(args, card, data)
    after = measure(args, tuned, held_out)
    print_gain(before, after)
    if lost := horizons_lost(before, after):
        warnings.warn(
            f"the fine-tuned model is worse than before at horizon {', '.join(lost)}: train on "
            "more episodes (--episodes) or longer (--train-steps), or with a lower "
            "--learning-rate; until then keep the model as it was",
            stacklevel=2,
        )
    print(f"\nThe fine-tuned model: checkpoint={str(tuned)!r}")
    report = {"before": before, "after": after, "checkpoint": str(tuned)}
    write_json(args.out / "gain.json", measurement_header(seeds=args.seed) | report)
    return report


if __name__ == "__main__":
    main(tyro.cli(Args))
