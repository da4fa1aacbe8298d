r"""Start a world model from a picture of your own, and record what it imagines.

A world model needs one frame and an instruction to begin; everything after that is imagined. Here
the frame comes from a PNG or JPEG (resized to what the model sees), or from a stored start state,
and the actions from a `.npy` file of shape (T, A) in the card's units, or from a plain circle of
the effector. Several rows with other seeds show how sure the model is: where they differ, it is
guessing. Pixels are decoded only for the frames that are shown.

    python examples/record_rollout.py                                     # some seconds
    python examples/record_rollout.py --frame my_table.png --instruction "reach the red moon" \
        --actions my_actions.npy

Small, to see that every part runs:

    python examples/record_rollout.py --out outputs/record_small --steps 4 --seeds 2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from wm_gym.data.frames import resize
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.evaluation.strips import write_pictures
from wm_gym.spec import WorldModelSpec


@dataclass(frozen=True)
class Args:
    """Record what a world model imagines from one frame."""

    id: str = "WM-LangTable-VAE-v0"
    """World model."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    frame: Path | None = None
    """Picture to start from; a stored start state if not given."""
    instruction: str = "reach the red moon"
    """What is to be done, in words; with --frame."""
    start: str = "reach-6500"
    """Stored start state; without --frame."""
    actions: Path | None = None
    """Actions (T, A) as .npy, in the card's units; a circle of the effector if not given."""
    steps: int = 40
    """Steps to imagine without --actions."""
    seeds: int = 3
    """Rows, with the noise of seeds 0, 1, …"""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    out: Path = Path("outputs/record_rollout")
    """Folder for video, picture and TensorBoard."""


def read_actions(args: Args, card: WorldModelSpec) -> np.ndarray:
    """The actions (T, A) to carry out.

    Raises:
        SystemExit: if the file has another shape.
    """
    action = card.action
    if args.actions is not None:
        found = np.load(args.actions, allow_pickle=False)
        if found.ndim != 2 or found.shape[1] != action.size:
            raise SystemExit(
                f"{args.actions} has shape {found.shape}, expected (T, {action.size}): "
                f"{', '.join(action.names)} in {', '.join(action.units)}"
            )
        return found.astype(np.float32)
    middle = (np.asarray(action.low) + np.asarray(action.high)) / 2
    actions = np.tile(middle, (args.steps, 1))
    turn = 2 * np.pi * np.arange(args.steps) / max(20, args.steps // 2)
    for column, wave in enumerate((np.cos(turn), np.sin(turn))):
        actions[:, column] += 0.6 * (action.high[column] - middle[column]) * wave
    return actions.astype(np.float32)


def begin_with(args: Args, card: WorldModelSpec) -> dict[str, Any]:
    """Options of `reset`."""
    if args.frame is None:
        return {"start": args.start}
    picture = imageio.imread(args.frame, mode="RGB")
    size = (card.frame.height, card.frame.width)
    return {"frames": np.array(resize(picture[None], *size)), "instruction": args.instruction}


def main(args: Args) -> tuple[Path, Path]:
    """Run the example.

    Returns:
        Video and picture.
    """
    envs = gym.make_vec(
        args.id,
        num_envs=args.seeds,
        checkpoint=args.checkpoint,
        denoising_steps=args.denoising_steps,
        reward="none",
        autoreset_mode="Disabled",
    )
    assert isinstance(envs, WorldModelVectorEnv)
    card = envs.card
    actions, options = read_actions(args, card), begin_with(args, card)
    observation, info = envs.reset(seed=list(range(args.seeds)), options=options)
    frames = [np.asarray(observation)]
    args.out.mkdir(parents=True, exist_ok=True)
    with SummaryWriter(str(args.out)) as writer:
        for step in trange(len(actions), desc="imagining", unit="step"):
            observation, _, _, truncated, info = envs.step(np.tile(actions[step], (args.seeds, 1)))
            frames.append(np.asarray(observation))
            spread = np.std(frames[-1].astype(np.float32), axis=0).mean()
            writer.add_scalar("spread_over_seeds", float(spread), step + 1)
            if (info["surprise"] >= 0).all():  # -1, not known, at one denoising step
                writer.add_scalar("surprise", float(np.mean(info["surprise"])), step + 1)
            if truncated.all():
                break
    rows = np.stack(frames, axis=1)
    fps = card.action.control_hz / card.action.frame_skip
    scene = {f"seed {k}": row for k, row in enumerate(rows)}
    return write_pictures(args.out, "record_rollout", [scene], fps)


if __name__ == "__main__":
    main(tyro.cli(Args))
