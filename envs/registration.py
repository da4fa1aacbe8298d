"""Gymnasium registration of every wm_gym id. Imports nothing heavy: entry points are strings."""

from __future__ import annotations

import gymnasium

BRIDGE_SPACES = (
    "VJEPA",
    "WebDINO",
    "SigLIP2",
    "VJEPA96",
    "WebDINO96",
    "SigLIP296",
    "VAE",
    "VAVAE",
    "Cosmos",
)

EMBEDDED_MODELS: dict[str, str | None] = {
    **{f"WM-Bridge-{space}-v0": None for space in BRIDGE_SPACES},
    "WM-Bridge-VJEPA-v0": "bridge-vjepa-mini",
    "WM-Bridge-VAE-v0": "bridge-vae-mini",
    "WM-Bridge-VJEPA96-v0": "bridge-vjepa96-mini",
    "WM-LangTable-VAE-v0": "langtable-vae-mini",
}
"""Id -> folder under assets/ that `checkpoint="embedded"` means; None if it has none."""

SEMANTIC_MODELS: dict[str, str] = {
    "WM-LangTable-SWM-v0": "langtable-swm",
    "WM-Cube-SWM-v0": "cube-swm",
}
"""Semantic world models: id -> folder under assets/."""

SEMANTIC_TWINS: dict[str, str] = {
    "WM-LangTable-SWM-v0": "LangTable-v0",
    "WM-Cube-SWM-v0": "Cube-v0",
}
"""Id -> the simulator that such a model is of."""

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
