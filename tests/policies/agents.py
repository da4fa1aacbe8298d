"""One small agent of every kind, for the tiny world model of LangTable, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import torch

from tests.policies.diffusion_policy.test_policy import PLANE, diffusion
from tests.policies.test_openpi import serving as serving_openpi
from tests.policies.test_openvla import serving as serving_act
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.domains import LANGTABLE
from wm_gym.planning.cem import CEMConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.act_client import ActClient
from wm_gym.policies.action_replay import ActionReplayPolicy
from wm_gym.policies.base import Observation, Policy
from wm_gym.policies.behaviour_cloning import (
    BehaviourCloningConfig,
    BehaviourCloningNetwork,
    BehaviourCloningPolicy,
)
from wm_gym.policies.diffusion_policy.network import Vocabulary
from wm_gym.policies.idql.critics import Critics, CriticsConfig
from wm_gym.policies.idql.features import critic_features
from wm_gym.policies.idql.policy import IDQLPolicy
from wm_gym.policies.latent_planner import LatentPlannerPolicy
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.null_policy import NullPolicy
from wm_gym.policies.openpi import OpenPiConfig, OpenPiPolicy
from wm_gym.policies.openvla import OpenVLAPolicy
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.policies.random_policy import RandomPolicy
from wm_gym.policies.resampled import ResampledPolicy
from wm_gym.policies.resized import ResizedPolicy
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model
from wm_gym.spec import ActionSpec, FrameSpec
from wm_gym.world_model import load_world_model

STARTS = ("reach-0", "reach-1")
SMALL = FrameSpec(32, 32, "top")
SLOWER = replace(PLANE, control_hz=PLANE.control_hz / 2)


def towards_light(image: np.ndarray) -> np.ndarray:
    """An action (2,) that depends on the picture."""
    return 0.02 * image.mean((0, 1))[:2] / 255


@dataclass
class Server:
    """What a policy server answers; a fault concerns one instruction alone."""

    broken: str = ""
    fault: np.ndarray | None = None

    def action(self, image: np.ndarray, instruction: str) -> np.ndarray:
        """An action (2,), or the fault."""
        if self.fault is not None and instruction == self.broken:
            return self.fault
        return towards_light(image)


class Faulty(Policy):
    """Random actions, and a fault in the row with one instruction."""

    def __init__(self, server: Server, frame_spec: FrameSpec | None = None) -> None:
        super().__init__(PLANE, frame_spec)
        self.server = server

    def act(self, observation):
        pairs = zip(observation.frames, observation.instructions, strict=True)
        return [self.server.action(*pair)[None] for pair in pairs]


def cloning(frames: FrameSpec = SMALL, spec: ActionSpec = PLANE) -> BehaviourCloningPolicy:
    torch.manual_seed(0)
    config = BehaviourCloningConfig(LANGTABLE.tasks, LANGTABLE.objects)
    return BehaviourCloningPolicy(spec, frames, BehaviourCloningNetwork(config), execute=2)


def vocabulary() -> Vocabulary:
    return Vocabulary(LANGTABLE.tasks, LANGTABLE.objects)


def idql() -> IDQLPolicy:
    base = diffusion(execute=2, steps=2, vocabulary=vocabulary())
    frames = torch.zeros(1, SMALL.height, SMALL.width, 3, dtype=torch.uint8)
    seen = critic_features(base.network, frames, *base.goals(["reach the red moon"])).shape[1]
    critics = Critics(CriticsConfig(seen, 2 * 2, hidden=8, layers=1))
    return IDQLPolicy(base, critics, mean=[0.0] * seen, std=[1.0] * seen, samples=3)


def sb3(checkpoint: str) -> Policy:
    from stable_baselines3 import PPO

    from wm_gym.policies.sb3.policy import SB3Policy
    from wm_gym.policies.sb3.vec_env import ImaginedVecEnv

    envs = gym.make_vec(
        "WM-LangTable-VAE-v0", num_envs=1, checkpoint=checkpoint, obs="latents",
        autoreset_mode="Disabled",
    )  # fmt: skip
    return SB3Policy.from_agent(PPO("MlpPolicy", ImaginedVecEnv(envs), seed=0, device="cpu"))


def planner(folder: Path, bases: tuple[Policy, ...] = ()) -> PlannerPolicy:
    if not folder.exists():
        made = tiny_semantic_model(action=PLANE)
        save_semantic_model(folder, made.spec, made.network, made.tokenizer)
    model = load_semantic_model(folder)
    return PlannerPolicy(
        model, MPPIConfig(candidates=2, iterations=1), horizon=4, execute=2, bases=bases
    )


def latent_planner(checkpoint: str, bases: tuple[Policy, ...] = ()) -> LatentPlannerPolicy:
    settings = CEMConfig(candidates=2, elites=1, iterations=1)
    model = load_world_model(checkpoint, denoising_steps=1)
    return LatentPlannerPolicy(model, settings, horizon=2, execute=2, bases=bases)


@contextmanager
def every_agent(checkpoint: str, folder: Path) -> Iterator[tuple[dict[str, Policy], Server]]:
    """Agents by kind, and what the two servers answer.

    Args:
        checkpoint: of the tiny world model.
        folder: for a semantic world model.
    """
    server, patient = Server(), {"timeout_s": 5.0, "patience_s": 0.3}
    with ExitStack() as stack:
        act = stack.enter_context(serving_act(lambda image, text, _: server.action(image, text)))
        url = stack.enter_context(
            serving_openpi(lambda asked: {
                "actions": server.action(asked["observation/image"], asked["prompt"])[None]
            })
        )  # fmt: skip
        openpi = OpenPiPolicy(PLANE, SMALL, config=OpenPiConfig(url, **patient))
        stack.callback(openpi.close)
        yield {
            "null": NullPolicy(PLANE),
            "random": RandomPolicy(PLANE),
            "action-replay": ActionReplayPolicy(PLANE, sequences=[np.full((4, 2), 0.01)]),
            "noisy": NoisyPolicy(cloning(), 0.2),
            "resized": ResizedPolicy(cloning(FrameSpec(96, 96, "top")), SMALL),
            "resampled": ResampledPolicy(cloning(spec=SLOWER), PLANE, "sum", deltas=PLANE.names),
            "planner": planner(folder),
            "latent-planner": latent_planner(checkpoint),
            "diffusion-policy": diffusion(execute=2, steps=2, vocabulary=vocabulary()),
            "idql": idql(),
            "behaviour-cloning": cloning(),
            "sb3": sb3(checkpoint),
            "openvla": OpenVLAPolicy(PLANE, SMALL, client=ActClient(act.url, **patient)),
            "openpi": openpi,
        }, server  # fmt: skip


@contextmanager
def second_of_two_is_nan(owner: Any, name: str) -> Iterator[None]:
    """A function of a network gives NaN for the second of two rows."""
    whole: Callable[..., Any] = getattr(owner, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        found = whole(*args, **kwargs)
        rows = found[0] if isinstance(found, tuple) else found
        rows[1:] = np.nan
        return found

    with mock.patch.object(owner, name, broken):
        yield


def seen() -> Observation:
    """Two rows of noise."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    words = ("reach the red moon", "reach the blue cube")
    return Observation(frames, words, np.zeros(2, int), np.arange(2))
