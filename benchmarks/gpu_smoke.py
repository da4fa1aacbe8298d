"""Exercises CUDA for whoever has it: `make gpu-smoke`.

    python benchmarks/gpu_smoke.py --json outputs/gpu_smoke.json

Every check compares the device with the CPU, or a fast path with the plain one, on random weights
or a model that ships; no checkpoint is needed. Exit status: 0 if all checks pass, 1 if one fails, 2
without the device. `--device cpu` runs the same checks where there is no GPU, which shows that the
checks themselves work.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from wm_gym.dynamics.acceleration import accelerate
from wm_gym.dynamics.dit import DIT_SIZES, DiTConfig
from wm_gym.dynamics.rollout import LatentHistory, Rollout
from wm_gym.evaluation.parity.bare_models import bare_card, bare_model, random_network
from wm_gym.evaluation.report import measurement_header, write_json
from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
from wm_gym.latents.svae import SVAE, SVAEConfig
from wm_gym.latents.vae_mini import VAEMini, VAEMiniConfig
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.planner import plan
from wm_gym.semantic.tasks import langtable_task
from wm_gym.semantic.value import TaskValue
from wm_gym.semantic.world_model import load_semantic_model
from wm_gym.spec import ContextSpec, DynamicsSpec
from wm_gym.training.loop import LoopConfig, TrainingLoop, generator
from wm_gym.world_model import LatentWorldModel

EXACT, HALF = 1e-3, 5e-2
"""Largest error, relative to the largest reference value, in float32 and in bfloat16."""


@dataclass(frozen=True)
class GPUSmokeConfig:
    """Check that models, rollouts and training work on a GPU as they do on the CPU."""

    device: str = "cuda"
    """Torch device to check."""
    size: Literal["tiny", "S"] = "S"
    """Shapes of the transition network: a tiny one, or DiT-S over 256 tokens."""
    steps: int = 200
    """Length of the rollout whose memory must not grow."""
    compile: bool = True
    """Also check torch.compile (minutes on some machines)."""
    json: Path | None = None
    """File for the figures."""


class CheckFailed(AssertionError):
    """A figure outside its bound."""


def network_config(size: str) -> tuple[DiTConfig, tuple[int, int]]:
    """Shape of the network, and grid of its latents."""
    if size == "tiny":
        return DiTConfig(channels=4, dim=32, depth=2, heads=2, action_width=7), (4, 4)
    shape: dict[str, Any] = {"channels": 16, "patch": 2, "action_width": 10, **DIT_SIZES["S"]}
    return DiTConfig(**shape), (32, 32)


def world_model(config: GPUSmokeConfig, device: str) -> LatentWorldModel:
    """A `window` model with random weights that steps in latents."""
    shape, grid = network_config(config.size)
    dynamics = DynamicsSpec({}, denoising_steps=3)
    card = bare_card("random weights", shape, grid, ContextSpec("window", 6), dynamics=dynamics)
    return bare_model(card, random_network(shape).to(device))


def begin(model: LatentWorldModel, cache: str, rows: int = 2) -> Rollout:
    """A rollout from two random frames; the numbers are the same on every device."""
    latent, width = model.spec.latent, model.spec.action.width
    shape = (rows, 2, *latent.grid, latent.channels)
    history = LatentHistory(
        torch.randn(shape, generator=generator(0, 0)).to(model.device),
        torch.zeros(rows, 2, width, device=model.device),
    )
    return Rollout(model, history, seeds=range(rows), cache=cache)  # pyright: ignore[reportArgumentType]


def actions(model: LatentWorldModel, steps: int, rows: int = 2) -> Tensor:
    """Random actions (rows, steps, A) on the CPU, where a policy's come from."""
    shape = (rows, steps, model.spec.action.size)
    return torch.rand(shape, generator=generator(1, 0)) * 2 - 1


def relative(found: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest reference value."""
    found, reference = found.detach().float().cpu(), reference.detach().float().cpu()
    if not found.isfinite().all():
        raise CheckFailed("NaN or infinite values")
    return float((found - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def within(error: float, bound: float) -> dict[str, float]:
    """The error beside its bound.

    Raises:
        CheckFailed: if it is larger.
    """
    if not error <= bound:
        raise CheckFailed(f"relative error {error:.2e}, expected at most {bound:.0e}")
    return {"relative_error": error, "bound": bound}


def clip(config: GPUSmokeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (2, 4, h, w, C), timesteps (2, 4) and actions (2, 4, A) on the CPU."""
    network, grid = network_config(config.size)
    noise = generator(2, 0)
    latents = torch.randn(2, 4, *grid, network.channels, generator=noise)
    times = torch.rand(2, 4, generator=noise) * 1000
    return latents, times, torch.randn(2, 4, network.action_width, generator=noise)


# ---- checks ------------------------------------------------------------------------------------


def check_forward(config: GPUSmokeConfig) -> dict[str, Any]:
    """A forward pass and its gradients in float32 equal the CPU's."""
    inputs = clip(config)
    outputs, gradients = [], []
    for device in ("cpu", config.device):
        network = random_network(network_config(config.size)[0]).to(device)
        output = network(*(tensor.to(device) for tensor in inputs))
        output.square().mean().backward()
        outputs.append(output)
        gradients.append(network.x_proj.weight.grad)
    backward = within(relative(gradients[1], gradients[0]), EXACT)
    return {**within(relative(outputs[1], outputs[0]), EXACT), "gradient": backward}


def check_planning(config: GPUSmokeConfig) -> dict[str, Any]:
    """Plans with the semantic world model that ships equal the CPU's."""
    push = langtable_task("push", ("red moon", "green star")).subgoals[0]
    frames = torch.randint(0, 256, (1, 96, 96, 3), dtype=torch.uint8, generator=generator(3, 0))
    plans: dict[str, list[Tensor]] = {"mppi": [], "gradient": []}
    for device in ("cpu", config.device):
        model = load_semantic_model("embedded", embedded="langtable-swm", device=device)
        value, box = TaskValue(model.look(frames), push), ActionBox.of(model.spec.action)
        for planner in (MPPIConfig(4, 2), GradientConfig(3, candidates=2)):
            name = "mppi" if isinstance(planner, MPPIConfig) else "gradient"
            plans[name].append(plan(value, box, 8, [0], planner).actions)
    found = {name: within(relative(two, one), EXACT) for name, (one, two) in plans.items()}
    return {"relative_error": max(row["relative_error"] for row in found.values()), **found}


def check_autocast(config: GPUSmokeConfig) -> dict[str, Any]:
    """Autocast to bfloat16 stays near float32, and so do bfloat16 linear layers alone."""
    network = random_network(network_config(config.size)[0]).to(config.device)
    inputs = [tensor.to(config.device) for tensor in clip(config)]
    with torch.no_grad():
        reference = network(*inputs)
        cast = accelerate(network, "autocast")(*inputs)
        linear = accelerate(network, "bfloat16")(*inputs)
    layers = within(relative(linear, reference), HALF)
    return {**within(relative(cast, reference), HALF), "linear_layers": layers}


def check_latent_spaces(config: GPUSmokeConfig) -> dict[str, Any]:
    """vae-mini, S-VAE and pixel decoder give the CPU's numbers."""
    torch.manual_seed(0)
    networks: dict[str, tuple[torch.nn.Module, Callable[[Any, Tensor], Tensor], Tensor]] = {
        "vae-mini": (
            VAEMini(VAEMiniConfig(32, 32, 8, 2, 4, 16, 1, 1, 2)).eval(),
            lambda network, frames: network.encode(frames),
            torch.randint(0, 256, (2, 32, 32, 3), generator=generator(3, 0), dtype=torch.uint8),
        ),
        "S-VAE": (
            SVAE(SVAEConfig(32, 4, num_heads=2, num_layers=1, intermediate_size=64)).eval(),
            lambda network, latents: network.decode(network.encode(latents)),
            torch.randn(2, 8, 8, 32, generator=generator(3, 1)),
        ),
        "pixel decoder": (
            PixelDecoder(PixelDecoderConfig(8, 32, (1, 2), 1, (16,), 2)).eval(),
            lambda network, latents: network(latents),
            torch.randn(2, 8, 8, 8, generator=generator(3, 2)),
        ),
    }
    found = {}
    for name, (network, function, given) in networks.items():
        with torch.no_grad():
            reference = function(network, given)
            there = function(network.to(config.device), given.to(config.device))
        found[name] = within(relative(there, reference), EXACT)
    return found


def check_rollout(config: GPUSmokeConfig) -> dict[str, Any]:
    """Rollouts equal the CPU's under the same seeds; `exact` equals `off` while a window slides."""
    reference = world_model(config, "cpu")
    model = world_model(config, config.device)
    given = actions(model, 8)
    with torch.no_grad():
        expected = begin(reference, "exact").step(given)
        found = {cache: begin(model, cache).step(given) for cache in ("off", "exact")}
    caches = within(relative(found["exact"], found["off"]), EXACT)
    return {**within(relative(found["exact"], expected), EXACT), "exact_to_off": caches}


def check_copies(config: GPUSmokeConfig) -> dict[str, Any]:
    """Forks, partial restarts and snapshots stay on the device and go on exactly."""
    model = world_model(config, config.device)
    given = actions(model, 8)
    rollout = begin(model, "exact")
    rollout.step(given[:, :4])
    child = rollout.fork([1, 1, 0, 0])
    restored = Rollout.restore(model, rollout.snapshot())  # pyright: ignore[reportArgumentType]
    whole, again = rollout.step(given[:, 4:]), restored.step(given[:, 4:])
    copied = child.step(given[[1, 1, 0, 0], 4:])
    rollout.restart([0], _history_of(begin(model, "exact"), 0), seeds=[0])
    fresh = begin(model, "exact").step(given[:, :2])
    restarted = rollout.step(given[:, :2])
    return {
        "snapshot": within(relative(again, whole), EXACT),
        "fork": within(relative(copied, whole[[1, 1, 0, 0]]), EXACT),
        "restart": within(relative(restarted[:1], fresh[:1]), EXACT),
    }


def _history_of(rollout: Rollout, row: int) -> LatentHistory:
    rows = slice(row, row + 1)
    return LatentHistory(rollout.latent_history[rows], rollout.slots[rows])


def check_compile(config: GPUSmokeConfig) -> dict[str, Any]:
    """torch.compile gives what the plain network gives, in clips and in rollouts."""
    model = world_model(config, config.device)
    inputs = [tensor.to(config.device) for tensor in clip(config)]
    given = actions(model, 3)
    began = time.perf_counter()
    with torch.no_grad():
        reference, rolled = model.network(*inputs), begin(model, "exact").step(given)
        accelerate(model.network, "float32", compiled=True)
        found, again = model.network(*inputs), begin(model, "exact").step(given)
    seconds = time.perf_counter() - began
    rollout = within(relative(again, rolled), EXACT)
    clips = within(relative(found, reference), EXACT)
    return {**clips, "rollout": rollout, "seconds": round(seconds, 1)}


def check_training(config: GPUSmokeConfig) -> dict[str, Any]:
    """The loop learns on the device, and a resumed run ends where an unbroken one does."""
    from accelerate import Accelerator

    inputs = clip(config)
    target = torch.randn(inputs[0].shape, generator=generator(4, 0)).to(config.device)
    given = [tensor.to(config.device) for tensor in inputs]

    def run(folder: Path, *, stopping: bool) -> dict[str, Tensor]:
        """Train up to step 6, or, out of time at once, for one step."""
        loop = TrainingLoop(
            folder,
            random_network(network_config(config.size)[0]),
            replace(settings, max_minutes=1e-9 if stopping else 0.0),
            fingerprint={},
            accelerator=Accelerator(cpu=torch.device(config.device).type == "cpu"),
        )

        def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
            loss = (loop.module(*given) - target).square().mean()
            losses.append(float(loss.detach()))
            return loss, {}

        loop.run(step)
        return loop.weights()

    settings = LoopConfig(steps=6, learning_rate=1e-3, warmup_steps=1, save_every=6, ema=0.9)
    losses: list[float] = []
    with TemporaryDirectory() as folder:
        whole = run(Path(folder) / "whole", stopping=False)
        first, last = losses[0], losses[-1]
        for _ in range(3):
            run(Path(folder) / "parts", stopping=True)
        parts = run(Path(folder) / "parts", stopping=False)
    if not last < first:
        raise CheckFailed(f"the loss went from {first:.4f} to {last:.4f}, expected it to fall")
    error = max(relative(parts[key], value) for key, value in whole.items())
    return {"loss_first": first, "loss_last": last, "resumed": within(error, EXACT)}


def check_memory(config: GPUSmokeConfig) -> dict[str, Any]:
    """A long rollout holds as much memory at its end as when its window was first full."""
    model = world_model(config, config.device)
    cuda = torch.device(config.device).type == "cuda"
    rollout = begin(model, "exact", rows=4)
    given = actions(model, 1, rows=4)[:, 0]
    held: list[int] = []
    if cuda:
        torch.cuda.reset_peak_memory_stats(config.device)
    for step in range(config.steps):
        rollout.step(given)
        if step + 1 in (20, config.steps):
            allocated = torch.cuda.memory_allocated(config.device) if cuda else 0
            held.append(max(rollout.nbytes(), allocated))
    if held[-1] > 1.02 * held[0]:
        raise CheckFailed(
            f"{held[0]} bytes after 20 steps, {held[-1]} after {config.steps}, expected the same"
        )
    peak = torch.cuda.max_memory_allocated(config.device) if cuda else None
    return {"bytes_after_20_steps": held[0], "bytes_at_the_end": held[-1], "peak_bytes": peak}


def check_speed(config: GPUSmokeConfig) -> dict[str, Any]:
    """Seconds per environment step at batch 1 and 8 in a full window: a figure, not a bound."""
    model = world_model(config, config.device)
    figures = {}
    for rows in (1, 8):
        rollout = begin(model, "exact", rows)
        given = actions(model, 8, rows)
        rollout.step(given)  # the window slides from here on
        if torch.device(config.device).type == "cuda":
            torch.cuda.synchronize(config.device)
        began = time.perf_counter()
        float(rollout.step(given[:, :3]).sum())  # reading a number waits for the device
        figures[f"seconds_per_step_batch_{rows}"] = (time.perf_counter() - began) / 3
    return figures


CHECKS: dict[str, Callable[[GPUSmokeConfig], dict[str, Any]]] = {
    "forward": check_forward,
    "autocast": check_autocast,
    "latent spaces": check_latent_spaces,
    "rollout": check_rollout,
    "copies": check_copies,
    "planning": check_planning,
    "training": check_training,
    "memory": check_memory,
    "compile": check_compile,
    "speed": check_speed,
}


def missing_device(device: str) -> str | None:
    """Why a device cannot be used, in one line; None if it can."""
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        return (
            f"no CUDA device: torch {torch.__version__} sees none; run on a machine with an NVIDIA "
            "GPU and a CUDA build of torch, or pass --device cpu to run the same checks without"
        )
    return None


def main(config: GPUSmokeConfig) -> int:
    """Run all checks, print a line for each, and write the figures.

    Returns:
        Exit status.
    """
    if reason := missing_device(config.device):
        print(f"gpu-smoke: {reason}", file=sys.stderr)
        return 2
    # tensor cores round float32 to ten bits, which is no error of ours
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results: dict[str, dict[str, Any]] = {}
    for name, check in CHECKS.items():
        if name == "compile" and not config.compile:
            continue
        began = time.perf_counter()
        try:
            found = {"passed": True, **check(config)}
        except Exception as error:  # the others are still worth running
            if not isinstance(error, CheckFailed):
                traceback.print_exc()
            found = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        results[name] = found
        figures = ", ".join(f"{k} {v:.3g}" for k, v in found.items() if isinstance(v, float))
        seconds = time.perf_counter() - began
        verdict = "ok" if found["passed"] else "FAILED"
        print(f"{name:14} {verdict:7} {seconds:6.1f} s  {found.get('error', figures)}", flush=True)
    failed = [name for name, found in results.items() if not found["passed"]]
    gpu = torch.cuda.get_device_name(config.device) if config.device.startswith("cuda") else None
    if config.json is not None:
        report = {**measurement_header(seeds=0), "device": config.device, "gpu": gpu}
        print(f"wrote {write_json(config.json, {**report, 'checks': results})}")
    print(f"gpu-smoke: {', '.join(failed)} failed" if failed else "gpu-smoke: all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(GPUSmokeConfig)))
