"""Facts about the latent models that ship, on the recorded clips that ship with each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.envs.start_states import FILENAME, StartStates
from wm_gym.evaluation.demo.clips import DemoClips
from wm_gym.evaluation.open_loop.effectors import EFFECTORS
from wm_gym.instructions import InstructionSet
from wm_gym.judges.success_classifier import RewardModel
from wm_gym.metrics.visual import changed_psnr
from wm_gym.world_model import load_world_model

STEPS = 8


@pytest.fixture(scope="module")
def rolled(shipped_checkpoint: str):
    """Recorded frames, and those dreamed under the recorded and under shuffled actions."""
    clips = DemoClips.read(Checkpoint.open(Path(shipped_checkpoint)))
    model = load_world_model(shipped_checkpoint)
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


def test_the_dreamed_effector_is_where_the_recorded_one_is(rolled, shipped_checkpoint: str):
    _, truth, dreamed, _ = rolled
    twin = Checkpoint.open(Path(shipped_checkpoint)).spec.twin
    there, found = (EFFECTORS[twin or ""](frames.numpy()) for frames in (truth, dreamed))
    assert np.isfinite(there).all() and np.isfinite(found).all()
    share = {"LangTable-v0": 0.06, "BridgeSim-v0": 0.12}[twin or ""]
    assert np.median(np.linalg.norm(found - there, axis=1)) < share * truth.shape[2]


def test_the_card_says_what_it_is(shipped_checkpoint: str):
    spec = Checkpoint.open(Path(shipped_checkpoint)).spec
    assert spec.embedded
    assert "not one of the published models" in spec.description
    assert spec.context.kind == "banded"
    assert spec.action.alignment == "target"
    assert spec.action.frame_skip == 1


def test_the_reward_model_knows_every_goal_of_the_stored_starts(shipped_checkpoint: str):
    opened = Checkpoint.open(Path(shipped_checkpoint))
    reward = RewardModel.from_checkpoint(opened)
    words = InstructionSet(opened.spec.tasks, opened.spec.objects)
    stored = StartStates.read(opened.folder / FILENAME)
    goals = [words.parse(instruction) for instruction in dict.fromkeys(stored.instructions)]
    assert {goal.task for goal in goals} == set(opened.spec.tasks) == set(reward.thresholds)
    latents = torch.zeros(len(goals), *opened.spec.latent.grid, opened.spec.latent.channels)
    probability = reward.probability(latents, goals)
    assert ((probability >= 0) & (probability <= 1)).all()
