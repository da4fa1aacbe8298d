"""Keyword arguments of the imagined environments, and the model they ask for."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from wm_gym.checkpoints import absolute_checkpoint, absolute_query
from wm_gym.choices import check_choice
from wm_gym.devices import check_device
from wm_gym.dynamics.acceleration import ARITHMETIC, accelerate
from wm_gym.dynamics.cache_modes import CacheMode
from wm_gym.envs.observations import OBSERVATIONS
from wm_gym.envs.registration import EMBEDDED_MODELS, MODEL_IDS
from wm_gym.envs.reward_registry import check_reward_name
from wm_gym.errors import UserError
from wm_gym.latents.registry import stands_for
from wm_gym.semantic_card import SemanticSpec
from wm_gym.spec import WorldModelSpec
from wm_gym.world_model import LatentWorldModel, load_world_model

CACHE_MODES: tuple[str, ...] = get_args(CacheMode)
_announced: set[str] = set()


class EmbeddedModelWarning(UserWarning):
    """Said once per id: an embedded model, small and trained in a simulator, is what runs."""


@dataclass(frozen=True)
class Settings:
    """Keyword arguments of the imagined environments; plain strings and numbers.

    Attributes:
        env_id: registered id, which says what "embedded" means.
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        scale: subfolder of a checkpoint that comes in several sizes ("S", "B", "L").
        task: task of the card that random starts are drawn from, or "any".
        reward: "classifier" (1 at success), "distance" (dense), "judge:<name>",
            "semantic:<task>?checkpoint=FOLDER", "none".
        obs: "pixels", "latents" or "dict", see `observation_space`.
        cache: "auto", "off", "exact" or "rolling", see `wm_gym.dynamics.rollout`.
        denoising_steps: steps per frame; the card's by default.
        device: torch device.
        dtype: "float32", "bfloat16" in the linear layers of the network (for CPUs), or "autocast",
            bfloat16 in its attention, too (for GPUs).
        compile: translate the network with torch.compile: slower first steps, faster later ones.
        horizon: steps per episode; the card's by default.
        surprise_penalty: what a unit of `info["surprise"]` costs in every step's reward.
    """

    env_id: str = "WM-LangTable-VAE-v0"
    checkpoint: str = "embedded"
    scale: str | None = None
    task: str = "any"
    reward: str = "classifier"
    obs: str = "pixels"
    cache: str = "auto"
    denoising_steps: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    horizon: int | None = None
    surprise_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check what can be checked without a card, before anything is loaded."""
        for name in ("env_id", "task", "reward", "obs", "cache", "device", "dtype"):
            if not isinstance(value := getattr(self, name), str):
                raise UserError(f"{name}={value!r} has type {type(value).__name__}; expected text")
        if not isinstance(self.checkpoint, str | os.PathLike):
            raise UserError(
                f"checkpoint={self.checkpoint!r}; expected 'embedded', a folder or 'hf://org/repo'"
            )
        if self.scale is not None and not isinstance(self.scale, str):
            raise UserError(f"scale={self.scale!r}; expected text such as 'S', or None")
        check_choice("env_id", self.env_id, EMBEDDED_MODELS)
        check_choice("obs", self.obs, OBSERVATIONS)
        check_choice("cache", self.cache, CACHE_MODES)
        check_choice("dtype", self.dtype, ARITHMETIC)
        if not isinstance(self.compile, bool):
            raise UserError(f"compile={self.compile!r}; expected True or False")
        check_reward_name(self.reward)
        check_count("denoising_steps", self.denoising_steps)
        check_count("horizon", self.horizon)
        penalty = self.surprise_penalty
        if type(penalty) not in (int, float) or not 0 <= penalty < math.inf:
            raise UserError(f"surprise_penalty={penalty!r}; expected a finite number, 0 or more")
        check_device(self.device)
        object.__setattr__(self, "checkpoint", absolute_checkpoint(self.checkpoint))
        object.__setattr__(self, "reward", absolute_query(self.reward))


def check_count(name: str, value: int | None) -> None:
    """Refuse what is neither a whole number of at least 1 nor None.

    Raises:
        ValueError: naming the setting.
    """
    if value is not None and (type(value) is not int or value < 1):
        raise UserError(
            f"{name}={value!r}; expected a whole number of at least 1, or None for the card's"
        )


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that an environment does not have.

    Raises:
        TypeError: naming those that it has.
    """
    known = list(known)
    if unknown := sorted(set(given) - set(known)):
        # Python's own words: TorchRL and others look for them to drop an argument they tried
        raise TypeError(
            f"got {', '.join(f'an unexpected keyword argument {name!r}' for name in unknown)}; "
            f"expected some of {', '.join(known)}"
        )


def check_render_mode(render_mode: str | None) -> None:
    """Refuse a render mode that imagined environments do not have.

    Raises:
        ValueError: naming those that they have.
    """
    if render_mode not in (None, "rgb_array"):
        raise UserError(
            f"render_mode={render_mode!r}; expected 'rgb_array' or None: frames are arrays, "
            "and `wm-gym record` or gymnasium.wrappers.RecordVideo makes videos of them"
        )


def load_model(settings: Settings) -> LatentWorldModel:
    """Load the model an environment asks for; says once per id that an embedded one runs.

    Raises:
        CheckpointError: naming the ways to get a checkpoint.
        ValueError: if the checkpoint is a model of another domain or latent space than the id's.
    """
    checkpoint, embedded = settings.checkpoint, EMBEDDED_MODELS[settings.env_id]
    if settings.scale is not None and (checkpoint != "embedded" or embedded is not None):
        if checkpoint == "embedded":
            raise UserError(
                f"scale={settings.scale!r}: embedded models come in one size; leave scale at None "
                "or name a checkpoint that has scales"
            )
        checkpoint = f"{checkpoint}/{settings.scale}"
    model = load_world_model(
        checkpoint,
        embedded=embedded,
        env_id=settings.env_id,
        denoising_steps=settings.denoising_steps,
        device=settings.device,
    )
    domain, twin = MODEL_IDS[settings.env_id].twin, model.spec.twin
    if twin is not None and twin != domain:
        raise UserError(
            f"{settings.env_id} with checkpoint {checkpoint!r}: its card says it is a model of "
            f"{twin}; make the id of that domain, or name a checkpoint of {domain}"
        )
    _check_space(settings.env_id, model.spec.latent.space, checkpoint)
    accelerate(model.network, settings.dtype, compiled=settings.compile)
    if checkpoint == "embedded":
        announce(settings.env_id, model.spec)
    return model


def _check_space(env_id: str, space: str, checkpoint: str) -> None:
    """Refuse a checkpoint whose latents another id of the same domain is named after.

    Raises:
        ValueError: naming that id.
    """
    twin, named = MODEL_IDS[env_id].twin, stands_for(space)
    rows = [row for row in MODEL_IDS.values() if (row.twin, row.space) == (twin, named)]
    proper = rows[0].env_id if rows else env_id
    if proper != env_id:
        raise UserError(
            f"{env_id} with checkpoint {checkpoint!r}: its card says that its latents are {space}; "
            f"make {proper}, or name a checkpoint over the latents that the id names"
        )


def announce(env_id: str, spec: WorldModelSpec | SemanticSpec) -> None:
    """Warn, once for each id, that it is the small model that ships which runs."""
    if env_id in _announced:
        return
    _announced.add(env_id)
    warnings.warn(
        f"{env_id} runs the embedded model {spec.name!r}: {spec.description.rstrip('.')}. For a "
        "published model pass checkpoint='hf://org/repo@revision', for your own "
        "checkpoint='/path/to/folder'",
        EmbeddedModelWarning,
        stacklevel=5,
    )
