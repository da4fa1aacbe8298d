"""Frames of a simulated scene: one renderer for every simulator."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from wm_gym.envs.sims.mujoco_import import INSTALL_GL, egl_is_installed, import_mujoco
from wm_gym.errors import RenderError, UserError

_NO_GL = (
    "{name} cannot render because no OpenGL platform answers ({error}); install one with "
    f"{INSTALL_GL} and leave MUJOCO_GL unset or at egl, or do without pictures: "
    '{name}Env(obs="state").'
)
_TOO_EARLY = (
    "{name} cannot render: MuJoCo was imported before MUJOCO_GL was set, so it chose GLFW, which "
    "needs a display ({error}); set MUJOCO_GL=egl before Python starts, or put "
    "`os.environ['MUJOCO_GL'] = 'egl'` above the first `import mujoco`, or import it after the "
    "simulator is made."
)
_FORKED = (
    "{name} cannot render in process {child}: it was forked from process {parent} after that had "
    "rendered, and OpenGL's threads do not survive a fork; start the processes with spawn, e.g. "
    'AsyncVectorEnv(..., context="spawn") or multiprocessing.get_context("spawn"), or render '
    "nothing before the fork."
)
_rendered_in: int | None = None
_inherited: list[Any] = []


class ForkedRendererError(RenderError):
    """A picture was asked for in a child that was forked after its parent had rendered."""


def _check_process(name: str) -> None:
    if _rendered_in not in (None, os.getpid()):
        raise ForkedRendererError(_FORKED.format(name=name, child=os.getpid(), parent=_rendered_in))


def parse_frame_size(frame_size: str | int | tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) in pixels from `"180x320"`, `96` or `(180, 320)`.

    Raises:
        ValueError: if it is none of these, or a side is not within 8 to 2048.
    """
    try:
        if isinstance(frame_size, str):
            sides = [int(part) for part in frame_size.lower().split("x")]
        else:
            sides = [int(part) for part in np.atleast_1d(np.asarray(frame_size))]
        height, width = sides * 2 if len(sides) == 1 else sides
    except (ValueError, TypeError):
        height = width = 0
    if not (8 <= height <= 2048 and 8 <= width <= 2048):
        raise UserError(
            f"frame_size={frame_size!r} is not a frame size; expected 'HEIGHTxWIDTH' such as "
            "'180x320', one number for a square, or (height, width), each within 8 to 2048."
        )
    return height, width


class SceneRenderer:
    """Renders a scene; owns the GL context.

    Args:
        model: the MuJoCo model, whose framebuffer has the size of the frames.
        cameras: names of the cameras; several views stand side by side, in this order.
        name: of the simulator, for errors.

    Raises:
        RuntimeError: if there is no GL platform, or MuJoCo was imported before it was chosen; the
            message says what to do.
        ForkedRendererError: in a child forked after its parent had rendered.
    """

    def __init__(self, model: Any, cameras: tuple[str, ...], name: str) -> None:
        global _rendered_in
        _check_process(name)
        mujoco = import_mujoco()
        height, width = int(model.vis.global_.offheight), int(model.vis.global_.offwidth)
        context = getattr(mujoco, "GLContext", None)
        try:
            if context is None:  # decided while MuJoCo was imported
                raise RuntimeError("MUJOCO_GL=disable" if egl_is_installed() else "no EGL library")
            self._renderer = mujoco.Renderer(model, height=height, width=width, max_geom=200)
        except Exception as error:
            # MuJoCo decides once, while it is imported; `import_mujoco` has set the variable by now
            decided = getattr(context, "__module__", "")
            early = decided == "mujoco.glfw" and os.environ.get("MUJOCO_GL") in ("egl", "osmesa")
            reason = _TOO_EARLY if early else _NO_GL
            raise RuntimeError(
                reason.format(name=name, error=error or type(error).__name__)
            ) from error
        _rendered_in = os.getpid()
        self._name, self._cameras = name, cameras
        flags = self._renderer.scene.flags
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
            flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0

    def render(self, data: Any) -> np.ndarray:
        """Returns the picture of MuJoCo's data, (H, W times the number of cameras, 3) uint8.

        Raises:
            ForkedRendererError: in a child of the process that made the renderer.
        """
        _check_process(self._name)
        views = []
        for camera in self._cameras:
            self._renderer.update_scene(data, camera=camera)
            views.append(self._renderer.render())
        return views[0] if len(views) == 1 else np.concatenate(views, axis=1)

    def close(self) -> None:
        """Frees the GL context; in a forked child leaves the parent's alone."""
        if _rendered_in == os.getpid():
            self._renderer.close()
        else:  # freeing it would wait for the parent's threads
            _inherited.append(self._renderer)
