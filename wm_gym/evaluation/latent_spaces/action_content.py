"""How much of the actions latents keep: read by an inverse dynamics model, and planned back by CEM.

Both are asked of encoded and of imagined latents, beside controls: imagined under another clip's
actions, and noise instead of latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from wm_gym.metrics.idm import TransformerIDM, action_correlation
from wm_gym.metrics.statistics import resampled_interval
from wm_gym.planning.cem import CEMConfig
from wm_gym.planning.plan import FIRST_BATCH_STREAM, ActionBox
from wm_gym.planning.planner import plan
from wm_gym.training.idm import read_actions
from wm_gym.training.loop import generator

if TYPE_CHECKING:
    from wm_gym.evaluation.open_loop.clips import OpenLoopClips
    from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class RecoveryConfig:
    """Action recovery by the cross-entropy method."""

    transitions: int = 32
    """Recorded transitions whose action is searched for."""
    candidates: int = 64
    """Actions tried in every iteration."""
    elites: int = 8
    """Best ones that the next iteration is drawn around."""
    iterations: int = 5
    """Iterations after the first."""
    spread: float = 0.5
    """Standard deviation of the first candidates, as a share of half the action range; their mean
    is the middle of the range."""
    batch: int = 4
    """Transitions searched for at once."""


@dataclass(frozen=True)
class ClipLatents:
    """Normalised latents of N clips: a start frame and T steps after it.

    Attributes:
        encoded: (N, 1 + T, h, w, D) of the recorded frames.
        imagined: the same, imagined under the recorded actions from the encoded start.
        shuffled: imagined under the actions of another clip.
        actions: (N, T, A) recorded, physical.
    """

    encoded: Tensor
    imagined: Tensor
    shuffled: Tensor
    actions: Tensor


def latents_of_clips(
    model: LatentWorldModel, clips: OpenLoopClips, batch: int, seed: int
) -> ClipLatents:
    """Encode clips, and imagine them under their own and under each other's actions.

    Args:
        model: world model.
        clips: all of them with every step recorded.
        batch: clips at once.
        seed: of the noise.
    """
    known, steps = clips.history - 1, clips.truth.shape[1]
    frames = np.concatenate([clips.start[:, None], clips.truth], axis=1)
    encoded = torch.stack([model.encode(torch.from_numpy(clip)).float().cpu() for clip in frames])
    taken = torch.from_numpy(clips.actions)
    others = torch.cat([taken[:, :known], taken[:, known:].roll(1, 0)], dim=1)
    imagined = []
    for actions in (taken, others):
        parts = []
        for first in tqdm(range(0, len(frames), batch), desc="imagining", leave=False):
            rows = slice(first, first + batch)
            rollout = model.begin(
                torch.from_numpy(clips.frames[rows, : clips.history]),
                actions[rows, :known],
                seeds=[seed * 1_000_003 + row for row in range(len(frames))[rows]],
            )
            parts.append(rollout.step(actions[rows, known:]).float().cpu())
        imagined.append(torch.cat([encoded[:, :1], torch.cat(parts)], dim=1))
    assert imagined[0].shape == encoded.shape and steps == taken.shape[1] - known
    return ClipLatents(encoded, imagined[0], imagined[1], taken[:, known:])


@dataclass(frozen=True)
class ReadActions:
    """What an inverse dynamics model read from each version of N clips, W windows each.

    Attributes:
        truth: (N, W, k, A), network units.
        versions: the same shape by version: encoder, generated, shuffled_actions, random_latents.
    """

    truth: Tensor
    versions: dict[str, Tensor] = field(default_factory=dict)

    def pearson(self, version: str, clips: np.ndarray) -> float:
        """Mean correlation over components, of some clips."""
        rows = torch.from_numpy(clips)
        return action_correlation(self.versions[version][rows], self.truth[rows])["pearson"]

    def scores(self) -> dict[str, Any]:
        """By version `pearson`, its interval over clips, and `by_component`."""
        report = {}
        for version, found in self.versions.items():
            interval = resampled_interval(
                lambda clips, name=version: self.pearson(name, clips), len(self.truth)
            )
            report[version] = {
                "pearson": interval.estimate,
                "interval": [interval.low, interval.high],
                "by_component": action_correlation(found, self.truth)["by_component"],
            }
        encoder = report["encoder"]["pearson"]
        report["generated_over_encoder"] = report["generated"]["pearson"] / encoder
        return report


def read_clips(
    model: LatentWorldModel, idm: TransformerIDM, latents: ClipLatents, seed: int
) -> ReadActions:
    """Read the actions of every window of k + 1 frames in every version of the clips.

    Args:
        model: says how actions are scaled.
        idm: trained on encoded latents of the model's space.
        latents: of the clips.
        seed: of the random latents.
    """
    k = idm.cfg.horizon

    def windows(sequence: Tensor, length: int) -> Tensor:  # (N, L, ...) -> (N, W, length, ...)
        return sequence.unfold(1, length, 1).movedim(-1, 2)

    action = model.spec.action
    truth = windows(action.normalise(latents.actions)[..., : action.size], k)
    noise = torch.randn(latents.encoded.shape, generator=generator(seed, 0))
    versions = {
        "encoder": latents.encoded,
        "generated": latents.imagined,
        "shuffled_actions": latents.shuffled,
        "random_latents": noise,
    }
    found = {
        name: read_actions(idm, windows(frames, k + 1).flatten(0, 1)).unflatten(0, truth.shape[:2])
        for name, frames in versions.items()
    }
    return ReadActions(truth, found)


def recover_actions(
    model: LatentWorldModel,
    clips: OpenLoopClips,
    rows: Sequence[int],
    targets: Tensor,
    config: RecoveryConfig,
    seed: int,
) -> Tensor:
    """Search for the action whose imagined latents come closest to targets, one step ahead.

    All candidates of a transition are imagined with the same noise. The search starts in the middle
    of the action range, not at the recorded action as the published code does.

    Args:
        model: world model.
        clips: where to begin.
        rows: which clips.
        targets: (len(rows), h, w, D) normalised latents.
        config: of the search.
        seed: of noise and candidates.

    Returns:
        (len(rows), A), physical units.
    """
    box = ActionBox.of(model.spec.action)
    middle, half = (box.high + box.low) / 2, (box.high - box.low) / 2
    seeds = [seed * 1_000_003 + row for row in rows]
    index = np.asarray(rows)
    rollout = model.begin(
        torch.from_numpy(clips.frames[index, : clips.history]),
        torch.from_numpy(clips.actions[index, : clips.history - 1]),
        seeds=seeds,
    )

    def value(candidates: Tensor) -> Tensor:
        count = candidates.shape[1]
        copies = np.repeat(np.arange(len(rows)), count)
        branch = rollout.fork(copies.tolist())
        error = branch.step(candidates.flatten(0, 1)[:, 0]).float().cpu() - targets[copies]
        return -error.square().mean((1, 2, 3)).unflatten(0, (len(rows), count))

    size = (config.candidates, 1, len(middle))
    drawn = [torch.randn(size, generator=generator(s, 0, FIRST_BATCH_STREAM)) for s in seeds]
    first = middle + config.spread * half * torch.stack(drawn)
    settings = CEMConfig(config.candidates, config.elites, config.iterations)
    return plan(value, box, 1, seeds, settings, proposals=box.clamp(first)).actions[:, 0]


def measure_recovery(
    model: LatentWorldModel,
    clips: OpenLoopClips,
    latents: ClipLatents,
    config: RecoveryConfig,
    seed: int,
) -> dict[str, Any]:
    """How far recovered actions are from those taken, in units of half the action range.

    Returns:
        `error`: mean absolute error towards the encoded next frame; `middle_of_range`: of not
        searching; `shuffled_actions`: towards the next frame of another clip; `random_latents`:
        towards noise. All with the number of `transitions` and the settings.
    """
    box = ActionBox.of(model.spec.action)
    count = min(config.transitions, len(latents.actions))
    taken, after = latents.actions[:count, 0], latents.encoded[:count, 1]
    noise = torch.randn(after.shape, generator=generator(seed, 1))
    half = (box.high - box.low) / 2
    targets = {"error": after, "shuffled_actions": after.roll(1, 0), "random_latents": noise}
    report: dict[str, Any] = {}
    for name, target in targets.items():
        found = []
        for first in tqdm(range(0, count, config.batch), desc=f"recovery, {name}", leave=False):
            rows = range(count)[first : first + config.batch]
            found.append(
                recover_actions(model, clips, rows, target[rows.start : rows.stop], config, seed)
            )
        report[name] = float(((torch.cat(found) - taken) / half).abs().mean())
    middle = ((box.high + box.low) / 2 - taken) / half
    return {
        **report,
        "middle_of_range": float(middle.abs().mean()),
        "transitions": count,
        "settings": asdict(config),
    }
