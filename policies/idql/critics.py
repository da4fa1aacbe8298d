"""Implicit Q-learning (arXiv:2110.06169) on chunks of actions: critics and their losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Choice = Literal["softmax", "expectile", "greedy"]
CHOICES: tuple[Choice, ...] = ("softmax", "expectile", "greedy")


@dataclass(frozen=True)
class CriticsConfig:
    """Sizes of `Critics`.

    Attributes:
        features: F, of what a frame and a goal are turned into.
        actions: all numbers of a chunk.
        hidden: width of the layers.
        layers: hidden layers.
        ensemble: number of Q functions.
    """

    features: int
    actions: int
    hidden: int = 256
    layers: int = 3
    ensemble: int = 2


def _perceptron(inside: int, hidden: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inside, hidden), nn.ReLU()]
        inside = hidden
    return nn.Sequential(*parts, nn.Linear(inside, 1))


class QFunctions(nn.Module):
    """An ensemble of Q functions.

    Args:
        config: sizes.
    """

    def __init__(self, config: CriticsConfig) -> None:
        super().__init__()
        inside = config.features + config.actions
        self.members = nn.ModuleList(
            [_perceptron(inside, config.hidden, config.layers) for _ in range(config.ensemble)]
        )

    def forward(self, features: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """Values of chunks, (ensemble, B), from features (B, F) and normalised chunks (B, n A)."""
        known = torch.cat([features, chunks], dim=1)
        return torch.stack([member(known)[:, 0] for member in self.members])


class Critics(nn.Module):
    """Q functions of chunks and the V function that stands for the best of them.

    Args:
        config: sizes.
    """

    def __init__(self, config: CriticsConfig) -> None:
        super().__init__()
        self.config = config
        self.q = QFunctions(config)
        self.v = _perceptron(config.features, config.hidden, config.layers)

    def value(self, features: torch.Tensor) -> torch.Tensor:
        """V, (B,), of features (B, F)."""
        return self.v(features)[:, 0]

    def forward(
        self, features: torch.Tensor, chunks: torch.Tensor, after: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a training step needs: Q (ensemble, B), V (B,), and V after the chunk (B,)."""
        return self.q(features, chunks), self.value(features), self.value(after)


def expectile_loss(difference: torch.Tensor, expectile: float) -> torch.Tensor:
    """The mean of |τ − 1(u < 0)| u² (arXiv:2110.06169, eq. 5).

    Args:
        difference: u, what V falls short of.
        expectile: τ; 0.5 is half the squared error, close to 1 only shortfalls count.
    """
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return (weight * difference.square()).mean()


def iql_losses(
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    target_q: torch.Tensor,
    reward: torch.Tensor,
    discount: torch.Tensor,
    expectile: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of V (eq. 5 of arXiv:2110.06169) and of Q (eq. 6).

    Args:
        found: what `Critics` returned.
        target_q: Q functions of the target network at the same chunks, (ensemble, B).
        reward: discounted sum over the chunk, (B,).
        discount: γ to the power of the chunk's steps, 0 where the episode ended in it, (B,).
        expectile: τ.

    Returns:
        Loss of V, loss of Q.
    """
    q, v, after = found
    v_loss = expectile_loss(target_q.min(dim=0).values.detach() - v, expectile)
    target = (reward + discount * after).detach()
    return v_loss, (q - target).square().mean()


def choice_weights(
    q: torch.Tensor, v: torch.Tensor, choice: Choice, *, temperature: float, expectile: float
) -> torch.Tensor:
    """How likely each of N sampled chunks is carried out, (B, N), rows summing to 1.

    `softmax` weighs by exp(Q / temperature), `expectile` by the implicit policy's
    |τ − 1(Q < V)| (arXiv:2304.10573, sec. 4.2), `greedy` takes the best.

    Args:
        q: values of the samples, (B, N).
        v: value of the state, (B,).
        choice: one of the three.
        temperature: of `softmax`.
        expectile: τ of the critics, for `expectile`.
    """
    if choice == "softmax":
        return (q / temperature).softmax(dim=1)
    if choice == "expectile":
        weight = torch.where(q < v[:, None], 1 - expectile, expectile)
        return weight / weight.sum(dim=1, keepdim=True)
    return nn.functional.one_hot(q.argmax(dim=1), q.shape[1]).to(q.dtype)
