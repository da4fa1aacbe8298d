"""The one place where MuJoCo is imported: the renderer has to be chosen before."""

from __future__ import annotations

import os
import sys
from types import ModuleType


def import_mujoco() -> ModuleType:
    """Imports MuJoCo, with EGL as the renderer on Linux unless `MUJOCO_GL` says otherwise."""
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    import mujoco

    return mujoco
