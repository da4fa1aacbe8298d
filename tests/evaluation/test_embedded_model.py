"""Facts about the model that ships, on the recorded clips that ship with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.evaluation.components import locate_peg
from wm_gym.evaluation.demo_clips import DemoClips
from wm_gym.instructions import InstructionSet
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.metrics.visual import changed_psnr
from wm_gym.world_model import load_world_model

STEPS = 8


@pytest.fixture(scope="module")
def rolled(embedded_checkpoint: str):
    """Recorded frames, and those dreamed under the recorded and under shuffled actions."""
    clips = DemoClips.read(Checkpoint.open(Path(embedded_checkpoint)))
    model = load_world_model(embedded_checkpoint)
    frames = torch.from_numpy(clips.frames)

    def dream(actions: np.ndarray) -> torch.Tensor:
        rollout = model.begin(frames[:, 0], seeds=range(len(frames)))
        for step in range(STEPS):
            rollout.step(torch.from_numpy(actions[:, step]))
        return rollout.frames()

    shuffled = np.roll(clips.actions, 1, axis=0)
    return frames[:, 0], frames[:, STEPS], dream(clips.actions), dream(shuffled)


def test_dreams_follow_their_actions(rolled):
    start, truth, dreamed, shuffled = rolled
    followed = changed_psnr(dreamed, truth, start)
    wrong = changed_psnr(shuffled, truth, start)
    copied = changed_psnr(start, truth, start)
    assert followed.nanmean() > wrong.nanmean() + 1.0
    assert followed.nanmean() > copied.nanmean() + 1.0


def test_the_dreamed_peg_is_where_the_recorded_one_is(rolled):
    _, truth, dreamed, _ = rolled
    distance = np.linalg.norm(locate_peg(dreamed.numpy()) - locate_peg(truth.numpy()), axis=1)
    assert np.nanmedian(distance) < 0.06 * truth.shape[2]


def test_the_card_says_what_it_is(embedded_checkpoint: str):
    spec = Checkpoint.open(Path(embedded_checkpoint)).spec
    assert spec.embedded
    assert "not one of the published models" in spec.description
    assert spec.context.kind == "banded"
    assert spec.action.alignment == "target"
    assert spec.action.frame_skip == 1


def test_the_reward_model_knows_every_goal_of_the_card(embedded_checkpoint: str):
    opened = Checkpoint.open(Path(embedded_checkpoint))
    reward = RewardModel.from_checkpoint(opened)
    words = InstructionSet(opened.spec.tasks, opened.spec.objects)
    goals = [
        words.parse(template.format(first=opened.spec.objects[0], second=opened.spec.objects[1]))
        for template in opened.spec.tasks.values()
    ]
    latents = torch.zeros(len(goals), *opened.spec.latent.grid, opened.spec.latent.channels)
    probability = reward.probability(latents, goals)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert set(reward.thresholds) == set(opened.spec.tasks)
