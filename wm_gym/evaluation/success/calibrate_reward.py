"""`wm-gym calibrate-reward`: when a success classifier's answers make an episode a success.

An environment asks its classifier after every step. Over how many steps the probability is averaged
there, and above which mean an episode is over, is chosen on held-out episodes, recorded and
imagined (`EpisodeRule`). `wm-gym train reward --imagined-held-out` does that for a classifier it
has trained; this command does it for a checkpoint as it is, e.g. after its dynamics have been
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wm_gym.checkpoints import Checkpoint
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.errors import UserError
from wm_gym.evaluation.models import load_by_id
from wm_gym.evaluation.report import measurement_header, write_json, write_metric
from wm_gym.evaluation.success.reward_model import RewardModelConfig, describe_clips, roll_out_clips
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.training.episode_rule import choose_rule, complete, measure_rule, score_episodes

WORLDS = ("real", "imagined")


@dataclass(frozen=True)
class CalibrateRewardConfig:
    """Choose when an episode that a success classifier watches counts as a success."""

    data: Path
    """Folder of held-out episodes that did not stop at success, other ones than those of `wm-gym
    evaluate reward-model`: collected with --held-out --seed 6000 --no-stop-on-success."""
    id: str = "WM-LangTable-VAE-v0"
    """World-model id; says what `embedded` means."""
    checkpoint: str = "embedded"
    """embedded, a folder, or hf://org/repo@revision."""
    denoising_steps: int | None = None
    """Denoising steps per frame; the card's by default."""
    episodes: int = 240
    """Held-out episodes."""
    horizon: int = 50
    """Steps of each."""
    patience: int | None = None
    """Steps after its first success within which a success has to be seen; the whole episode by
    default. The fewer, the sooner an episode ends, and the more failures are taken for successes
    (docs/judges.md)."""
    seed: int = 0
    """Seed of the noise and of the sample."""
    json: Path | None = None
    """File for the figures."""
    write_card: bool = False
    """Also write the rule and the figures into the checkpoint's card.json."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.episodes, self.horizon) < 1:
            raise UserError(
                f"episodes={self.episodes} and horizon={self.horizon} must be at least 1"
            )
        if self.patience is not None and self.patience < 0:
            raise UserError(f"patience={self.patience} must be 0 steps or more")


def calibrate_reward(config: CalibrateRewardConfig) -> dict[str, Any]:
    """Run `wm-gym calibrate-reward`: choose, write and print.

    Returns:
        What `--json` writes: under `episode_rule` the `window`, the `thresholds` by task, and
        figures of whole clips under `real` and `imagined`, on the episodes that it was chosen on.

    Raises:
        CheckpointError: if the card has no success classifier.
        ValueError: if no episode is long enough, or no task is both solved and failed.
    """
    model = load_by_id(config.id, config.checkpoint, denoising_steps=config.denoising_steps)
    assert model.folder is not None
    classifier = RewardModel.from_checkpoint(Checkpoint.open(model.folder))
    asked = RewardModelConfig(
        config.data, episodes=config.episodes, horizon=config.horizon, seed=config.seed
    )
    shown = roll_out_clips(model, EpisodeDataset(config.data), asked)
    scored = {
        name: score_episodes(classifier.network, shown.versions[name], shown.clips)
        for name in WORLDS
    }
    chosen = choose_rule(list(scored.values()), patience=config.patience)
    if chosen is None:
        raise UserError(
            f"{config.data} has no task that is solved in some clips and failed in others, of "
            f"{len(shown.clips)} clips of {config.horizon} steps; collect more episodes, of all "
            "behaviours"
        )
    rule = complete(chosen, classifier.thresholds)
    report: dict[str, Any] = {
        "window": rule.window,
        "thresholds": rule.thresholds,
        "patience": config.patience,
        "horizon": config.horizon,
        "episodes": len(shown.clips),
        **{name: measure_rule(rule, episodes) for name, episodes in scored.items()},
    }
    print(f"success where the mean over {rule.window} steps is above {rule.thresholds}")
    for name in WORLDS:
        for line in describe_clips(name, report[name]):
            print(line)
    header = measurement_header(seeds=config.seed)
    content = {**header, "model": model.spec.name, "episode_rule": report}
    if config.json is not None:
        write_json(config.json, content)
    if config.write_card:
        opened = Checkpoint.open(model.folder)
        assert opened.spec.reward is not None
        reward = replace(opened.spec.reward, window=rule.window, episode_threshold=rule.thresholds)
        write_metric(opened, "episode_rule", report, header, reward=reward)
    return content
