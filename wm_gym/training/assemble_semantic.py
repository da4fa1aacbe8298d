"""Recipe: `wm-gym train assemble-semantic`, a trained semantic world model into a small checkpoint.

The checkpoint of `train semantic` keeps every bit, so that another stage can go on from it. This
one is for use: weights in bfloat16 and a card that says what it is. Its `metrics` are filled
afterwards by `wm-gym evaluate semantic` and `calibrate-semantic`; nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wm_gym.checkpoints import Checkpoint
from wm_gym.errors import UserError
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model

STAGE = "wm-gym train semantic"
"""What every stage is trained by."""


@dataclass(frozen=True)
class AssembleSemanticConfig:
    """Make a checkpoint folder from a trained semantic world model."""

    checkpoint: str
    """Checkpoint of `wm-gym train semantic`, e.g. runs/stage_2/checkpoint."""
    name: str
    """Name of the model, e.g. langtable-swm."""
    out: Path
    """Checkpoint folder to write; metrics of a card that is already there are dropped."""
    description: str = ""
    """What it is, in one or two sentences; made from the simulator by default."""
    embedded: bool = True
    """The card says that it is one of the small models that ship."""
    licence: str = "Apache-2.0"
    """SPDX identifier of the weights."""


def assemble_semantic(config: AssembleSemanticConfig) -> Path:
    """Run `wm-gym train assemble-semantic`.

    Returns:
        The checkpoint folder.

    Raises:
        CheckpointError: if the model cannot be loaded.
        ValueError: if it is a control that was trained blind, or lies where it is to be written, or
            a model of another simulator does.
    """
    model = load_semantic_model(config.checkpoint)
    if model.folder is not None and model.folder.resolve() == config.out.resolve():
        raise UserError(
            f"out={config.out} is the checkpoint itself, which would lose bits; choose another "
            "folder"
        )
    refuse_other_simulator(config.out, model.spec.twin)
    stages = list(reversed(trained_stages(model.spec.recipe)))
    blind = model.spec.blind
    if blind != "none":
        raise UserError(
            f"{config.checkpoint} was trained without {blind}, as a control to compare with; "
            "assemble the model that was not"
        )
    recipe = {
        "commands": [
            "wm-gym collect",
            "wm-gym collect-qa",
            *[STAGE] * len(stages),
            "wm-gym train assemble-semantic",
        ],
        "recipes": "benchmarks/recipes",
        "steps": [stage.get("steps") for stage in stages],
        "hours": [stage.get("hours") for stage in stages],
    }
    spec = replace(
        model.spec,
        name=config.name,
        description=config.description or _describe(model.spec.twin),
        embedded=config.embedded,
        licence=config.licence,
        recipe=recipe,
        weights_sha256={},
        data_sha256={},
        metrics={},
    )
    written = save_semantic_model(
        config.out, spec, model.network, model.tokenizer, dtype=torch.bfloat16
    )
    size = sum((config.out / name).stat().st_size for name in written.weights_sha256)
    print(f"{written.name}: {size / 1e6:.2f} MB of weights")
    return config.out


def refuse_other_simulator(folder: Path, twin: str | None) -> None:
    """Raise ValueError if a folder holds another simulator's model: its start states would stay."""
    if not (folder / "card.json").exists():
        return
    other = Checkpoint.open_semantic(folder).spec.twin
    if other != twin:
        raise UserError(
            f"out={folder} holds a model of {other}, whose start states would stay beside one of "
            f"{twin}; choose another folder"
        )


def trained_stages(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The recipes of all stages that a card tells of, the last one first.

    A card that was assembled lists its stages; training that began from such a model goes on there.
    """
    stages, stage = [], recipe
    while stage:
        if "commands" in stage:
            lengths = zip(stage["steps"], stage["hours"], strict=True)
            earlier = [{"steps": n, "hours": h} for n, h in lengths]
            return stages + earlier[::-1]
        stages.append(stage)
        stage = stage.get("init") or {}
    return stages


def _describe(twin: str | None) -> str:
    return (
        f"A small semantic world model of wm_gym's {twin} simulator, trained on two CPU cores by "
        "this repository's recipe: says how likely an answer to a question is after a sequence of "
        "actions. It is not one of the published models."
    )
