"""The success classifier and distance regressor on latents: the reward of imagined episodes.

A small transformer reads one frame's latents and a goal (task and objects) and answers with the
probability of success and the task's distance in metres. Trained per task with near misses as
negatives by `wm-gym train reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.instructions import Goal, InstructionError


@dataclass(frozen=True)
class SuccessClassifierConfig:
    """Sizes and vocabulary of `SuccessClassifier`.

    Attributes:
        grid: latent rows and columns.
        channels: D of the latents.
        tasks: task names, in the order of their embeddings.
        objects: object names, in the order of their embeddings.
        dim: transformer width.
        depth: blocks.
        heads: attention heads.
    """

    grid: tuple[int, int]
    channels: int
    tasks: tuple[str, ...]
    objects: tuple[str, ...]
    dim: int = 96
    depth: int = 3
    heads: int = 4


class SuccessClassifier(nn.Module):
    """Latents of one frame and a goal to (logit of success, distance in metres)."""

    def __init__(self, config: SuccessClassifierConfig) -> None:
        super().__init__()
        self.config = config
        cells = config.grid[0] * config.grid[1]
        self.embed = nn.Linear(config.channels, config.dim)
        self.position = nn.Parameter(torch.randn(cells, config.dim) * 0.02)
        self.task = nn.Embedding(len(config.tasks), config.dim)
        # one table per slot; the last row means "no object in this slot"
        self.slots = nn.ModuleList(
            nn.Embedding(len(config.objects) + 1, config.dim) for _ in range(2)
        )
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, 2 * config.dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.dim)
        self.answer = nn.Linear(config.dim, 2)

    def goal_numbers(self, goals: Sequence[Goal]) -> Tensor:
        """Task, first and second object of each goal as numbers, (B, 3) int64.

        Raises:
            InstructionError: if a goal's words are not in the vocabulary.
        """
        config, rows = self.config, []
        for goal in goals:
            unknown = [word for word in goal.objects if word not in config.objects]
            if goal.task not in config.tasks or unknown or len(goal.objects) > 2:
                raise InstructionError(
                    f"goal {goal} is unknown to the success classifier; expected a task of "
                    f"{list(config.tasks)} and at most two of {list(config.objects)}"
                )
            slots = [config.objects.index(word) for word in goal.objects]
            slots += [len(config.objects)] * (2 - len(slots))
            rows.append([config.tasks.index(goal.task), *slots])
        return torch.tensor(rows, dtype=torch.int64)

    def forward(self, latents: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Judge frames.

        Args:
            latents: normalised, (B, h, w, D).
            goals: (B, 3) int64 of `goal_numbers`.

        Returns:
            Logit of success (B,) and distance in metres (B,).
        """
        cells = self.embed(latents.flatten(1, 2)) + self.position
        goal = self.task(goals[:, 0]) + self.slots[0](goals[:, 1]) + self.slots[1](goals[:, 2])
        tokens = self.blocks(torch.cat([goal[:, None], cells + goal[:, None]], dim=1))
        logit, distance = self.answer(self.norm(tokens[:, 0])).unbind(-1)
        return logit, distance * 0.1


class RewardModel:
    """A trained success classifier with its thresholds.

    Args:
        network: the classifier.
        thresholds: probability above which a frame counts as success, by task.
    """

    def __init__(self, network: SuccessClassifier, thresholds: dict[str, float]) -> None:
        self.network = network.eval()
        self.thresholds = thresholds

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> RewardModel:
        """Load the reward model beside a card.

        Raises:
            CheckpointError: if the card has none or its weights do not fit.
        """
        reward = checkpoint.spec.reward
        if reward is None:
            raise CheckpointError(
                f"{checkpoint.folder / 'card.json'} has no reward model; make the environment with "
                "reward='none', or train one with `wm-gym train reward`"
            )
        options = dict(reward.network)
        for name in ("grid", "tasks", "objects"):
            options[name] = tuple(options[name])
        network = SuccessClassifier(SuccessClassifierConfig(**options))
        weights = checkpoint.load(reward.weights)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.folder / reward.weights} does not fit its card: {error}"
            ) from error
        return cls(network.to(device), dict(reward.threshold))

    @torch.inference_mode()
    def _judge(self, latents: Tensor, goals: Sequence[Goal]) -> tuple[Tensor, Tensor]:
        numbers = self.network.goal_numbers(goals).to(latents.device)
        return self.network(latents.float(), numbers)

    def probability(self, latents: Tensor, goals: Sequence[Goal]) -> Tensor:
        """Probability of success (B,) of normalised latents (B, h, w, D)."""
        return self._judge(latents, goals)[0].sigmoid()

    def distance(self, latents: Tensor, goals: Sequence[Goal]) -> Tensor:
        """Distance to the goal in metres (B,) of normalised latents (B, h, w, D)."""
        return self._judge(latents, goals)[1].clamp_min(0.0)

    def network_options(self) -> dict:
        """Constructor arguments for the card."""
        return asdict(self.network.config)
