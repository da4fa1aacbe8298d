"""What the records of a run depend on: the policy, the environment, and how each episode begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.vector import VectorEnv

from wm_gym.identity import class_name, describe_class, describe_value, given_attributes

if TYPE_CHECKING:
    from wm_gym.policies.base import Policy
    from wm_gym.policies.rows import EpisodeRows

_FREE_SETTINGS = ("checkpoint", "scale", "device", "compile", "task")
"""Of an imagined environment: its weights are compared themselves, and a start decides the task."""


def run_identity(rows: EpisodeRows, policy: Policy, max_steps: int) -> dict[str, Any]:
    """The settings that all records of a run depend on, as JSON."""
    envs = rows_environments(rows)
    return {
        "policy": policy.identity(),
        "environment": environment_identity(envs[0]) if envs else describe_value(rows),
        "rows": class_name(type(rows)),
        "action_spec": None if rows.action_spec is None else asdict(rows.action_spec),
        "frame_spec": None if rows.frame_spec is None else asdict(rows.frame_spec),
        "max_steps": max_steps,
    }


def rows_environments(rows: EpisodeRows) -> list[gymnasium.Env | VectorEnv]:
    """The environments that rows step: a vector environment, simulators, or none that are known."""
    inner = getattr(rows, "rows", None)  # rows around others
    if inner is not None:
        return rows_environments(inner)
    env = getattr(rows, "env", None)
    return [env] if env is not None else list(getattr(rows, "envs", ()))


def environment_identity(env: gymnasium.Env | VectorEnv) -> dict[str, Any]:
    """What an environment does, as JSON: its simulator and settings, or its model's weights.

    How many rows it has, and on which device it runs, is left out.
    """
    found: dict[str, Any] = {"wrappers": []}
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper) and not _is_twin(layer):
        found["wrappers"].append(_wrapper_identity(layer))
        layer = layer.env
    if _is_twin(layer):
        # the simulator alone decides: a model's twin is that of every model of its domain
        return found | {"twin": environment_identity(layer.env)}
    unwrapped = layer.unwrapped
    found["class"] = describe_class(type(unwrapped))
    engine: Any = getattr(unwrapped, "engine", None)
    if is_dataclass(settings := getattr(engine, "settings", None)):
        settings = asdict(settings)  # pyright: ignore[reportArgumentType]
        found |= {name: v for name, v in settings.items() if name not in _FREE_SETTINGS}
        spec = engine.spec
        reward = getattr(spec, "reward", None)
        found |= {
            "weights_sha256": dict(spec.weights_sha256),
            "denoising_steps": getattr(engine.model, "denoising_steps", None),
            "horizon": engine.horizon,
            "success_rule": None if reward is None else asdict(reward),
        }
        return found
    if env.spec is not None:
        found |= {"id": env.spec.id, "arguments": describe_value(dict(env.spec.kwargs))}
        found["max_episode_steps"] = env.spec.max_episode_steps
    return found | {"made_with": given_attributes(unwrapped)}


def _is_twin(layer: object) -> bool:
    from wm_gym.envs.twin import TwinEnv

    return isinstance(layer, TwinEnv)


def _wrapper_identity(wrapper: gymnasium.Wrapper) -> Any:
    arguments = getattr(wrapper, "_saved_kwargs", None) or {}
    return {
        "class": describe_class(type(wrapper)),
        "arguments": describe_value(dict(arguments)),
        "made_with": given_attributes(wrapper),
    }


def start_contents(rows: EpisodeRows, options: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What each episode begins from, as JSON: the options, and the content of a stored start."""
    envs = rows_environments(rows)
    env: Any = envs[0] if envs else None
    engine = getattr(getattr(env, "unwrapped", None), "engine", None)
    twin = False
    while engine is None and isinstance(env, gymnasium.Wrapper):
        twin = _is_twin(env)
        engine, env = getattr(env, "engine", None) if twin else None, env.env
    stored = getattr(getattr(engine, "starts", None), "stored", None)
    contents = []
    for given in options:
        content, name = [describe_value(dict(given))], given.get("start")
        if stored is not None and name in stored.names:
            index = stored.names.index(name)
            content.append(describe_value(stored.states[index] if twin else stored.frames[index]))
            content.append(stored.instructions[index])
        contents.append(content)
    return contents
