"""`wm-gym record`: a video of any environment id, imagined or simulated."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium
import numpy as np
import tyro

from wm_gym.envs.registration import EMBEDDED_MODELS, SEMANTIC_MODELS, SIMULATORS
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from wm_gym.policies.base import Policy

WORLD_MODEL_OPTIONS = ("checkpoint", "denoising_steps", "device", "reward")


@dataclass(frozen=True)
class RecordConfig:
    """Play an episode with random actions or a policy and write it as mp4."""

    id: Annotated[str, tyro.conf.Positional] = "WM-LangTable-VAE-v0"
    """Environment id; `wm-gym list` shows them."""
    checkpoint: str | None = None
    """For a world model: embedded, a folder, or hf://org/repo@revision."""
    denoising_steps: int | None = None
    """For a world model: denoising steps per frame; the card's by default."""
    device: str | None = None
    """For a world model: torch device; the CPU by default."""
    reward: str | None = None
    """For a world model: classifier, distance, judge:NAME or none; what decides that an episode
    ends."""
    task: str | None = None
    """Task; the environment's default if not given."""
    instruction: str | None = None
    """Instruction of every episode; drawn by the environment if not given."""
    policy: str | None = None
    """Folder of a saved policy, or module:Class of your own; random actions if not given. A
    simulator gives a saved policy the frames that it expects."""
    steps: int = 60
    """Steps to record; episodes that end earlier are followed by another."""
    hold: int = 5
    """Steps for which a random action is kept, so that something moves."""
    seed: int = 0
    """Seed of environment and actions."""
    out: Path | None = None
    """Video file; outputs/<id>.mp4 by default."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.steps < 1 or self.hold < 1:
            raise UserError(f"steps={self.steps} and hold={self.hold} must be at least 1")


def record(config: RecordConfig) -> Path:
    """Run `wm-gym record`.

    Returns:
        The video.
    """
    from tqdm import tqdm

    from wm_gym.envs.video import write_mp4
    from wm_gym.policies.named import is_saved, open_policy

    arguments: dict[str, Any] = {} if config.task is None else {"task": config.task}
    for name in WORLD_MODEL_OPTIONS:
        if (value := getattr(config, name)) is None:
            continue
        if config.id not in EMBEDDED_MODELS:
            raise UserError(f"{config.id} is no world model: it takes no {name}={value!r}")
        arguments[name] = value
    policy = None
    if config.policy is not None:
        _check_policy_is_there(config.policy)
        policy = open_policy(config.policy, None) if is_saved(config.policy) else None
    if policy is not None and policy.frame_spec is not None and config.id in SIMULATORS:
        arguments["frame_size"] = (policy.frame_spec.height, policy.frame_spec.width)
    try:
        env = gymnasium.make(config.id, render_mode="rgb_array", **arguments)
    except gymnasium.error.UnregisteredEnv as error:
        known = ", ".join((*EMBEDDED_MODELS, *SEMANTIC_MODELS, *SIMULATORS))
        raise UserError(
            f"id {config.id!r} is not registered; those of wm_gym are {known}; one of another "
            "package is written as module:id"
        ) from error
    try:
        frames = list(tqdm(_play(env, config, policy), total=config.steps + 1, unit="frame"))
        fps = env.metadata.get("render_fps", 10)
    finally:
        env.close()
    path = write_mp4(config.out or Path("outputs") / f"{config.id}.mp4", frames, fps)
    print(f"video: {path.resolve()}")
    return path


def _check_policy_is_there(name: str) -> None:
    """Refuse a policy that does not exist before a world model is loaded for it."""
    from wm_gym.policies.base import PolicyError
    from wm_gym.policies.named import policy_file

    if not (file := policy_file(name)).is_file():
        raise PolicyError(
            f"policy={name!r}: there is no {file}; expected the folder of a saved policy, or "
            "module:Class"
        )


def _play(env: gymnasium.Env, config: RecordConfig, saved: Policy | None) -> Iterator[np.ndarray]:
    """The first frame, then one per step."""
    if config.policy is None:
        player = _RandomPlayer(env, config)
    else:
        player = _PolicyPlayer(env, config, saved)
    options = None if config.instruction is None else {"instruction": config.instruction}
    observation, info = env.reset(seed=config.seed, options=options)
    player.begin(info)
    yield np.asarray(env.render())
    for _ in range(config.steps):
        observation, _, terminated, truncated, info = env.step(player.act(observation))
        yield np.asarray(env.render())
        if terminated or truncated:
            observation, info = env.reset(options=options)
            player.begin(info)


class _RandomPlayer:
    """Random actions, each kept for some steps."""

    def __init__(self, env: gymnasium.Env, config: RecordConfig) -> None:
        self.space, self.hold = env.action_space, config.hold
        self.space.seed(config.seed)
        self.left: list[Any] = []

    def begin(self, info: dict[str, Any]) -> None:
        self.left = []

    def act(self, observation: Any) -> Any:
        self.left = self.left or [self.space.sample()] * self.hold
        return self.left.pop()


class _PolicyPlayer:
    """A policy, asked for a new chunk whenever it has carried one out.

    Args:
        env: where it acts.
        config: names it.
        saved: the policy, if it is a saved one; another is made for the environment.

    Raises:
        PolicyError: if there is no such policy.
        IncompatiblePolicyError: if it does not speak the environment's action language.
    """

    def __init__(self, env: gymnasium.Env, config: RecordConfig, saved: Policy | None) -> None:
        from wm_gym.policies.compatibility import check_compatible
        from wm_gym.policies.named import open_policy
        from wm_gym.policies.rows import environment_specs

        assert config.policy is not None
        action, frame = environment_specs(env)
        if action is None:
            raise UserError(f"{config.id} states no action language; policy={config.policy!r}")
        self.policy, self.seed = saved or open_policy(config.policy, action, frame), config.seed
        self.conversion = check_compatible(self.policy, action, frame)
        self.planned: list[np.ndarray] = []
        self.seen: deque[np.ndarray] = deque(maxlen=1 + self.policy.frame_history)

    def begin(self, info: dict[str, Any]) -> None:
        self.instruction, self.steps, self.planned = info["instruction"], 0, []
        self.seen.clear()
        self.policy.reset([0], [self.seed], [self.instruction])
        self.seed += 1

    def act(self, observation: Any) -> np.ndarray:
        from wm_gym.policies.base import Observation
        from wm_gym.policies.chunks import read_chunk

        self.seen.extend(
            [np.array(observation)] * (1 if self.seen else 1 + self.policy.frame_history)
        )
        if not self.planned:
            frames, steps = np.stack(self.seen)[None], np.array([self.steps])
            seen = Observation(
                frames[:, -1], (self.instruction,), steps, np.array([0]), frames[:, :-1]
            )
            chunk = read_chunk(self.policy.act(seen), 0, 1, self.policy.action_spec.size)
            self.planned = list(self.conversion(chunk))
        self.steps += 1
        return self.planned.pop(0)
