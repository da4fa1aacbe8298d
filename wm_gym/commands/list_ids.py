"""`wm-gym list`: every environment id and what stands behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_gym.checkpoints import Checkpoint, assets_folder
from wm_gym.envs.registration import EMBEDDED_MODELS, SEMANTIC_MODELS, SIMULATORS


@dataclass(frozen=True)
class ListConfig:
    """List the environment ids."""

    json: Path | None = None
    """Also write the list to this file."""


def describe_ids() -> list[dict[str, Any]]:
    """One entry per id: `id`, `kind`, `checkpoint` and `about`."""
    entries = []
    for env_id, folder in EMBEDDED_MODELS.items():
        path = assets_folder() / folder if folder else None
        shipped = path is not None and (path / "card.json").exists()
        spec = Checkpoint.open(path).spec if path is not None and shipped else None
        entries.append(
            {
                "id": env_id,
                "kind": "world model",
                "checkpoint": "embedded" if shipped else None,
                "about": spec.description if spec else "needs checkpoint=…; see `wm-gym info`",
            }
        )
    for env_id, folder in SEMANTIC_MODELS.items():
        path = assets_folder() / folder if folder else None
        shipped = path is not None and (path / "card.json").exists()
        about = "answers questions; needs checkpoint=…, made by `wm-gym train semantic`"
        if path is not None and shipped:
            about = Checkpoint.open_semantic(path).spec.description
        source = "embedded" if shipped else None
        entries.append({"id": env_id, "kind": "world model", "checkpoint": source, "about": about})
    for env_id in SIMULATORS:
        about = "MuJoCo: the ground truth"
        entries.append({"id": env_id, "kind": "simulator", "checkpoint": None, "about": about})
    return entries


def list_ids(config: ListConfig) -> list[dict[str, Any]]:
    """Run `wm-gym list`.

    Returns:
        What it printed.
    """
    entries = describe_ids()
    width = max(len(entry["id"]) for entry in entries)
    for entry in entries:
        source = entry["checkpoint"] or "-"
        print(f"{entry['id']:{width}}  {entry['kind']:11}  {source:8}  {entry['about']}")
    if config.json is not None:
        from wm_gym.evaluation.report import write_json

        write_json(config.json, {"ids": entries})
    return entries
