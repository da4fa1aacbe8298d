"""From episodes to a checkpoint that steps: every recipe once, at tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.counter_env import CounterFactory
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.envs.goal_labels import label_langtable
from wm_gym.envs.sims.langtable import tasks
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig, to_frames, to_pixels
from wm_gym.metrics.statistics import balanced_accuracy
from wm_gym.training.autoencoder import AutoencoderConfig, median_frame, train_autoencoder
from wm_gym.training.labelled_latents import LabelledLatents, measure_classifier
from wm_gym.training.loop import LoopConfig

TINY = VAEMiniConfig(32, 32, 8, 2, 4, 16, 1, 1, 2)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("episodes") / "counter"
    config = CollectConfig(
        out=out, env_id="counter", episodes=12, behaviours={"expert": 0.5, "random": 0.5},
        tasks=("count",), steps=10, tail_steps=2, shard_episodes=5, workers=1,
    )  # fmt: skip
    collect(config, CounterFactory(), progress=False)
    return out


def test_pixels_round_trip_exactly():
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 16, 16, 3)
    assert torch.equal(to_frames(to_pixels(frames)), frames)


def test_vae_mini_keeps_size_dtype_and_rows():
    torch.manual_seed(0)
    space = VAEMini(TINY).eval()
    frames = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    latents = space.encode(frames)
    assert latents.shape == (3, 4, 4, 4)
    assert latents.dtype == torch.float32
    decoded = space.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.uint8
    alone = torch.cat([space.encode(frame[None]) for frame in frames])
    torch.testing.assert_close(latents, alone, atol=1e-5, rtol=1e-4)


def test_frames_that_no_patch_divides_are_refused():
    with pytest.raises(ValueError, match="frame 30x32 is not a multiple of patch 8"):
        VAEMiniConfig(30, 32, 8)


def test_labels_agree_with_the_simulators_predicates():
    rng = np.random.default_rng(0)
    states = np.concatenate(
        [rng.uniform(-0.12, 0.12, (40, 2)), rng.uniform(-0.12, 0.12, (40, 24))], axis=1
    )
    labels = label_langtable(states)
    goals, success, distance = labels.goals, labels.success, labels.distance_m
    np.testing.assert_allclose(labels.positions_m[:, -1], states[:, :2], rtol=1e-6)
    np.testing.assert_allclose(labels.positions_m[:, 3], states[:, 11:13], rtol=1e-6)
    assert len(goals) == 8 + 56 + 56
    for row in range(0, 40, 7):
        for column in range(0, len(goals), 11):
            task, first, second = goals[column]
            goal = tasks.Goal(task, first, second or None)
            assert success[row, column] == tasks.is_success(states[row], goal)
            assert distance[row, column] == pytest.approx(
                tasks.task_distance(states[row], goal), abs=1e-6
            )


def _separable(count: int = 400) -> LabelledLatents:
    rng = np.random.default_rng(0)
    distance = rng.uniform(0, 0.1, (count, 2)).astype(np.float32)
    success = distance < 0.03
    latents = np.zeros((count, 2, 2, 2), np.float32)
    latents[..., 0] = distance[:, 0, None, None] * 10
    latents[..., 1] = distance[:, 1, None, None] * 10
    goals = [["reach", "a", ""], ["reach", "b", ""]]
    return LabelledLatents(
        latents, goals, success, distance, np.zeros((count, 3, 2), np.float32), near_miss_m=0.02
    )


def test_batches_are_a_third_successes_near_misses_and_others():
    data = _separable()
    rows, columns = data.draw(np.random.default_rng(0), 300)
    _, _, success, distance = data.batch(rows, columns)
    assert success.sum() == 100
    edge = float(data.distance[data.success].max()) + 0.02
    near = (success == 0) & (distance < edge)
    assert near.sum() == 100


def test_balanced_accuracy_by_hand():
    score = np.array([0.9, 0.4, 0.6, 0.1])
    truth = np.array([True, True, False, False])
    assert balanced_accuracy(score > 0.5, truth) == 0.5
    assert balanced_accuracy(score > 0.3, truth) == 0.75


def test_given_thresholds_are_used_as_they_are():
    class Knows(torch.nn.Module):
        def forward(self, latents, goals):
            column = goals[:, 1]
            metres = latents[:, 0, 0].gather(1, column[:, None])[:, 0] / 10
            return (0.03 - metres) * 1000, metres

    report = measure_classifier(Knows(), _separable(), per_kind=50, thresholds={"reach": 0.5})
    assert report["reach"]["threshold"] == 0.5
    assert report["reach"]["balanced_accuracy"] == 1.0
    assert report["reach"]["distance_error_m_median"] < 1e-6
    blind = measure_classifier(Knows(), _separable(), per_kind=50, thresholds={"reach": 2.0})
    assert blind["reach"]["balanced_accuracy"] == 0.5
    with pytest.raises(ValueError, match=r"no threshold for \['reach'\].*it has \['push'\]"):
        measure_classifier(Knows(), _separable(), per_kind=50, thresholds={"push": 0.5})


def test_the_autoencoder_learns_and_its_encoder_can_be_kept(episodes: Path, tmp_path: Path):
    loop = LoopConfig(steps=40, learning_rate=3e-3, warmup_steps=5, save_every=20, log_every=1)
    config = AutoencoderConfig(
        episodes, tmp_path / "whole", network=TINY, loop=loop, batch=16, held_out=1, bf16=False,
        pictures_every=20,
    )  # fmt: skip
    weights = train_autoencoder(config)
    lines = [
        json.loads(x)
        for x in (tmp_path / "whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert lines[-1]["weighted_error"] < 0.3 * lines[0]["weighted_error"]
    assert (tmp_path / "whole" / "reconstruction_000040.png").exists()
    again = AutoencoderConfig(
        episodes, tmp_path / "decoder", network=TINY, loop=loop, batch=16, held_out=1, bf16=False,
        init=weights, decoder_only=True, pictures_every=0,
    )  # fmt: skip
    from safetensors.torch import load_file

    before, after = load_file(weights), load_file(train_autoencoder(again))
    kept = [k for k in before if k.startswith(("patchify", "encoder", "to_moments"))]
    assert kept
    assert all(torch.equal(before[k], after[k]) for k in kept)
    assert not torch.equal(before["unpatchify.weight"], after["unpatchify.weight"])


def test_decoder_only_needs_an_autoencoder(episodes: Path, tmp_path: Path):
    config = AutoencoderConfig(episodes, tmp_path, network=TINY, held_out=1, decoder_only=True)
    with pytest.raises(ValueError, match="--decoder-only needs --init"):
        train_autoencoder(config)


def test_the_median_frame_is_the_empty_scene(episodes: Path):
    data = EpisodeDataset(episodes)
    frame = median_frame(data, count=50)
    assert frame.shape == (32, 32, 3)
    assert frame.dtype == np.uint8
