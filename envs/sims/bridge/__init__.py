"""BridgeSim: a six-axis arm with a gripper moves objects on a table.

The environment class answers to this package's name too, which is the entry point that the specs of
recorded data sets name; it is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import the environment class when it is asked for."""
    if name == "BridgeSimEnv":
        return getattr(import_module("wm_gym.envs.sims.bridge.env"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
