"""An auxiliary loss that teaches image tokens to say what they show, and where its middle is.

PaliGemma has been pretrained to name and locate objects (arXiv:2407.07726); a small network that
starts from random weights has only yes and no to learn to see from. Where a thing
covers an image token, this loss asks the token for the thing's words, by the same embeddings that
questions are read with, and for the place of its middle. The head that reads them is not stored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_gym.semantic.model import SemanticNetworkConfig
from wm_gym.semantic.tokens import QuestionTokenizer

REACH = 0.9
"""A thing covers the image tokens whose middles are nearer than this many patches on both axes."""


class SeeingLoss(nn.Module):
    """Cross-entropy of a thing's first and last word, plus the error of its middle in patches.

    Args:
        config: sizes of the network.
        tokenizer: words to tokens.
    """

    def __init__(self, config: SemanticNetworkConfig, tokenizer: QuestionTokenizer) -> None:
        super().__init__()
        self.side = config.image_size // config.patch
        self.scale = config.width**0.5
        self.tokenizer = tokenizer
        self.norm = nn.LayerNorm(config.width)
        self.words = nn.Linear(config.width, 2 * config.width)
        self.middle = nn.Linear(config.width, 2)

    def forward(
        self, image: Tensor, embeddings: Tensor, places: Tensor, things: list[tuple[str, ...]]
    ) -> Tensor:
        """The mean loss.

        Args:
            image: image tokens, (R, N, D), row by row from the top left.
            embeddings: of all words, (V, D).
            places: of K things in each frame, (R, K, 2) as in `QABatch.places`.
            things: their names; a row may have fewer than K.
        """
        owner, middle = covering(places, self.side)
        names = self._names(things, places.shape[1]).to(image.device)  # (R, K + 1, 2)
        wanted = names.gather(1, owner[..., None].expand(-1, -1, 2))  # (R, N, 2)
        image = self.norm(image)
        # √D as Gemma multiplies what it reads: without it logits take hundreds of steps to grow
        said = F.linear(self.words(image).unflatten(-1, (2, -1)), embeddings) * self.scale
        errors = F.cross_entropy(said.flatten(0, 2).float(), wanted.flatten(), reduction="none")
        errors = errors.unflatten(0, wanted.shape).mean(-1)  # (R, N)
        covered = owner < places.shape[1]
        # few tokens show a thing: they count as much as all that show nothing
        parts = [errors[part].mean() for part in (covered, ~covered) if part.any()]
        named = torch.stack(parts).sum() / 2
        if not covered.any():
            return named
        found = self.middle(image)[covered].float() + self.side / 2
        return named + F.smooth_l1_loss(found, middle[covered])

    def _names(self, things: list[tuple[str, ...]], most: int) -> Tensor:
        """First and last word of each row's things, then the token that stands for nothing."""
        names = torch.full((len(things), most + 1, 2), self.tokenizer.end)
        for r, row in enumerate(things):
            for k, name in enumerate(row[:most]):
                words = self.tokenizer.encode(name)[1:-1]
                names[r, k] = torch.tensor([words[0], words[-1]])
        return names


def covering(places: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Which thing covers each image token, and where its middle is.

    Args:
        places: (R, K, 2) as in `QABatch.places`.
        side: tokens along a side of the picture; N is its square.

    Returns:
        Number of the nearest thing that covers it, K if none does, (R, N); and that thing's middle
        in patches from the top left, x to the right and y down, (R, N, 2), of no meaning where
        none does.
    """
    things = places.shape[1]
    middles = torch.arange(side, device=places.device) + 0.5
    grid = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1).flatten(0, 1)
    at = (places * places.new_tensor([1.0, -1.0]) + 1) * side / 2  # (R, K, 2) patches
    far = (at[:, None] - grid[:, None]).abs().amax(-1).nan_to_num(nan=torch.inf)  # (R, N, K)
    distance, nearest = far.min(-1)
    owner = torch.where(distance < REACH, nearest, things)
    middle = at.gather(1, nearest[..., None].expand(-1, -1, 2))
    return owner, middle.nan_to_num()
