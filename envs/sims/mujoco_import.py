"""The one place where MuJoCo is imported: what has to be settled before the first GL context."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
from types import ModuleType

from wm_gym.errors import RenderError

INSTALL_GL = "`apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` (Debian, Ubuntu)"


def import_mujoco() -> ModuleType:
    """Imports MuJoCo, with EGL as the renderer on Linux unless `MUJOCO_GL` says otherwise.

    Where the EGL library is not installed, the import itself would fail with `MUJOCO_GL=egl`. There
    MuJoCo keeps its own choice, GLFW, if there is a display; if there is none it renders nothing
    (GLFW would abort the interpreter at the second try), so that everything but pictures works.

    Triton, where it is installed (torch's CUDA builds bring it, and import it with the first
    optimizer), is imported before: it and Mesa's software renderer each bring an LLVM of their own,
    and whoever loads Triton after the first picture crashes the interpreter.

    Raises:
        RuntimeError: if `MUJOCO_GL` was set to a renderer whose library is not installed.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(ImportError):  # not there, or broken: nobody will load it later
            importlib.import_module("triton")
        if egl_is_installed():
            os.environ.setdefault("MUJOCO_GL", "egl")
        elif not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
            os.environ.setdefault("MUJOCO_GL", "disable")
    try:
        import mujoco
    except AttributeError as error:  # what PyOpenGL raises when the library is not there
        raise RenderError(
            f"MuJoCo cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}, because "
            f"that OpenGL platform is not installed ({error}); install one with {INSTALL_GL}, or "
            "unset MUJOCO_GL and do without pictures."
        ) from error

    return mujoco


def egl_is_installed() -> bool:
    """Whether the library that MuJoCo's EGL renderer needs can be loaded."""
    for name in ("libEGL.so.1", "libEGL.so"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False
