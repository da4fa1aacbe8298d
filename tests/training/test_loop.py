"""The schedule of the learning rate, and how a batch is shared."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from wm_gym.checkpoints import CheckpointError
from wm_gym.training.loop import LoopConfig, TrainingLoop, learning_rate, planned, row_shares

CONFIG = LoopConfig(
    steps=100, learning_rate=2.0, warmup_steps=20, final_learning_rate_fraction=0.7,
    cosine_after_warmup=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("steps", -1), ("warmup_steps", -1), ("save_every", 0), ("log_every", 0)]
)
def test_what_is_counted_is_not_too_small(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}; expected at least {value + 1}"):
        LoopConfig(**{name: value})


def test_the_published_cosine_begins_where_the_warm_up_ends():
    rates = [learning_rate(CONFIG, step) for step in range(101)]
    assert rates[:20] == pytest.approx([2.0 * (step + 1) / 20 for step in range(20)])
    assert rates[19] == rates[20] == 2.0  # the peak is reached
    assert rates[60] == pytest.approx(2.0 * 0.85)  # half of the cosine
    assert rates[100] == pytest.approx(2.0 * 0.7)
    assert all(a >= b for a, b in pairwise(rates[20:]))


def test_the_schedule_of_earlier_runs_is_the_default_and_unchanged():
    """A run that began before there was a choice goes on with the rates it began with."""
    config = replace(CONFIG, cosine_after_warmup=False)
    assert LoopConfig() == replace(LoopConfig(), cosine_after_warmup=False)
    for step in (0, 7, 19, 20, 50, 100):
        cosine = 0.7 + 0.3 * 0.5 * (1 + math.cos(math.pi * step / 100))
        assert learning_rate(config, step) == pytest.approx(2.0 * min(1, (step + 1) / 20) * cosine)


@pytest.mark.parametrize("warmup", [0, 100, 1000])
def test_a_warm_up_of_any_length_stays_below_the_peak(warmup: int):
    config = replace(CONFIG, warmup_steps=warmup)
    rates = [learning_rate(config, step) for step in range(101)]
    assert all(0 < rate <= 2.0 for rate in rates)


def test_epochs_count_the_steps_and_ask_for_the_published_schedule():
    free = LoopConfig(steps=0, warmup_steps=0)
    plan = planned(free, epochs=100, epoch_steps=7)
    assert (plan.steps, plan.warmup_steps, plan.cosine_after_warmup) == (700, 7, True)
    assert planned(replace(free, warmup_steps=3), 100, 7).warmup_steps == 3
    assert planned(CONFIG, 1, 1) is CONFIG
    assert learning_rate(plan, 6) == plan.learning_rate
    assert learning_rate(plan, 700) == pytest.approx(0.7 * plan.learning_rate)


def test_a_batch_smaller_than_its_parts_is_refused():
    assert row_shares(4, 2, 1, 2) == [slice(2, 3), slice(3, 4)]
    with pytest.raises(ValueError, match="batch 3 does not divide over 4 processes"):
        row_shares(3, 1, 0, 4)


@pytest.mark.parametrize(("from_start", "share"), [(False, 0.1), (True, 0.9)])
def test_an_average_follows_early_weights_unless_it_must_not(tmp_path, from_start, share):
    module = torch.nn.Linear(1, 1)
    before = module.weight.detach().clone()
    config = LoopConfig(steps=1, warmup_steps=1, ema=0.9, ema_from_start=from_start)
    loop = TrainingLoop(tmp_path, module, config, fingerprint={})
    loop.run(lambda step: (module(torch.ones(1, 1)).square().sum(), {}))
    after = module.weight.detach()
    assert not torch.equal(before, after)
    torch.testing.assert_close(loop.weights()["weight"], share * before + (1 - share) * after)


def test_a_linear_decay_falls_by_the_same_amount_every_step():
    config = replace(CONFIG, decay="linear", warmup_steps=0, final_learning_rate_fraction=0.0)
    rates = np.array([learning_rate(config, step) for step in range(101)])
    np.testing.assert_allclose(np.diff(rates), -2.0 / 100)
    assert (rates[0], rates[-1]) == (2.0, 0.0)


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"state.pt cannot be read .*; delete it to train"):
        TrainingLoop(tmp_path, nn.Linear(1, 1), LoopConfig(steps=1), fingerprint={})
