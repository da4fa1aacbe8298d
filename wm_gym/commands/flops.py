"""Arithmetic of one environment step, counted by torch's flop counter on the meta device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from wm_gym.dynamics.dit import DIT_SIZES, DiT, DiTConfig

CONTEXT = 10
PUBLISHED_ACTION_WIDTH = 10


@dataclass(frozen=True)
class Variant:
    """Latents of a published world model at 256 pixels.

    Attributes:
        env_id: environment id.
        grid: (h, w) of the latents.
        channels: latent channels.
        patch: patch side in latent cells.
        head: final layer.
    """

    env_id: str
    grid: tuple[int, int]
    channels: int
    patch: int = 1
    head: str = "wide"


VARIANTS = (
    Variant("WM-Bridge-VAE-v0", (32, 32), 16, 2, "plain"),
    Variant("WM-Bridge-VAVAE-v0", (16, 16), 32),
    Variant("WM-Bridge-Cosmos-v0", (16, 16), 16),
    Variant("WM-Bridge-VJEPA-v0", (16, 16), 1024),
    Variant("WM-Bridge-WebDINO-v0", (16, 16), 1024),
    Variant("WM-Bridge-SigLIP2-v0", (16, 16), 1152),
    Variant("WM-Bridge-VJEPA96-v0", (16, 16), 96),
    Variant("WM-Bridge-WebDINO96-v0", (16, 16), 96),
    Variant("WM-Bridge-SigLIP296-v0", (16, 16), 96),
)


@dataclass(frozen=True)
class StepCost:
    """GFLOPs at batch 1 with a full context; a multiplication and an addition are two.

    Attributes:
        parameters: parameters of the network.
        frame_pass: one denoising pass over one frame against stored context.
        window_pass: one pass over the whole context of 10 frames.
        step_off: an environment step that recomputes the context in every denoising step.
        step_exact: one that recomputes it once (a `window` that has slid).
        step_rolling: one that never does.
    """

    parameters: int
    frame_pass: float
    window_pass: float
    step_off: float
    step_exact: float
    step_rolling: float


@cache
def step_cost(
    config: DiTConfig, grid: tuple[int, int], denoising_steps: int = 10, context: int = CONTEXT
) -> StepCost:
    """Count one environment step; no memory is taken and nothing is computed.

    Blocks are alike, so networks of one and of two blocks are counted, and every further block
    costs what the second one does.

    Args:
        config: the network.
        grid: (h, w) of the latents.
        denoising_steps: K.
        context: frames in the window, the new one included.

    Example:
        >>> cost = step_cost(DiTConfig(channels=16, dim=64, depth=2, heads=2), (8, 8))
        >>> cost.step_off > cost.step_exact > cost.step_rolling
        True
    """
    one, two = (_passes(replace(config, depth=depth), grid, context) for depth in (1, 2))
    further = config.depth - 1
    cost = {name: one[name] + further * (two[name] - one[name]) for name in one}
    return StepCost(
        parameters=int(cost["parameters"]),
        frame_pass=cost["frame"] / 1e9,
        window_pass=cost["window"] / 1e9,
        step_off=denoising_steps * cost["window"] / 1e9,
        step_exact=(cost["encode"] + denoising_steps * cost["frame"]) / 1e9,
        step_rolling=(cost["commit"] + denoising_steps * cost["frame"]) / 1e9,
    )


def _passes(config: DiTConfig, grid: tuple[int, int], context: int) -> dict[str, int]:
    """Parameters, and floating-point operations of every kind of pass."""
    with torch.device("meta"):
        network = DiT(config).eval().requires_grad_(False)
        latents = torch.zeros(1, context, *grid, config.channels)
        times, actions = torch.zeros(1, context), torch.zeros(1, context, config.action_width)
        mask = torch.zeros(1, 1, 1, context - 1)
    past = latents[:, :-1], times[:, :-1], actions[:, :-1]
    newest = latents[:, -1], times[:, -1], actions[:, -1]
    window, _ = _count(lambda: network(latents, times, actions))
    encode, keys_values = _count(lambda: network.encode_context(*past))
    parts = [(keys_values, mask)]
    frame, _ = _count(lambda: network.predict_frame(*newest, parts, position=context - 1))
    commit, _ = _count(lambda: network.commit_frame(*newest, parts, position=context - 1))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {
        "parameters": parameters,
        "window": window,
        "encode": encode,
        "frame": frame,
        "commit": commit,
    }


def _count(function: Any) -> tuple[int, Any]:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        result = function()
    return counter.get_total_flops(), result


def published_costs(denoising_steps: int = 10) -> list[dict[str, Any]]:
    """Costs of every published variant and size: the compute-parity table."""
    rows = []
    every = [(variant, size) for variant in VARIANTS for size in DIT_SIZES]
    for variant, size in tqdm(every, desc="counting", unit="network", leave=False):
        arguments: dict[str, Any] = {
            "channels": variant.channels,
            "patch": variant.patch,
            "head": variant.head,
            "action_width": PUBLISHED_ACTION_WIDTH,
            **DIT_SIZES[size],
        }
        cost = step_cost(DiTConfig(**arguments), variant.grid, denoising_steps)
        rows.append({"model": variant.env_id, "size": size, **asdict(cost)})
    return rows
