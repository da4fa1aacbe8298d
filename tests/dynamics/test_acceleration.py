"""Arithmetic and compilation change how fast a network runs, and little of what comes out."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from wm_gym.dynamics.acceleration import accelerate
from wm_gym.dynamics.dit import DiT, DiTConfig


@pytest.fixture
def network() -> DiT:
    torch.manual_seed(0)
    network = DiT(DiTConfig(channels=4, dim=32, depth=2, heads=2, action_width=3, band=3)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def predictions(network: DiT, frames: int = 3) -> torch.Tensor:
    """The last of some frames, from the whole clip and against its stored context."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, frames, 4, 4, 4, generator=generator)
    times, actions = torch.full((2, frames), 300.0), torch.randn(2, frames, 3, generator=generator)
    with torch.no_grad():
        whole = network(latents, times, actions)[:, -1]
        layers = network.encode_context(latents[:, :-1], times[:, :-1], actions[:, :-1])
        mask = torch.zeros(2, 1, 1, frames - 1)
        stored = network.predict_frame(
            latents[:, -1], times[:, -1], actions[:, -1], [(layers, mask)], position=frames - 1
        )
    assert whole.dtype == stored.dtype == torch.float32
    return torch.stack([whole, stored])


@pytest.mark.parametrize("arithmetic", ["bfloat16", "autocast"])
def test_bfloat16_is_near_float32_and_can_be_left_again(network: DiT, arithmetic: str):
    reference = predictions(network)
    half = predictions(accelerate(network, arithmetic))
    error = (half - reference).abs().max() / reference.abs().max()
    assert 1e-5 < error < 0.05
    assert torch.equal(predictions(accelerate(network, "float32")), reference)


def test_autocast_reaches_attention(network: DiT, monkeypatch: pytest.MonkeyPatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, *rest: torch.Tensor, **options: object) -> torch.Tensor:
        out = attend(query, *rest, **options)  # pyright: ignore[reportArgumentType]
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    for arithmetic, dtype in (("bfloat16", torch.float32), ("autocast", torch.bfloat16)):
        seen.clear()
        predictions(accelerate(network, arithmetic))
        assert set(seen) == {dtype}


def test_a_deep_copy_runs_its_own_weights(network: DiT):
    accelerate(network, "autocast")
    other = copy.deepcopy(network)
    before = predictions(network)
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    assert torch.equal(predictions(network), before)
    assert not torch.allclose(predictions(other), before, atol=1e-2)
    assert other.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("arithmetic", ["bfloat16", "autocast"])
def test_a_pickled_network_keeps_its_arithmetic(network: DiT, arithmetic: str):
    reference = predictions(network)
    half = predictions(accelerate(network, arithmetic))
    assert not torch.equal(half, reference)
    assert torch.equal(predictions(pickle.loads(pickle.dumps(network))), half)


def test_an_unknown_arithmetic_is_refused(network: DiT):
    reference = predictions(accelerate(network, "autocast"))
    with pytest.raises(ValueError, match=r"arithmetic 'int4' is unknown; expected .*'autocast'"):
        accelerate(network, "int4")
    assert torch.equal(predictions(network), reference)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_at_every_length_of_context(network: DiT):
    references = [predictions(network, frames) for frames in (2, 3, 4)]
    accelerate(network, "float32", compiled=True)
    for frames, reference in zip((2, 3, 4), references, strict=True):
        torch.testing.assert_close(predictions(network, frames), reference, atol=1e-4, rtol=1e-4)
