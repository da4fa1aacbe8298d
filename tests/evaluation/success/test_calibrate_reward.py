"""`wm-gym calibrate-reward`: the rule that environments go by, chosen for a checkpoint as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.evaluation.success.test_calibrate_judge import STEPS, write_pushes
from wm_gym.checkpoints import Checkpoint
from wm_gym.evaluation.success.calibrate_reward import CalibrateRewardConfig, calibrate_reward
from wm_gym.evaluation.success.reward_model import RewardModelConfig, roll_out_clips
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.training.episode_rule import choose_rule, measure_rule, score_episodes
from wm_gym.world_model import load_world_model


@pytest.fixture(scope="module")
def pushes(tmp_path_factory):
    return write_pushes(tmp_path_factory.mktemp("pushes") / "data")


@pytest.fixture
def checkpoint(tiny_checkpoint: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_the_card_gets_the_rule_that_is_best_on_both_worlds(pushes, checkpoint, tmp_path):
    before = Checkpoint.open(checkpoint).spec
    config = CalibrateRewardConfig(
        pushes.folder, checkpoint=str(checkpoint), episodes=6, horizon=STEPS,
        json=tmp_path / "rule.json", write_card=True,
    )  # fmt: skip
    found = calibrate_reward(config)["episode_rule"]
    asked = RewardModelConfig(pushes.folder, episodes=6, horizon=STEPS)
    model = load_world_model(checkpoint)
    shown = roll_out_clips(model, pushes, asked)
    network = RewardModel.from_checkpoint(Checkpoint.open(checkpoint)).network
    worlds = [
        score_episodes(network, shown.versions[name], shown.clips) for name in ("real", "imagined")
    ]
    rule = choose_rule(worlds)
    assert rule is not None and found["window"] == rule.window
    assert found["thresholds"]["push"] == rule.thresholds["push"]
    assert found["real"] == measure_rule(rule, worlds[0])
    assert found["real"]["push"]["episodes"] == 6 and found["real"]["push"]["successes"] == 2

    after = Checkpoint.open(checkpoint).spec
    assert after.reward is not None and before.reward is not None
    assert after.reward.window == rule.window
    # tasks that no episode says anything about keep the threshold of frames
    assert after.reward.episode_threshold == {**before.reward.threshold, **rule.thresholds}
    assert after.reward.threshold == before.reward.threshold
    assert after.weights_sha256 == before.weights_sha256
    assert after.metrics["episode_rule"]["window"] == rule.window
    assert RewardModel.from_checkpoint(Checkpoint.open(checkpoint)).rule.window == rule.window
    written = json.loads((tmp_path / "rule.json").read_text(encoding="utf-8"))
    assert written["episode_rule"]["thresholds"] == found["thresholds"]


def test_without_write_card_the_card_stays(pushes, checkpoint):
    before = (checkpoint / "card.json").read_bytes()
    calibrate_reward(
        CalibrateRewardConfig(pushes.folder, checkpoint=str(checkpoint), episodes=6, horizon=STEPS)
    )
    assert (checkpoint / "card.json").read_bytes() == before


def test_what_says_nothing_is_refused_before_the_card_changes(pushes, checkpoint):
    before = (checkpoint / "card.json").read_bytes()
    few = CalibrateRewardConfig(
        pushes.folder, checkpoint=str(checkpoint), episodes=1, horizon=STEPS, write_card=True
    )
    with pytest.raises(ValueError, match="no task that is solved in some clips and failed in"):
        calibrate_reward(few)
    long = CalibrateRewardConfig(pushes.folder, checkpoint=str(checkpoint), horizon=STEPS + 1)
    with pytest.raises(ValueError, match="no episode of at least 13 steps"):
        calibrate_reward(long)
    with pytest.raises(ValueError, match="episodes=0 and horizon=50 must be at least 1"):
        CalibrateRewardConfig(pushes.folder, episodes=0)
    assert (checkpoint / "card.json").read_bytes() == before
