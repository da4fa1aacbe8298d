"""Facts about the network: causality, bands, and that its three ways to run agree."""

from __future__ import annotations

import copy

import pytest
import torch

from wm_gym.dynamics.dit import DiT, DiTConfig


def random_dit(**settings) -> DiT:
    torch.manual_seed(0)
    defaults = {"channels": 4, "dim": 48, "depth": 3, "heads": 3, "action_width": 2, "wide_dim": 64}
    network = DiT(DiTConfig(**(defaults | settings)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.12)
    return network.eval()


def clip(rows: int, frames: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(rows, frames, 4, 4, 4, generator=generator)
    times = torch.rand(rows, frames, generator=generator) * 1000
    return latents, times, torch.randn(rows, frames, 2, generator=generator)


VARIANTS = [
    {},
    {"band": 4},
    {"band": 4, "head": "wide", "patch": 2},
    {"band": 1},
    {"head": "wide", "num_views": 2, "heads": 4},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_teacher_forcing_equals_cached_inference_and_the_plain_forward_pass(settings):
    network = random_dit(**settings)
    rows, copies, frames, predicted = 2, 3, 8, 6
    clean, labels, actions = clip(rows, frames)
    noisy, times, _ = clip(rows * copies, predicted, seed=2)
    noisy, times = noisy.unflatten(0, (rows, copies)), times.unflatten(0, (rows, copies))
    with torch.no_grad():
        parallel = network.teacher_forced_forward(noisy, times, clean, labels, actions)
        for index in range(predicted):
            frame = frames - predicted + index
            layers = network.encode_context(
                clean[:, :frame], labels[:, :frame], actions[:, :frame], start=100
            )
            mask = torch.zeros(frame)
            mask[: max(0, frame + 1 - (network.config.band or frame + 1))] = -torch.inf
            action = actions[:, frame].repeat_interleave(copies, 0)
            alone = network.predict_frame(
                noisy[:, :, index].flatten(0, 1),
                times[:, :, index].flatten(),
                action,
                [(layers, mask)],
                position=100 + frame,
            )
            torch.testing.assert_close(
                alone.unflatten(0, (rows, copies)), parallel[:, :, index], atol=1e-5, rtol=1e-5
            )
            plain = network(
                torch.cat([clean[:, :frame], noisy[:, 0, index, None]], 1),
                torch.cat([labels[:, :frame], times[:, 0, index, None]], 1),
                actions[:, : frame + 1],
            )[:, -1]
            torch.testing.assert_close(plain, parallel[:, 0, index], atol=1e-5, rtol=1e-5)


def test_noisy_copies_may_carry_other_actions_than_their_slots():
    network = random_dit(band=4)
    clean, labels, actions = clip(2, 5)
    noisy, times, other = clip(2, 3, seed=2)
    with torch.no_grad():
        null = network.teacher_forced_forward(
            noisy[:, None], times[:, None], clean, labels, actions, noisy_actions=other[:, None]
        )
        plain = network(
            torch.cat([clean[:, :4], noisy[:, 2:]], 1),
            torch.cat([labels[:, :4], times[:, 2:]], 1),
            torch.cat([actions[:, :4], other[:, 2:]], 1),
        )
    torch.testing.assert_close(null[:, 0, 2], plain[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("band", "depth"), [(None, 1), (2, 1), (3, 2)])
def test_a_frame_sees_the_past_inside_the_band_and_never_the_future(band, depth):
    network = random_dit(band=band, depth=depth)
    latents, times, actions = clip(1, 8)
    latents.requires_grad_()
    for frame in range(8):
        (reach,) = torch.autograd.grad(
            network(latents, times, actions)[:, frame].square().sum(), latents
        )
        seen = reach.flatten(2).abs().sum((0, 2)) > 0
        oldest = 0 if band is None else max(0, frame - depth * (band - 1))
        assert seen.nonzero().flatten().tolist() == list(range(oldest, frame + 1))


def test_gradients_reach_the_context_through_stored_keys_and_values():
    network = random_dit()
    latents, times, actions = clip(1, 3)
    latents.requires_grad_()
    layers = network.encode_context(latents, times, actions)
    out = network.predict_frame(
        torch.zeros(1, 4, 4, 4), times[:, 0], actions[:, 0], [(layers, torch.zeros(3))], position=3
    )
    (gradient,) = torch.autograd.grad(out.sum(), latents)
    assert (gradient.flatten(2).abs().sum((0, 2)) > 0).all()


def test_only_differences_of_positions_matter():
    network = random_dit(band=4)
    latents, times, actions = clip(1, 4)
    out = []
    for start in (-3, 0, 100_000):
        with torch.no_grad():
            layers = network.encode_context(
                latents[:, :3], times[:, :3], actions[:, :3], start=start
            )
            out.append(
                network.predict_frame(
                    latents[:, 3],
                    times[:, 3],
                    actions[:, 3],
                    [(layers, torch.zeros(3))],
                    position=start + 3,
                )
            )
    torch.testing.assert_close(out[0], out[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[0], out[2], atol=1e-5, rtol=0)


def test_a_new_network_predicts_zero_and_still_learns():
    torch.manual_seed(0)
    network = DiT(DiTConfig(channels=4, dim=32, depth=1, heads=2, action_width=2))
    inputs = clip(1, 3)
    assert not network(*inputs).any()
    (network(*inputs) - 1).square().mean().backward()
    assert network.final_layer.linear.bias.grad.abs().sum() > 0


def test_bfloat16_linear_layers_stay_close_and_follow_changed_weights():
    network = random_dit()
    inputs = clip(1, 4)
    with torch.no_grad():
        exact = network(*inputs)
        fast = network.set_linear_dtype(torch.bfloat16)(*inputs)
        assert fast.dtype == torch.float32
        assert 0 < (fast - exact).abs().max() < 0.1 * exact.abs().max()
        network.action_embedder.weight.add_(1.0)
        changed = network(*inputs)
        assert (changed - fast).abs().max() > 0.1
        clone = copy.deepcopy(network)
        assert torch.equal(clone(*inputs), changed)
        back = network.set_linear_dtype(None)(*inputs)
    assert (back - changed).abs().max() < 0.1 * back.abs().max()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"heads": 5}, "another number of heads"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"head": "tall"}, "head must be"),
        ({"band": 0}, "band 0 must be at least 1"),
        ({"temporal": "none"}, "temporal must be"),
    ],
)
def test_an_impossible_configuration_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        random_dit(**settings)


def test_inputs_of_another_shape_are_refused():
    network = random_dit(patch=2)
    latents, times, actions = clip(1, 3)
    with pytest.raises(ValueError, match="4 channels last and a grid divisible by 2"):
        network(latents[:, :, :3], times, actions)
    with pytest.raises(ValueError, match="need timesteps"):
        network(latents, times[:, :2], actions)
    with pytest.raises(ValueError, match="need timesteps"):
        network(latents, times, actions[..., :1])
