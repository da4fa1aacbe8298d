import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.policies.diffusion_policy.test_policy import PLANE, TEXTS, diffusion, observe
from tests.policies.numbered_episodes import STEPS, episode, write_episodes
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import LANGTABLE
from wm_gym.policies.base import Observation, PolicyError, load_policy, save_policy
from wm_gym.policies.diffusion_policy.network import Vocabulary
from wm_gym.policies.idql import train as module
from wm_gym.policies.idql.critics import (
    Critics,
    CriticsConfig,
    choice_weights,
    expectile_loss,
    iql_losses,
)
from wm_gym.policies.idql.policy import IDQLPolicy
from wm_gym.policies.idql.train import TrainIDQLConfig, train_idql
from wm_gym.policies.idql.transitions import Transitions, chunk_steps
from wm_gym.training.loop import LoopConfig, generator


def test_the_expectile_loss_of_a_hand_computed_case():
    # 0.8 * 2^2, 0.2 * 1^2 and 0.8 * 0.5^2, their mean
    difference = torch.tensor([2.0, -1.0, 0.5])
    assert expectile_loss(difference, 0.8).item() == pytest.approx((3.2 + 0.2 + 0.2) / 3)
    assert expectile_loss(difference, 0.5).item() == pytest.approx((2.0 + 0.5 + 0.125) / 3)


@pytest.mark.parametrize("expectile", [0.5, 0.8, 0.95])
def test_the_least_loss_is_at_the_expectile(expectile):
    """Of the values 0 and 1, equally likely, the τ-expectile is τ."""
    values = torch.tensor([0.0, 1.0])
    places = torch.linspace(0, 1, 1001)
    losses = torch.stack([expectile_loss(values - v, expectile) for v in places])
    assert places[losses.argmin()].item() == pytest.approx(expectile, abs=1e-3)


def test_the_losses_of_a_hand_computed_case():
    q = torch.tensor([[0.5], [0.3]], requires_grad=True)
    v = torch.tensor([0.2], requires_grad=True)
    after = torch.tensor([0.6], requires_grad=True)
    v_loss, q_loss = iql_losses(
        (q, v, after),
        torch.tensor([[0.1], [0.4]]),
        torch.tensor([0.0]),
        torch.tensor([0.5]),
        expectile=0.8,
    )
    # the smaller target, 0.1, lies 0.1 below V; Q should be 0.5 * 0.6 = 0.3
    assert v_loss.item() == pytest.approx(0.2 * 0.1**2)
    assert q_loss.item() == pytest.approx((0.2**2 + 0.0) / 2)
    (v_loss + q_loss).backward()
    assert after.grad is None  # V is not drawn towards Q's target
    assert v.grad.item() == pytest.approx(2 * 0.2 * 0.1, rel=1e-5)
    np.testing.assert_allclose(q.grad.flatten(), [0.2, 0.0], atol=1e-6)


def test_the_weights_of_hand_computed_cases():
    q, v = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([0.5])

    def weights(choice):
        return choice_weights(q, v, choice, temperature=0.5, expectile=0.8)[0].tolist()

    total = 1 + math.e + math.e**2
    assert weights("softmax") == pytest.approx([1 / total, math.e / total, math.e**2 / total])
    assert weights("expectile") == pytest.approx([0.2 / 1.8, 0.8 / 1.8, 0.8 / 1.8])
    assert weights("greedy") == [0.0, 0.0, 1.0]


def test_the_chunks_of_an_episode_that_reaches_its_goal():
    success = np.array([False, False, False, False, True, True])
    steps = chunk_steps(success, 3, 0.9)
    assert steps.begin.tolist() == [0, 1, 2, 3]  # none begins at the goal
    assert steps.end.tolist() == [3, 4, 4, 4]
    # the goal comes with the third, second and first step of the last three chunks
    np.testing.assert_allclose(steps.reward, [0.0, 0.9**2, 0.9, 1.0])
    np.testing.assert_allclose(steps.discount, [0.9**3, 0.0, 0.0, 0.0])


def test_an_episode_that_is_cut_off_has_whole_chunks_only():
    steps = chunk_steps(np.zeros(6, bool), 3, 0.9)
    assert steps.begin.tolist() == [0, 1, 2]
    assert steps.end.tolist() == [3, 4, 5]
    assert (steps.reward == 0).all()
    np.testing.assert_allclose(steps.discount, 0.9**3)
    for nothing in (np.zeros(3, bool), np.ones(4, bool)):
        assert len(chunk_steps(nothing, 3, 0.9).begin) == 0


@pytest.fixture
def data(tmp_path):
    return write_episodes(tmp_path / "data")


def base_policy(execute=3):
    words = Vocabulary({"reach": LANGTABLE.tasks["reach"]}, LANGTABLE.objects)
    return diffusion(execute=execute, steps=2, vocabulary=words, spec=LANGTABLE.action)


def test_transitions_hold_what_was_done_and_where_it_led(data):
    base = base_policy()
    found = Transitions([EpisodeDataset(data)], base.network, base.normalise, chunk=3, gamma=0.9)
    assert len(found) == 6 * STEPS
    assert found.begin[:STEPS].tolist() == [0, 1, 2, 3, 4]
    assert found.end[:STEPS].tolist() == [3, 4, 5, 5, 5]
    # the action of state t is 0.001 (t + 1); past the end the last one is repeated
    physical = base.low[0] + (found.chunks[4] + 1) / 2 * (base.high[0] - base.low[0])
    np.testing.assert_allclose(physical, 0.005, rtol=1e-4)
    physical = base.low[0] + (found.chunks[1] + 1) / 2 * (base.high[0] - base.low[0])
    np.testing.assert_allclose(physical, np.repeat([0.002, 0.003, 0.004], 2), rtol=1e-4)
    np.testing.assert_allclose(found.features.mean(dim=0), 0, atol=1e-4)
    assert found.rewarded == pytest.approx(3 / STEPS)
    assert found.begin[STEPS].item() == STEPS + 1  # the next episode's first state


def test_data_without_the_policys_tasks_is_named(data):
    other = diffusion(execute=3)
    other.network.vocabulary = Vocabulary({"push": "push it"}, ())
    with pytest.raises(ValueError, match=r"hold no episode of the tasks \['push'\]"):
        Transitions([EpisodeDataset(data)], other.network, other.normalise, chunk=3, gamma=0.9)


def idql(choice="softmax", samples=6, **changes):
    torch.manual_seed(0)
    base = diffusion(execute=4)
    seen = base.network.rgb_encoder.look.feature_size + 1 + 2 * 4  # a task, words of two objects
    critics = Critics(CriticsConfig(seen, 4 * 2, hidden=16, layers=2))
    made = IDQLPolicy(
        base,
        critics,
        mean=[0.0] * seen,
        std=[1.0] * seen,
        samples=samples,
        choice=choice,
        **changes,
    )
    made.reset([0, 1, 2], [5, 6, 7], [""] * 3)
    return made


@pytest.mark.parametrize("choice", ["softmax", "expectile", "greedy"])
def test_what_is_carried_out_is_one_of_the_samples(choice):
    policy = idql(choice)
    seen = observe([0, 1, 2])
    samples = policy.base.samples(seen, policy.samples)
    actions = policy.act(seen)
    assert actions.shape == (3, 4, 2)
    for k in range(3):
        assert (samples[k] == actions[k]).all(axis=(1, 2)).any()
    np.testing.assert_array_equal(policy.act(seen), actions)
    np.testing.assert_allclose(policy.act(observe([1])), actions[1:2], atol=1e-6)


def test_greedy_takes_the_sample_of_the_greatest_value_and_one_sample_is_the_base():
    policy, seen = idql("greedy"), observe([0, 1])
    samples = policy.base.samples(seen, policy.samples)
    q, v = policy.values(seen, samples)
    assert (q.shape, v.shape) == ((2, 6), (2,))
    best = samples[np.arange(2), q.argmax(dim=1).numpy()]
    np.testing.assert_array_equal(policy.act(seen), best)
    assert len({*q.argmax(dim=1).tolist(), 0}) > 1  # not just the first
    alone = idql("softmax", samples=1)
    np.testing.assert_allclose(alone.act(seen), alone.base.act(seen), atol=1e-6)


def test_a_low_temperature_is_greedy_and_a_choice_follows_its_weights():
    seen = observe([0, 1])
    cold = idql("softmax", temperature=1e-6)
    np.testing.assert_array_equal(cold.act(seen), idql("greedy").act(seen))
    policy = idql("softmax", samples=3, temperature=0.02)
    counts = np.zeros(3)
    for step in range(60):
        now = observe([0], step=step)
        samples = policy.base.samples(now, 3)
        q, v = policy.values(now, samples)
        weights = choice_weights(q, v, "softmax", temperature=0.02, expectile=0.8)[0].numpy()
        chosen = (samples[0] == policy.act(now)[0]).all(axis=(1, 2)).argmax()
        counts += np.eye(3)[chosen] - weights
    assert np.abs(counts).max() < 4 * math.sqrt(60 * 0.25)  # four deviations at most


def test_critics_see_the_newest_frame_only():
    policy, seen = idql(), observe([0, 1])
    samples = policy.base.samples(seen, 2)
    q, _ = policy.values(seen, samples)
    still = replace(seen, history=seen.frames[:, None])
    assert torch.equal(policy.values(still, samples)[0], q)
    other = replace(seen, frames=255 - seen.frames)
    assert not torch.equal(policy.values(other, samples)[0], q)
    words = replace(seen, instructions=TEXTS[::-1])
    assert not torch.equal(policy.values(words, samples)[0], q)


def test_saved_policies_act_the_same(tmp_path):
    policy = idql(temperature=0.1)
    loaded = load_policy(save_policy(policy, tmp_path / "policy"))
    loaded.reset([0, 1, 2], [5, 6, 7], [""] * 3)
    assert (loaded.kind, loaded.frame_history) == ("idql", 1)
    np.testing.assert_array_equal(loaded.act(observe([0, 1, 2])), policy.act(observe([0, 1, 2])))
    stored = (tmp_path / "policy" / "policy.json").read_text(encoding="utf-8")
    (tmp_path / "policy" / "policy.json").write_text(
        stored.replace('"hidden": 16', '"hidden": 8'), encoding="utf-8"
    )
    with pytest.raises(PolicyError, match="the weights do not fit critics of"):
        load_policy(tmp_path / "policy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples=0, temperature=0.5, expectile=0.8: expected at least 1"),
        ({"temperature": 0.0}, r"temperature=0.0"),
        (
            {"choice": "best"},
            r"choice='best': expected one of \['softmax', 'expectile', 'greedy'\]",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        idql(**changes)


def test_critics_of_another_chunk_are_refused():
    base = diffusion(execute=4)
    with pytest.raises(ValueError, match=r"critics take 6 numbers .* carries out 4 actions, 8 num"):
        IDQLPolicy(base, Critics(CriticsConfig(3, 6)), mean=[0.0] * 3, std=[1.0] * 3)


def config(data, out, policy, **changes):
    loop = LoopConfig(
        steps=6, warmup_steps=0, save_every=2, log_every=3, ema=0.9, ema_from_start=True
    )
    settings = {"batch": 4, "hidden": 8, "samples": 2, "stages": (0.5, 1.0), "loop": loop}
    return TrainIDQLConfig(policy=policy, data=(data,), out=out, **(settings | changes))


def test_an_interrupted_training_gives_the_same_policies(data, tmp_path, monkeypatch):
    source = save_policy(base_policy(), tmp_path / "base")
    whole = train_idql(config(data, tmp_path / "whole", source))
    assert [path.name for path in whole] == ["stage_1", "stage_2"]
    calls = []

    def killed(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generator(*args)

    monkeypatch.setattr(module, "generator", killed)
    with pytest.raises(KeyboardInterrupt):
        train_idql(config(data, tmp_path / "part", source))
    parts = train_idql(config(data, tmp_path / "part", source))
    assert len(calls) < 4 + 6  # it went on where it was
    for one, other in zip(whole, parts, strict=True):
        first, second = load_policy(one).weights(), load_policy(other).weights()
        assert all(torch.equal(first[name], second[name]) for name in first)
    state = torch.load(tmp_path / "whole/state.pt", weights_only=True)
    stored = load_policy(whole[1]).weights()
    name = "q.members.0.0.weight"
    assert torch.equal(stored[f"critics.{name}"], state["ema"][name].bfloat16().float())
    assert torch.equal(
        stored["critics.v.0.weight"], state["module"]["v.0.weight"].bfloat16().float()
    )


@pytest.mark.slow
def test_values_are_those_of_the_reward(data, tmp_path):
    """Every numbered episode succeeds after five steps: V of a state is γ to the steps left."""
    source = save_policy(base_policy(execute=2), tmp_path / "base")
    loop = LoopConfig(
        steps=400, learning_rate=3e-3, warmup_steps=0, ema=0.97, ema_from_start=True, clip=10.0
    )
    *_, folder = train_idql(
        config(data, tmp_path / "out", source, gamma=0.8, hidden=32, batch=30, loop=loop)
    )
    policy, truth = load_policy(folder), episode(1, "expert")
    assert isinstance(policy, IDQLPolicy)
    seen = Observation(
        truth.frames[:-1],
        (truth.instruction,) * STEPS,
        np.arange(STEPS),
        np.arange(STEPS),
        truth.frames[:-1, None],
    )
    chunks = np.stack([truth.actions[np.minimum([t, t + 1], STEPS - 1)] for t in range(STEPS)])
    q, v = policy.values(seen, chunks[:, None])
    expected = 0.8 ** np.arange(STEPS - 1, -1, -1.0)
    np.testing.assert_allclose(v.numpy(), expected, atol=0.1)
    np.testing.assert_allclose(q[:, 0].numpy(), expected, atol=0.1)


def test_the_command_refuses_another_policy(data, tmp_path, capsys):
    from wm_gym.policies.random_policy import RandomPolicy

    folder = save_policy(RandomPolicy(PLANE), tmp_path / "random")
    words = ["--policy", folder, "--data", data, "--out", tmp_path / "out"]
    assert main(["train", "idql", *map(str, words)]) == 2
    assert "holds a 'random' policy; expected 'diffusion-policy'" in capsys.readouterr().err


def test_the_published_settings_are_the_defaults(tmp_path):
    settings = TrainIDQLConfig(policy=tmp_path, data=(tmp_path,), out=tmp_path)
    assert (settings.expectile, settings.gamma, settings.batch) == (0.8, 0.99, 128)
    assert (settings.hidden, settings.layers, settings.ensemble) == (256, 3, 2)
    assert (settings.samples, settings.temperature) == (1000, 0.5)
    assert (settings.loop.steps, settings.loop.learning_rate) == (250_000, 3e-4)
    with pytest.raises(ValueError, match="leaves no target network"):
        replace(settings, loop=replace(settings.loop, ema=0.0))
