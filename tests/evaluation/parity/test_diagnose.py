from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_gym.evaluation.parity.diagnose import (
    describe,
    diagnose_alignment,
    diagnose_objective,
    latent_errors,
)

N, HISTORY, STEPS = 4, 2, 3


@pytest.fixture
def latents(tiny_model):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, HISTORY + 1, 4, 4, 4, generator=generator)


def answer(monkeypatch, model, function):
    """Let the network answer function(its input)."""
    monkeypatch.setattr(model.network, "forward", lambda x, t, a: function(x))


def test_a_flow_network_is_told_from_a_v_network(tiny_model, latents, monkeypatch):
    def flow(x):  # noise minus a guess of the latents
        return x - latents

    def v(x):
        return -latents

    answer(monkeypatch, tiny_model, flow)
    found = diagnose_objective(tiny_model, latents)
    assert found.measured == "flow"
    assert found.noise_correlation == pytest.approx(0.5**0.5, abs=0.15)
    answer(monkeypatch, tiny_model, v)
    found = diagnose_objective(tiny_model, latents)
    assert found.measured == "ddpm"
    assert abs(found.noise_correlation) < 0.2
    assert found.latent_correlation == pytest.approx(1, abs=1e-5)


def test_an_answer_in_between_stays_undecided(tiny_model, latents, monkeypatch):
    answer(monkeypatch, tiny_model, lambda x: 0.4 * x - latents)
    assert diagnose_objective(tiny_model, latents).measured is None


@pytest.mark.parametrize("alignment", ["target", "source"])
def test_clips_the_model_made_itself_show_its_own_alignment(tiny_model, alignment):
    """What a model imagined under one reading, it predicts exactly under that one only."""
    generator = torch.Generator().manual_seed(1)
    actions = 0.06 * torch.rand(N, HISTORY - 1 + STEPS, 2, generator=generator) - 0.03
    start = torch.randn(N, HISTORY, 4, 4, 4, generator=generator)
    recorded = imagine(tiny_model, alignment, start, actions)
    steps = np.full(N, STEPS)
    found = diagnose_alignment(tiny_model, recorded, actions, steps, HISTORY)
    assert found.measured == alignment
    assert found.follows_actions
    assert found.error[alignment] < 1e-5 < found.error_shuffled[alignment]
    other = "source" if alignment == "target" else "target"
    assert found.error[other] > 1e-3
    # steps that were not recorded do not count
    broken = recorded.clone()
    broken[:, -1] += 100
    fewer = np.full(N, STEPS - 1)
    assert latent_errors(tiny_model, alignment, broken, actions, fewer, HISTORY, 0).max() < 1e-5


def imagine(model, alignment, start, actions):
    import copy

    from wm_gym.dynamics.rollout import LatentHistory

    read = copy.copy(model)
    read.spec = replace(model.spec, action=replace(model.spec.action, alignment=alignment))
    slots = read.spec.action.null_action().expand(N, HISTORY, -1).clone()
    slots[:, int(alignment == "target")] = read.spec.action.normalise(actions[:, 0])
    rollout = read.begin(LatentHistory(start, slots), seeds=range(N))
    return torch.cat([start, rollout.step(actions[:, HISTORY - 1 :])], 1)


def test_a_contradicted_card_says_what_to_do(tiny_model, latents, monkeypatch):
    answer(monkeypatch, tiny_model, lambda x: -latents)
    objective = diagnose_objective(tiny_model, latents)
    monkeypatch.undo()
    actions = torch.zeros(N, HISTORY, 2)
    alignment = diagnose_alignment(tiny_model, latents, actions, np.full(N, 1), HISTORY)
    text = describe(objective, alignment)
    assert "--objective ddpm" in text
    assert "say nothing about the alignment" in text  # the same actions everywhere
    assert alignment.error == pytest.approx(alignment.error_shuffled)
