"""`wm-gym evaluate reward-model`: how right the success classifier is, on real and imagined frames.

Held-out episodes give frames and, by the simulator's predicates, the truth under every goal. The
same
actions are rolled out in the world model; an imagined frame is judged against the truth of the real
frame it stands for, so the imagined figure holds the dream's errors as well as the classifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.data.foreign_pictures import foreign_pictures, sample_frames
from wm_gym.envs.goal_labels import label_states
from wm_gym.errors import UserError
from wm_gym.evaluation.models import load_by_id
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.training.encode_latents import FOREIGN_PICTURES
from wm_gym.training.episode_rule import IN_TIME, Part, measure_rule, score_episodes
from wm_gym.training.labelled_latents import LabelledLatents, measure_classifier

if TYPE_CHECKING:
    from wm_gym.world_model import LatentWorldModel


@dataclass(frozen=True)
class RewardModelConfig:
    """Measure the success classifier on real held-out clips and on imagined ones."""

    data: Path
    """Folder of held-out episodes, made by `wm-gym collect --held-out --seed 6000`."""
    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    episodes: int = 96
    """Held-out episodes."""
    horizon: int = 20
    """Imagined steps per episode."""
    near_miss_m: float = 0.02
    """How far outside the threshold a failure still counts as a near miss, in metres."""
    per_kind: int = 600
    """Near misses, and other failures, per task; twice as many successes."""
    seed: int = 0
    """Seed of the noise and of the sample."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write the figures into the checkpoint's card.json."""


def evaluate_reward_model(config: RewardModelConfig) -> dict[str, Any]:
    """Run `wm-gym evaluate reward-model`: measure, write and print.

    Returns:
        What `--json` writes; `reward_model.real` and `.imagined` hold the figures by task.
    """
    model = load_by_id(config.id, config.checkpoint, denoising_steps=config.denoising_steps)
    report = measure_reward_model(model, EpisodeDataset(config.data), config)
    header = measurement_header(seeds=config.seed)
    content = {**header, "model": model.spec.name, "reward_model": report}
    if config.json is not None:
        write_json(config.json, content)
    if config.write_card:
        assert model.folder is not None
        write_metric(Checkpoint.open(model.folder), "reward_model", report, header)
    return content


@dataclass(frozen=True)
class ClipsInThreeVersions:
    """Clips of episodes as recorded, as imagined under the same actions, and not changing at all.

    Attributes:
        versions: the latents after every step of all clips, with the truth of the recorded ones:
            `real`, `imagined` and, as a control, `copy_first`.
        clips: which rows are of one clip, in time, and its goal.
    """

    versions: dict[str, LabelledLatents]
    clips: list[Part]


def roll_out_clips(
    model: LatentWorldModel, data: EpisodeDataset, config: RewardModelConfig
) -> ClipsInThreeVersions:
    """Encode and imagine clips of random episodes, which begin anywhere, after a success too.

    Args:
        model: world model.
        data: held-out episodes.
        config: how many, how long, which seed.

    Raises:
        ValueError: if no episode is long enough.
    """
    rng = np.random.default_rng(config.seed)
    long_enough = np.flatnonzero(data.lengths >= config.horizon)
    chosen = rng.permutation(long_enough)[: config.episodes]
    if not len(chosen):
        raise UserError(
            f"{data.folder} has no episode of at least {config.horizon} steps; lower --horizon"
        )
    real, imagined, still, states, tasks, shown = [], [], [], [], [], []
    for first in tqdm(range(0, len(chosen), 16), desc="episodes"):
        group = chosen[first : first + 16]
        episodes = [data[int(e)] for e in group]
        starts = [int(rng.integers(len(e.actions) - config.horizon + 1)) for e in episodes]
        frames = torch.from_numpy(
            np.stack([e.frames[s] for e, s in zip(episodes, starts, strict=True)])
        )
        first_latents = model.encode(frames).numpy()
        rollout = model.begin(frames, seeds=[config.seed * 1_000_003 + int(e) for e in group])
        for k in range(config.horizon):
            pairs = list(zip(episodes, starts, strict=True))
            action = torch.from_numpy(np.stack([e.actions[s + k] for e, s in pairs]))
            imagined.append(rollout.step(action).float().numpy())
            still.append(first_latents)
            after = np.stack([e.frames[s + k + 1] for e, s in pairs])
            real.append(model.encode(torch.from_numpy(after)).numpy())
            states.append(np.stack([e.privileged[s + k + 1] for e, s in pairs]))
            tasks += [e.goal.task for e in episodes]
            shown += list(group)
    labels = label_states(np.concatenate(states), model.spec.twin, tasks)
    pictures = foreign_pictures(sample_frames(data, FOREIGN_PICTURES, config.seed), config.seed)
    foreign = np.concatenate(
        [model.encode(torch.from_numpy(part)).numpy() for part in np.array_split(pictures, 20)]
    )
    versions = {
        name: LabelledLatents(
            np.concatenate(latents),
            labels.goals,
            labels.success,
            labels.distance_m,
            labels.positions_m,
            config.near_miss_m,
            foreign=foreign,
        )
        for name, latents in (("real", real), ("imagined", imagined), ("copy_first", still))
    }
    return ClipsInThreeVersions(versions, _clips(data, shown))


def measure_reward_model(
    model: LatentWorldModel, data: EpisodeDataset, config: RewardModelConfig
) -> dict[str, Any]:
    """Judge real frames, imagined ones of the same actions, and, as a control, the first frame.

    What the first frame alone reaches is no credit of the dream.

    Args:
        model: world model with a success classifier beside its card.
        data: held-out episodes.
        config: how many, how long, which seed.

    Returns:
        `horizon`, `episodes`, and figures by task: of single frames under `real`, `imagined` and
        `copy_first`, of whole clips, by the rule that environments go by, under these names with
        `_clips`.

    Raises:
        CheckpointError: if the card has no success classifier.
        ValueError: if no episode is long enough.
    """
    assert model.folder is not None
    classifier = RewardModel.from_checkpoint(Checkpoint.open(model.folder))
    shown = roll_out_clips(model, data, config)
    report: dict[str, Any] = {"horizon": config.horizon, "episodes": len(shown.clips)}
    for name, labelled in shown.versions.items():
        report[name] = measure_classifier(
            classifier.network, labelled, config.per_kind, config.seed, classifier.thresholds
        )
        for task, row in report[name].items():
            print(
                f"{name:10s} {task:9s} balanced accuracy {row['balanced_accuracy']:.3f}, near "
                f"misses "
                f"taken for success {row['near_miss_false_positive_rate']:.3f}, other "
                f"instructions' {row.get('other_instruction_rate', float('nan')):.3f}, foreign "
                f"pictures {row['foreign_picture_rate']:.3f}, distance error "
                f"{1000 * row['distance_error_m_median']:.1f} mm"
            )
        episodes = score_episodes(classifier.network, labelled, shown.clips)
        clips = report[f"{name}_clips"] = measure_rule(classifier.rule, episodes)
        for line in describe_clips(name, clips):
            print(line)
    return report


def describe_clips(name: str, clips: dict[str, dict[str, float]]) -> list[str]:
    """Figures of whole clips, a line for every task."""
    return [
        f"{name:10s} {task:9s} whole clips: balanced accuracy {row['balanced_accuracy']:.3f}, "
        f"failures taken for success {row['false_positive_rate']:.3f}, successes not seen within "
        f"{IN_TIME} steps {row['not_seen_in_time_rate']:.3f}, {row['episodes']} clips"
        for task, row in clips.items()
    ]


def _clips(data: EpisodeDataset, shown: Sequence[int]) -> list[Part]:
    """Clips by the rows that are of them, in time, given the episode that each row is of."""
    numbers = np.asarray(shown)
    goals = data.goals
    return [
        (np.flatnonzero(numbers == n), [goals[n].task, *goals[n].objects])
        for n in dict.fromkeys(numbers.tolist())
    ]
