"""Open-loop quality: recorded actions in, frames out, compared with what was recorded.

Every figure stands beside three controls: encoding and decoding the truth (what the decoder
allows), repeating the first frame (what ignoring time gives) and rolling out another clip's actions
(what ignoring actions gives). A figure is the mean over clips of the clip's value; PSNR over
changed pixels leaves out clips in which fewer than 20 pixels changed, alike in all controls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import domain_of
from wm_gym.envs.collect import HELD_OUT_SEEDS
from wm_gym.errors import UserError
from wm_gym.evaluation.open_loop.clips import OpenLoopClips, open_recorded, sample_clips
from wm_gym.evaluation.open_loop.components import BlockReference
from wm_gym.evaluation.open_loop.effectors import EFFECTORS
from wm_gym.evaluation.open_loop.wholeness import whole_blocks
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.metrics.visual import changed_psnr, gap_closed, psnr, ssim

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel

PERSISTENCE_STEPS = 30
CONTROLS = ("reconstruction", "copy_first", "shuffled_actions")


@dataclass(frozen=True)
class OpenLoopConfig:
    """Measure rollouts under recorded actions against the recorded frames."""

    data: Path
    """Folder of held-out episodes: of `wm-gym collect --held-out --seed 6000`, LeRobot v2.1 or
    v3.0, or mp4 + npz files."""
    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default. Its distilled number picks that network."""
    horizons: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Steps at which to compare."""
    clips: int = 64
    """Clips, at most one per episode."""
    batch: int = 16
    """Rollouts at once."""
    cache: str = "auto"
    """Cache mode of the rollout: auto, off, exact or rolling."""
    seed: int = 0
    """Seed of the choice of clips and of the noise."""
    device: str = "cpu"
    """Torch device."""
    cameras: tuple[str, ...] = ()
    """Cameras of the dataset, as many as the model has views, in its order."""
    out: Path = Path("outputs/open_loop")
    """Folder for the figure and the strips."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write the figures into the checkpoint's card.json."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.clips < 2 or self.batch < 1 or min(self.horizons, default=0) < 1:
            raise UserError(
                f"clips={self.clips}, batch={self.batch}, horizons={self.horizons}: expected at "
                "least 2 clips (shuffled actions need another clip), a batch and horizons of 1"
            )


def roll_out(
    model: LatentWorldModel, clips: OpenLoopClips, actions: np.ndarray, config: OpenLoopConfig
) -> tuple[np.ndarray, float]:
    """Roll all clips out under some actions.

    Args:
        model: world model.
        clips: where to begin.
        actions: (N, n - 1 + T, A); the first n - 1 lead through the history.
        config: batch, cache and seed.

    Returns:
        Frames (N, T, H, W, 3) uint8 and the seconds spent in `Rollout.step`.
    """
    generated = np.empty_like(clips.truth)
    known, steps = clips.history - 1, clips.truth.shape[1]
    seconds = 0.0
    for first in range(0, len(generated), config.batch):
        rows = slice(first, first + config.batch)
        seeds = [config.seed * 1_000_003 + row for row in range(len(generated))[rows]]
        rollout = model.begin(
            torch.from_numpy(clips.frames[rows, : clips.history]),
            torch.from_numpy(actions[rows, :known]),
            seeds=seeds,
            cache=config.cache,
        )
        for step in tqdm(
            range(steps), desc=f"clips {first + 1} to {first + len(seeds)}", leave=False
        ):
            began = time.perf_counter()
            rollout.step(torch.from_numpy(actions[rows, known + step]))
            seconds += time.perf_counter() - began
            generated[rows, step] = rollout.frames().cpu().numpy()
    return generated, seconds


def reconstruct(model: LatentWorldModel, frames: np.ndarray, batch: int = 64) -> np.ndarray:
    """Encode and decode frames (..., H, W, 3) uint8."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    parts = [
        model.decode(model.encode(torch.from_numpy(flat[i : i + batch]))).cpu().numpy()
        for i in range(0, len(flat), batch)
    ]
    return np.concatenate(parts).reshape(frames.shape)


def check_length(clips: OpenLoopClips, horizon: int) -> None:
    """Make sure that some clip reaches a horizon.

    Raises:
        ValueError: if none does.
    """
    if clips.steps.max() < horizon:
        raise UserError(
            f"no clip has {horizon} recorded steps, the longest has {clips.steps.max()}; ask for "
            "shorter horizons or collect longer episodes"
        )


def horizon_scores(
    clips: OpenLoopClips, versions: dict[str, np.ndarray], horizon: int
) -> dict[str, Any]:
    """Compare all versions with the truth at one horizon.

    Args:
        clips: truth and start.
        versions: frames (N, T, H, W, 3) under "rollout" and the names of the controls.
        horizon: 1 is the first generated frame.

    Returns:
        `psnr`, `ssim`, `changed_psnr`, each also with `_<control>` appended, `gap_closed` and
        `gap_closed_shuffled_actions`, `clips` that reach so far, `clips_changed` among them; None
        where no clip says anything.
    """
    check_length(clips, horizon)
    rows = np.flatnonzero(clips.steps >= horizon)
    truth = torch.from_numpy(clips.truth[rows, horizon - 1])
    start = torch.from_numpy(clips.start[rows])
    scores: dict[str, Any] = {}
    for name, version in versions.items():
        frames = torch.from_numpy(np.ascontiguousarray(version[rows, horizon - 1]))
        suffix = "" if name == "rollout" else f"_{name}"
        changed = changed_psnr(frames, truth, start)
        scores[f"psnr{suffix}"] = psnr(frames, truth).mean().item()
        scores[f"ssim{suffix}"] = ssim(frames, truth).mean().item()
        scores[f"changed_psnr{suffix}"] = changed.nanmean().item()
        scores["clips_changed"] = int(changed.isfinite().sum())
    for suffix in ("", "_shuffled_actions"):
        scores[f"gap_closed{suffix}"] = gap_closed(
            scores[f"changed_psnr{suffix}"],
            scores["changed_psnr_copy_first"],
            scores["changed_psnr_reconstruction"],
        )
    known = {name: None if np.isnan(score) else score for name, score in scores.items()}
    return {**known, "clips": len(rows)}


def effector_errors(
    clips: OpenLoopClips,
    versions: dict[str, np.ndarray],
    horizon: int,
    locate: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float | None]:
    """Median distance between the effector of the truth and of each version, at one horizon.

    A version that shows none counts as infinitely far away; a truth that shows none is left out.

    Args:
        clips: truth and start.
        versions: frames (N, T, H, W, 3) by name.
        horizon: 1 is the first generated frame.
        locate: finds the effector, see `wm_gym.evaluation.open_loop.effectors.EFFECTORS`.

    Returns:
        `effector_error_px_median` and `effector_error_percent_of_width_median`, each also with
        `_<control>` appended; None where most frames show no effector.
    """
    rows = np.flatnonzero(clips.steps >= horizon)
    truth = locate(clips.truth[rows, horizon - 1])
    seen = np.isfinite(truth[:, 0])
    errors: dict[str, float | None] = {}
    for name, version in versions.items():
        suffix = "" if name == "rollout" else f"_{name}"
        found = locate(version[rows, horizon - 1])
        distance = np.linalg.norm(found - truth, axis=1)[seen]
        median = float(np.median(np.where(np.isnan(distance), np.inf, distance)))
        known = np.isfinite(median)
        percent = 100.0 * median / clips.frames.shape[-2]
        errors[f"effector_error_px_median{suffix}"] = median if known else None
        errors[f"effector_error_percent_of_width_median{suffix}"] = percent if known else None
    return errors


def block_persistence(clips: OpenLoopClips, versions: dict[str, np.ndarray]) -> dict[str, Any]:
    """Share of clips in which no block vanishes or doubles within 30 steps.

    Returns:
        `steps`, `clips`, and the share for the rollout, the truth (the calibration: near 1) and
        every control, by name.
    """
    steps = min(PERSISTENCE_STEPS, clips.truth.shape[1])
    rows = np.flatnonzero(clips.steps >= steps)
    shown = {"truth": clips.truth, **versions}
    kept = {name: 0 for name in shown}
    for row in rows:
        reference = BlockReference(clips.frames[row, : clips.history + steps])
        for name, frames in shown.items():
            kept[name] += reference.persist(frames[row, :steps])
    shares = {name: count / len(rows) if len(rows) else None for name, count in kept.items()}
    return {"steps": steps, "clips": len(rows), **shares}


def measure_open_loop(
    model: LatentWorldModel, clips: OpenLoopClips, config: OpenLoopConfig
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Roll out, build the controls and score them.

    Returns:
        The card's `open_loop` entry, and the frames of every version, each (N, T, H, W, 3).
    """
    rolled, seconds = roll_out(model, clips, clips.actions, config)
    others = clips.actions.copy()
    others[:, clips.history - 1 :] = np.roll(others[:, clips.history - 1 :], 1, axis=0)
    shuffled, _ = roll_out(model, clips, others, config)
    versions = {
        "rollout": rolled,
        "reconstruction": reconstruct(model, clips.truth),
        "copy_first": np.broadcast_to(clips.start[:, None], clips.truth.shape),
        "shuffled_actions": shuffled,
    }
    locate = EFFECTORS.get(model.spec.twin or "")
    domain = domain_of(model.spec.twin)
    scores: dict[str, Any] = {}
    for horizon in sorted(config.horizons):
        entry = horizon_scores(clips, versions, horizon)
        if locate is not None:
            entry |= effector_errors(clips, versions, horizon, locate)
        scores[f"horizon_{horizon}"] = entry
    if domain is not None and domain.coloured_blocks:
        scores["block_persistence"] = block_persistence(clips, versions)
        colours = [name.split()[0] for name in model.spec.objects]
        reached = {*config.horizons, min(PERSISTENCE_STEPS, int(clips.steps.max()))}
        scores["whole_blocks"] = whole_blocks(clips, versions, colours, sorted(reached))
    row_steps = clips.truth.shape[0] * clips.truth.shape[1]
    scores["speed"] = {
        "denoising_steps": model.denoising_steps,
        "batch": min(config.batch, len(clips.truth)),
        "row_steps_per_second": row_steps / seconds,
    }
    return scores, versions


def evaluate_open_loop(config: OpenLoopConfig) -> dict[str, Any]:
    """Run `wm-gym evaluate open-loop`: measure, draw, write and print.

    Returns:
        What `--json` writes.
    """
    from wm_gym.evaluation.models import load_by_id
    from wm_gym.evaluation.open_loop.figures import draw_curves, draw_strips, print_table

    model = load_by_id(
        config.id, config.checkpoint, denoising_steps=config.denoising_steps, device=config.device
    )
    dataset = open_recorded(config.data, model.spec, config.cameras)
    clips = sample_clips(dataset, model.spec, config.clips, max(config.horizons), config.seed)
    check_length(clips, max(config.horizons))  # before anything is computed
    scores, versions = measure_open_loop(model, clips, config)
    scores["held_out"] = None  # nobody knows whether recordings were trained on
    if isinstance(dataset, EpisodeDataset):
        scores["held_out"] = all(seed in HELD_OUT_SEEDS for seed in dataset.seeds)
    header = measurement_header(seeds=config.seed)
    report = {
        **header,
        "model": model.spec.name,
        "checkpoint": config.checkpoint,
        "weights_sha256": model.spec.weights_sha256,
        "data": str(config.data),
        "open_loop": scores,
    }
    print_table(model.spec.name, scores)
    pictures = [draw_curves(scores, config.out / "open_loop.png", model.spec.name)]
    pictures += draw_strips(clips, versions, config.horizons, config.out)
    if config.json is not None:
        pictures.append(write_json(config.json, report))
    if config.write_card:
        pictures.append(_write_card(model, scores, header))
    print("wrote " + ", ".join(map(str, pictures)))
    return report


def _write_card(model: LatentWorldModel, scores: dict[str, Any], header: dict[str, Any]) -> Path:
    """Store the scores; those of another network or number of steps have entries of their own."""
    from wm_gym.checkpoints import Checkpoint

    assert model.folder is not None
    opened = Checkpoint.open(model.folder)
    spec = opened.spec
    if model.dynamics == spec.distilled:
        name = "open_loop_distilled"
    elif model.denoising_steps == spec.dynamics.denoising_steps:
        name = "open_loop"
    else:
        name = f"open_loop_{model.denoising_steps}_steps"
    return write_metric(opened, name, scores, header)
