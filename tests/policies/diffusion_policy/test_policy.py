import numpy as np
import pytest
import torch

from tests.policies.line_world import ACTIONS, CELLS, FRAMES, LineEnv, LineVectorEnv
from wm_gym.instructions import InstructionError
from wm_gym.policies.base import Observation, PolicyError, load_policy, save_policy
from wm_gym.policies.diffusion_policy.network import (
    DiffusionNetwork,
    DiffusionNetworkConfig,
    Vocabulary,
)
from wm_gym.policies.diffusion_policy.noise import training_scheduler
from wm_gym.policies.diffusion_policy.policy import DiffusionPolicy
from wm_gym.policies.named import open_policy
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.resized import ResizedPolicy
from wm_gym.policies.runner import run_policy
from wm_gym.spec import ActionSpec, FrameSpec

PLANE = ActionSpec(
    ("x", "y"), ("m", "m"), (-0.03,) * 2, (0.03,) * 2, (1.0,) * 2, (0.0,) * 2, 2, control_hz=10.0
)
WORDS = Vocabulary({"reach": "reach the {first}"}, ("red cube", "blue moon"))
TEXTS = ("reach the red cube", "reach the blue moon")
SIDE = 32


def diffusion(execute=8, steps=4, vocabulary=WORDS, spec=PLANE, frames=None, **network):
    torch.manual_seed(0)
    sizes = {"encoder": "attention", "down_dims": (8, 16), "time_embedding": 8, "features": 8}
    config = DiffusionNetworkConfig(**(sizes | network))
    return DiffusionPolicy(
        spec,
        frames or FrameSpec(SIDE, SIDE, "top"),
        DiffusionNetwork(config, vocabulary, spec.size),
        low=[-0.02] * spec.size,
        high=[0.04] * spec.size,
        execute=execute,
        steps=steps,
    )


def observe(rows, step=0, side=SIDE, history=1):
    frames = np.random.default_rng(0).integers(0, 256, (8, 3, side, side, 3), np.uint8)
    return Observation(
        frames[list(rows), -1],
        tuple(TEXTS[row % 2] for row in rows),
        np.full(len(rows), step),
        np.array(rows),
        frames[list(rows), 2 - history : 2],
    )


@pytest.fixture(scope="module")
def policy():
    made = diffusion()
    made.reset([0, 1, 2], [5, 6, 7], [""] * 3)
    return made


def test_actions_are_a_function_of_seed_and_step(policy):
    first = policy.act(observe([0, 1]))
    assert first.shape == (2, 8, 2) and first.dtype == np.float32
    np.testing.assert_array_equal(first, policy.act(observe([0, 1])))
    assert np.abs(first - policy.act(observe([0, 1], step=1))).max() > 1e-4
    policy.reset([0], [50], [""])
    assert np.abs(first[0] - policy.act(observe([0, 1]))[0]).max() > 1e-4
    policy.reset([0], [5], [""])
    np.testing.assert_array_equal(first, policy.act(observe([0, 1])))


def test_a_row_acts_the_same_whatever_its_neighbours(policy):
    together = policy.act(observe([0, 1, 2], step=3))
    np.testing.assert_allclose(policy.act(observe([1], step=3)), together[1:2], atol=1e-6)


def test_samples_begin_with_the_one_that_is_carried_out(policy):
    many = policy.samples(observe([0, 1]), 5)
    assert many.shape == (2, 5, 8, 2)
    np.testing.assert_allclose(many[:, 0], policy.act(observe([0, 1])), atol=1e-6)
    assert np.abs(many[:, 1] - many[:, 0]).max() > 1e-4


def test_both_frames_and_the_words_matter(policy):
    seen = observe([0, 1])
    actions = policy.act(seen)
    for changed in (
        Observation(seen.frames, seen.instructions, seen.steps, seen.rows, seen.frames[:, None]),
        Observation(seen.history[:, 0], seen.instructions, seen.steps, seen.rows, seen.history),
        Observation(seen.frames, TEXTS[::-1], seen.steps, seen.rows, seen.history),
    ):
        assert np.abs(policy.act(changed) - actions).max() > 0


def test_the_first_action_is_that_of_the_newest_frame(monkeypatch):
    """Of a chunk whose label n is n / 10, with a denoiser that knows it."""
    config = DiffusionNetworkConfig(
        observations=3, horizon=8, down_dims=(8, 16), groups=4, keypoints=4, time_embedding=8
    )
    network = DiffusionNetwork(config, Vocabulary({}, ()), 2)
    plane = ActionSpec(
        ("x", "y"), ("m", "m"), (-1.0,) * 2, (1.0,) * 2, (1.0,) * 2, (0.0,) * 2, 2, control_hz=10
    )
    policy = DiffusionPolicy(
        plane, FrameSpec(16, 16), network, low=(-1.0,) * 2, high=(1.0,) * 2, execute=4, steps=5
    )
    labels = torch.arange(8)[:, None].repeat(1, 2) / 10
    kept = training_scheduler(policy.noise).alphas_cumprod

    def exact(noisy, times, condition):
        share = kept[times.long()][:, None, None]
        return (noisy - share.sqrt() * labels) / (1 - share).sqrt()

    monkeypatch.setattr(network.unet, "forward", exact)
    black = np.zeros((1, 16, 16, 3), np.uint8)
    none = np.zeros(1, np.int64)
    seen = Observation(black, ("",), none, none, np.zeros((1, 2, 16, 16, 3), np.uint8))
    expected = np.repeat(np.array([0.2, 0.3, 0.4, 0.5])[:, None], 2, axis=1)
    np.testing.assert_allclose(policy.act(seen)[0], expected, atol=1e-5)


def test_actions_are_denormalised_and_stay_in_the_box():
    made = diffusion()
    made.low, made.high = np.array([-0.02, -0.06]), np.array([0.02, 0.06])

    def everything_is_one(noisy, times, condition):
        alpha = training_scheduler(made.noise).alphas_cumprod[times][:, None, None]
        return (noisy - alpha.sqrt()) / (1 - alpha).sqrt()

    made.network.unet.forward = everything_is_one
    actions = made.act(observe([0]))
    np.testing.assert_allclose(actions[..., 0], 0.02, atol=1e-5)
    np.testing.assert_allclose(actions[..., 1], 0.03, atol=1e-7)  # the box of the action language


@pytest.mark.parametrize("name", ["attention", "resnet18"])
def test_saved_policies_act_the_same(name, tmp_path):
    made = diffusion(execute=5, encoder=name)
    loaded = open_policy(str(save_policy(made, tmp_path / "policy")), None)
    assert isinstance(loaded, DiffusionPolicy) and loaded.frame_history == 1
    for one in (made, loaded):
        one.reset([0, 1], [3, 4], [""] * 2)
    np.testing.assert_array_equal(loaded.act(observe([0, 1])), made.act(observe([0, 1])))
    assert (loaded.action_spec, loaded.frame_spec) == (made.action_spec, made.frame_spec)
    content = (tmp_path / "policy" / "policy.json").read_text(encoding="utf-8")
    changed = content.replace('"encoder": "attention"', '"encoder": "resnet34"').replace(
        '"encoder": "resnet18"', '"encoder": "resnet34"'
    )
    (tmp_path / "policy" / "policy.json").write_text(changed, encoding="utf-8")
    with pytest.raises(PolicyError, match="the weights do not fit a diffusion policy"):
        load_policy(tmp_path / "policy")


def test_wrappers_pass_the_earlier_frames_on():
    made = diffusion()
    seen = observe([0, 1])
    quiet = NoisyPolicy(made, 0.0)
    np.testing.assert_allclose(quiet.act(seen), made.act(seen), atol=1e-7)
    resized = ResizedPolicy(made, FrameSpec(64, 64, "top"))
    assert quiet.frame_history == resized.frame_history == 1
    large = observe([0, 1], side=64)
    actions = resized.act(large)
    still = Observation(
        large.frames, large.instructions, large.steps, large.rows, large.frames[:, None]
    )
    assert np.abs(resized.act(still) - actions).max() > 0


def test_too_few_frames_and_unknown_words_are_refused(policy):
    seen = observe([0])
    with pytest.raises(PolicyError, match=r"looks at 2 frames .* holds 1: pass history="):
        policy.act(Observation(seen.frames, seen.instructions, seen.steps, seen.rows))
    with pytest.raises(InstructionError, match="not understood"):
        policy.act(Observation(seen.frames, ("dance",), seen.steps, seen.rows, seen.history))


def test_more_history_than_needed_is_cut(policy):
    seen, longer = observe([0, 1]), observe([0, 1], history=2)
    np.testing.assert_array_equal(policy.act(longer), policy.act(seen))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"execute": 16}, "execute=16: expected 1 to 15"),
        ({"execute": 0}, "execute=0: expected 1 to 15"),
        ({"steps": 101}, "steps=101: expected 1 to 100"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        diffusion(**changes)


def test_a_normalisation_of_another_size_is_refused():
    network = diffusion().network
    with pytest.raises(ValueError, match="low and high have 1 and 2 components"):
        DiffusionPolicy(PLANE, None, network, low=[0.0], high=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"state=.* has 1 numbers; the network .* with 0"):
        DiffusionPolicy(PLANE, None, network, low=[0.0] * 2, high=[1.0] * 2, state=[1.0])


def test_the_runner_shows_consecutive_frames():
    """On a line whose dot moves every step, the frame before is that of one step ago."""
    seen = []

    class Watching(DiffusionPolicy):
        def act(self, observation):
            seen.append(observation)
            return np.full((len(observation), 3, 1), 0.05, np.float32)

    network = diffusion(spec=ACTIONS, frames=FRAMES).network
    for env in (LineEnv(), LineVectorEnv(2)):
        seen.clear()
        watching = Watching(ACTIONS, FRAMES, network, low=[-0.1], high=[0.1], execute=3)
        run_policy(env, watching, ["s0", "s10"], [0, 1], max_steps=9, progress=False)
        assert len(seen) >= 3
        for observation in seen:
            assert observation.history.shape == (len(observation), 1, 4, CELLS, 3)
            for k, step in enumerate(observation.steps):
                newest = int(observation.frames[k, 0, :, 0].argmax())
                before = int(observation.history[k, 0, 0, :, 0].argmax())
                assert newest - before == (1 if step else 0)  # 0.05 m are one of 20 cells
