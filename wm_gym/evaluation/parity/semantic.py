"""Reference cases of the semantic world model's network: logits, loss, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_gym.errors import UserError
from wm_gym.evaluation.parity.latents import ParityCase, ParityResult, compare, read_case
from wm_gym.semantic.attention import Asked
from wm_gym.semantic.model import (
    SemanticNetwork,
    SemanticNetworkConfig,
    load_published,
    question_part,
)

_CLASS = "PaliGemmaWMForConditionalGeneration"


def run_semantic_parity(path: Path) -> ParityResult | None:
    """Run one reference file; None if it is about something else.

    Raises:
        ValueError: if the case lacks weights and its metadata names no file that has them.
    """
    if path.suffix != ".safetensors":
        return None
    case = read_case(path)
    if case.config.get("class") != _CLASS:
        return None
    network = load_network(case, path.parent)
    expected = dict(case.outputs)
    if "labels" in case.inputs:
        found = _loss(network, case)
    else:
        found = _scores(network, case)
        if "all_logits_row_last" in expected:  # what stands on pads means nothing
            there = case.inputs["attention_mask"][-1].bool()
            expected["all_logits_row_last"] = expected["all_logits_row_last"][there]
    return compare(case.name, found, expected)


def network_config(config: dict[str, Any]) -> SemanticNetworkConfig:
    """Our sizes from the official configurations in a case's metadata."""
    vision, text = config["vision_config"], config["text_config"]
    return SemanticNetworkConfig(
        vocabulary=text["vocab_size"],
        action_width=config["wm_config"]["action_input_dim"],
        image_size=vision["image_size"],
        patch=vision["patch_size"],
        vision_width=vision["hidden_size"],
        vision_depth=vision["num_hidden_layers"],
        vision_heads=vision["num_attention_heads"],
        vision_mlp=vision["intermediate_size"],
        width=text["hidden_size"],
        depth=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        key_value_heads=text["num_key_value_heads"],
        head_width=text["head_dim"],
        mlp=text["intermediate_size"],
        rope_theta=text["rope_theta"],
    )


def load_network(case: ParityCase, folder: Path) -> SemanticNetwork:
    """The case's network with its weights, from this case or the one its metadata names."""
    weights = case.weights
    if not weights:
        named = str(case.config.get("weights", "")).removeprefix("same as ").split(" ")[0]
        if not named.endswith(".safetensors"):
            raise UserError(f"{case.name} holds no weights and names no case that does")
        weights = read_case(folder / named).weights
    network = SemanticNetwork(network_config(case.config), "full").eval()
    load_published(network, weights)
    return network.requires_grad_(False)


def _questions(case: ParityCase, suffix: int) -> Asked:
    """Questions without image, action and pad tokens, and without what nobody reads.

    Args:
        case: the reference case.
        suffix: 0 for a question alone; 1 with its answer; 2 with the end token, too.
    """
    ids, special = case.inputs["input_ids"], case.config["token_ids"]
    cut = 2 - suffix if "labels" in case.inputs else 0
    rows = []
    for row, mask in zip(ids, case.inputs["attention_mask"].bool(), strict=True):
        kept = row[mask & (row != special["image"]) & (row != special["action"])]
        rows.append(kept[: len(kept) - cut])
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    counts = (ids == special["action"]).sum(1)
    return Asked(tokens[:, None], lengths[:, None], counts[:, None], suffix)


def _actions(case: ParityCase, network: SemanticNetwork) -> Tensor:
    rows = len(case.inputs["input_ids"])
    empty = torch.zeros(rows, 0, network.config.action_width)
    values = case.inputs.get("action_values", empty).clone()
    return values.masked_fill_(~torch.isfinite(values), 0.0)


def _scores(network: SemanticNetwork, case: ParityCase) -> dict[str, Tensor]:
    asked = _questions(case, suffix=0)
    special = case.config["token_ids"]
    actions = _actions(case, network).requires_grad_()
    image = network.pixel_features(case.inputs["pixel_values"])
    logits = network.answer_logits(network.read(image, actions, asked), asked)[:, 0]
    probabilities = logits.softmax(-1)
    yes, no = probabilities[:, special["yes"]], probabilities[:, special["no"]]
    found = {"last_logits": logits.detach(), "p_yes": yes.detach(), "p_no": no.detach()}
    if "grad_p_yes" in case.outputs:
        for name, value in (("grad_p_yes", yes), ("grad_p_no", no)):
            found[name] = torch.autograd.grad(value.sum(), actions, retain_graph=True)[0]
    if "all_logits_row_last" in case.outputs:
        found["all_logits_row_last"] = _last_row(network, case, image, asked)
    return found


def _last_row(network: SemanticNetwork, case: ParityCase, image: Tensor, asked: Asked) -> Tensor:
    """Logits of every token of the last row, (L, vocabulary)."""
    length, count = int(asked.lengths[-1, 0]), int(asked.after[-1, 0])
    row = Asked(asked.tokens[-1:, :, :length], asked.lengths[-1:], asked.after[-1:])
    actions = _actions(case, network)[-1:, :count]
    with torch.no_grad():
        return network.logits(network.read(image[-1:], actions, row))[0]


def _loss(network: SemanticNetwork, case: ParityCase) -> dict[str, Tensor]:
    asked, actions = _questions(case, suffix=1), _actions(case, network)
    answers = asked.tokens.gather(2, (asked.lengths - 1)[..., None])[..., 0]
    image = network.pixel_features(case.inputs["pixel_values"])
    with torch.no_grad():
        hidden = network.read(image, actions, asked)
        found = {"loss": network.loss(hidden, asked, answers, case.config["token_ids"]["eos"])}
        if "logits_suffix_region" in case.outputs:
            whole = _questions(case, suffix=2)
            questions = question_part(network.read(image, actions, whole), whole)[:, 0]
            last = case.outputs["logits_suffix_region"].shape[1]
            lengths = whole.lengths[:, 0].tolist()
            found["logits_suffix_region"] = torch.stack(
                [
                    network.logits(row[n - last : n])
                    for row, n in zip(questions, lengths, strict=True)
                ]
            )
    return found
