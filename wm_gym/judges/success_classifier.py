"""The success classifier and distance regressor on latents: the reward of imagined episodes.

A small network reads one frame's latents and a goal (task and objects) and answers with the
probability of success and the task's distance in metres. Trained per task with near misses as
negatives by `wm-gym train reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.checkpoints import Checkpoint, CheckpointError
from wm_gym.errors import UserError
from wm_gym.instructions import Goal, InstructionError
from wm_gym.latents.vae_mini import Block
from wm_gym.plain_torch import plain_torch

POSITION_SCALE_M = 0.1
SPREAD_M = (0.002, 0.3)
"""Smallest and largest standard deviation that a cell may give its belief, in metres."""


@dataclass(frozen=True)
class SuccessClassifierConfig:
    """Sizes and vocabulary of `SuccessClassifier`.

    Attributes:
        grid: latent rows and columns.
        channels: D of the latents.
        tasks: task names, in the order of their embeddings.
        objects: object names, in the order of their embeddings.
        dim: width.
        depth: residual convolutions.
        trunk_dim: width of the transformer that reads the latents first.
        trunk_depth: its blocks.
        trunk_heads: its attention heads.
    """

    grid: tuple[int, int]
    channels: int
    tasks: tuple[str, ...]
    objects: tuple[str, ...]
    dim: int = 96
    depth: int = 2
    trunk_dim: int = 128
    trunk_depth: int = 3
    trunk_heads: int = 4


class LatentTrunk(nn.Module):
    """A transformer over the cells of one frame, in the layout of vae-mini's decoder.

    A latent says what is in a cell as economically as it can; the decoder has already learned to
    read it, so its weights are where training starts.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SuccessClassifierConfig) -> None:
        super().__init__()
        cells = config.grid[0] * config.grid[1]
        self.grid = config.grid
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))
        self.from_latent = nn.Linear(config.channels, config.trunk_dim)
        self.decoder_position = nn.Parameter(torch.randn(cells, config.trunk_dim) * 0.02)
        self.decoder = nn.Sequential(
            *(Block(config.trunk_dim, config.trunk_heads) for _ in range(config.trunk_depth))
        )
        self.norm = nn.LayerNorm(config.trunk_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Features (B, h, w, trunk_dim) of normalised latents (B, h, w, D)."""
        raw = latents * self.std + self.mean  # the decoder reads latents as they were encoded
        tokens = self.from_latent(raw.flatten(1, 2)) + self.decoder_position
        return self.norm(self.decoder(tokens)).unflatten(1, self.grid)


@dataclass(frozen=True)
class Reading:
    """What a frame's cells say about K things, the objects and then the effector.

    Attributes:
        cells: (B, P, dim) features.
        logits: (B, K, P), how likely each cell is the one that knows where a thing is.
        places: (B, K, P, 2) metres, where each cell believes it to be.
        spreads: (B, K, P) metres, how sure it is: one standard deviation.
    """

    cells: Tensor
    logits: Tensor
    places: Tensor
    spreads: Tensor

    def negative_log_likelihood(self, positions: Tensor) -> Tensor:
        """Of positions (B, K, 2) in metres under the mixture of all cells' beliefs: (B, K).

        A mixture, because a cell that cannot tell two objects apart is better described by two
        sharp beliefs than by their mean, where there is nothing.
        """
        scale, spreads = POSITION_SCALE_M, self.spreads / POSITION_SCALE_M
        squared = ((self.places - positions[:, :, None]) / scale).square().sum(-1)
        log_density = -0.5 * squared / spreads.square() - 2.0 * spreads.log()
        return -(self.logits.log_softmax(-1) + log_density).logsumexp(-1)


class SuccessClassifier(nn.Module):
    """Latents of one frame and a goal to (logit of success, distance in metres).

    A transformer and a convolution read the grid; for every object, and for the effector, a softmax
    over cells says where it is and collects what it looks like there; those that the goal names are
    put together. Their places are learned beside (`positions`), because "which block" is what is
    hard to learn from success alone.
    """

    def __init__(self, config: SuccessClassifierConfig) -> None:
        super().__init__()
        self.config = config
        things = len(config.objects) + 1  # the objects, then the effector
        self.trunk = LatentTrunk(config)
        self.embed = nn.Conv2d(config.trunk_dim, config.dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(config.dim, config.dim, 3, padding=1) for _ in range(config.depth)
        )
        self.score = nn.Linear(config.dim, things)
        self.value = nn.Linear(config.dim, config.dim)
        # where each cell lies on the table, an offset from there, and how sure the cell is
        self.cell_places = nn.Parameter(torch.zeros(config.grid[0] * config.grid[1], 2))
        self.offset = nn.Linear(config.dim, 2 * things)
        self.spread = nn.Linear(config.dim, things)
        nn.init.normal_(self.offset.weight, std=0.02)
        nn.init.constant_(self.spread.bias, -2.5)
        self.task = nn.Embedding(len(config.tasks), config.dim)
        self.nothing = nn.Parameter(torch.zeros(config.dim))
        self.answer = nn.Sequential(
            nn.Linear(4 * config.dim + 6, 2 * config.dim),
            nn.GELU(),
            nn.Linear(2 * config.dim, config.dim),
            nn.GELU(),
            nn.Linear(config.dim, 2),
        )

    def place_cells(self, view: tuple[float, float, float, float]) -> None:
        """Start from cells that tile a rectangle of the table.

        Args:
            view: what the frame shows, in metres: x at its left and right edge, y at its top and
                bottom edge.
        """
        left, right, top, bottom = (edge / POSITION_SCALE_M for edge in view)
        rows, columns = self.config.grid
        y = top + (bottom - top) * (torch.arange(rows) + 0.5) / rows
        x = left + (right - left) * (torch.arange(columns) + 0.5) / columns
        places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
        self.cell_places.data.copy_(places.flatten(0, 1))

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

    def read(self, latents: Tensor) -> Reading:
        """Read normalised latents (B, h, w, D)."""
        cells = F.gelu(self.embed(self.trunk(latents).permute(0, 3, 1, 2)))
        for block in self.blocks:
            cells = cells + F.gelu(block(cells))
        cells = cells.flatten(2).transpose(1, 2)  # (B, P, dim)
        offsets = self.offset(cells).float().unflatten(-1, (-1, 2)).transpose(1, 2)  # (B, K, P, 2)
        spreads = SPREAD_M[0] + (SPREAD_M[1] - SPREAD_M[0]) * self.spread(cells).float().sigmoid()
        return Reading(
            cells,
            self.score(cells).float().transpose(1, 2),
            (self.cell_places + offsets) * POSITION_SCALE_M,
            spreads.transpose(1, 2),
        )

    def things(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """What the queries collect.

        Returns:
            Features (B, K, dim) and positions in metres (B, K, 2) of the K - 1 objects, then the
            effector.
        """
        looks = reading.logits.softmax(-1)
        positions = (looks[..., None] * reading.places).sum(2)
        return looks @ self.value(reading.cells).float(), positions

    def positions(self, latents: Tensor) -> Tensor:
        """Positions in metres (B, K, 2) of the objects and the effector on the table."""
        return self.things(self.read(latents))[1]

    def decide(self, features: Tensor, positions: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Logit (B,) and distance in metres (B,) from `things` and goal numbers (B, 3)."""
        rows = torch.arange(len(goals), device=goals.device)
        none = goals[:, 2:] == len(self.config.objects)  # (B, 1)
        first, second = features[rows, goals[:, 1]], features[rows, goals[:, 2]]
        second = torch.where(none, self.nothing, second)
        # the last query is the effector, which is also where "no second object" points
        places = [positions[rows, goals[:, 1]], positions[rows, goals[:, 2]], positions[:, -1]]
        between = [places[0] - places[1], places[0] - places[2], places[1] - places[2]]
        parts = [self.task(goals[:, 0]), first, second, features[:, -1]]
        offsets = [offset / POSITION_SCALE_M for offset in between]
        logit, distance = self.answer(torch.cat([*parts, *offsets], dim=-1)).unbind(-1)
        return logit, distance * POSITION_SCALE_M

    def forward(self, latents: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Judge frames.

        Args:
            latents: normalised, (B, h, w, D).
            goals: (B, 3) int64 of `goal_numbers`.

        Returns:
            Logit of success (B,) and distance in metres (B,).
        """
        return self.decide(*self.things(self.read(latents)), goals)


@dataclass(frozen=True)
class EpisodeRule:
    """When an episode is a success that is asked about after every step.

    One wrong frame of fifty would make every failure a success, so the probability is averaged over
    the last steps, and the threshold is one for whole episodes.

    Attributes:
        window: steps that are averaged; those before an episode's first count as 0, because
            episodes begin with something to do.
        thresholds: mean probability above which success is seen, by task.
    """

    window: int
    thresholds: dict[str, float]

    def __post_init__(self) -> None:
        """Check the window."""
        if self.window < 1:
            raise UserError(f"window={self.window} must be at least 1 step")

    def smoothed(self, probabilities: np.ndarray) -> np.ndarray:
        """Mean over the window after each of an episode's T steps, (T,) from (T,).

        Example:
            >>> EpisodeRule(2, {}).smoothed(np.array([1.0, 0.5, 0.0])).tolist()
            [0.5, 0.75, 0.25]
        """
        padded = np.concatenate([np.zeros(self.window - 1), probabilities])
        return np.lib.stride_tricks.sliding_window_view(padded, self.window).mean(-1)


class RewardModel:
    """A trained success classifier with its thresholds.

    Args:
        network: the classifier.
        thresholds: probability above which a frame counts as success, by task.
        rule: when an episode does; by default at the first frame that does.
    """

    def __init__(
        self,
        network: SuccessClassifier,
        thresholds: dict[str, float],
        rule: EpisodeRule | None = None,
    ) -> None:
        self.network = network.eval()
        self.thresholds = thresholds
        self.rule = rule or EpisodeRule(1, thresholds)

    @classmethod
    @plain_torch(fork_generators=True)
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
        thresholds = dict(reward.threshold)
        rule = EpisodeRule(reward.window, dict(reward.episode_threshold) or thresholds)
        return cls(network.to(device), thresholds, rule)

    @plain_torch()
    @torch.inference_mode()
    def _judge(self, latents: Tensor, goals: Sequence[Goal]) -> tuple[Tensor, Tensor]:
        numbers = self.network.goal_numbers(goals).to(latents.device)
        return self.network(latents.float(), numbers)

    def judge(self, latents: Tensor, goals: Sequence[Goal]) -> tuple[Tensor, Tensor]:
        """Probability of success and distance in metres, (B,) each, in one pass."""
        logit, metres = self._judge(latents, goals)
        return logit.sigmoid(), metres.clamp_min(0.0)

    def probability(self, latents: Tensor, goals: Sequence[Goal]) -> Tensor:
        """Probability of success (B,) of normalised latents (B, h, w, D)."""
        return self._judge(latents, goals)[0].sigmoid()

    def distance(self, latents: Tensor, goals: Sequence[Goal]) -> Tensor:
        """Distance to the goal in metres (B,) of normalised latents (B, h, w, D)."""
        return self._judge(latents, goals)[1].clamp_min(0.0)

    def network_options(self) -> dict:
        """Constructor arguments for the card."""
        return asdict(self.network.config)
