"""A trained robotic world model becomes a Gymnasium environment.

`import wm_gym` registers the environment ids and imports no torch; everything heavy is loaded on
first use.
"""

from importlib import import_module
from typing import Any

from wm_gym.forks import compute_on_one_thread_after_forks

__version__ = "0.1.0"

_LAZY = {
    "check_world_model": "wm_gym.envs.check_world_model",
    "load_world_model": "wm_gym.world_model",
    "make_twin": "wm_gym.envs.twin",
}

__all__ = ["__version__", "check_world_model", "load_world_model", "make_twin"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'wm_gym' has no attribute {name!r}")


def _register() -> None:
    from wm_gym.envs.registration import register_environments

    register_environments()


_register()
compute_on_one_thread_after_forks()
