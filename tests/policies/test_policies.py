import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.policies.line_world import ACTIONS, FRAMES, Walker
from wm_gym.policies.action_replay import ActionReplayPolicy
from wm_gym.policies.base import Observation, PolicyError, load_policy, save_policy
from wm_gym.policies.behaviour_cloning import (
    BehaviourCloningConfig,
    BehaviourCloningNetwork,
    BehaviourCloningPolicy,
)
from wm_gym.policies.goal_encoder import cell_centres
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.policies.resized import ResizedPolicy
from wm_gym.spec import ActionSpec, FrameSpec

PLANE = ActionSpec(
    ("x", "y"), ("m", "m"), (-0.03,) * 2, (0.03,) * 2, (1.0,) * 2, (0.0,) * 2, 2, control_hz=10.0
)
TEMPLATES = {"reach": "reach the {first}", "push": "push the {first} to the {second}"}


def cloning(seed=0, execute=2):
    torch.manual_seed(seed)
    config = BehaviourCloningConfig(TEMPLATES, ("red cube", "blue moon", "red moon"))
    network = BehaviourCloningNetwork(config)
    return BehaviourCloningPolicy(PLANE, FrameSpec(96, 96, "top"), network, execute=execute)


def observe(rows, steps=0, size=96):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (max(rows) + 1, size, size, 3), np.uint8)
    texts = ["reach the red cube", "push the red moon to the blue moon"]
    return Observation(
        frames[list(rows)],
        tuple(texts[row % 2] for row in rows),
        np.full(len(rows), steps),
        np.array(rows),
    )


POLICIES = {
    "random": RandomPolicy(PLANE, chunk=3, hold=2),
    "action-replay": ActionReplayPolicy(PLANE, sequences=[np.full((5, 2), 0.01)] * 2, chunk=2),
    "noisy": NoisyPolicy(cloning(), 0.5),
    "resized": ResizedPolicy(cloning(), FrameSpec(64, 64, "top")),
    "behaviour-cloning": cloning(),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_saved_policies_act_the_same(kind, tmp_path):
    policy = POLICIES[kind]
    assert policy.kind == kind
    loaded = load_policy(save_policy(policy, tmp_path / "policy"))
    size = 64 if kind == "resized" else 96
    actions = []
    for one in (policy, loaded):
        one.reset([0, 1, 2], [5, 6, 7], [""] * 3)
        actions.append(one.act(observe([0, 1, 2], steps=1, size=size)))
    assert actions[0].dtype == np.float32
    assert actions[0].shape[::2] == (3, 2)
    np.testing.assert_array_equal(*actions)
    assert (loaded.action_spec, loaded.frame_spec) == (policy.action_spec, policy.frame_spec)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_row_acts_the_same_whatever_its_neighbours(kind):
    policy, size = POLICIES[kind], 64 if kind == "resized" else 96
    policy.reset([0, 1, 2], [5, 6, 7], [""] * 3)
    together = policy.act(observe([0, 1, 2], steps=2, size=size))
    alone = policy.act(observe([1], steps=2, size=size))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


def test_bfloat16_files_are_half_as_large_and_damage_is_named(tmp_path):
    folder = save_policy(cloning(), tmp_path / "small", dtype=torch.bfloat16)
    weights = folder / "policy.safetensors"
    assert weights.stat().st_size < 400_000
    load_policy(folder)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PolicyError, match="truncated, altered or of another version"):
        load_policy(folder)
    weights.unlink()
    with pytest.raises(PolicyError, match="is missing"):
        load_policy(folder)


def test_unreadable_policies_are_named(tmp_path):
    with pytest.raises(PolicyError, match="written by save_policy"):
        load_policy(tmp_path)
    folder = save_policy(RandomPolicy(PLANE), tmp_path / "random")
    content = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"kind": "magic"}, "'magic' is unknown; expected one of"),
        ({"version": 99}, "this wm_gym reads 1"),
        ({"action_spec": {"names": []}}, "does not fit"),
        ({"action_spec": content["action_spec"] | {"low": [float("nan")] * 2}}, "does not fit"),
        ({"kind": ["random"]}, r"\['random'\] is unknown; expected one of"),
    ):
        (folder / "policy.json").write_text(json.dumps(content | change), encoding="utf-8")
        with pytest.raises(PolicyError, match=message):
            load_policy(folder)
    for text in ("[1]", "null", '"random"', "[" * 100_000, "\0", json.dumps(content)[:50]):
        (folder / "policy.json").write_text(text, encoding="utf-8")
        with pytest.raises(PolicyError, match="cannot be read as JSON"):
            load_policy(folder)


def test_weights_that_are_none_are_named_whatever_their_hash(tmp_path):
    folder = save_policy(cloning(), tmp_path)
    content = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    (folder / "policy.safetensors").write_bytes(b"no tensors")
    for found, message in (
        (hashlib.sha256(b"no tensors").hexdigest(), "holds no tensors"),
        (5, r"policy\.json says 5…"),
    ):
        (folder / "policy.json").write_text(
            json.dumps(content | {"weights_sha256": found}), encoding="utf-8"
        )
        with pytest.raises(PolicyError, match=message):
            load_policy(folder)


def test_noise_has_the_stated_size_and_stays_in_the_box():
    wide = replace(ACTIONS, low=(-1.0,), high=(1.0,))
    policy = NoisyPolicy(Walker(pace_m=0.0, chunk=500, spec=wide), 0.2)
    policy.reset([0], [3], [""])
    frame = np.zeros((1, FRAMES.height, FRAMES.width, 3), np.uint8)
    chunk = policy.act(Observation(frame, ("",), np.zeros(1, int), np.zeros(1, int)))
    assert chunk.std() == pytest.approx(0.2, rel=0.1)
    loud = NoisyPolicy(policy.policy, 5.0)
    assert (
        np.abs(loud.act(Observation(frame, ("",), np.zeros(1, int), np.zeros(1, int)))).max() == 1
    )


def test_random_policy_holds_its_actions_across_chunks():
    policy = RandomPolicy(PLANE, chunk=1, hold=3)
    policy.reset([0], [1], [""])
    steps = [policy.act(observe([0], steps=k))[0, 0] for k in range(6)]
    np.testing.assert_array_equal(steps[0], steps[2])
    assert not np.array_equal(steps[2], steps[3])


def test_action_replay_chooses_by_seed_and_rests_at_the_end():
    sequences = [np.full((3, 2), 0.01), np.full((1, 2), -0.02)]
    policy = ActionReplayPolicy(PLANE, sequences=sequences, chunk=2)
    policy.reset([0, 1], [4, 5], ["", ""])
    chunk = policy.act(observe([0, 1], steps=2))
    np.testing.assert_allclose(chunk[0], [[0.01, 0.01], [0, 0]])
    np.testing.assert_allclose(chunk[1], 0)
    with pytest.raises(ValueError, match=r"expected \(T, 2\)"):
        ActionReplayPolicy(PLANE, sequences=[np.zeros((3, 4))])


def test_cloning_depends_on_frame_and_instruction():
    policy = cloning()
    one, other = observe([0, 1]), observe([0, 1])
    swapped = replace(other, instructions=other.instructions[::-1])
    assert np.abs(policy.act(one) - policy.act(swapped)).max() > 0
    with pytest.raises(ValueError, match="not understood"):
        policy.act(replace(one, instructions=("dance", "dance")))


def test_cloning_keypoints_are_where_attention_is():
    centres = cell_centres(24, 24)
    np.testing.assert_allclose(centres[0], [-23 / 24, 23 / 24], rtol=1e-6)  # top left
    np.testing.assert_allclose(centres[-1], [23 / 24, -23 / 24], rtol=1e-6)
    assert centres[1, 0] > centres[0, 0]


class Right(RandomPolicy):
    pass


class Nameless(RandomPolicy):
    kind = ""


class Magic(RandomPolicy):
    kind = "magic"


@pytest.mark.parametrize("made", [Right, Nameless, Magic])
@pytest.mark.parametrize("wrap", [lambda policy: policy, lambda policy: NoisyPolicy(policy, 0.5)])
def test_a_policy_that_could_not_be_loaded_again_is_not_saved(made, wrap, tmp_path):
    name = rf"a {made.__name__} cannot be saved: its kind '{made.kind}'"
    with pytest.raises(PolicyError, match=rf"{name}.* --policies \S+:{made.__name__}"):
        save_policy(wrap(made(PLANE)), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
