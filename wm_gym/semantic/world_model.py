"""A semantic world model: card, network and tokenizer; how likely an answer is after actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wm_gym.checkpoints import (
    Checkpoint,
    CheckpointError,
    assets_folder,
    resolve_checkpoint,
    save_checkpoint,
    save_data_file,
)
from wm_gym.errors import UserError
from wm_gym.plain_torch import plain_torch
from wm_gym.semantic.attention import Asked
from wm_gym.semantic.model import (
    KeysAndValues,
    SemanticNetwork,
    SemanticNetworkConfig,
    load_published,
    to_published,
)
from wm_gym.semantic.tokens import QuestionTokenizer
from wm_gym.spec import CardError

if TYPE_CHECKING:
    from wm_gym.semantic_card import SemanticSpec

SEQUENCES_AT_ONCE = 64
"""Under full attention every question is a sequence; this many are computed together."""


class SemanticWorldModel:
    """Answers questions about the future of a frame under actions.

    Example:
        >>> model = load_semantic_model("folder")                           # doctest: +SKIP
        >>> asked = model.ask([("Did the red moon move?", 16)])             # doctest: +SKIP
        >>> model.look(frames).probabilities(actions, asked)[..., 0]  # yes # doctest: +SKIP

    Args:
        spec: the card.
        network: the network.
        tokenizer: words to tokens.
        folder: checkpoint folder, or None.
    """

    def __init__(
        self,
        spec: SemanticSpec,
        network: SemanticNetwork,
        tokenizer: QuestionTokenizer,
        folder: Path | None = None,
    ) -> None:
        self.spec = spec
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.folder = folder

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.embeddings.device

    def ask(self, *rows: list[tuple[str, int]]) -> Asked:
        """Questions as tokens; one list serves all rows, otherwise there is one list a row.

        Args:
            rows: questions, each with the number of actions that it comes after.

        Raises:
            QuestionError: for words that the model never saw, or no question at all.
            ValueError: for more actions than the model was trained with, or no whole number.
        """
        for _, number in (question for row in rows for question in row):
            if number != int(number) or not 0 <= number <= self.spec.horizon:
                raise UserError(
                    f"a question comes after {number} actions; {self.spec.name} was trained with 0 "
                    f"to {self.spec.horizon}"
                )
        return self.tokenizer.asked(rows)

    @plain_torch()
    @torch.no_grad()
    def look(self, frames: Tensor | np.ndarray) -> View:
        """Read frames once, for any number of questions and action sequences.

        Args:
            frames: uint8 (B, H, W, 3), of any size; a tensor or an array.

        Raises:
            ValueError: if they are of another type or shape.
        """
        frames = torch.as_tensor(frames)
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3:
            raise UserError(
                f"frames have shape {tuple(frames.shape)} and dtype {frames.dtype}, expected "
                "uint8 (B, H, W, 3)"
            )
        features = self.network.image_features(frames.to(self.device))
        shared = None
        if self.network.prefix_attention == "block_causal":
            shared = self.network.look(features)
        return View(self, features, shared)


LARGEST_ACTION = 1e6
"""Physical units. Far outside of every card; larger numbers overflow inside the network."""


class View:
    """Frames that were read, ready for questions.

    Args:
        model: the world model.
        features: image tokens, (B, N, D).
        shared: keys and values of the image tokens, or None under full attention.
    """

    def __init__(
        self, model: SemanticWorldModel, features: Tensor, shared: KeysAndValues | None
    ) -> None:
        self.model = model
        self._features = features
        self._shared = shared

    def __len__(self) -> int:
        """Number of frames B."""
        return len(self._features)

    @plain_torch()
    def probabilities(self, actions: Tensor, asked: Asked, rows: Tensor | None = None) -> Tensor:
        """How likely "yes" and "no" are, over the whole vocabulary and not renormalised.

        Differentiable in the actions.

        Args:
            actions: physical units, (R, n, A); n may be 0.
            asked: from `SemanticWorldModel.ask`, one row for all R or one each.
            rows: which frame each row looks at, (R,); by default row r looks at frame r, or all at
                the only one.

        Returns:
            (R, M, 2); places without a question mean nothing.

        Raises:
            ValueError: if shapes do not fit, an action is not finite, or a question comes after
                more actions than there are.
        """
        model = self.model
        count = len(actions)
        self._check(actions, asked, rows)
        if rows is None and len(self) == 1:
            rows = torch.zeros(count, dtype=torch.long)
        device = model.device
        asked = asked.to(device).expand(count)
        scaled = model.spec.action.normalise(actions.to(device))
        if self._shared is not None:
            image = self._shared if rows is None else self._shared.rows(rows.to(device))
            logits = model.network.answer_logits(
                model.network.read_after(image, scaled, asked), asked
            )
        else:
            features = self._features if rows is None else self._features[rows.to(device)]
            logits = self._one_by_one(features, scaled, asked)
        answers = [model.tokenizer.answers[answer] for answer in ("yes", "no")]
        return logits.float().softmax(-1)[..., answers]

    def _one_by_one(self, features: Tensor, actions: Tensor, asked: Asked) -> Tensor:
        """Logits (R, M, vocabulary) with every question in a sequence of its own."""
        network, places = self.model.network, asked.tokens.shape[1]
        alone = asked.one_a_row()
        found = []
        for start in range(0, len(alone.tokens), SEQUENCES_AT_ONCE):
            some = alone.rows(slice(start, start + SEQUENCES_AT_ONCE))
            at = torch.arange(start, start + len(some.tokens), device=features.device) // places
            hidden = network.read(features[at], actions[at], some)
            found.append(network.answer_logits(hidden, some)[:, 0])
        return torch.cat(found).unflatten(0, (len(actions), places))

    def _check(self, actions: Tensor, asked: Asked, rows: Tensor | None) -> None:
        size = self.model.spec.action.size
        if actions.dim() != 3 or actions.shape[-1] != size:
            raise UserError(
                f"actions have shape {tuple(actions.shape)}, expected (R, n, {size}) with "
                f"{list(self.model.spec.action.names)}"
            )
        if not torch.isfinite(actions).all():
            raise UserError("actions hold NaN or infinite values; check the policy or planner")
        largest = float(actions.detach().abs().max()) if actions.numel() else 0.0
        if largest > LARGEST_ACTION:
            raise UserError(
                f"an action of {largest:.3g} is out of any range; the card's is "
                f"{self.model.spec.action.low} to {self.model.spec.action.high}"
            )
        if rows is not None and not ((rows >= 0) & (rows < len(self))).all():
            raise UserError(
                f"rows={rows.tolist()} must be 0 to {len(self) - 1}, the frames of this view"
            )
        if int(asked.after.max()) > actions.shape[1]:
            raise UserError(
                f"a question comes after {int(asked.after.max())} actions, and there are "
                f"{actions.shape[1]}"
            )
        if len(asked.tokens) not in (1, len(actions)):
            raise UserError(
                f"there are {len(asked.tokens)} rows of questions for {len(actions)} rows of "
                "actions; ask one row for all or one each"
            )
        if rows is None and len(self) not in (1, len(actions)):
            raise UserError(
                f"{len(actions)} rows of actions for {len(self)} frames: say with rows= which "
                "frame each row looks at"
            )


def embedded_semantic_models() -> dict[str, str]:
    """Folders under assets/ of the semantic world models that ship, by simulator."""
    found = {}
    for card in sorted(assets_folder().glob("*/card.json")):
        content = json.loads(card.read_text(encoding="utf-8"))
        if content.get("kind") == "semantic" and content["twin"] is not None:
            found[content["twin"]] = card.parent.name
    return found


@plain_torch(fork_generators=True)
def load_semantic_model(
    checkpoint: str | Path,
    *,
    embedded: str | None = None,
    env_id: str = "this model",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SemanticWorldModel:
    """Load a semantic world model from a checkpoint folder.

    Args:
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        embedded: folder name under assets/ that "embedded" means.
        env_id: named in errors.
        device: torch device.
        dtype: floating-point type of the weights.

    Raises:
        CheckpointError: if the checkpoint cannot be found, is damaged or does not fit its card.
        CardError: if its card is wrong, or that of another kind of model.
    """
    if str(checkpoint) == "embedded" and embedded is None:
        shipped = ", ".join(f"{n!r} of {twin}" for twin, n in embedded_semantic_models().items())
        raise CheckpointError(
            f"checkpoint 'embedded' does not say which model: with embedded= name one of {shipped}"
            f"; on a command line give its folder, {assets_folder()}/NAME"
        )
    folder = resolve_checkpoint(str(checkpoint), embedded, env_id, "semantic")
    opened = Checkpoint.open_semantic(folder)
    spec = opened.spec
    try:
        tokenizer = QuestionTokenizer.from_json(opened.read(spec.tokenizer).decode())
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{folder / spec.tokenizer} is no JSON ({error}); get the checkpoint again"
        ) from error
    try:
        sizes = SemanticNetworkConfig(**spec.network)
        network = SemanticNetwork(sizes, spec.prefix_attention)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CardError(
            f"{folder / 'card.json'}: no network has these sizes ({error}); get the checkpoint "
            "again or correct the card"
        ) from error
    if spec.action.width != sizes.action_width:
        raise CardError(
            f"{folder / 'card.json'}: action.width {spec.action.width} and network.action_width "
            f"{sizes.action_width} differ; get the checkpoint again or correct the card"
        )
    try:
        absent = load_published(network, opened.load(spec.weights))
    except RuntimeError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder / spec.weights} does not fit the network of its card: {error}"
        ) from error
    if absent:
        raise CheckpointError(
            f"{folder / spec.weights} has no action projection, so it knows no actions; train one "
            "with `wm-gym train semantic --init`"
        )
    return SemanticWorldModel(spec, network.to(device, dtype), tokenizer, folder)


def save_semantic_model(
    folder: Path,
    spec: SemanticSpec,
    network: SemanticNetwork,
    tokenizer: QuestionTokenizer,
    *,
    dtype: torch.dtype | None = None,
) -> SemanticSpec:
    """Write card, weights under their published names, and tokenizer.

    Args:
        folder: checkpoint folder, made if needed.
        spec: the card; its hashes are filled in.
        network: the network.
        tokenizer: its tokenizer.
        dtype: floating-point type to store; None keeps each tensor's own.

    Returns:
        The card as written.
    """
    weights = {spec.weights: to_published(network.state_dict())}
    save_checkpoint(folder, spec, weights, dtype=dtype)
    save_data_file(folder, spec.tokenizer, tokenizer.to_json().encode())
    return Checkpoint.open_semantic(folder).spec
