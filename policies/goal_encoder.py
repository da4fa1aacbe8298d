"""Looks at frames with the words of an instruction: what policies that imitate have in common.

The words become queries, a convolutional map gives keys, and where a query attends is a keypoint.
The features are the keypoints and what was found there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_gym.instructions import Goal


@dataclass(frozen=True)
class GoalEncoderConfig:
    """Size and vocabulary of a `GoalEncoder`.

    Attributes:
        templates: instruction template by task name.
        objects: what may fill the templates' slots, one or more words each.
        channels: width of the convolutional map.
        embedding: width of word embeddings and queries.
        free_keypoints: queries that depend on the whole instruction, beside effector and objects.
    """

    templates: dict[str, str]
    objects: tuple[str, ...]
    channels: int = 48
    embedding: int = 32
    free_keypoints: int = 4

    @property
    def words(self) -> tuple[str, ...]:
        """Every word an object is made of, sorted."""
        return tuple(sorted({word for name in self.objects for word in name.split()}))


class GoalEncoder(nn.Module):
    """Frames and goals to features.

    Args:
        config: its size and vocabulary.
    """

    named_keypoints = 3  # effector, first object, second object

    def __init__(self, config: GoalEncoderConfig) -> None:
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
        self.feature_size = keypoints * (2 + embedding // 2) + 3 * 2 + embedding

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


def _word_counts(config: GoalEncoderConfig, names: Sequence[str]) -> torch.Tensor:
    """How often each word occurs in each name, (names, words)."""
    return torch.tensor(
        [[float(name.split().count(word)) for word in config.words] for name in names]
    )


def encode_goals(
    config: GoalEncoderConfig, goals: Sequence[Goal]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns goals into what the network reads: tasks (B,) and word counts (B, 2, words)."""
    tasks = torch.tensor([list(config.templates).index(goal.task) for goal in goals])
    objects = torch.zeros(len(goals), 2, len(config.words))
    for row, goal in enumerate(goals):
        if goal.objects:
            objects[row, : len(goal.objects)] = _word_counts(config, goal.objects)
    return tasks, objects
