"""What a success classifier learns never to affirm: another instruction, pictures of nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from wm_gym.data.foreign_pictures import KINDS as PICTURES
from wm_gym.data.foreign_pictures import foreign_pictures
from wm_gym.training.labelled_latents import FOREIGN_LATENTS, LabelledLatents, measure_classifier
from wm_gym.training.loop import LoopConfig
from wm_gym.training.reward import RewardConfig, train_reward

GOALS = [["a", "cup", ""], ["b", "pen", ""]]
ROWS = 400


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """States that show one of two objects: channel 0 says which, channel 1 whether it is there.

    Success looks the same in both tasks, so only the instruction tells an answer right from wrong.
    """
    rng = np.random.default_rng(0)
    shown, done = rng.integers(2, size=ROWS), rng.random(ROWS) < 0.5
    latents = rng.normal(0, 0.05, (ROWS, 3, 3, 2)).astype(np.float16)
    latents[..., 0] += (2 * shown - 1)[:, None, None]
    latents[..., 1] += np.where(done, 1, -1)[:, None, None]
    success = np.zeros((ROWS, 2), bool)
    distance = np.full((ROWS, 2), np.nan, np.float32)
    success[np.arange(ROWS), shown] = done
    distance[np.arange(ROWS), shown] = np.where(done, 0.0, 0.2)
    positions = np.full((ROWS, 3, 2), np.nan, np.float32)
    positions[np.arange(ROWS), shown] = positions[:, 2] = 0.1
    folder = tmp_path_factory.mktemp("latents")
    np.save(folder / "latents.npy", latents)
    np.save(folder / "bounds.npy", np.array([0, ROWS]))
    np.save(folder / FOREIGN_LATENTS, rng.normal(0, 3.0, (60, 3, 3, 2)).astype(np.float16))
    scale = {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
    (folder / "normalisation.json").write_text(json.dumps(scale), encoding="utf-8")
    np.savez(
        folder / "goal_labels.npz",
        goals=json.dumps(GOALS),
        success=success,
        distance_m=distance,
        positions_m=positions,
    )
    return folder


def test_states_without_the_named_object_are_kinds_of_their_own(world):
    data = LabelledLatents.read(world, 0.02)
    columns = {task: data.columns[task][0] for task in data.tasks}
    for task, column in columns.items():
        absent = np.isnan(data.distance[:, column])
        other = data.success[:, 1 - column]
        np.testing.assert_array_equal(
            data.pools[task, "other goal done"], np.flatnonzero(absent & other)
        )
        np.testing.assert_array_equal(
            data.pools[task, "other objects"], np.flatnonzero(absent & ~other)
        )
        everything = np.concatenate([pool for (t, _), pool in data.pools.items() if t == task])
        assert sorted(everything.tolist()) == list(range(ROWS))


def test_the_trained_classifier_reads_the_instruction_and_affirms_no_foreign_picture(
    world, tmp_path
):
    config = RewardConfig(
        world,
        world,
        tmp_path / "reward",
        batch=64,
        dim=16,
        depth=1,
        trunk_dim=16,
        trunk_depth=1,
        trunk_heads=2,
        foreign_share=0.2,
        measured=100,
        loop=LoopConfig(steps=400, learning_rate=5e-3, warmup_steps=10, ema=0.9),
    )
    train_reward(config)
    record = json.loads((tmp_path / "reward" / "reward.json").read_text(encoding="utf-8"))
    assert set(record["held_out"]) == {"a", "b"}
    for row in record["held_out"].values():
        assert row["balanced_accuracy"] > 0.95
        assert row["other_instruction_rate"] < 0.05
        assert row["foreign_picture_rate"] < 0.05


def test_a_classifier_that_does_not_read_the_instruction_is_found_out(world):
    class Deaf(torch.nn.Module):
        def forward(self, latents, goals):
            return latents[..., 1].mean((1, 2)) * 10, torch.zeros(len(latents))

    data = LabelledLatents.read(world, 0.02)
    report = measure_classifier(Deaf(), data, 100)  # pyright: ignore[reportArgumentType]
    for row in report.values():
        assert row["balanced_accuracy"] > 0.95
        assert row["other_instruction_rate"] > 0.95


def test_foreign_pictures_must_be_there_unless_none_are_asked_for(world, tmp_path):
    copied = tmp_path / "latents"
    copied.mkdir()
    for path in world.iterdir():
        if path.name != FOREIGN_LATENTS:
            (copied / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"foreign\.npy"):
        train_reward(RewardConfig(copied, copied, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"foreign_share=1\.5"):
        RewardConfig(copied, copied, tmp_path / "out", foreign_share=1.5)


def test_foreign_pictures_are_of_every_kind_and_follow_the_seed():
    frames = np.random.default_rng(0).integers(0, 256, (2 * len(PICTURES), 20, 36, 3), np.uint8)
    pictures = foreign_pictures(frames, seed=3)
    assert pictures.shape == frames.shape and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, foreign_pictures(frames, seed=3))
    assert not pictures[0].any() and (pictures[1] == 255).all()
    assert all((a != b).any() for a, b in zip(pictures, frames, strict=True))
    shuffled = pictures[len(PICTURES) - 1]
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.sort(frames[9], axis=None))
