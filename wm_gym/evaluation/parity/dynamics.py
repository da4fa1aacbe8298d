"""Reference cases of the transition network, its samplers and schedules, and of key lists.

Every shape and setting is taken from the case's own metadata. Layout: tests/parity/data/README.md.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics.diffusion import TRAINING_STEPS, DDPMSampler, sampling_steps
from wm_gym.dynamics.dit import DiT, DiTConfig
from wm_gym.dynamics.flow import FlowSampler, schedule_shift
from wm_gym.dynamics.rollout import CacheMode, LatentHistory, Rollout
from wm_gym.dynamics.samplers import Sampler
from wm_gym.errors import UserError
from wm_gym.evaluation.parity.bare_models import bare_card
from wm_gym.evaluation.parity.latents import ParityCase, ParityResult, read_case
from wm_gym.policies.openvla import ActionStatistics, detokenise, unnormalise
from wm_gym.spec import ContextSpec
from wm_gym.training.import_checkpoint import bridge_actions

FORWARD_TOLERANCE = (5e-5, 1e-4)
ROLLOUT_TOLERANCE = (2e-4, 1e-3)
SCHEDULE_TOLERANCE = (1e-6, 1e-5)
"""Absolute and relative, as the reference data's README suggests."""


def run_dynamics_parity(path: Path) -> ParityResult | None:
    """Run one reference file, whichever kind it is; None if it is about something else."""
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if "flow_schedules" in content:
            return run_schedules(path)
        return run_state_dict_shapes(path) if "dit" in content else None
    if path.suffix != ".safetensors":
        return None
    config = read_case(path).config
    if config.get("class") != "DiT":
        return None
    return run_rollout_case(path) if "sampler" in config else run_dit_case(path)


def dit_config(arguments: dict[str, Any]) -> DiTConfig:
    """Our configuration from the official constructor's arguments."""
    renamed = {
        "in_channels": "channels",
        "patch_size": "patch",
        "num_layers": "depth",
        "num_heads": "heads",
        "action_dim": "action_width",
        "decoder_dim": "wide_dim",
        "temporal_mode": "temporal",
    }
    known = {
        renamed.get(name, name): value
        for name, value in arguments.items()
        if name not in ("wide_head", "max_frames") and value is not None
    }
    unknown = sorted(set(known) - set(inspect.signature(DiTConfig).parameters))
    if unknown:
        raise UserError(f"unknown settings of a DiT reference case: {unknown}")
    return DiTConfig(**known, head="wide" if arguments.get("wide_head") else "plain")


def load_dit(case: ParityCase) -> DiT:
    """The case's network with its weights, loaded strictly."""
    network = DiT(dit_config(case.config["init_kwargs"]))
    network.load_state_dict(case.weights, strict=True)
    return network.eval()


@torch.no_grad()
def run_dit_case(path: Path) -> ParityResult:
    """One forward pass."""
    case = read_case(path)
    found = load_dit(case)(case.inputs["x"], case.inputs["t"], case.inputs["action"])
    return compare(case.name, {"y": found}, case.outputs, FORWARD_TOLERANCE)


def run_rollout_case(path: Path) -> ParityResult:
    """A rollout with recorded noise, by recomputation and with stored context."""
    case = read_case(path)
    horizon = case.config.get("horizon", 1)
    if horizon != 1:
        raise UserError(f"{path}: frames are made one at a time here, not {horizon} at once")
    modes: list[CacheMode] = ["off"]
    if case.config["init_kwargs"].get("temporal_mode", "factored") == "factored":
        modes.append("exact")
    found = {mode: roll_out(case, mode) for mode in modes}
    expected = {mode: case.outputs["latents"] for mode in modes}
    return compare(case.name, found, expected, ROLLOUT_TOLERANCE)


def roll_out(case: ParityCase, cache: CacheMode) -> Tensor:
    """Context and generated latents of a rollout case, (B, T, h, w, C)."""
    context, actions, noise = (case.inputs[name] for name in ("context", "actions", "noise"))
    rows, given = context.shape[:2]
    frames = case.outputs["latents"].shape[1]
    if actions.shape[1] < frames or len(noise) < frames - given:
        raise UserError(
            f"{case.name}: {frames} frames from {given} given ones, but {actions.shape[1]} actions "
            f"and noise for {len(noise)}; expected {frames} and {frames - given} or more"
        )
    rollout = Rollout(
        _ReferenceModel(case),
        LatentHistory(context, actions[:, :given]),
        seeds=range(rows),
        cache=cache,
        guidance=float(case.config.get("cfg", 1.0)),
        noise=lambda seeds, steps, shape: noise[steps[0]].reshape(rows, *shape),
    )
    made = [rollout.step(action) for action in actions[:, given:frames].unbind(1)]
    return torch.cat([context, torch.stack(made, 1)], 1)


class _ReferenceModel:
    """What a rollout needs of a world model, without pixels: latents and actions are raw."""

    def __init__(self, case: ParityCase) -> None:
        self.network = load_dit(case)
        self.sampler = _sampler(case.config)
        *_, height, width, _ = case.inputs["context"].shape
        context = ContextSpec("window", case.config["max_frames"])
        self.spec = bare_card(case.name, self.network.config, (height, width), context)

    def encode(self, frames: Tensor) -> Tensor:
        raise NotImplementedError("reference cases hold latents only")

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError("reference cases hold latents only")


def _sampler(config: dict[str, Any]) -> Sampler:
    """The sampler a rollout case was recorded with."""
    keys = {"FlowMatching.generate": "flow_kwargs", "Diffusion.generate": "diffusion_kwargs"}
    if config["sampler"] not in keys:
        raise UserError(f"unknown sampler {config['sampler']!r} of a reference case")
    settings = config[keys[config["sampler"]]]
    if (count := settings.get("timesteps", TRAINING_STEPS)) != TRAINING_STEPS:
        raise UserError(
            f"a reference case with timesteps {count}: samplers have {TRAINING_STEPS} here"
        )
    if "flow_kwargs" in config:
        return FlowSampler(settings["sampling_timesteps"], settings["time_dist_shift"])
    return DDPMSampler(settings["sampling_timesteps"])


def run_schedules(path: Path) -> ParityResult:
    """Shifts, shifted schedules, the DDPM noise schedule, and what becomes of actions.

    The gripper, which the authors' policy code rounds to open or closed, is compared where it is
    one of the two: the action language here is linear in it.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}

    def add(name: str, value: Any, reference: Any) -> None:
        found[name] = torch.as_tensor(value, dtype=torch.float64)
        expected[name] = torch.as_tensor(reference, dtype=torch.float64)

    for entry in content["flow_schedules"]:
        name = f"flow C={entry['C']} p={entry['p']}"
        shift = 1.0
        if not entry["is_vae_encoder"]:
            # the reference counts 16 x 16 / p² tokens of C channels
            shift = schedule_shift(round(entry["tokens_m"] / entry["C"]), entry["C"])
        add(f"{name} shift", shift, entry["shift"])
        sampler = FlowSampler(entry["sampling_timesteps"], entry["shift"])
        add(f"{name} schedule", sampler.schedule, entry["schedule"])
    ddpm = content["ddpm"]
    signal = DDPMSampler().signal
    add("ddpm length", len(signal), ddpm["timesteps"])
    add("ddpm first", signal[:5], ddpm["alphas_cumprod_first5"])
    add("ddpm last", signal[-5:], ddpm["alphas_cumprod_last5"])
    for step, value in ddpm["alphas_cumprod_at"].items():
        add(f"ddpm at {step}", signal[int(step)], value)
    for count, steps in ddpm["sampling_noise_steps"].items():
        add(f"ddpm {count} steps", sampling_steps(int(count)), steps)
    for number, example in enumerate(content.get("rescale_bridge_action", {}).get("examples", ())):
        action = bridge_actions(len(example["input"]))
        given = torch.tensor(example["input"])
        whole = slice(None) if example["input"][6] in (0.0, 1.0) else slice(6)
        scaled = action.normalise(given.clamp(torch.tensor(action.low), torch.tensor(action.high)))
        add(f"bridge action {number}", scaled[whole], example["output"][whole])
    openvla = content.get("openvla_bridge_orig", {"examples": ()})
    for number, example in enumerate(openvla["examples"]):
        numbers = detokenise(np.array(example["token_ids"]))
        add(f"openvla tokens {number}", numbers, example["normalized"])
        statistics = ActionStatistics(*(tuple(openvla[name]) for name in ("q01", "q99", "mask")))
        physical = unnormalise(numbers, statistics)
        add(f"openvla action {number}", physical, example["action_unnormalised"])
    return compare(path.stem, found, expected, SCHEDULE_TOLERANCE)


def run_state_dict_shapes(path: Path) -> ParityResult:
    """Key lists and shapes of every published configuration, built without memory.

    An output's error is the number of keys that are missing, too many, or of another shape.
    """
    from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
    from wm_gym.latents.svae import SVAE, SVAEConfig

    content = json.loads(path.read_text(encoding="utf-8"))
    wrong: dict[str, float] = {}
    for name, entry in {**content["dit"], **content["other"]}.items():
        with torch.device("meta"):
            if name in content["dit"]:
                network = DiT(dit_config(entry["init"]))
            elif name.startswith("svae"):
                network = SVAE(SVAEConfig(**entry["init"]))
            elif name.startswith("pixel_decoder"):
                arguments: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in entry["config_for_create_pixel_decoder"].items()
                }
                network = PixelDecoder(PixelDecoderConfig.from_released(arguments))
            else:
                raise UserError(f"{path}: no network is known for {name!r}")
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        reference = entry["shapes"]
        differing = set(shapes) ^ set(reference)
        differing |= {key for key in set(shapes) & set(reference) if shapes[key] != reference[key]}
        wrong[name] = float(len(differing))
    worst = max(wrong.values())
    return ParityResult(path.stem, wrong, worst, worst, worst == 0)


def compare(
    name: str,
    found: dict[str, Tensor],
    expected: dict[str, Tensor],
    tolerance: tuple[float, float],
) -> ParityResult:
    """Compare outputs by name within atol + rtol * |reference|; a NaN or another shape fails.

    The relative error is taken where the reference exceeds the absolute tolerance.
    """
    absolute, relative = tolerance
    errors: dict[str, float] = {}
    largest, passed = 0.0, bool(expected)
    for key, reference in expected.items():
        value = found.get(key)
        if value is None or value.shape != reference.shape:
            errors[key], passed = float("inf"), False
            continue
        error = (value - reference).abs()
        errors[key] = error.max().item()
        passed = passed and bool((error <= absolute + relative * reference.abs()).all())
        sizeable = reference.abs() > absolute
        if sizeable.any():
            largest = max(largest, (error / reference.abs())[sizeable].max().item())
    return ParityResult(name, errors, max(errors.values(), default=0.0), largest, passed)
