"""The loss of a semantic world model on a batch of frames with many questions each."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from wm_gym.semantic.attention import Asked
from wm_gym.semantic.model import SemanticNetwork
from wm_gym.semantic.tokens import QuestionTokenizer
from wm_gym.spec import ActionSpec
from wm_gym.training.grounding import GroundingLoss, listening
from wm_gym.training.saqa import QABatch
from wm_gym.training.seeing import SeeingLoss


class SemanticLoss(nn.Module):
    """Cross-entropy of the answers, with the network inside so that processes can share it.

    Under block-causal attention all questions of a frame are one sequence and the loss is that of
    the answers. Under full attention every question is a sequence of its own, and the token that
    ends the answer is trained, too, as published.

    Args:
        network: what is trained.
        tokenizer: words to tokens.
        action: the actions' scaling.
        seeing_weight: weight of `SeeingLoss`; 0 leaves it out.
        grounding_weight: weight of `GroundingLoss`; 0 leaves it out. Block-causal attention only.
    """

    def __init__(
        self,
        network: SemanticNetwork,
        tokenizer: QuestionTokenizer,
        action: ActionSpec,
        seeing_weight: float = 0.0,
        grounding_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.seeing_weight, self.grounding_weight = seeing_weight, grounding_weight
        self.seeing = SeeingLoss(network.config, tokenizer) if seeing_weight else None
        self.grounding = GroundingLoss(network.config, tokenizer) if grounding_weight else None
        self.network = network
        self.tokenizer = tokenizer
        self.action = action

    def forward(self, batch: QABatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss; its parts, and how often "yes" and "no" stand in the right order.

        Args:
            batch: R frames with M questions each.
        """
        network = self.network
        device = network.embeddings.device
        asked = self.tokenizer.asked(batch.questions).to(device)
        yes = torch.from_numpy(batch.yes).to(device)
        answers = self.tokenizer.answer_tokens(yes)
        actions = self.action.normalise(torch.from_numpy(batch.actions).to(device))
        image = network.image_features(torch.from_numpy(batch.frames).to(device))
        seeing = None
        if self.seeing is not None:
            places = torch.from_numpy(batch.places).to(device)
            seeing = self.seeing(image, network.embeddings, places, batch.things)
        end = None
        if network.prefix_attention == "full":
            places = asked.tokens.shape[1]
            asked, end = with_answers(asked, answers).one_a_row(), self.tokenizer.end
            actions = actions.repeat_interleave(places, 0)
            image = image.repeat_interleave(places, 0)
            answers, yes = answers.reshape(-1, 1), yes.reshape(-1, 1)
        grounding = self.grounding
        with nullcontext() if grounding is None else listening(network, grounding) as heard:
            hidden = network.read(image, actions, asked)
        loss = network.loss(hidden, asked, answers, end)
        with torch.no_grad():
            logits = network.answer_logits(hidden, asked)
            ids = self.tokenizer.answers
            said = logits[..., ids["yes"]] > logits[..., ids["no"]]
            logs = {"accuracy": (said == yes).float().mean(), "answer_loss": loss.detach()}
        if seeing is not None:
            loss = loss + self.seeing_weight * seeing
            logs["seeing_loss"] = seeing.detach()
        if grounding is not None:
            paths = torch.from_numpy(batch.paths).to(device)
            grounded, parts = grounding(network, heard, asked, paths, batch.things)
            loss = loss + self.grounding_weight * grounded
            logs.update(parts)
        return loss, logs


def with_answers(asked: Asked, answers: Tensor) -> Asked:
    """The questions followed by their answers, (R, M) token ids, as a suffix of one token."""
    tokens = torch.nn.functional.pad(asked.tokens, (0, 1))
    tokens = tokens.scatter(2, asked.lengths[..., None], answers[..., None])
    there = (asked.lengths > 0).long()
    return replace(asked, tokens=tokens, lengths=asked.lengths + there, suffix=1)
