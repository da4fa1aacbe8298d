"""Recipe: `wm-gym train imagined-latents`, what a world model makes of recorded actions.

A success classifier that has only seen encoded frames takes what goes wrong in a dream, an object
that dissolves, for whatever it resembles. Here every episode is imagined from its first frame under
its own recorded actions; the simulator's state of the same step stands beside every imagined frame.
`wm-gym train reward --imagined` learns from them how likely success is in truth, given the dream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.checkpoints import write_atomically
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.data.frames import resize
from wm_gym.data.latent_clips import EpisodeFacts, write_episode_facts, write_latents
from wm_gym.errors import UserError
from wm_gym.training.encode_latents import simulator_of
from wm_gym.world_model import LatentWorldModel, load_world_model


@dataclass(frozen=True)
class ImagineLatentsConfig:
    """Imagine recorded episodes from their first frame, and write the latents."""

    data: Path
    """Folder of episodes, written by `wm-gym collect`."""
    checkpoint: str
    """World model that imagines them: a folder, or hf://org/repo@revision."""
    out: Path
    """Folder of latents to write; one that holds anything else is left alone and refused."""
    episodes: int = 500
    """Episodes, drawn from those there are."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    rows: int = 32
    """Episodes at once."""
    seed: int = 0
    """Seed of the choice of episodes and of the noise."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if min(self.episodes, self.rows) < 1:
            raise UserError(f"episodes={self.episodes}, rows={self.rows}; expected at least 1 each")


def imagine_latents(config: ImagineLatentsConfig) -> Path:
    """Imagine the episodes; does nothing if it is done already.

    Returns:
        The folder, which `wm-gym label-goals` labels.

    Raises:
        ValueError: if `out` holds something else, or the episodes' actions do not fit the card.
    """
    model = load_world_model(
        config.checkpoint, denoising_steps=config.denoising_steps, device=config.device
    )
    spec = model.spec
    data = EpisodeDataset(config.data)
    width = data.actions(0).shape[1]
    if width != spec.action.size:
        raise UserError(
            f"{config.data} has actions of {width} components, {spec.name} takes "
            f"{spec.action.size}: {list(spec.action.names)}; use episodes of its simulator"
        )
    if spec.action.frame_skip != 1 or spec.num_views != 1:
        raise UserError(
            f"{spec.name} has frame_skip={spec.action.frame_skip} and {spec.num_views} cameras; "
            "expected 1 each, because every recorded step of one camera is imagined"
        )
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(data))[: config.episodes])
    source = {
        "dataset": str(data.folder.resolve()),
        "imagined_by": spec.name,
        "weights_sha256": spec.weights_sha256,
        "denoising_steps": model.denoising_steps,
        "seed": config.seed,
        "numbers": chosen.tolist(),
    }
    folder = write_latents(
        config.out, lambda: _imagine(model, data, chosen, config.seed, config.rows), source
    )
    scale = json.dumps({"mean": spec.latent.mean, "std": spec.latent.std}, indent=1)
    write_atomically(folder / "normalisation.json", scale.encode())
    write_atomically(folder / "action.json", json.dumps(asdict(spec.action), indent=1).encode())
    goals = tuple((data.goals[e].task, *data.goals[e].objects) for e in chosen)
    write_episode_facts(folder, EpisodeFacts(simulator_of(data), goals))
    return folder


def _imagine(
    model: LatentWorldModel, data: EpisodeDataset, chosen: np.ndarray, seed: int, rows: int
) -> Mapping[str, np.ndarray]:
    """Arrays of a folder of latents, in the order of `chosen`; latents are not normalised."""
    steps = data.lengths[chosen]
    bounds = np.concatenate([[0], np.cumsum(steps + 1)])
    height, width = model.spec.latent.grid
    shape = (int(bounds[-1]), height, width, model.spec.latent.channels)
    latents = np.zeros(shape, np.float32)
    actions = np.zeros((shape[0], model.spec.action.size), np.float32)
    labels = [data.labels(int(e)) for e in chosen]
    size = (model.spec.frame.height, model.spec.frame.width)
    longest_first = np.argsort(-steps, kind="stable")  # rows of a pass end at about the same step
    with tqdm(total=int(steps.sum()), unit="frame", desc="imagining") as bar:
        for first in range(0, len(chosen), rows):
            group = longest_first[first : first + rows]
            numbers = [int(chosen[k]) for k in group]
            frames = resize(np.concatenate([data.frames(e, slice(0, 1)) for e in numbers]), *size)
            taken = np.zeros((len(group), int(steps[group].max()), actions.shape[1]), np.float32)
            for row, (k, e) in enumerate(zip(group, numbers, strict=True)):
                taken[row, : steps[k]] = data.actions(e)
                actions[bounds[k] : bounds[k + 1] - 1] = taken[row, : steps[k]]
            rollout = model.begin(
                torch.from_numpy(frames), seeds=[seed * 1_000_003 + e for e in numbers]
            )
            latents[bounds[group]] = model.encode(torch.from_numpy(frames)).float().cpu().numpy()
            for t in range(taken.shape[1]):
                made = rollout.step(torch.from_numpy(taken[:, t])).float().cpu().numpy()
                going = steps[group] > t
                latents[bounds[group[going]] + t + 1] = made[going]
                bar.update(int(going.sum()))
    latent = model.spec.latent
    mean, std = np.array(latent.mean, np.float32), np.array(latent.std, np.float32)
    return {
        "latents": latents * std + mean,
        "actions": actions,
        "privileged": np.concatenate([states for states, _ in labels]).astype(np.float32),
        "success": np.concatenate([success for _, success in labels]),
        "bounds": bounds,
    }
