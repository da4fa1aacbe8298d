"""Opens LeRobot's diffusion policies: a folder of `config.json` and `model.safetensors`.

Shapes and names are checked strictly; what this library's policies cannot give (several cameras,
the environment's state) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wm_gym.policies.base import PolicyError, read_object
from wm_gym.policies.diffusion_policy.network import (
    DiffusionNetwork,
    DiffusionNetworkConfig,
    Vocabulary,
)
from wm_gym.policies.diffusion_policy.noise import NoiseConfig
from wm_gym.policies.diffusion_policy.policy import DiffusionPolicy
from wm_gym.policies.diffusion_policy.vision import STAGES
from wm_gym.spec import ActionSpec, FrameSpec

STATE, ACTION = "observation.state", "action"
SHOWN = 4
"""Lines of an error that are shown; a network of other sizes has hundreds."""
Tensors = Mapping[str, torch.Tensor]


def load_lerobot(
    folder: str | Path,
    action_spec: ActionSpec,
    frame_spec: FrameSpec,
    *,
    state: Sequence[float] | None = None,
    execute: int | None = None,
    steps: int = 10,
) -> DiffusionPolicy:
    """A diffusion policy that LeRobot trained, as a policy for one task; it reads no instruction.

    Args:
        folder: with `config.json` and `model.safetensors`; newer checkpoints keep the statistics
            for normalisation in `*normalizer_processor.safetensors` beside them.
        action_spec: what its actions are: the checkpoint does not tell.
        frame_spec: what its frames are, of the size it was trained on.
        state: robot state in its own units that stands for every frame's, because a policy here
            sees frames and words only. One that depends on its state will not do well.
        execute: actions of a chunk that are carried out; the checkpoint's by default.
        steps: denoising steps.

    Raises:
        PolicyError: if the checkpoint cannot be read or does not fit, saying why.
    """
    folder = Path(folder).expanduser()
    config, tensors = _read(folder)
    inputs = _shapes(config, "input")
    cameras = [key for key in inputs if key.startswith("observation.image")]
    action_size = _shapes(config, "output").get(ACTION, [0])[0]
    _refuse(folder, config, inputs, cameras, action_size, action_spec, frame_spec)
    if STATE in inputs and (state is None or len(state) != inputs[STATE][0]):
        raise PolicyError(
            f"{folder} was trained with {inputs[STATE][0]} numbers of robot state for every frame, "
            f"and policies see frames and words only; got state={state}: pass state=, as many "
            "numbers that stand for every frame's, e.g. those of the robot's rest pose"
        )
    statistics = _statistics(folder, tensors)
    weights = _weights(tensors)
    image_mean, image_std = _scale(config, "VISUAL", cameras[0], statistics, 3)
    middle, half = _scale(config, "ACTION", ACTION, statistics, action_size)
    normalised: list[float] = []
    if STATE in inputs:
        centre, spread = _scale(config, "STATE", STATE, statistics, inputs[STATE][0])
        normalised = ((torch.tensor(state) - centre) / spread).tolist()
    try:
        network = DiffusionNetwork(
            _network_config(config, image_mean, image_std),
            Vocabulary({}, ()),
            action_size,
            len(normalised),
        )
        network.load_state_dict(weights)
        return DiffusionPolicy(
            action_spec,
            frame_spec,
            network,
            low=(middle - half).tolist(),
            high=(middle + half).tolist(),
            noise=_noise_config(config),
            execute=execute or config["n_action_steps"],
            steps=steps,
            state=normalised,
        )
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        more = f" … and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise PolicyError(
            f"{folder} does not fit LeRobot's diffusion policy as wm_gym builds it from its "
            f"config.json ({type(error).__name__}): {' '.join(lines[:SHOWN])}{more}"
        ) from error


def _read(folder: Path) -> tuple[dict[str, Any], Tensors]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return read_object(folder / "config.json"), load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise PolicyError(
            f"{folder} holds no LeRobot policy ({error}); expected config.json and "
            "model.safetensors, as `lerobot` saves them under pretrained_model"
        ) from error


def _shapes(config: dict[str, Any], side: str) -> dict[str, list[int]]:
    """Shape of every feature; older checkpoints list shapes, newer ones features."""
    try:
        if f"{side}_features" in config:
            return {key: value["shape"] for key, value in config[f"{side}_features"].items()}
        return dict(config.get(f"{side}_shapes", {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PolicyError(
            f"config.json states no shapes of {side} features ({error!r}); get the policy again"
        ) from error


def _refuse(
    folder: Path,
    config: dict[str, Any],
    inputs: dict[str, list[int]],
    cameras: list[str],
    action_size: int,
    action_spec: ActionSpec,
    frame_spec: FrameSpec,
) -> None:
    """Says why a checkpoint cannot be a policy here."""
    reason = ""
    kind = config.get("type", "diffusion")
    if kind != "diffusion" or "down_dims" not in config:
        reason = f"it is a {kind!r} policy; expected LeRobot's 'diffusion'"
    elif len(cameras) != 1:
        reason = f"it looks at {len(cameras)} cameras, {cameras}; a policy sees one"
    elif unknown := sorted(set(inputs) - {STATE, *cameras}):
        reason = f"it was trained with {unknown}, which no policy sees"
    elif config.get("vision_backbone") not in STAGES:
        reason = (
            f"its vision_backbone is {config.get('vision_backbone')!r}; expected one of "
            f"{sorted(STAGES)}"
        )
    elif config.get("resize_shape") is not None:
        reason = f"it resizes frames to {config['resize_shape']}; frames are taken as they are"
    elif action_size != action_spec.size:
        reason = (
            f"its actions have {action_size} components, action_spec has {action_spec.size}: "
            f"{list(action_spec.names)}"
        )
    elif list(inputs[cameras[0]]) != [3, frame_spec.height, frame_spec.width]:
        reason = (
            f"its frames have the shape {list(inputs[cameras[0]])}, frame_spec says "
            f"{[3, frame_spec.height, frame_spec.width]}; ResizedPolicy gives a policy frames of "
            "its size"
        )
    if reason:
        raise PolicyError(f"{folder} cannot be loaded: {reason}")


def _statistics(folder: Path, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Statistics as `feature.statistic`, from the weights or from the processors' files."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".buffer_")
        if owner in ("normalize_inputs", "unnormalize_outputs"):
            feature, _, statistic = rest.rpartition(".")
            found[f"{feature}.{statistic}"] = tensor
    for path in sorted(folder.glob("*normalizer_processor.safetensors")):
        for name, tensor in load_file(path).items():
            feature, _, statistic = name.rpartition(".")
            found[f"{feature.replace('.', '_')}.{statistic}"] = tensor
    return found


def _scale(
    config: dict[str, Any], kind: str, feature: str, statistics: Tensors, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is subtracted from a feature and what it is then divided by, (size,) each."""
    mode = config.get("normalization_mapping", {}).get(kind)
    for old in ("input_normalization_modes", "output_normalization_modes"):
        mode = mode or config.get(old, {}).get(feature)
    mode = str(mode).lower()
    if mode == "identity":
        return torch.zeros(size), torch.ones(size)
    names = {"mean_std": ("mean", "std"), "min_max": ("min", "max")}.get(mode)
    if names is None:
        raise PolicyError(
            f"{feature} is normalised by {mode!r}; expected mean_std, min_max or identity"
        )
    keys = [f"{feature.replace('.', '_')}.{name}" for name in names]
    if missing := [key for key in keys if key not in statistics]:
        raise PolicyError(
            f"the statistics {missing} of {feature} are in neither model.safetensors nor a "
            "*normalizer_processor.safetensors beside it: get the whole folder"
        )
    first, second = (statistics[key].float().reshape(-1) for key in keys)
    if mode == "mean_std":
        return first, second
    return (first + second) / 2, (second - first) / 2


def _weights(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The network's parameters under our names."""
    weights = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner != "diffusion" or rest.endswith("pool.pos_grid"):  # places we compute
            continue
        # one camera with an encoder of its own is the first of a list
        weights[rest.replace("rgb_encoder.0.", "rgb_encoder.", 1)] = tensor.float()
    return {
        name: tensor.long() if name.endswith("num_batches_tracked") else tensor
        for name, tensor in weights.items()
    }


def _network_config(
    config: dict[str, Any], mean: torch.Tensor, std: torch.Tensor
) -> DiffusionNetworkConfig:
    crop = config.get("crop_shape")
    colours: list[tuple[float, float, float]] = [
        (float(values[0]), float(values[1]), float(values[2])) for values in (mean, std)
    ]
    return DiffusionNetworkConfig(
        encoder=config["vision_backbone"],
        observations=config["n_obs_steps"],
        horizon=config["horizon"],
        down_dims=tuple(config["down_dims"]),
        kernel_size=config["kernel_size"],
        groups=config["n_groups"],
        time_embedding=config["diffusion_step_embed_dim"],
        film_scale=config["use_film_scale_modulation"],
        keypoints=config["spatial_softmax_num_keypoints"],
        norm="group" if config["use_group_norm"] else "batch",
        crop=None if crop is None else (int(crop[0]), int(crop[1])),
        image_mean=colours[0],
        image_std=colours[1],
    )


def _noise_config(config: dict[str, Any]) -> NoiseConfig:
    return NoiseConfig(
        steps=config["num_train_timesteps"],
        schedule=config["beta_schedule"],
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        prediction=config["prediction_type"],
        clip=config["clip_sample_range"] if config["clip_sample"] else 0.0,
    )
