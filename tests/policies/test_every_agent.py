"""What holds for agents of every kind, in one imagined world."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from tests.policies import agents
from tests.policies.agents import STARTS, Server, every_agent, second_of_two_is_nan
from wm_gym.policies.base import POLICY_KINDS, Policy, load_policy, save_policy
from wm_gym.policies.compatibility import IncompatiblePolicyError
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.resampled import ResampledPolicy
from wm_gym.policies.resized import ResizedPolicy
from wm_gym.policies.rows import VectorRows
from wm_gym.policies.runner import run_policy
from wm_gym.spec import FrameSpec

pytest.importorskip("msgpack")
STEPS = 3
FAULTS = {"NaN": np.full(2, np.nan), "shape": np.zeros((5,))}


@pytest.fixture(scope="module")
def dream(tiny_model):
    return gym.make_vec(
        "WM-LangTable-VAE-v0", num_envs=2, model=tiny_model, autoreset_mode="Disabled"
    )


@pytest.fixture(scope="module")
def known(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("semantic") / "tiny"
    with every_agent(tiny_checkpoint, folder) as (made, server):
        yield made, server, folder


def run(env, policy: Policy):
    return run_policy(env, policy, STARTS, [3, 4], STEPS, progress=False, keep_actions=True)


def test_there_is_one_of_every_kind(known):
    made, *_ = known
    assert {kind: policy.kind for kind, policy in made.items()} == {k: k for k in POLICY_KINDS}


@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_what_is_saved_and_loaded_acts_the_same(kind, known, dream, tmp_path):
    policy = known[0][kind]
    loaded = load_policy(save_policy(policy, tmp_path))
    assert type(loaded) is type(policy)
    records, again = run(dream, policy), run(dream, loaded)
    if kind == "openpi":
        loaded.close()  # pyright: ignore[reportAttributeAccessIssue]
    for record, other in zip(records, again, strict=True):
        assert (record.steps, record.error) == (STEPS, None)
        np.testing.assert_array_equal(record.actions, other.actions)
        assert (np.abs(record.actions).max() > 0) == (kind != "null")


@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_another_world_is_refused_before_anything_runs(kind, known, dream):
    policy, card = known[0][kind], dream.unwrapped.card
    for changes, message in (
        ({"control_hz": 5.0}, r"control_hz is 10 in the policy and 5 .*: resample"),
        ({"names": ("x", "z")}, r"components are \['x', 'y'\] .*wrap the policy"),
        ({"high": (0.01, 0.01)}, "exceeds the environment's.*state the smaller range"),
    ):
        rows = VectorRows(dream, action_spec=replace(card.action, **changes))
        with pytest.raises(IncompatiblePolicyError, match=message) as refused:
            run(rows, policy)
        assert str(policy.action_spec) in str(refused.value)
        assert str(rows.action_spec) in str(refused.value)
    rows = VectorRows(dream, frame_spec=FrameSpec(48, 64, "top"))
    if policy.frame_spec is not None:
        with pytest.raises(IncompatiblePolicyError, match=r"sees frames of 32x32.*ResizedPolicy"):
            run(rows, policy)


def test_agents_that_were_trained_on_frames_state_their_size(known):
    stated = {kind for kind, policy in known[0].items() if policy.frame_spec is not None}
    assert stated >= {"behaviour-cloning", "diffusion-policy", "idql", "sb3", "latent-planner"}


NETWORKS = {
    "behaviour-cloning": lambda policy: (policy.network, "forward"),
    "noisy": lambda policy: (policy.policy.network, "forward"),
    "resized": lambda policy: (policy.policy.network, "forward"),
    "resampled": lambda policy: (policy.policy.network, "forward"),
    "diffusion-policy": lambda policy: (policy.network.unet, "forward"),
    "idql": lambda policy: (policy, "values"),
    "sb3": lambda policy: (policy.network, "predict"),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_nan_of_a_network_ends_its_own_episode(kind, known, dream):
    policy = known[0][kind]
    whole = run(dream, policy)[0]
    with second_of_two_is_nan(*NETWORKS[kind](policy)):
        sound, broken = run(dream, policy)
    assert "NaN" in str(broken.error) and broken.steps == 0
    assert sound.error is None
    np.testing.assert_allclose(sound.actions, whole.actions, atol=1e-6)


def behind(kind: str, server: Server, checkpoint: str, folder) -> Policy:
    """A policy of a kind whose actions come from another policy, which has a fault."""
    if kind == "noisy":
        return NoisyPolicy(agents.Faulty(server), 0.2)
    if kind == "resized":
        return ResizedPolicy(agents.Faulty(server, FrameSpec(16, 16, "top")), agents.SMALL)
    if kind == "resampled":
        return ResampledPolicy(agents.Faulty(server), agents.PLANE, "repeat", deltas=["x"])
    if kind == "planner":
        return agents.planner(folder, (agents.Faulty(server), agents.cloning()))
    return agents.latent_planner(checkpoint, (agents.Faulty(server), agents.cloning()))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "kind", ["noisy", "resized", "resampled", "planner", "latent-planner", "openvla", "openpi"]
)
def test_a_fault_of_what_is_asked_ends_its_own_episode(kind, fault, known, dream, tiny_checkpoint):
    made, server, folder = known
    remote = kind in ("openvla", "openpi")
    asked = server if remote else Server()
    policy = made[kind] if remote else behind(kind, asked, tiny_checkpoint, folder)
    starts = dream.unwrapped.engine.starts.stored
    asked.broken = starts.instructions[starts.index(STARTS[1])]
    assert asked.broken != starts.instructions[starts.index(STARTS[0])]
    whole = run(dream, policy)
    assert [record.error for record in whole] == [None, None]
    asked.fault = FAULTS[fault]
    try:
        sound, broken = run(dream, policy)
    finally:
        asked.fault = None
    message = "NaN" if fault == "NaN" else r"(1, 5)"
    assert message in str(broken.error) and broken.steps == 0
    assert ("proposals of Faulty" in str(broken.error)) == ("planner" in kind)
    assert (sound.steps, sound.error) == (STEPS, None)
    np.testing.assert_allclose(sound.actions, whole[0].actions, atol=1e-6)


@pytest.mark.parametrize("kind", ["planner", "latent-planner"])
def test_proposals_in_another_language_are_refused_or_converted(kind, known, tiny_checkpoint):
    folder = known[2]
    make = {
        "planner": lambda base: agents.planner(folder, (base,)),
        "latent-planner": lambda base: agents.latent_planner(tiny_checkpoint, (base,)),
    }[kind]
    base = agents.cloning()
    base.action_spec = replace(base.action_spec, control_hz=5.0)
    with pytest.raises(IncompatiblePolicyError, match="control_hz is 5"):
        make(base)
    metres, millimetres = agents.cloning(), agents.cloning()
    spec = metres.action_spec
    high = tuple(1000 * value for value in spec.high)
    low = tuple(-value for value in high)
    millimetres.action_spec = replace(spec, units=("mm", "mm"), low=low, high=high)
    observation = agents.seen()
    drawn = [make(one).proposals.draw(observation, 2) for one in (metres, millimetres)]
    np.testing.assert_allclose(drawn[0].sequences, drawn[1].sequences, rtol=1e-5)
    assert drawn[0].faults == drawn[1].faults == {}
