"""Open-loop evaluation: clips, controls and scores."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box

from wm_gym.data.episodes import Episode, EpisodeDataset
from wm_gym.data.shards import write_index, write_shard
from wm_gym.evaluation.open_loop.clips import OpenLoopClips, sample_clips
from wm_gym.evaluation.open_loop.components import locate_peg
from wm_gym.evaluation.open_loop.measure import (
    OpenLoopConfig,
    block_persistence,
    effector_errors,
    evaluate_open_loop,
    horizon_scores,
)

SIZE = 32


def numbered_episode(number: int, steps: int) -> Episode:
    """Frame t shows `number` and t as grey levels, state t is (number, t), action t a tenth of it
    in mm."""
    frames = np.zeros((steps + 1, SIZE, SIZE, 3), np.uint8)
    frames[:, : SIZE // 2] = 10 * number
    frames[:, SIZE // 2 :] = np.arange(steps + 1, dtype=np.uint8)[:, None, None, None]
    actions = np.stack([np.full(steps, number), np.arange(steps)], 1).astype(np.float32) * 1e-4
    states = np.stack([np.full(steps + 1, number), np.arange(steps + 1)], 1).astype(np.float64)
    return Episode(frames, actions, states, np.zeros(steps + 1, bool))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    folder = tmp_path_factory.mktemp("episodes")
    episodes = [numbered_episode(number, steps) for number, steps in enumerate((12, 6, 1, 20))]
    write_shard(folder / "shards" / "000000.hdf5", episodes, 0)
    write_index(
        folder,
        observation_space=Box(0, 255, (SIZE, SIZE, 3), np.uint8),
        action_space=Box(-1, 1, (2,), np.float32),
        image_format="exact",
    )
    return EpisodeDataset(folder)


def test_clips_keep_frames_and_actions_in_step(dataset, tiny_model):
    clips = sample_clips(dataset, tiny_model.spec, clips=10, steps=8, seed=3)
    assert clips.history == 2
    numbers = clips.start[:, 0, 0, 0] // 10
    assert sorted(numbers.tolist()) == [0, 1, 3]  # episode 2 is too short for one step
    for row, number in enumerate(numbers):
        first = int(clips.frames[row, 0, -1, -1, 0])
        steps = int(clips.steps[row])
        assert steps == (5 if number == 1 else 8)
        shown = clips.frames[row, : 2 + steps, -1, -1, 0].tolist()
        assert shown == list(range(first, first + 2 + steps))
        taken = clips.actions[row, : 1 + steps] * 1e4
        np.testing.assert_allclose(taken[:, 0], number, atol=1e-3)
        np.testing.assert_allclose(taken[:, 1], np.arange(first, first + 1 + steps), atol=1e-3)
        assert not clips.actions[row, 1 + steps :].any()
        assert clips.states is not None and clips.states.shape[1:] == (9, 2)
        assert (clips.states[row, :, 0] == number).all()
        np.testing.assert_array_equal(clips.states[row, :, 1], clips.frames[row, 1:, -1, -1, 0])


def test_the_same_seed_chooses_the_same_clips(dataset, tiny_model):
    one, same, other = (
        sample_clips(dataset, tiny_model.spec, clips=3, steps=4, seed=seed) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one.frames, same.frames)
    assert not np.array_equal(one.frames, other.frames)


def hand_made() -> tuple[OpenLoopClips, dict[str, np.ndarray]]:
    """Two clips of three steps in which a 10x10 square turns from 100 to 200; one is short."""
    frames = np.full((2, 5, SIZE, SIZE, 3), 100, np.uint8)
    frames[:, 2:, :10, :10] = 200
    clips = OpenLoopClips(frames, np.zeros((2, 4, 2), np.float32), np.array([3, 1]), history=2)

    def showing(level: int) -> np.ndarray:
        version = clips.truth.copy()
        version[:, :, :10, :10] = level
        return version

    versions = {
        "rollout": showing(180),
        "reconstruction": showing(190),
        "copy_first": showing(100),
        "shuffled_actions": showing(100),
    }
    return clips, versions


def test_scores_by_hand():
    clips, versions = hand_made()
    scores = horizon_scores(clips, versions, horizon=1)
    decibels = {error: 20 * math.log10(255 / error) for error in (10, 20, 100)}
    assert scores["changed_psnr"] == pytest.approx(decibels[20], abs=1e-3)
    assert scores["changed_psnr_reconstruction"] == pytest.approx(decibels[10], abs=1e-3)
    assert scores["changed_psnr_copy_first"] == pytest.approx(decibels[100], abs=1e-3)
    expected = (decibels[20] - decibels[100]) / (decibels[10] - decibels[100])
    assert scores["gap_closed"] == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(math.log(5) / math.log(10))
    assert scores["gap_closed_shuffled_actions"] == pytest.approx(0.0, abs=1e-6)
    assert (scores["clips"], scores["clips_changed"]) == (2, 2)


def test_a_clip_counts_only_as_far_as_it_was_recorded():
    clips, versions = hand_made()
    assert horizon_scores(clips, versions, horizon=3)["clips"] == 1
    with pytest.raises(ValueError, match="no clip has 4 recorded steps, the longest has 3"):
        horizon_scores(clips, versions, horizon=4)


def test_nothing_changed_is_null_and_not_a_perfect_score():
    clips, versions = hand_made()
    still = OpenLoopClips(np.full_like(clips.frames, 100), clips.actions, clips.steps, 2)
    scores = horizon_scores(still, versions, horizon=1)
    assert scores["clips_changed"] == 0
    assert scores["changed_psnr"] is None
    assert scores["gap_closed"] is None


def test_effector_error_is_the_distance_of_the_pegs():
    frames = np.full((3, 4, SIZE, SIZE, 3), 230, np.uint8)
    frames[:, :, 8:12, 8:12] = 20
    clips = OpenLoopClips(frames, np.zeros((3, 3, 2), np.float32), np.array([2, 2, 2]), 2)
    rollout = np.full_like(clips.truth, 230)
    rollout[:, :, 11:15, 12:16] = 20  # 3 down, 4 to the right
    gone = np.full_like(clips.truth, 230)
    errors = effector_errors(clips, {"rollout": rollout, "copy_first": gone}, 2, locate_peg)
    assert errors["effector_error_px_median"] == pytest.approx(5.0)
    assert errors["effector_error_percent_of_width_median"] == pytest.approx(100 * 5 / SIZE)
    assert errors["effector_error_px_median_copy_first"] is None


def test_block_persistence_counts_rollouts():
    frames = np.full((2, 33, SIZE, SIZE, 3), 230, np.uint8)
    frames[:, :, 4:12, 4:12] = 230, 30, 36
    clips = OpenLoopClips(frames, np.zeros((2, 32, 2), np.float32), np.array([31, 31]), 2)
    rollout = clips.truth.copy()
    rollout[1, 29] = 230  # the block of the second clip is gone at step 30
    late = clips.truth.copy()
    late[1, 30] = 230  # … or only after it
    found = block_persistence(clips, {"rollout": rollout, "reconstruction": late})
    assert found == {"steps": 30, "clips": 2, "truth": 1.0, "rollout": 0.5, "reconstruction": 1.0}


def test_the_whole_evaluation_fills_json_card_and_pictures(
    dataset, tiny_checkpoint, tmp_path, capsys
):
    import shutil

    from wm_gym.checkpoints import Checkpoint

    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    config = OpenLoopConfig(
        data=dataset.folder,
        checkpoint=str(checkpoint),
        horizons=(1, 4),
        clips=3,
        batch=2,
        out=tmp_path / "pictures",
        json=tmp_path / "open_loop.json",
        write_card=True,
    )
    evaluate_open_loop(config)
    report = json.loads((tmp_path / "open_loop.json").read_text(encoding="utf-8"))
    assert {"command", "versions", "machine", "duration_s", "seeds"} <= set(report)
    names = [f"{metric}{suffix}" for metric in ("psnr", "ssim", "changed_psnr")
             for suffix in ("", "_reconstruction", "_copy_first", "_shuffled_actions")]  # fmt: skip
    for horizon in (1, 4):
        entry = report["open_loop"][f"horizon_{horizon}"]
        assert {*names, "gap_closed", "effector_error_px_median"} <= set(entry)
        assert entry["clips"] == 3
    stored = Checkpoint.open(checkpoint).spec.metrics["open_loop"]
    assert stored["horizon_4"] == report["open_loop"]["horizon_4"]
    assert stored["command"] == report["command"]
    pictures = sorted(path.name for path in Path(config.out).iterdir())
    assert pictures == ["open_loop.png", "strip_0.png", "strip_1.png", "strip_2.png"]
    assert "gap closed" in capsys.readouterr().out


def test_actions_of_another_domain_are_refused(dataset, tiny_model):
    from dataclasses import replace

    action = tiny_model.spec.action
    action = replace(
        action, names=("x",), units=("m",), low=(-1.0,), high=(1.0,), gain=(1.0,), bias=(0.0,)
    )
    with pytest.raises(ValueError, match="actions of 2 components, the model's card says 1"):
        sample_clips(dataset, replace(tiny_model.spec, action=action), 3, 4, seed=0)
