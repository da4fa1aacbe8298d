"""`wm-gym diagnose`: measures what the shapes of an imported checkpoint cannot tell.

Objective: shown nothing but noise, a flow-matching network answers noise minus its guess of the
latents, which correlates with the noise; a v-prediction network answers minus its guess, which does
not. Alignment: recorded actions are rolled out under both readings, and the imagined latents are
compared with the recorded ones.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from wm_gym.dynamics.noise import row_noise
from wm_gym.dynamics.rollout import LatentHistory
from wm_gym.errors import UserError
from wm_gym.evaluation.open_loop.clips import OpenLoopClips, open_recorded, sample_clips
from wm_gym.evaluation.report import measurement_header, write_json

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel

Alignment = Literal["target", "source"]
ALIGNMENTS: tuple[Alignment, ...] = ("target", "source")
FLOW_ABOVE, DDPM_BELOW = 0.5, 0.2


@dataclass(frozen=True)
class DiagnoseConfig:
    """Measure a checkpoint's objective and action alignment on recorded episodes."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Checkpoint folder, or hf://org/repo@revision."""
    data: Path
    """Folder of episodes of the model's robot: of `wm-gym collect`, LeRobot v2.1 or v3.0, or
    mp4 + npz files."""
    clips: int = 16
    """Clips, at most one per episode."""
    steps: int = 4
    """Imagined steps per clip that are compared."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    seed: int = 0
    """Seed of the choice of clips and of the noise."""
    device: str = "cpu"
    """Torch device."""
    cameras: tuple[str, ...] = ()
    """Cameras of the dataset, as many as the model has views, in its order."""
    json: Path | None = None
    """File for the figures."""


@dataclass(frozen=True)
class ObjectiveDiagnosis:
    """What a network answers to pure noise at the largest time.

    Attributes:
        card: objective on the card.
        noise_correlation: Pearson correlation of the answer with the noise, mean over clips.
        latent_correlation: of the negated answer with the true latents.
        measured: "flow", "ddpm", or None where the correlation is in between.
    """

    card: str
    noise_correlation: float
    latent_correlation: float
    measured: Literal["flow", "ddpm"] | None


@dataclass(frozen=True)
class AlignmentDiagnosis:
    """Error of imagined latents under both readings of the actions; normalised latents, RMSE.

    Attributes:
        card: alignment on the card.
        error: by alignment, mean over clips.
        error_shuffled: the same with the actions of other clips.
        error_copy: of repeating the last given frame.
        difference: error under "source" minus error under "target", mean over clips.
        standard_error: of that difference, paired by clip.
        measured: the alignment with the smaller error, or None within two standard errors.
        follows_actions: whether, under the better alignment, other clips' actions raise the error
            by more than two standard errors. If not, the alignment cannot be told.
    """

    card: str
    error: dict[str, float]
    error_shuffled: dict[str, float]
    error_copy: float
    difference: float
    standard_error: float
    measured: Alignment | None
    follows_actions: bool


@torch.inference_mode()
def diagnose_objective(
    model: LatentWorldModel, latents: Tensor, *, seed: int = 0
) -> ObjectiveDiagnosis:
    """Tell flow matching from v-prediction.

    Args:
        model: the model; its card's objective does not matter here.
        latents: (N, T, h, w, C) normalised latents of clips; the last frame is replaced by noise.
        seed: of the noise.
    """
    network, sampler = model.network, model.sampler
    clean, truth = latents[:, :-1], latents[:, -1]
    seeds = _seeds(seed, len(latents))
    noise = row_noise(seeds, [0] * len(seeds), tuple(truth.shape[1:])).to(latents)
    noisy = torch.cat([sampler.context_input(clean), noise[:, None]], 1)
    times = noisy.new_full(noisy.shape[:2], sampler.context_timestep)
    times[:, -1] = sampler.timestep(0)
    actions = model.spec.action.null_action().to(noisy).expand(*times.shape, -1)
    answer = network(noisy, times, actions)[:, -1]
    with_noise = _correlation(answer, noise).mean().item()
    return ObjectiveDiagnosis(
        card=model.dynamics.objective,
        noise_correlation=with_noise,
        latent_correlation=_correlation(-answer, truth).mean().item(),
        measured="flow" if with_noise > FLOW_ABOVE else "ddpm" if with_noise < DDPM_BELOW else None,
    )


def diagnose_alignment(
    model: LatentWorldModel,
    latents: Tensor,
    actions: Tensor,
    steps: np.ndarray,
    history: int,
    *,
    seed: int = 0,
) -> AlignmentDiagnosis:
    """Measure which reading of the actions predicts recorded latents better.

    Args:
        model: the model; its card's alignment does not matter here.
        latents: (N, n + T, h, w, C) normalised latents of clips.
        actions: (N, n - 1 + T, A) physical; `actions[:, i]` led from frame i to frame i + 1.
        steps: (N,) how many of the T steps are recorded.
        history: frames n that are given.
        seed: of the noise, which is the same under both alignments.
    """
    others = actions.roll(1, 0)
    error = {a: latent_errors(model, a, latents, actions, steps, history, seed) for a in ALIGNMENTS}
    shuffled = {
        a: latent_errors(model, a, latents, others, steps, history, seed) for a in ALIGNMENTS
    }
    last, truth = latents[:, history - 1 : history], latents[:, history:]
    difference = error["source"] - error["target"]
    mean, spread = _mean_and_standard_error(difference)
    better: Alignment = "target" if mean > 0 else "source"
    gain, gain_spread = _mean_and_standard_error(shuffled[better] - error[better])
    return AlignmentDiagnosis(
        card=model.spec.action.alignment,
        error={a: float(error[a].mean()) for a in ALIGNMENTS},
        error_shuffled={a: float(shuffled[a].mean()) for a in ALIGNMENTS},
        error_copy=float(_clip_rmse(last.expand_as(truth), truth, steps).mean()),
        difference=mean,
        standard_error=spread,
        measured=better if abs(mean) > 2 * spread else None,
        follows_actions=gain > 2 * gain_spread,
    )


def latent_errors(
    model: LatentWorldModel,
    alignment: Alignment,
    latents: Tensor,
    actions: Tensor,
    steps: np.ndarray,
    history: int,
    seed: int,
) -> np.ndarray:
    """RMSE (N,) of imagined against recorded latents; arguments as in `diagnose_alignment`."""
    read = copy.copy(model)
    read.spec = replace(model.spec, action=replace(model.spec.action, alignment=alignment))
    action = read.spec.action
    slots = action.null_action().expand(len(latents), history, -1).clone().to(latents.device)
    first = int(alignment == "target")
    known = action.normalise(actions[:, : history - 1].to(latents.device))
    slots[:, first : first + history - 1] = known
    given = LatentHistory(latents[:, :history], slots)
    rollout = read.begin(given, seeds=_seeds(seed, len(latents)))  # pyright: ignore
    imagined = rollout.step(actions[:, history - 1 :])
    return _clip_rmse(imagined, latents[:, history:], steps)


def encode_clips(model: LatentWorldModel, clips: OpenLoopClips, batch: int = 16) -> Tensor:
    """Normalised latents (N, n + T, h, w, C) of clips."""
    frames = torch.from_numpy(clips.frames).flatten(0, 1)
    parts = [model.encode(frames[i : i + batch]) for i in range(0, len(frames), batch)]
    return torch.cat(parts).unflatten(0, clips.frames.shape[:2])


def diagnose(config: DiagnoseConfig) -> dict[str, Any]:
    """Run `wm-gym diagnose`.

    Returns:
        The figures, as they are written to `config.json`.

    Raises:
        CheckpointError: if the checkpoint cannot be found or is damaged.
        ValueError: if there are too few clips, steps or episodes, or their actions are of another
            robot.
    """
    from wm_gym.world_model import load_world_model

    for name, least in (("clips", 2), ("steps", 1)):
        if getattr(config, name) < least:
            raise UserError(f"{name}={getattr(config, name)}; expected at least {least}")
    model = load_world_model(
        config.checkpoint, denoising_steps=config.denoising_steps, device=config.device
    )
    dataset = open_recorded(config.data, model.spec, config.cameras)
    clips = sample_clips(dataset, model.spec, config.clips, config.steps, config.seed)
    latents = encode_clips(model, clips)
    objective = diagnose_objective(model, latents[:, : clips.history + 1], seed=config.seed)
    alignment = diagnose_alignment(
        model,
        latents,
        torch.from_numpy(clips.actions),
        clips.steps,
        clips.history,
        seed=config.seed,
    )
    print(describe(objective, alignment))
    content = {
        **measurement_header(seeds=config.seed),
        "checkpoint": config.checkpoint,
        "clips": len(latents),
        "steps": config.steps,
        "objective": asdict(objective),
        "alignment": asdict(alignment),
    }
    if config.json is not None:
        write_json(config.json, content)
    return content


def describe(objective: ObjectiveDiagnosis, alignment: AlignmentDiagnosis) -> str:
    """The findings in words, with what to do if they contradict the card."""
    lines = [
        f"objective: card {objective.card}, measured {objective.measured or 'undecided'} "
        f"(correlation with the noise {objective.noise_correlation:.3f}; flow above {FLOW_ABOVE}, "
        f"ddpm below {DDPM_BELOW})",
        f"alignment: card {alignment.card}, measured {alignment.measured or 'undecided'} (latent "
        f"RMSE target {alignment.error['target']:.4f}, source {alignment.error['source']:.4f}, "
        f"difference {alignment.difference:+.4f} +- {alignment.standard_error:.4f}; repeating the "
        f"last frame {alignment.error_copy:.4f})",
    ]
    if not alignment.follows_actions:
        lines.append(
            "other clips' actions do as well: the model, or these episodes, say nothing about the "
            "alignment; try more clips or more steps"
        )
    for name, found in (("objective", objective), ("alignment", alignment)):
        if found.measured not in (None, found.card):
            lines.append(
                f"the card's {name} {found.card!r} is contradicted: import the file again with "
                f"--{name} {found.measured}"
            )
    if objective.measured not in (None, objective.card):
        lines.append("the alignment was measured with the wrong objective: measure it again then")
    return "\n".join(lines)


def _clip_rmse(found: Tensor, truth: Tensor, steps: np.ndarray) -> np.ndarray:
    """RMSE (N,) over the recorded steps of clips (N, T, h, w, C)."""
    square = (found - truth).square().mean((2, 3, 4)).double().cpu().numpy()  # (N, T)
    recorded = np.arange(square.shape[1]) < np.asarray(steps)[:, None]
    return np.sqrt((square * recorded).sum(1) / recorded.sum(1))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation (N,) of the numbers of each row."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / norms.clamp_min(1e-12)


def _mean_and_standard_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _seeds(seed: int, count: int) -> list[int]:
    return [seed * 1_000_003 + row for row in range(count)]
