"""Answers on disk by the content of what was asked: one small JSON file each.

A file appears whole or not at all (it is written beside its place, flushed and renamed), so any
number of processes may write at once, and a kill loses nothing but the answer under way. Nothing is
pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.judges.verdicts import JudgeError

LAYOUT = 1


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/wm_gym/judges`, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wm_gym" / "judges"


def content_key(facts: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> str:
    """Name of an answer: a hash of plain facts and of arrays with their shapes.

    Args:
        facts: JSON values; all that the answer depends on besides the arrays.
        arrays: what was shown.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"\n{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class AnswerCache:
    """A folder of answers.

    Args:
        folder: made when the first answer is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """File of an answer."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """A stored answer, or None; one that is damaged is said to be and asked for again.

        Raises:
            JudgeError: if the folder cannot be read.
        """
        path = self.path(key)
        try:
            content = json.loads(path.read_bytes())
            if content["layout"] != LAYOUT:
                return None
            return content["answer"]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{path} is damaged ({error!r}); its answer is asked for again", stacklevel=2
            )
            return None

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer of JSON values.

        Raises:
            JudgeError: if the folder cannot be written to.
        """
        text = json.dumps({"layout": LAYOUT, "answer": dict(answer)}, ensure_ascii=False)
        try:
            write_atomically(self.path(key), text.encode())
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> JudgeError:
        return JudgeError(
            f"answers cannot be kept in {self.folder} ({error}); name another folder with "
            "cache=FOLDER, or keep none with cache=none"
        )
