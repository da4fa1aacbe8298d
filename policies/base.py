"""What a policy is, and how policies are saved: `policy.json` beside a safetensors file."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from wm_gym.checkpoints import CheckpointError, write_atomically
from wm_gym.errors import UserError
from wm_gym.identity import describe_class, describe_value, given_attributes, hash_of_tensors
from wm_gym.packed_files import PackedFileError, is_stored, packed_path, read_file
from wm_gym.spec import ActionSpec, FrameSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from wm_gym.policies.chunks import Chunks

POLICY_VERSION = 1
POLICY_FILE = "policy.json"
WEIGHTS_FILE = "policy.safetensors"

POLICY_KINDS: dict[str, str] = {
    "null": "wm_gym.policies.null_policy:NullPolicy",
    "random": "wm_gym.policies.random_policy:RandomPolicy",
    "action-replay": "wm_gym.policies.action_replay:ActionReplayPolicy",
    "noisy": "wm_gym.policies.noisy:NoisyPolicy",
    "resized": "wm_gym.policies.resized:ResizedPolicy",
    "resampled": "wm_gym.policies.resampled:ResampledPolicy",
    "planner": "wm_gym.policies.planner:PlannerPolicy",
    "latent-planner": "wm_gym.policies.latent_planner:LatentPlannerPolicy",
    "diffusion-policy": "wm_gym.policies.diffusion_policy.policy:DiffusionPolicy",
    "idql": "wm_gym.policies.idql.policy:IDQLPolicy",
    "behaviour-cloning": "wm_gym.policies.behaviour_cloning:BehaviourCloningPolicy",
    "sb3": "wm_gym.policies.sb3.policy:SB3Policy",
    "openvla": "wm_gym.policies.openvla:OpenVLAPolicy",
    "openpi": "wm_gym.policies.openpi:OpenPiPolicy",
}


HOW_TO_MAKE_ONE = (
    "subclass wm_gym.policies.base.Policy, define act(observation), and construct it with the "
    "environment's specs, MyPolicy(env.unwrapped.card.action, env.unwrapped.card.frame); "
    "docs/policies.md shows one"
)


class PolicyError(UserError, RuntimeError):
    """An object that is no policy, or a saved one that cannot be found or read or does not fit."""


@dataclass(frozen=True)
class Observation:
    """What the rows that need a new chunk see, B of them.

    Attributes:
        frames: newest frame of each, uint8 (B, H, W, 3).
        instructions: what is to be done in each, in words.
        steps: steps that each has made since its reset, (B,).
        rows: which rows of the runner they are, (B,); a policy that keeps something for every
            episode keeps it under these numbers.
        history: frames before the newest, oldest first, uint8 (B, n, H, W, 3), n being at least
            `Policy.frame_history`; before an episode's first frame comes that frame again. None
            for policies that look at the newest frame alone.
    """

    frames: np.ndarray
    instructions: tuple[str, ...]
    steps: np.ndarray
    rows: np.ndarray
    history: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def recent(self, count: int) -> np.ndarray:
        """The newest `count` frames of each row, oldest first, (B, count, H, W, 3).

        Raises:
            PolicyError: if the observation holds fewer.
        """
        newest = self.frames[:, None]
        if count == 1:
            return newest
        there = 0 if self.history is None else self.history.shape[1]
        if there < count - 1 or self.history is None:
            raise PolicyError(
                f"the policy looks at {count} frames of each row and the observation holds "
                f"{there + 1}: pass history=, the frames before the newest, oldest first, "
                f"(B, {count - 1}, H, W, 3); run_policy does, for the policy's frame_history"
            )
        return np.concatenate([self.history[:, there - count + 1 :], newest], axis=1)


class Policy(ABC):
    """Chooses actions from frames and instructions, for many episodes at once.

    A policy sees nothing but an `Observation`: no simulator state. Whatever is random in it is a
    function of the seeds given to `reset`, so that a row acts the same whatever its neighbours do.

    Attributes:
        kind: its name in `POLICY_KINDS`, "" for a policy that `save_policy` does not know.
        action_spec: the action language it speaks, e.g. `env.unwrapped.card.action`.
        frame_spec: the frames it expects, e.g. `env.unwrapped.card.frame`, or None if any will do.
        frame_history: how many frames before the newest it looks at.

    Raises:
        PolicyError: if a spec is none.

    Example:
        >>> class StandStill(Policy):
        ...     def act(self, observation):
        ...         return np.zeros((len(observation), 1, self.action_spec.size), np.float32)
    """

    kind: ClassVar[str] = ""
    frame_history: int = 0
    _made_with: tuple[Any, ...]

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Keep the arguments: they are what tells a user's policies apart."""
        policy = super().__new__(cls)
        policy._made_with = (*arguments, named)
        return policy

    def __init__(self, action_spec: ActionSpec, frame_spec: FrameSpec | None = None) -> None:
        _check_specs(type(self).__name__, action_spec, frame_spec)
        self.action_spec = action_spec
        self.frame_spec = frame_spec

    def reset(self, rows: Sequence[int], seeds: Sequence[int], instructions: Sequence[str]) -> None:
        """Begins a new episode in some rows.

        Args:
            rows: row numbers.
            seeds: one seed for each of them.
            instructions: one instruction for each of them.
        """
        del rows, seeds, instructions

    @abstractmethod
    def act(self, observation: Observation) -> Chunks:
        """Chooses the next n actions of every row that asks.

        Args:
            observation: B rows.

        Returns:
            float (B, n, A), physical units of `action_spec`. All n are carried out before the row
            asks again. Where rows differ in n, a list of B arrays (n, A); a `ChunkError` in the
            place of one says why that row has none and ends its episode.
        """

    def config(self) -> dict[str, Any]:
        """What `from_saved` needs beside specs and weights, as JSON."""
        return {}

    def weights(self) -> dict[str, torch.Tensor]:
        """Tensors to store."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What its actions depend on, as JSON: `run_policy` compares it before it adds to results.

        By default its class, specs, config and weights; of a user's own class also the code, the
        arguments it was made with and the attributes of their names. Override it if an object's
        actions depend on anything else, such as attributes set later.
        """
        return policy_identity(self, self.config(), self.weights())

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> Policy:
        """Builds the policy from what `config` and `weights` gave."""
        return cls(action_spec, frame_spec, **config)


def policy_identity(
    policy: Policy, settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | None = None
) -> dict[str, Any]:
    """What a policy's actions depend on, as JSON, see `Policy.identity`.

    Args:
        policy: the policy.
        settings: of it; in place of the policies in it, their identities.
        weights: its own.
    """
    found = {
        "class": describe_class(type(policy)),
        "action_spec": asdict(policy.action_spec),
        "frame_spec": None if policy.frame_spec is None else asdict(policy.frame_spec),
        "settings": dict(settings),
        "weights_sha256": hash_of_tensors(weights) if weights else None,
    }
    if POLICY_KINDS.get(policy.kind) != f"{type(policy).__module__}:{type(policy).__qualname__}":
        # nobody has written down what decides its actions: what it was made with, and is set to
        found["made_with"] = describe_value(policy._made_with)
        found["attributes"] = given_attributes(policy)
    return found


def policies_within(policy: Policy) -> list[Policy]:
    """A policy and those that it is made of, each once."""
    found: dict[int, Policy] = {}
    seen: set[int] = set()

    def visit(thing: object) -> None:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, Policy):
            found[id(thing)] = thing
        elif isinstance(thing, list | tuple | set | frozenset):
            for item in thing:
                visit(item)
            return
        elif isinstance(thing, dict):
            visit(list(thing.values()))
            return
        elif not type(thing).__module__.startswith("wm_gym.policies."):
            return
        for item in getattr(thing, "__dict__", {}).values():
            visit(item)

    visit(policy)
    return list(found.values())


def check_policy(policy: object) -> Policy:
    """Refuses what is no policy, before anything runs.

    Args:
        policy: what should be one.

    Returns:
        The policy.

    Raises:
        PolicyError: naming what is missing and the remedy.
    """
    if isinstance(policy, type):
        raise PolicyError(
            f"{policy.__name__} is a class, expected an instance of a Policy: {HOW_TO_MAKE_ONE}"
        )
    name = type(policy).__name__
    needed = ("action_spec", "frame_spec", "reset", "act")
    missing = [part for part in needed if not hasattr(policy, part)]
    if not isinstance(policy, Policy):
        lacks = f" and has no {', '.join(missing)}" if missing else ""
        raise PolicyError(f"{name} is no subclass of Policy{lacks}: {HOW_TO_MAKE_ONE}")
    if missing:
        raise PolicyError(
            f"{name} has no {', '.join(missing)}: call super().__init__(action_spec, frame_spec) "
            "in its constructor"
        )
    _check_specs(name, policy.action_spec, policy.frame_spec)
    return policy


def _check_specs(name: str, action_spec: object, frame_spec: object) -> None:
    if not isinstance(action_spec, ActionSpec):
        raise PolicyError(
            f"the action_spec of {name} is {action_spec!r}, expected an ActionSpec, which says "
            "components, units, range and rate of its actions: env.unwrapped.card.action of the "
            "world model it acts in, also for the twin"
        )
    if frame_spec is not None and not isinstance(frame_spec, FrameSpec):
        raise PolicyError(
            f"the frame_spec of {name} is {frame_spec!r}, expected a FrameSpec such as "
            "env.unwrapped.card.frame, or None if frames of any size will do"
        )


def describe(policy: Policy) -> dict[str, Any]:
    """A policy as JSON, without its weights; `build` is the way back.

    Raises:
        PolicyError: if its kind is not one that `build` knows, or the kind of another class.
    """
    check_policy(policy)
    made = type(policy)
    if POLICY_KINDS.get(policy.kind) != f"{made.__module__}:{made.__qualname__}":
        raise PolicyError(
            f"a {made.__qualname__} cannot be saved: its kind {policy.kind!r} is that of no or of "
            f"another class, and no file decides which class is imported; expected a policy of "
            f"one of the kinds {sorted(POLICY_KINDS)}. Keep its weights in a file of your own and "
            f"name the class, or a function that loads them, where a policy is asked for: "
            f"--policies {made.__module__}:{made.__qualname__}"
        )
    return {
        "kind": policy.kind,
        "action_spec": asdict(policy.action_spec),
        "frame_spec": None if policy.frame_spec is None else asdict(policy.frame_spec),
        "config": policy.config(),
    }


def build(described: dict[str, Any], weights: dict[str, torch.Tensor]) -> Policy:
    """A policy from `describe` and its weights.

    Raises:
        PolicyError: if its kind is unknown or a field is missing or does not fit.
    """
    from wm_gym.plain_torch import plain_torch

    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in POLICY_KINDS:
        raise PolicyError(
            f"policy kind {kind!r} is unknown; expected one of {sorted(POLICY_KINDS)}"
        )
    module, _, name = POLICY_KINDS[kind].partition(":")
    try:
        frame = described["frame_spec"]
        with plain_torch(fork_generators=True):
            return getattr(import_module(module), name).from_saved(
                ActionSpec.from_dict(described["action_spec"]),
                None if frame is None else FrameSpec(**frame),
                described["config"],
                weights,
            )
    except (CheckpointError, PolicyError):
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise PolicyError(
            f"the description of a {kind!r} policy does not fit ({type(error).__name__}: {error}); "
            "it may be of another version of wm_gym: save the policy again"
        ) from error


def save_policy(
    policy: Policy,
    folder: str | Path,
    *,
    training: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes a policy as `policy.json` and, if it has weights, `policy.safetensors`.

    Args:
        policy: the policy.
        folder: where to; made if needed.
        training: how it was made (command, seed, steps), kept in policy.json.
        dtype: floating-point type to store, e.g. `torch.bfloat16`; None keeps each tensor's own.

    Returns:
        The folder.

    Raises:
        PolicyError: if it is of no kind in `POLICY_KINDS`; nothing is written then.
    """
    folder = Path(folder)
    content: dict[str, Any] = {"version": POLICY_VERSION, **describe(policy)}
    content["training"] = training or {}
    content["weights_sha256"] = None
    if weights := policy.weights():
        from safetensors.torch import save

        stored = save(
            {
                name: tensor.detach()
                .to(dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype)
                .contiguous()
                for name, tensor in weights.items()
            }
        )
        content["weights_sha256"] = hashlib.sha256(stored).hexdigest()
        write_atomically(folder / WEIGHTS_FILE, stored)
        packed_path(folder / WEIGHTS_FILE).unlink(missing_ok=True)
    write_atomically(folder / POLICY_FILE, (json.dumps(content, indent=1) + "\n").encode())
    return folder


def load_policy(folder: str | Path) -> Policy:
    """Loads a saved policy; nothing is unpickled.

    Args:
        folder: what `save_policy` wrote.

    Raises:
        PolicyError: if the folder is no saved policy, or is damaged.
    """
    folder = Path(folder).expanduser()
    path = folder / POLICY_FILE
    try:
        content = read_object(path)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{path} cannot be read as JSON ({error}); expected a folder written by save_policy, "
            "or module:Class where a command takes a policy"
        ) from error
    if content.get("version") != POLICY_VERSION:
        raise PolicyError(
            f"{path}: version is {content.get('version')!r}, this wm_gym reads {POLICY_VERSION}; "
            "update wm_gym or save the policy again"
        )
    return build(content, _load_weights(folder, content.get("weights_sha256")))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise UserError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise UserError(f"it holds a {type(content).__name__}, expected an object")
    return content


def _load_weights(folder: Path, expected: Any) -> dict[str, torch.Tensor]:
    if expected is None:
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / WEIGHTS_FILE
    if not is_stored(path):
        raise PolicyError(f"{path} is missing; get the policy again")
    try:
        stored = read_file(path)
    except PackedFileError as error:
        raise PolicyError(str(error)) from error
    found = hashlib.sha256(stored).hexdigest()
    if found != expected:
        raise PolicyError(
            f"{path} has SHA-256 {found[:12]}…, {POLICY_FILE} says {expected!s:.12}…: the file is "
            "truncated, altered or of another version; get the policy again"
        )
    try:
        tensors = load(stored)
    except SafetensorError as error:
        raise PolicyError(f"{path} holds no tensors ({error}); get the policy again") from error
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
