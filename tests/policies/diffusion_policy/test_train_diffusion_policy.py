import numpy as np
import pytest
import torch

from tests.policies.numbered_episodes import SIDE, STEPS, write_episodes
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.domains import LANGTABLE
from wm_gym.envs.sims.teachers import TEACHERS
from wm_gym.policies.base import load_policy, save_policy
from wm_gym.policies.behaviour_cloning import (
    BehaviourCloningConfig,
    BehaviourCloningNetwork,
    BehaviourCloningPolicy,
)
from wm_gym.policies.cloning_examples import CloningExamples
from wm_gym.policies.diffusion_policy import train as module
from wm_gym.policies.diffusion_policy.examples import ChunkExamples
from wm_gym.policies.diffusion_policy.network import DiffusionNetworkConfig
from wm_gym.policies.diffusion_policy.train import (
    TrainDiffusionPolicyConfig,
    random_crop,
    train_diffusion_policy,
)
from wm_gym.policies.train_behaviour_cloning import augment
from wm_gym.training.loop import LoopConfig

SMALL = DiffusionNetworkConfig(
    encoder="attention", down_dims=(8, 16), time_embedding=8, features=8, words=4
)


@pytest.fixture
def data(tmp_path):
    return write_episodes(tmp_path / "data")


@pytest.fixture
def examples(data, tmp_path):
    cloned = CloningExamples(
        [EpisodeDataset(data)],
        TEACHERS["LangTable-v0"],
        LANGTABLE.action,
        tasks=("reach",),
        behaviours=("expert",),
        chunk=4,
        cache=tmp_path / "labels.npz",
    )
    return ChunkExamples(cloned, LANGTABLE.action, observations=2, horizon=4, end_padding=1)


def config(data, out, **changes):
    loop = LoopConfig(steps=8, warmup_steps=1, save_every=2, log_every=4, ema=0.9)
    settings = {"network": SMALL, "batch": 3, "copies": 2, "stages": (0.5, 1.0), "loop": loop}
    return TrainDiffusionPolicyConfig(
        data=(data,), out=out, domain="langtable", tasks=("reach",), **(settings | changes)
    )


def test_chunks_begin_with_the_oldest_frame_and_never_slip(examples):
    # a chunk has three labels from the newest frame on, of which one may lie after the end
    assert [state for *_, state in examples.where] == [0, 1, 2, 3] * 3
    batch = examples.batch(np.arange(len(examples)))
    assert batch.frames.shape == (12, 2, SIDE, SIDE, 3)
    physical = 0.5 * (batch.actions.numpy() + 1) * (examples.high - examples.low) + examples.low
    for k, (*_, state) in enumerate(examples.where):
        assert (batch.frames[k, 0] == 10 * max(0, state - 1)).all()
        assert (batch.frames[k, 1] == 10 * state).all()
        # the label of state t is 0.001 (t + 1); its first and its last one are repeated
        labels = [0.001 * (1 + min(max(state - 1 + n, 0), STEPS - 1)) for n in range(4)]
        np.testing.assert_allclose(physical[k], np.array(labels)[:, None] * [1, 1], rtol=1e-4)
    places = examples.examples.positions[0, 1]
    torch.testing.assert_close(batch.positions[1], torch.from_numpy(places[[0, 1]]))


def test_the_least_and_the_greatest_label_become_the_bounds(examples):
    np.testing.assert_allclose(examples.low, 0.001, rtol=1e-5)
    np.testing.assert_allclose(examples.high, 0.005, rtol=1e-5)
    actions = examples.batch(np.arange(len(examples))).actions
    assert actions.min() == pytest.approx(-1) and actions.max() == pytest.approx(1)


def test_a_component_that_never_moves_keeps_its_range(examples):
    for labels in examples.examples.labels.values():
        labels[:, 1] = 0.25
    still = ChunkExamples(
        examples.examples, LANGTABLE.action, observations=2, horizon=4, end_padding=1
    )
    assert (still.low[1], still.high[1]) == (-0.03, 0.03)
    np.testing.assert_allclose(still.batch(np.arange(3)).actions[..., 1], 0.25, rtol=1e-6)


def test_too_little_padding_is_refused(examples):
    with pytest.raises(ValueError, match="no state has 16 labels before its episode's end"):
        ChunkExamples(
            examples.examples, LANGTABLE.action, observations=1, horizon=16, end_padding=0
        )


def test_an_interrupted_training_gives_the_same_averaged_policies(data, tmp_path, monkeypatch):
    whole = train_diffusion_policy(config(data, tmp_path / "whole"))
    assert [path.name for path in whole] == ["stage_1", "stage_2"]
    state = torch.load(tmp_path / "whole/state.pt", weights_only=True)
    stored = load_policy(whole[1]).weights()
    averaged = {name: value.bfloat16().float() for name, value in state["ema"].items()}
    assert all(torch.equal(stored[name], averaged[name]) for name in stored)
    assert any(not torch.equal(state["ema"][name], state["module"][name]) for name in stored)
    calls = []

    def killed(*args):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return augment(*args)

    monkeypatch.setattr(module, "augment", killed)
    with pytest.raises(KeyboardInterrupt):
        train_diffusion_policy(config(data, tmp_path / "part"))
    parts = train_diffusion_policy(config(data, tmp_path / "part"))
    assert len(calls) < 6 + 8  # it went on where it was
    for one, other in zip(whole, parts, strict=True):
        first, second = load_policy(one).weights(), load_policy(other).weights()
        assert all(torch.equal(first[name], second[name]) for name in first)


def cloned_policy(folder, tasks=("reach",)):
    torch.manual_seed(3)
    network = BehaviourCloningNetwork(
        BehaviourCloningConfig({task: LANGTABLE.tasks[task] for task in tasks}, LANGTABLE.objects)
    )
    return save_policy(BehaviourCloningPolicy(LANGTABLE.action, None, network), folder)


def test_a_frozen_encoder_stays_that_of_the_cloned_policy(data, tmp_path):
    source = cloned_policy(tmp_path / "cloned")
    folders = train_diffusion_policy(
        config(data, tmp_path / "out", encoder_from=source, freeze_encoder=True)
    )
    theirs, ours = load_policy(source).weights(), load_policy(folders[-1]).weights()
    for name, tensor in theirs.items():
        if not name.startswith("head."):
            stored = ours[f"rgb_encoder.look.{name}"]
            assert torch.equal(stored, tensor.bfloat16().float()), name


def test_an_encoder_for_other_words_is_refused(data, tmp_path):
    other = cloned_policy(tmp_path / "other", tasks=("reach", "push"))
    with pytest.raises(ValueError, match=r"understands .*push.* train both with the same --tasks"):
        train_diffusion_policy(config(data, tmp_path / "out", encoder_from=other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (0.0, 1.0)}, r"stages=\(0.0, 1.0\)"),
        ({"copies": 0}, "copies=0: expected at least 1"),
        ({"freeze_encoder": True}, "freezes what encoder_from names"),
        (
            {"network": DiffusionNetworkConfig(), "encoder_from": "x"},
            "encoder_from=x fits encoder='attention', not 'resnet18'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, tmp_path, **changes)


def test_the_published_length_is_a_hundred_epochs(tmp_path):
    settings = TrainDiffusionPolicyConfig(data=(tmp_path,), out=tmp_path)
    assert (settings.epochs, settings.batch, settings.loop.steps) == (100, 128, 0)
    assert (settings.network.horizon, settings.network.observations) == (16, 2)
    assert (settings.noise.steps, settings.denoising_steps, settings.end_padding) == (100, 10, 12)


def test_the_command_trains_a_residual_network_on_random_crops(data, tmp_path):
    words = ["train", "diffusion-policy", "--data", data, "--out", tmp_path / "out"]
    words += ["--domain", "langtable", "--tasks", "reach", "--batch", 2, "--stages", 1]
    words += ["--network.down-dims", 8, 16, "--network.crop", 30, 28, "--loop.steps", 2]
    assert main([str(word) for word in words]) == 0
    policy = load_policy(tmp_path / "out" / "stage_1")
    assert policy.network.config.encoder == "resnet18"
    assert policy.network.config.crop == (30, 28)


def test_a_crop_is_one_place_for_the_frames_of_a_row():
    frames = torch.arange(8 * 9).reshape(1, 1, 8, 9, 1).repeat(5, 2, 1, 1, 3)
    cut = random_crop(frames, (6, 5), torch.Generator().manual_seed(0))
    assert cut.shape == (5, 2, 6, 5, 3)
    assert torch.equal(cut[:, 0], cut[:, 1])
    corners = cut[:, 0, 0, 0, 0]
    assert len(set(corners.tolist())) > 1
    top, left = corners // 9, corners % 9
    assert (top <= 2).all() and (left <= 4).all()
    with pytest.raises(ValueError, match=r"crop=\(9, 9\) is larger"):
        random_crop(frames, (9, 9), torch.Generator())
