"""The inverse dynamics recipe: what it reads, that it learns, exact resumption."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.killed_runs import killed_once_at
from wm_gym.domains import LANGTABLE
from wm_gym.metrics.idm import action_correlation
from wm_gym.training.idm import ActionClips, TrainIDMConfig, load_idm, read_actions, train_idm
from wm_gym.training.loop import LoopConfig

EPISODES, STEPS = 20, 8


def write_latents(folder: Path, seed: int, mean: float = 0.5) -> Path:
    """Latents whose first two channels show the action that led there, 2 being the largest."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    rows = EPISODES * (STEPS + 1)
    actions = rng.uniform(-0.03, 0.03, (rows, 2)).astype(np.float32)
    latents = 0.3 * rng.standard_normal((EPISODES, 1, 2, 2, 3)).repeat(STEPS + 1, 1)
    latents[..., 2] = 4.0  # tokens are normalised by their size, which this one keeps
    taken = actions.reshape(EPISODES, STEPS + 1, 2)[:, :-1] * 2 / 0.03
    latents[:, 1:, ..., :2] = taken[:, :, None, None]
    np.save(folder / "latents.npy", (latents + mean).reshape(rows, 2, 2, 3).astype(np.float16))
    np.save(folder / "actions.npy", actions)
    np.save(folder / "privileged.npy", np.zeros((rows, 26), np.float32))
    np.save(folder / "success.npy", np.zeros(rows, bool))
    np.save(folder / "bounds.npy", np.arange(EPISODES + 1) * (STEPS + 1))
    (folder / "source.json").write_text(
        json.dumps({"space": "vae-mini", "sha256": "x"}), encoding="utf-8"
    )
    scale = {"mean": [mean] * 3, "std": [1.0] * 3}
    (folder / "normalisation.json").write_text(json.dumps(scale), encoding="utf-8")
    (folder / "action.json").write_text(json.dumps(asdict(LANGTABLE.action)), encoding="utf-8")
    return folder


@pytest.fixture
def latents(tmp_path: Path) -> tuple[Path, Path]:
    return write_latents(tmp_path / "train", 0), write_latents(tmp_path / "held", 1)


def recipe(latents: tuple[Path, Path], out: Path, steps: int = 6, **changes) -> TrainIDMConfig:
    loop = LoopConfig(steps=steps, warmup_steps=2, learning_rate=3e-3, ema=0.9, save_every=2)
    config = TrainIDMConfig(
        *latents, out, dim=32, layers=1, heads=2, batch=32, loop=loop, dropout=0.1
    )
    return replace(config, **changes)


def test_an_action_lies_between_the_frames_it_led_through(latents):
    seen, actions = ActionClips(latents[0], 2).sample(0, 0, 16)
    assert (seen.shape, actions.shape) == ((16, 3, 2, 2, 3), (16, 2, 2))
    torch.testing.assert_close(seen[:, 1:, 0, 0, :2], actions, atol=0.02, rtol=0)
    torch.testing.assert_close(seen[..., 2], torch.full_like(seen[..., 2], 4.0), atol=0.02, rtol=0)


def test_correlation_by_hand():
    truth = torch.tensor([[1.0, 5.0, 0.0], [2.0, 5.0, 1.0], [3.0, 5.0, 0.0], [4.0, 5.0, 1.0]])
    found = torch.stack([-2 * truth[:, 0], truth[:, 0], truth[:, 2]], dim=1)
    scores = action_correlation(found[:, None], truth[:, None])
    assert scores["by_component"] == [pytest.approx(-1.0), None, pytest.approx(1.0)]
    assert scores["pearson"] == pytest.approx(0.0)
    assert np.isnan(action_correlation(torch.zeros(3, 1), torch.zeros(3, 1))["pearson"])
    # a component that is never read counts as read without any correlation
    found[:, 2] = 0.3
    scores = action_correlation(found[:, None], truth[:, None])
    assert scores["by_component"] == [pytest.approx(-1.0), None, 0.0]
    assert scores["pearson"] == pytest.approx(-0.5)


def test_positions_start_as_wide_as_asked(latents, tmp_path: Path):
    for std in (0.02, 1.0):
        out = tmp_path / str(std)
        train_idm(recipe(latents, out, steps=1, dim=256, position_std=std))
        positions = load_file(out / "idm.safetensors")["temporal_pos_emb"]
        assert 0.8 * std < float(positions.std()) < 1.2 * std
    with pytest.raises(ValueError, match=r"position_std=0.0 must be greater than 0"):
        recipe(latents, tmp_path, position_std=0.0)


def test_it_learns_to_read_actions(latents, tmp_path: Path):
    train_idm(recipe(latents, tmp_path / "out", steps=250, dropout=0.0, measure_every=250))
    network, record = load_idm(tmp_path / "out")
    assert record["held_out"]["held_out_pearson"] > 0.9
    assert record["normalisation"]["mean"] == [0.5] * 3
    seen, actions = ActionClips(latents[1], 1).sample(3, 3, 100)
    assert action_correlation(read_actions(network, seen), actions)["pearson"] > 0.9
    shuffled = action_correlation(read_actions(network, seen), actions.roll(1, 0))["pearson"]
    assert abs(shuffled) < 0.4


def test_resuming_equals_an_uninterrupted_run(latents, tmp_path: Path):
    whole = load_file(train_idm(recipe(latents, tmp_path / "whole")))
    with killed_once_at(4):
        with pytest.raises(KeyboardInterrupt):
            train_idm(recipe(latents, tmp_path / "halves"))
        resumed = load_file(train_idm(recipe(latents, tmp_path / "halves")))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_what_does_not_fit_is_refused(latents, tmp_path: Path):
    other = write_latents(tmp_path / "other", 2, mean=0.0)
    with pytest.raises(ValueError, match=r"is normalised otherwise than .*--normalisation"):
        train_idm(recipe((latents[0], other), tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=r"idm.json is missing; finish `wm-gym train idm`"):
        load_idm(tmp_path)
    with pytest.raises(ValueError, match="horizon=0 and batch=32 must be at least 1"):
        recipe(latents, tmp_path / "out", horizon=0)
