"""Gymnasium registration of every wm_gym id. Imports nothing heavy: entry points are strings."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium


@dataclass(frozen=True)
class ModelId:
    """What an id of a world model says.

    Attributes:
        env_id: the id.
        twin: id of the simulator of the same domain.
        space: name of the latent space, as the id spells it; "SWM" of a semantic model.
        embedded: folder under assets/ that `checkpoint="embedded"` means; None if it has none.
        kind: `latent` or `semantic`.
    """

    env_id: str
    twin: str
    space: str
    embedded: str | None = None
    kind: str = "latent"


MODEL_IDS: dict[str, ModelId] = {
    row.env_id: row
    for row in (
        ModelId("WM-Bridge-VJEPA-v0", "BridgeSim-v0", "VJEPA", "bridge-vjepa-mini"),
        ModelId("WM-Bridge-WebDINO-v0", "BridgeSim-v0", "WebDINO"),
        ModelId("WM-Bridge-SigLIP2-v0", "BridgeSim-v0", "SigLIP2"),
        ModelId("WM-Bridge-VJEPA96-v0", "BridgeSim-v0", "VJEPA96", "bridge-vjepa96-mini"),
        ModelId("WM-Bridge-WebDINO96-v0", "BridgeSim-v0", "WebDINO96"),
        ModelId("WM-Bridge-SigLIP296-v0", "BridgeSim-v0", "SigLIP296"),
        ModelId("WM-Bridge-VAE-v0", "BridgeSim-v0", "VAE", "bridge-vae-mini"),
        ModelId("WM-Bridge-VAVAE-v0", "BridgeSim-v0", "VAVAE"),
        ModelId("WM-Bridge-Cosmos-v0", "BridgeSim-v0", "Cosmos"),
        ModelId("WM-LangTable-VAE-v0", "LangTable-v0", "VAE", "langtable-vae-mini"),
        ModelId("WM-LangTable-SWM-v0", "LangTable-v0", "SWM", "langtable-swm", "semantic"),
        ModelId("WM-Cube-SWM-v0", "Cube-v0", "SWM", "cube-swm", "semantic"),
    )
}
"""Every id of a world model; what else is said about an id is read off its row."""

EMBEDDED_MODELS: dict[str, str | None] = {
    row.env_id: row.embedded for row in MODEL_IDS.values() if row.kind == "latent"
}
"""Latent world models: id -> folder under assets/, None if no checkpoint ships."""

SEMANTIC_MODELS: dict[str, str] = {
    row.env_id: row.embedded
    for row in MODEL_IDS.values()
    if row.kind == "semantic" and row.embedded is not None
}
"""Semantic world models: id -> folder under assets/."""

SIMULATORS: dict[str, str] = {
    "LangTable-v0": "wm_gym.envs.sims.langtable:LangTableEnv",
    "BridgeSim-v0": "wm_gym.envs.sims.bridge:BridgeSimEnv",
    "Cube-v0": "wm_gym.envs.sims.cube:CubeEnv",
}
"""Simulator id -> entry point."""


def register_environments() -> None:
    """Register the ids; calling it twice changes nothing.

    Gymnasium's passive checker is off: after a first `reset` that raised it never recovers, and
    every `step` is a TypeError about `None`. The tests run `check_env` on the ids instead.
    """
    for env_id in EMBEDDED_MODELS:
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="wm_gym.envs.imagined:WorldModelEnv",
                vector_entry_point="wm_gym.envs.imagined_vector:WorldModelVectorEnv",
                kwargs={"env_id": env_id},
                disable_env_checker=True,
            )
    for env_id in SEMANTIC_MODELS:
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="wm_gym.envs.semantic:SemanticEnv",
                vector_entry_point="wm_gym.envs.semantic:SemanticVectorEnv",
                kwargs={"env_id": env_id},
                disable_env_checker=True,
            )
    for env_id, entry_point in SIMULATORS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point, disable_env_checker=True)
