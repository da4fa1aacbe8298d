"""Where a measurement writes: checked before the work, and pictures written whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_folder(name: str, folder: Path | None) -> None:
    """Refuse a folder that cannot be made or written to.

    Args:
        name: of the option, for the error.
        folder: what it says; None is no folder.

    Raises:
        UserError: saying what is in the way.
    """
    if folder is None:
        return
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not there.is_dir():
        raise UserError(
            f"{name}={str(folder)!r} cannot be written: {there} is a file, no folder; choose "
            "another place"
        )
    try:
        with tempfile.TemporaryFile(dir=there):  # rights alone do not tell of a full disk
            pass
    except OSError as error:
        raise UserError(
            f"{name}={str(folder)!r} cannot be written: {there} may not be written to ({error}); "
            "choose another place, or change its rights"
        ) from error


def check_file(name: str, path: Path | None) -> None:
    """Refuse a file that cannot be written; None is no file.

    Args:
        name: of the option, for the error.
        path: what it says.

    Raises:
        ValueError: saying what is in the way.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{name}={str(path)!r} is a folder; expected the name of a file")
    check_folder(name, path.parent)


def check_picture(name: str, path: Path | None) -> None:
    """Refuse a picture that cannot be written, also one of a kind that matplotlib does not know.

    Args:
        name: of the option, for the error.
        path: what it says; None is no picture.

    Raises:
        ValueError: saying what is in the way.
    """
    if path is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise UserError(
            f"{name}={str(path)!r} does not say which kind of picture it is; expected a name that "
            f"ends in .{', .'.join(kinds)}"
        )
    check_file(name, path)


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a picture atomically.

    Args:
        figure: what is drawn.
        path: picture to write; its ending says which kind, PNG without one.
        dpi: dots per inch.
    """
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format=path.suffix[1:] or "png")
    write_atomically(path, content.getvalue())
