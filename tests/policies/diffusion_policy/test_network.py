import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from wm_gym.policies.diffusion_policy.network import (
    DiffusionNetwork,
    DiffusionNetworkConfig,
    Vocabulary,
)
from wm_gym.policies.diffusion_policy.noise import NoiseConfig, denoise, training_scheduler
from wm_gym.policies.diffusion_policy.unet import ConditionalUnet1D, FiLMBlock
from wm_gym.policies.diffusion_policy.vision import ResNetEncoder, SpatialSoftmax

WORDS = Vocabulary({"reach": "reach the {first}"}, ("red cube", "blue moon"))
SMALL = {"down_dims": (8, 16), "time_embedding": 8, "words": 4, "features": 8, "keypoints": 4}


def unet(**changes):
    settings = {
        "down_dims": (8, 16, 32),
        "kernel_size": 5,
        "groups": 8,
        "time_embedding": 8,
        "scale": True,
    }
    return ConditionalUnet1D(3, 5, **(settings | changes))


def encoder(crop=None, norm="group"):
    half = (0.5, 0.5, 0.5)
    return ResNetEncoder("resnet18", norm=norm, keypoints=4, crop=crop, mean=half, std=half)


def test_the_unet_keeps_the_shape_and_heeds_actions_time_and_condition():
    torch.manual_seed(0)
    network = unet()
    actions, times, condition = torch.randn(2, 16, 3), torch.tensor([3, 70]), torch.randn(2, 5)
    found = network(actions, times, condition)
    assert found.shape == (2, 16, 3)
    for changed in (
        (actions + 0.1, times, condition),
        (actions, times.flip(0), condition),
        (actions, times, condition.flip(0)),
    ):
        assert (network(*changed) - found).abs().max() > 1e-4
    alone = network(actions[1:], times[1:], condition[1:])
    torch.testing.assert_close(alone, found[1:], rtol=0, atol=1e-5)


def test_film_scales_and_shifts_what_lies_between_the_convolutions():
    block = FiLMBlock(4, 8, 3, kernel_size=3, groups=4, scale=True)
    linear = block.cond_encoder[1]
    assert isinstance(linear, nn.Linear)
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias[:8], linear.bias[8:] = 2.0, 0.5
    x, condition = torch.randn(2, 4, 6), torch.randn(2, 3)
    expected = block.conv2(2.0 * block.conv1(x) + 0.5) + block.residual_conv(x)
    torch.testing.assert_close(block(x, condition), expected)


def test_spatial_softmax_says_where_a_map_is_strongest():
    pool = SpatialSoftmax(1, 1)
    nn.init.ones_(pool.nets.weight)
    maps = torch.zeros(1, 1, 5, 9)
    maps[0, 0, 1, 6] = 100.0  # second of five rows, seventh of nine columns
    torch.testing.assert_close(pool(maps), torch.tensor([[[0.5, -0.5]]]))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_residual_network_looks_at_the_middle_of_the_frame(norm):
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (2, 40, 36, 3), dtype=torch.uint8)
    whole, cropped = encoder(norm=norm).eval(), encoder(crop=(32, 32), norm=norm).eval()
    cropped.load_state_dict(whole.state_dict())
    torch.testing.assert_close(cropped(frames), whole(frames[:, 4:36, 2:34]))
    assert cropped(frames).shape == (2, 8)
    assert (whole(frames) - cropped(frames)).abs().max() > 0


def test_denoising_steps_follow_the_formula():
    """arXiv:2010.02502, eq. 12 with σ = 0, in numpy, all 100 steps."""
    config = NoiseConfig()
    alphas = training_scheduler(config).alphas_cumprod.numpy().astype(np.float64)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 4, 2))

    def predict(x, t):
        return np.tanh(0.7 * x + 0.01 * t)

    x = noise.copy()
    for t in range(99, -1, -1):
        before = alphas[t - 1] if t else 1.0
        start = (x - np.sqrt(1 - alphas[t]) * predict(x, t)) / np.sqrt(alphas[t])
        start = start.clip(-1, 1)
        x = np.sqrt(before) * start + np.sqrt(1 - before) * predict(x, t)

    def denoiser(actions, times):
        return torch.from_numpy(predict(actions.numpy(), times.numpy()[:, None, None]))

    found = denoise(config, denoiser, torch.from_numpy(noise), 100)
    np.testing.assert_allclose(found.numpy(), x, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("steps", [10, 100])
def test_a_perfect_prediction_gives_the_actions_back(prediction, steps):
    config = NoiseConfig(prediction=prediction)
    truth = torch.rand(3, 16, 2) * 2 - 1
    alphas = training_scheduler(config).alphas_cumprod

    def denoiser(actions, times):
        alpha = alphas[times][:, None, None]
        return (
            truth
            if prediction == "sample"
            else (actions - alpha.sqrt() * truth) / (1 - alpha).sqrt()
        )

    found = denoise(config, denoiser, torch.randn(truth.shape), steps)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-4)


def test_evaluation_takes_every_tenth_of_the_training_times():
    asked = []

    def denoiser(actions, times):
        asked.append(int(times[0]))
        return torch.zeros_like(actions)

    denoise(NoiseConfig(), denoiser, torch.randn(1, 16, 2), 10)
    reference = DDIMScheduler(num_train_timesteps=100)
    reference.set_timesteps(10)
    assert asked == reference.timesteps.tolist() == list(range(90, -1, -10))


@pytest.mark.parametrize("name", ["attention", "resnet18"])
def test_copies_of_a_row_see_the_same_frames(name):
    torch.manual_seed(0)
    network = DiffusionNetwork(DiffusionNetworkConfig(encoder=name, **SMALL), WORDS, 2).eval()
    frames = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    tasks, objects = torch.zeros(2, dtype=torch.long), torch.eye(4)[:, None].repeat(1, 2, 1)[:2]
    noisy, times = torch.randn(6, 16, 2), torch.arange(6)
    together, logits = network(frames, tasks, objects, noisy, times)
    assert together.shape == (6, 16, 2)
    if name == "attention":
        assert logits.shape == (4, 1 + len(WORDS.objects), 64)
    else:
        assert logits is None
    for row in range(2):
        of_row = slice(3 * row, 3 * row + 3)
        alone, _ = network(
            frames[row : row + 1],
            tasks[:1],
            objects[row : row + 1],
            noisy[of_row],
            times[of_row],
        )
        # in bfloat16 another batch size may round otherwise
        torch.testing.assert_close(alone, together[of_row], rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 18}, "halved at every level .* expected a multiple of 4"),
        ({"down_dims": (12, 24)}, "groups=8 must divide"),
        ({"observations": 17}, "observations=17 and horizon=16"),
        ({"kernel_size": 4}, "kernel_size=4: expected an odd"),
        ({"kernel_size": -3}, "kernel_size=-3: expected an odd"),
        ({"groups": 0}, "groups=0 must divide"),
        ({"encoder": "attention", "crop": (8, 8)}, "is for residual networks"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DiffusionNetworkConfig(**changes)


def test_attention_without_words_is_refused():
    with pytest.raises(ValueError, match="looks for what an instruction names"):
        DiffusionNetwork(
            DiffusionNetworkConfig(encoder="attention", **SMALL), Vocabulary({}, ()), 2
        )


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_what_it_samples_is_what_it_was_trained_on(prediction):
    """Two conditions, a chunk of actions for each: no chance is left, so samples are the chunks."""
    torch.manual_seed(0)
    noise = NoiseConfig(prediction=prediction)
    unet = ConditionalUnet1D(
        2, 2, down_dims=(16, 32), kernel_size=3, groups=4, time_embedding=16, scale=True
    )
    condition = torch.eye(2)
    ramp = torch.linspace(-0.8, 0.8, 8)
    chunks = torch.stack([torch.stack([ramp, -ramp], 1), torch.full((8, 2), 0.3)])
    scheduler, optimiser = training_scheduler(noise), torch.optim.Adam(unet.parameters(), 3e-3)
    for _ in range(1000):
        which = torch.randint(2, (32,))
        added, times = torch.randn(32, 8, 2), torch.randint(noise.steps, (32,))
        noisy = scheduler.add_noise(chunks[which], added, times)
        wanted = added if prediction == "epsilon" else chunks[which]
        loss = (unet(noisy, times, condition[which]) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        sampled = denoise(
            noise,
            lambda noisy, times: unet(noisy, times, condition.repeat_interleave(16, 0)),
            torch.randn(32, 8, 2),
            10,
        )
    error = (sampled - chunks.repeat_interleave(16, 0)).abs().mean()
    between = (chunks[0] - chunks[1]).abs().mean()
    assert error < 0.2 * between
