"""V-JEPA's objective: masks, the teacher, learning without collapse, exact resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.data.counter_env import CounterFactory
from tests.training.killed_runs import killed_once_at
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.latents.vjepa_mini import VJEPAMini, VJEPAMiniConfig
from wm_gym.metrics.features import collapse_figures, effective_rank
from wm_gym.training.loop import LoopConfig, TrainingLoop
from wm_gym.training.masks import LONG_RANGE, SHORT_RANGE, draw_mask, draw_masks
from wm_gym.training.mini_space import read_mini_space
from wm_gym.training.vjepa import (
    Learner,
    PredictorConfig,
    TrainVJEPAConfig,
    teacher_of,
    train_vjepa,
)

TINY = VJEPAMiniConfig(height=32, width=32, patch=8, dim=24, depth=2, heads=2)
GRID = (8, 8)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("episodes") / "counter"
    config = CollectConfig(
        out=out, env_id="counter", episodes=12, behaviours={"random": 1.0}, tasks=("count",),
        steps=10, shard_episodes=6, workers=1,
    )  # fmt: skip
    collect(config, CounterFactory(), progress=False)
    return out


def recipe(episodes: Path, out: Path, steps: int = 6, **changes) -> TrainVJEPAConfig:
    loop = LoopConfig(
        steps=steps, warmup_steps=2, learning_rate=2e-3, ema=0.9, log_every=1, save_every=2
    )
    config = TrainVJEPAConfig(
        episodes, out, network=TINY, predictor=PredictorConfig(dim=24, depth=1, heads=2),
        loop=loop, batch=4, clip_frames=3, frame_stride=2, held_out=3, measure_every=3, bf16=False,
    )  # fmt: skip
    return replace(config, **changes)


@pytest.mark.parametrize("blocks", [SHORT_RANGE, LONG_RANGE])
def test_masks_hide_blocks_in_every_frame_alike(blocks):
    rng = np.random.default_rng(0)
    visible, hidden = draw_masks(rng, 16, 3, GRID, blocks)
    for row in range(16):
        seen, unseen = visible[row].reshape(3, -1), hidden[row].reshape(3, -1)
        assert torch.equal(seen[0], seen[2] - 128) and torch.equal(unseen[0], unseen[1] - 64)
        assert not set(visible[row].tolist()) & set(hidden[row].tolist())
        assert visible[row].unique().numel() == visible.shape[1]
    shares = [draw_mask(rng, GRID, blocks).mean() for _ in range(400)]
    assert max(shares) <= 7 / 8
    # eight blocks of 15 % that overlap; two of 70 %
    low, high = (0.5, 0.75) if blocks is SHORT_RANGE else (0.75, 0.85)
    assert low < np.mean(shares) < high


def test_a_mask_is_a_union_of_blocks_of_the_asked_size():
    mask = draw_mask(np.random.default_rng(0), (20, 20), replace(LONG_RANGE, count=1, scale=0.25))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.sum() == len(rows) * len(columns)
    assert abs(mask.mean() - 0.25) < 0.03
    assert 0.7 < len(rows) / len(columns) < 1.6


def test_effective_rank_counts_directions():
    noise = torch.Generator().manual_seed(0)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1.0, abs=1e-6)
    orthogonal = torch.linalg.qr(torch.randn(50, 8, generator=noise)).Q
    assert effective_rank(orthogonal) == pytest.approx(8.0, rel=1e-6)
    two = torch.randn(50, 2, generator=noise) @ torch.randn(2, 8, generator=noise)
    assert 1 < effective_rank(two) <= 2.001


def test_collapse_figures_tell_place_from_content():
    noise = torch.Generator().manual_seed(0)
    place = torch.randn(1, 4, 4, 8, generator=noise).expand(20, 4, 4, 8)
    only_place = collapse_figures(place)
    assert only_place["change_share"] == pytest.approx(0.0, abs=1e-6)
    assert only_place["feature_rank"] > 4
    content = collapse_figures(torch.randn(20, 4, 4, 8, generator=noise))
    assert content["change_share"] > 0.9 and content["change_rank"] > 7
    assert content["feature_std"] == pytest.approx(1.0, abs=0.1)
    assert collapse_figures(torch.zeros(20, 4, 4, 8))["feature_std"] == 0.0


def test_the_teacher_is_the_moving_average_after_every_step(episodes: Path, tmp_path: Path):
    config = recipe(episodes, tmp_path)
    loop = TrainingLoop(tmp_path, Learner(config), config.loop, fingerprint={})
    teacher = teacher_of(loop, TINY)
    before = teacher.norm.bias.clone()
    target = torch.ones(24)

    def step_function(step: int):
        return (loop.bare.get_parameter("encoder.norm.bias") - target).square().sum(), {}

    loop.run(step_function)
    assert not torch.equal(teacher.norm.bias, before)
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, loop.weights()[f"encoder.{key}"])
    assert not torch.equal(teacher.norm.bias, loop.bare.get_parameter("encoder.norm.bias"))


def test_it_learns_to_predict_without_collapsing(episodes: Path, tmp_path: Path):
    train_vjepa(recipe(episodes, tmp_path, steps=80, measure_every=80))
    lines = [
        json.loads(line)
        for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    first, last = lines[0], lines[-1]
    assert last["hidden_error"] < 0.6 * first["hidden_error"]
    record = json.loads((tmp_path / "latent_space.json").read_text(encoding="utf-8"))
    assert record["space"] == "vjepa-mini" and record["steps"] == 80
    assert record["held_out"]["feature_std"] > 0.05
    assert record["held_out"]["feature_rank"] > 1.5
    # the frames of this simulator are all of one colour: what differs between them is all there is
    assert record["held_out"]["change_share"] > 0.3


def test_the_run_folder_is_a_latent_space(episodes: Path, tmp_path: Path):
    path = train_vjepa(recipe(episodes, tmp_path))
    mini = read_mini_space(tmp_path)
    assert (mini.space, mini.weights) == ("vjepa-mini", path)
    space = mini.load()
    assert isinstance(space, VJEPAMini) and space.config == TINY
    stored = load_file(path)
    assert all(torch.equal(value, stored[key]) for key, value in space.state_dict().items())
    assert not any(key.startswith("predictor") for key in stored)


def test_resuming_equals_an_uninterrupted_run(episodes: Path, tmp_path: Path):
    whole = load_file(train_vjepa(recipe(episodes, tmp_path / "whole")))
    halves = recipe(episodes, tmp_path / "halves")
    with killed_once_at(4):
        with pytest.raises(KeyboardInterrupt):
            train_vjepa(halves)
        resumed = load_file(train_vjepa(halves))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_settings_that_make_no_sense_are_refused(episodes: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"loop.ema=0.0: the teacher is the moving average"):
        recipe(episodes, tmp_path, loop=LoopConfig())
    with pytest.raises(ValueError, match="holds 12 episodes, expected more than the 12"):
        train_vjepa(recipe(episodes, tmp_path, held_out=12))
    with pytest.raises(ValueError, match="no episode is long enough for clips of 9 frames"):
        train_vjepa(recipe(episodes, tmp_path, clip_frames=9))
