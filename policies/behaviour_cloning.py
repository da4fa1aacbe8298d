"""A small image policy that imitates an expert: frames and words in, a chunk of actions out.

It looks for what matters with spatial attention: the words of the instruction become queries, a
convolutional map gives keys, and where a query attends is a keypoint. The action head sees the
keypoints and what was found there. It has an encoder of its own, independent of any world model's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from wm_gym.instructions import InstructionSet
from wm_gym.policies.base import Observation, Policy, PolicyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_gym.instructions import Goal
    from wm_gym.spec import ActionSpec, FrameSpec


@dataclass(frozen=True)
class BehaviourCloningConfig:
    """Size and vocabulary of a `BehaviourCloningNetwork`.

    Attributes:
        templates: instruction template by task name.
        objects: what may fill the templates' slots, one or more words each.
        action_size: components of an action.
        chunk: actions predicted at once.
        channels: width of the convolutional map.
        embedding: width of word embeddings and queries.
        hidden: width of the action head.
        free_keypoints: queries that depend on the whole instruction, beside effector and objects.
    """

    templates: dict[str, str]
    objects: tuple[str, ...]
    action_size: int = 2
    chunk: int = 4
    channels: int = 48
    embedding: int = 32
    hidden: int = 192
    free_keypoints: int = 4

    @property
    def words(self) -> tuple[str, ...]:
        """Every word an object is made of, sorted."""
        return tuple(sorted({word for name in self.objects for word in name.split()}))


class BehaviourCloningNetwork(nn.Module):
    """Frames and goals to a chunk of actions in units of half the action range.

    Args:
        config: its size and vocabulary.
    """

    named_keypoints = 3  # effector, first object, second object

    def __init__(self, config: BehaviourCloningConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.channels, config.embedding
        self.stem = nn.Conv2d(3, width // 3, 5, stride=2, padding=2)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(width // 3, width, 3, stride=2, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=2, dilation=2),
            ]
        )
        self.keys = nn.Conv2d(width, embedding, 1)
        self.values = nn.Conv2d(width, embedding // 2, 1)
        self.task_embedding = nn.Embedding(len(config.templates), embedding)
        self.word_embedding = nn.Embedding(len(config.words), embedding)
        self.object_query = nn.Linear(embedding, embedding)
        self.effector_query = nn.Parameter(torch.randn(embedding) / embedding**0.5)
        self.free_queries = nn.Linear(3 * embedding, config.free_keypoints * embedding)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.vocabulary: torch.Tensor
        self.register_buffer("vocabulary", _word_counts(config, config.objects), persistent=False)
        keypoints = self.named_keypoints + config.free_keypoints
        features = keypoints * (2 + embedding // 2) + 3 * 2 + embedding
        self.head = nn.Sequential(
            nn.Linear(features, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.chunk * config.action_size),
        )

    def forward(
        self, frames: torch.Tensor, tasks: torch.Tensor, objects: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicts actions.

        Args:
            frames: see `features`.
            tasks: see `features`.
            objects: see `features`.

        Returns:
            Actions (B, n, A), within about ±1, and the logits that `features` returns.
        """
        features, logits = self.features(frames, tasks, objects)
        return self.actions(features), logits

    def actions(self, features: torch.Tensor) -> torch.Tensor:
        """Actions (B, n, A) from features (B, F)."""
        return self.head(features).unflatten(1, (self.config.chunk, -1))

    def features(
        self, frames: torch.Tensor, tasks: torch.Tensor, objects: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the action head sees.

        Args:
            frames: uint8 or float in 0–255, (B, H, W, 3).
            tasks: index of each row's task, (B,).
            objects: how often each word occurs in the first and second object, (B, 2, words).

        Returns:
            Features (B, F); logits of where the effector and each of the
            config's objects are, (B, 1 + objects, P), over the cells of `cell_centres`.
        """
        x = frames.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        x = F.gelu(self.stem(x.contiguous(memory_format=torch.channels_last)))
        for number, convolution in enumerate(self.convolutions):
            y = F.gelu(convolution(x))
            x = x + y if number > 0 else y
        keys, values = self.keys(x).flatten(2), self.values(x).flatten(2)  # (B, D, P), (B, V, P)
        goal = objects @ self.word_embedding.weight  # (B, 2, D)
        task = self.task_embedding(tasks)  # (B, D)
        named = torch.cat(
            [self.effector_query.expand(len(task), 1, -1), self.object_query(goal)], dim=1
        )
        free = self.free_queries(torch.cat([task[:, None], goal], 1).flatten(1))
        queries = torch.cat([named, free.unflatten(1, (self.config.free_keypoints, -1))], dim=1)
        attention = (self.scale.exp() * queries @ keys).softmax(dim=-1)  # (B, K, P)
        keypoints = attention @ cell_centres(x.shape[2], x.shape[3]).to(x)  # (B, K, 2)
        found = attention @ values.transpose(1, 2)  # (B, K, V)
        effector, first, second = keypoints[:, 0], keypoints[:, 1], keypoints[:, 2]
        between = torch.cat([first - effector, second - effector, second - first], dim=1)
        features = torch.cat([keypoints.flatten(1), 4 * between, found.flatten(1), task], dim=1)
        every = torch.cat(
            [
                self.effector_query[None],
                self.object_query(self.vocabulary @ self.word_embedding.weight),
            ]
        )
        return features, self.scale.exp() * every @ keys


def cell_centres(height: int, width: int) -> torch.Tensor:
    """Coordinates of every cell, (height * width, 2): x to the right, y up, within ±1."""
    y = 1 - (2 * torch.arange(height) + 1) / height
    x = (2 * torch.arange(width) + 1) / width - 1
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


def _word_counts(config: BehaviourCloningConfig, names: Sequence[str]) -> torch.Tensor:
    """How often each word occurs in each name, (names, words)."""
    return torch.tensor(
        [[float(name.split().count(word)) for word in config.words] for name in names]
    )


def encode_goals(
    config: BehaviourCloningConfig, goals: Sequence[Goal]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns goals into what the network reads: tasks (B,) and word counts (B, 2, words)."""
    tasks = torch.tensor([list(config.templates).index(goal.task) for goal in goals])
    objects = torch.zeros(len(goals), 2, len(config.words))
    for row, goal in enumerate(goals):
        if goal.objects:
            objects[row, : len(goal.objects)] = _word_counts(config, goal.objects)
    return tasks, objects


class BehaviourCloningPolicy(Policy):
    """The trained network as a policy; deterministic and the same for every seed.

    Args:
        action_spec: its action language; the network's outputs are in units of half its range.
        frame_spec: frames it was trained on.
        network: the network.
        execute: how many actions of a predicted chunk it returns; all by default.
    """

    kind: ClassVar[str] = "behaviour-cloning"

    def __init__(
        self,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        network: BehaviourCloningNetwork,
        *,
        execute: int | None = None,
    ) -> None:
        super().__init__(action_spec, frame_spec)
        config = network.config
        self.execute = execute or config.chunk
        if not 1 <= self.execute <= config.chunk:
            raise ValueError(
                f"execute={execute}: expected 1 to {config.chunk}, the chunk predicted"
            )
        self.network = network.eval()
        self.instructions = InstructionSet(config.templates, config.objects)

    @torch.inference_mode()
    def act(self, observation: Observation) -> np.ndarray:
        """The next (B, execute, A) actions.

        Raises:
            InstructionError: if an instruction is not understood.
        """
        goals = [self.instructions.parse(text) for text in observation.instructions]
        tasks, objects = encode_goals(self.network.config, goals)
        frames = torch.from_numpy(np.ascontiguousarray(observation.frames))
        device = self.network.scale.device
        actions, _ = self.network(frames.to(device), tasks.to(device), objects.to(device))
        low, high = np.asarray(self.action_spec.low), np.asarray(self.action_spec.high)
        chunk = actions[:, : self.execute].float().cpu().numpy().clip(-1, 1)
        return ((low + high) / 2 + chunk * (high - low) / 2).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """The network's config and how many actions are carried out."""
        return {"network": asdict(self.network.config), "execute": self.execute}

    def weights(self) -> dict[str, torch.Tensor]:
        """The network's parameters."""
        return {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> BehaviourCloningPolicy:
        """Builds network and policy."""
        known = {field.name for field in fields(BehaviourCloningConfig)}
        given = {key: value for key, value in config["network"].items() if key in known}
        given["objects"] = tuple(given["objects"])
        network = BehaviourCloningNetwork(BehaviourCloningConfig(**given))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise PolicyError(
                f"the weights do not fit the network of {given}: {error}; get the policy again"
            ) from error
        return cls(action_spec, frame_spec, network, execute=config["execute"])
