"""The recipes at tiny size: learning, exact resumption, the checkpoint that comes out."""

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
from wm_gym.run_settings import RunSettingsError
from wm_gym.training.dynamics_loss import changed_tokens
from wm_gym.training.latent_dynamics import (
    LatentBatches,
    LatentDynamicsConfig,
    train_latent_dynamics,
)
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator, learning_rate

EPISODES, STEPS, CHANNELS = 12, 15, 4


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents whose first channel moves by the action: dynamics that can be learned."""
    folder = tmp_path_factory.mktemp("latents")
    rng = np.random.default_rng(0)
    rows = EPISODES * (STEPS + 1)
    actions = rng.uniform(-0.03, 0.03, (rows, 2)).astype(np.float32)
    frames = rng.standard_normal((EPISODES, 1, 4, 4, CHANNELS)).repeat(STEPS + 1, 1)
    moved = np.cumsum(actions.reshape(EPISODES, STEPS + 1, 2)[:, :-1] * 60, axis=1)
    frames[:, 1:, :, :, 0] += moved[:, :, :1, None]
    frames[:, 1:, :, :, 1] += moved[:, :, 1:, None]
    np.save(folder / "latents.npy", frames.reshape(rows, 4, 4, CHANNELS).astype(np.float16))
    np.save(folder / "actions.npy", actions)
    np.save(folder / "privileged.npy", np.zeros((rows, 26), np.float32))
    np.save(folder / "success.npy", np.zeros(rows, bool))
    np.save(folder / "bounds.npy", np.arange(EPISODES + 1) * (STEPS + 1))
    (folder / "source.json").write_text("{}", encoding="utf-8")
    (folder / "normalisation.json").write_text(
        json.dumps({"mean": [0.0] * CHANNELS, "std": [1.0] * CHANNELS}), encoding="utf-8"
    )
    (folder / "action.json").write_text(json.dumps(asdict(LANGTABLE.action)), encoding="utf-8")
    return folder


def recipe(latents: Path, out: Path, **changes) -> LatentDynamicsConfig:
    loop = LoopConfig(steps=6, warmup_steps=2, log_every=1, save_every=2, ema=0.9)
    config = LatentDynamicsConfig(
        latents=latents, out=out, dim=32, depth=1, heads=2, band=4, clip_length=6, batch=4,
        held_out=2, context="clean", copies=2, times="uniform", shift=1.0, change_weight=6.0,
        probe_every=3, bf16=False, loop=loop,
    )  # fmt: skip
    return replace(config, **changes)


def test_slots_hold_the_action_that_produced_their_frame(latents: Path):
    batches = LatentBatches(recipe(latents, Path("unused")), LANGTABLE.action)
    batch = batches.train(0)
    moved = batch.latents[:, 1:, 0, 0, 0] - batch.latents[:, :-1, 0, 0, 0]
    known = batch.actions[:, 1:, -1] == 0
    # the fixture moves a latent by 60 times the action, the card's gain is 200 / 3
    expected = batch.actions[:, 1:, 0] * 60 / (200 / 3)
    assert known.sum() > 10
    torch.testing.assert_close(moved[known], expected[known], atol=0.02, rtol=0)


def test_unknown_actions_are_the_null_action(latents: Path):
    batch = LatentBatches(recipe(latents, Path("unused")), LANGTABLE.action)
    clip = batch.training.window(0)
    prepared = batch.prepare(clip)
    assert not clip.known[0, 0]
    torch.testing.assert_close(prepared.actions[0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_changed_tokens_marks_only_what_moved():
    latents = torch.zeros(1, 3, 2, 2, 4)
    latents[0, 2, 0, 1] = 1.0
    changed = changed_tokens(latents, 0.5)
    assert changed.sum() == 1
    assert changed[0, 2, 0, 1]


@pytest.mark.parametrize("context", ["clean", "noisy"])
def test_resuming_equals_an_uninterrupted_run(latents: Path, tmp_path: Path, context: str):
    whole = recipe(latents, tmp_path / "whole", context=context)
    train_latent_dynamics(whole)
    halves = recipe(latents, tmp_path / "halves", context=context)
    # killed after step 4, with learning rates that were planned for 6
    with killed_once_at(4):
        with pytest.raises(KeyboardInterrupt):
            train_latent_dynamics(halves)
        train_latent_dynamics(halves)
    one = load_file(tmp_path / "whole" / "dynamics.safetensors")
    two = load_file(tmp_path / "halves" / "dynamics.safetensors")
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=0, atol=0)


def test_training_learns_to_follow_actions(latents: Path, tmp_path: Path):
    loop = LoopConfig(steps=150, warmup_steps=10, learning_rate=3e-3, save_every=150, ema=0.9)
    config = recipe(latents, tmp_path, loop=loop, probe_every=150, history_noise=0.0)
    train_latent_dynamics(config)
    lines = [
        json.loads(line)
        for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    last = [line for line in lines if "changed_error_true_t1" in line][-1]
    assert last["changed_error_true_t1"] < 0.75 * last["changed_error_shuffled_t1"]


def test_other_settings_are_refused_on_resumption(latents: Path, tmp_path: Path):
    train_latent_dynamics(recipe(latents, tmp_path))
    with pytest.raises(RunSettingsError, match=r"history_noise: 0.3 there, 0.5 now.*another --out"):
        train_latent_dynamics(recipe(latents, tmp_path, history_noise=0.5))


def test_a_diverging_run_says_so_and_keeps_its_state(tmp_path: Path):
    module = torch.nn.Linear(2, 1)
    loop = TrainingLoop(tmp_path, module, LoopConfig(steps=5, save_every=1), fingerprint={})

    def step_function(step: int):
        loss = module(torch.ones(1, 2)).sum() * (float("nan") if step == 2 else 1.0)
        return loss, {}

    with pytest.raises(FloatingPointError, match="step 2"):
        loop.run(step_function)
    again = TrainingLoop(tmp_path, torch.nn.Linear(2, 1), LoopConfig(steps=5), fingerprint={})
    assert again.step == 2


def test_too_few_episodes_are_named(latents: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="holds 12 episodes, expected more than the 64"):
        train_latent_dynamics(recipe(latents, tmp_path, held_out=64))


def test_learning_rate_warms_up_and_ends_at_its_fraction():
    config = LoopConfig(
        steps=100, learning_rate=1.0, warmup_steps=10, final_learning_rate_fraction=0.7
    )
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 100) == pytest.approx(0.7)
    assert max(learning_rate(config, s) for s in range(101)) <= 1.0


def test_generators_depend_on_seed_step_and_stream():
    draws = {
        tuple(torch.randn(2, generator=generator(*key)).tolist())
        for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(draws) == 4
    torch.testing.assert_close(
        torch.randn(3, generator=generator(1, 2, 3)), torch.randn(3, generator=generator(1, 2, 3))
    )
