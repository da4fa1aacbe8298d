"""Files that may be stored xz-compressed beside their name: `dynamics.safetensors.xz`.

Compression without loss makes bfloat16 weights a third smaller. Hashes are those of the plain
content, so packing changes no card, and `xz --decompress` gives the plain file back.
"""

from __future__ import annotations

import lzma
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wm_gym.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".xz"


class PackedFileError(UserError):
    """A packed file that is truncated, altered, or not compressed by xz."""


def packed_path(path: Path) -> Path:
    """Path of the packed form of a file."""
    return path.with_name(path.name + SUFFIX)


def plain_path(path: Path) -> Path:
    """Path of the plain form of a file: without the suffix that packing adds."""
    return path.with_suffix("") if path.suffix == SUFFIX else path


def is_stored(path: Path) -> bool:
    """Whether a file is there, plain or packed."""
    return path.exists() or packed_path(path).exists()


def read_file(path: Path) -> bytes:
    """Read the plain content of a file; a plain file takes precedence over a packed one.

    Args:
        path: of the plain file, whichever of the two is stored.

    Raises:
        FileNotFoundError: if neither is.
        PackedFileError: if the packed one cannot be decompressed.
    """
    packed = packed_path(path)
    if path.exists() or not packed.exists():
        return path.read_bytes()
    try:
        return lzma.decompress(packed.read_bytes(), format=lzma.FORMAT_XZ)
    except lzma.LZMAError as error:
        raise PackedFileError(
            f"{packed} cannot be decompressed ({error}): it is truncated, altered or not an xz "
            "file; get it again"
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load a safetensors file, plain or packed.

    Raises:
        FileNotFoundError: if it is stored in neither form.
        PackedFileError: if the packed form is damaged.
        safetensors.SafetensorError: if the content is not safetensors.
    """
    from safetensors.torch import load

    return load(read_file(path))


def pack(path: Path) -> Path:
    """Replace a plain file by its packed form, unless it is a link or would not become smaller.

    The same content always gives the same bytes.

    Args:
        path: plain file of numbers of two or four bytes.

    Returns:
        The file that is stored now.
    """
    content = path.read_bytes()
    # bytes of a number differ in what follows them: contexts are kept apart by position
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lp": 2, "lc": 2, "pb": 2}]
    compressed = lzma.compress(content, format=lzma.FORMAT_XZ, filters=filters)
    if path.is_symlink() or len(compressed) >= len(content):
        return path
    packed = packed_path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{packed.name}.", delete=False) as f:
        f.write(compressed)
    os.chmod(f.name, 0o644)
    os.replace(f.name, packed)
    path.unlink()
    return packed
