"""A Stable-Baselines3 agent as a policy of wm_gym, saved as JSON and safetensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from wm_gym.plain_torch import plain_torch
from wm_gym.policies.base import Observation, Policy, PolicyError
from wm_gym.policies.sb3.features import LatentGridExtractor
from wm_gym.policies.sb3.positions import ReadPositions
from wm_gym.policies.sb3.vec_env import ImaginedVecEnv, physical_actions
from wm_gym.policies.sb3.view import View, ViewConfig, fingerprint
from wm_gym.spec import ActionSpec, FrameSpec

NETWORKS: dict[str, type[BasePolicy]] = {
    "PPO": ActorCriticPolicy,
    "A2C": ActorCriticPolicy,
    "SAC": SACPolicy,
    "TD3": TD3Policy,
    "DDPG": TD3Policy,
}
EXTRACTORS = {
    made.__name__: made
    for made in (FlattenExtractor, NatureCNN, CombinedExtractor, LatentGridExtractor)
}
ACTIVATIONS = {
    made.__name__: made for made in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU)
}


@dataclass(frozen=True)
class NetworkConfig:
    """The network of an agent.

    Attributes:
        algorithm: one of `NETWORKS`.
        net_arch: as SB3 has it, widths, or widths by head.
        activation: one of `ACTIVATIONS`.
        extractor: one of `EXTRACTORS`.
        extractor_options: its keyword arguments, plain values.
        share_features_extractor: whether actor and critic see through one extractor.
        normalize_images: whether uint8 images are divided by 255.
    """

    algorithm: str
    net_arch: list[int] | dict[str, list[int]]
    activation: str
    extractor: str
    extractor_options: dict[str, Any]
    share_features_extractor: bool
    normalize_images: bool

    def build(self, observations: spaces.Space, actions: spaces.Box) -> BasePolicy:
        """The network with random weights."""
        return NETWORKS[self.algorithm](
            observations,
            actions,
            lambda _: 0.0,  # pyright: ignore[reportArgumentType]  a learning rate nobody uses
            net_arch=self.net_arch,
            activation_fn=ACTIVATIONS[self.activation],
            features_extractor_class=EXTRACTORS[self.extractor],
            features_extractor_kwargs=self.extractor_options,
            share_features_extractor=self.share_features_extractor,
            normalize_images=self.normalize_images,
        )


class SB3Policy(Policy):
    """An agent's most likely action, from the frames that every policy sees.

    Args:
        action_spec: its action language; the network's actions are in units of half the range.
        frame_spec: frames of the world model that it was trained in.
        network: the agent's network.
        network_config: what it is made of.
        view: makes its observations.
    """

    kind: ClassVar[str] = "sb3"

    def __init__(
        self,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        network: BasePolicy,
        network_config: NetworkConfig,
        view: View,
    ) -> None:
        super().__init__(action_spec, frame_spec)
        self.network, self.network_config, self.view = network, network_config, view

    @classmethod
    def from_agent(cls, agent: BaseAlgorithm) -> SB3Policy:
        """The policy of a trained, or untrained, agent; they share the network.

        Args:
            agent: PPO, A2C, SAC, TD3 or DDPG in an `ImaginedVecEnv`.

        Raises:
            PolicyError: naming what about it could not be loaded again.
        """
        bridge, obs = _look_through(agent.get_env())
        engine = bridge.imagined.engine
        settings, folder = engine.settings, engine.model.folder
        if folder is None:
            raise PolicyError(
                "the agent's world model has no folder, so nobody could load its encoder again: "
                "save it with wm_gym.checkpoints.save_checkpoint"
            )
        view = ViewConfig(
            obs,
            settings.env_id,
            "embedded" if settings.checkpoint == "embedded" else str(folder.resolve()),
            fingerprint(engine.spec, obs),
            engine.horizon,
        )
        config = _network_config(agent)
        return cls(engine.spec.action, engine.spec.frame, agent.policy, config, View(view))

    @plain_torch()
    def act(self, observation: Observation) -> np.ndarray:
        """One action of every row, (B, 1, A)."""
        actions, _ = self.network.predict(self.view(observation), deterministic=True)
        return physical_actions(actions, self.action_spec)[:, None]

    def config(self) -> dict[str, Any]:
        """Network and view."""
        return {"network": asdict(self.network_config), "view": asdict(self.view.config)}

    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters that actions depend on; critics are left out."""
        return acting_weights(self.network_config.algorithm, self.network.state_dict())

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> SB3Policy:
        """Builds view and network.

        Raises:
            PolicyError: if the weights do not fit, or the card is not the agent's.
        """
        known = {field.name for field in fields(NetworkConfig)}
        network_config = NetworkConfig(**{k: config["network"][k] for k in known})
        view = View(ViewConfig(**config["view"]))
        if (view.spec.action, view.spec.frame) != (action_spec, frame_spec):
            raise PolicyError(
                f"the agent speaks {action_spec} and sees {frame_spec}, its world model "
                f"{view.spec.name!r} {view.spec.action} and {view.spec.frame}: name the checkpoint "
                "that it was trained with"
            )
        actions = spaces.Box(-1, 1, (action_spec.size,), np.float32)
        network = network_config.build(view.space(), actions)
        missing, unexpected = network.load_state_dict(weights, strict=False)
        needed = acting_weights(network_config.algorithm, network.state_dict())
        if unexpected or set(missing) & set(needed):
            raise PolicyError(
                f"the weights do not fit the network {network_config}: missing "
                f"{sorted(set(missing) & set(needed))}, unexpected {sorted(unexpected)}; get the "
                "policy again"
            )
        return cls(action_spec, frame_spec, network, network_config, view)


NOT_ACTING = (
    "pi_features_extractor.",  # another name of features_extractor
    "vf_features_extractor.",
    "mlp_extractor.value_net.",
    "value_net.",
)


def acting_weights(algorithm: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of a network's parameters that `SB3Policy` needs: no critic, nothing twice."""
    on_policy = NETWORKS[algorithm] is ActorCriticPolicy
    return {
        name: tensor.contiguous()
        for name, tensor in weights.items()
        if (not name.startswith(NOT_ACTING) if on_policy else name.startswith("actor."))
    }


def _look_through(envs: VecEnv | None) -> tuple[ImaginedVecEnv, str]:
    """The bridge under an agent's wrappers, and what the agent observes of it."""
    positions = False
    while isinstance(envs, VecEnvWrapper):
        harmless = isinstance(envs, (VecMonitor, VecTransposeImage, VecCheckNan, ReadPositions))
        if isinstance(envs, VecNormalize):
            harmless = not envs.norm_obs
        if not harmless:
            raise PolicyError(
                f"the agent sees its environment through {type(envs).__name__}, which changes what "
                "it observes and is not saved: train it without (latents are normalised already; "
                "VecNormalize(envs, norm_obs=False) is fine)"
            )
        positions |= isinstance(envs, ReadPositions)
        envs = envs.venv
    if not isinstance(envs, ImaginedVecEnv):
        raise PolicyError(
            f"the agent acts in {envs}; expected an ImaginedVecEnv, which knows its card"
        )
    return envs, "positions" if positions else envs.imagined.engine.settings.obs


def _network_config(agent: BaseAlgorithm) -> NetworkConfig:
    algorithm, network = type(agent).__name__, agent.policy
    if algorithm not in NETWORKS or not isinstance(network, NETWORKS[algorithm]):
        raise PolicyError(
            f"{algorithm} with a {type(network).__name__} is not known; expected one of "
            f"{list(NETWORKS)} with SB3's own policies"
        )
    if agent.use_sde:
        raise PolicyError("agents with use_sde=True are not supported; train with use_sde=False")
    extractor = network.features_extractor_class.__name__
    if EXTRACTORS.get(extractor) is not network.features_extractor_class:
        raise PolicyError(
            f"features extractor {extractor} is not known; expected one of {list(EXTRACTORS)}"
        )
    activation: type[nn.Module] = network.activation_fn  # pyright: ignore[reportAssignmentType]
    if activation.__name__ not in ACTIVATIONS:
        raise PolicyError(
            f"activation {activation.__name__} is not known; expected one of {list(ACTIVATIONS)}"
        )
    return NetworkConfig(
        algorithm,
        network.net_arch,  # pyright: ignore[reportArgumentType]
        activation.__name__,
        extractor,
        dict(network.features_extractor_kwargs),
        network.share_features_extractor,  # pyright: ignore[reportArgumentType]
        network.normalize_images,
    )
