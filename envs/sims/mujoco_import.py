"""The one place where MuJoCo is imported: what has to be settled before the first GL context."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from types import ModuleType


def import_mujoco() -> ModuleType:
    """Imports MuJoCo, with EGL as the renderer on Linux unless `MUJOCO_GL` says otherwise.

    Triton, where it is installed (torch's CUDA builds bring it, and import it with the first
    optimizer), is imported before: it and Mesa's software renderer each bring an LLVM of their own,
    and whoever loads Triton after the first picture crashes the interpreter.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        with contextlib.suppress(ImportError):  # not there, or broken: nobody will load it later
            importlib.import_module("triton")
    import mujoco

    return mujoco
