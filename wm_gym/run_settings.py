"""The settings that a run's results depend on, and the one check before a run goes on.

Whatever continues earlier results (a training, a collection, a file of records, a folder of labels)
keeps the settings behind them and compares them here, all by value and in both directions.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.checkpoints import write_atomically
from wm_gym.errors import UserError

_ABSENT = object()
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 120
_SHOWN.maxlist = _SHOWN.maxdict = 8


class RunSettingsError(UserError):
    """A folder or file that holds a run with other settings, or does not say with which."""


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back: lists for tuples, strings for paths.

    Args:
        settings: numbers, strings, paths, dataclasses, NumPy values, and lists and dictionaries of
            them.

    Raises:
        TypeError: if a value has no JSON form.
    """
    return json.loads(json.dumps(dict(settings), default=_plain))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, range | tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(
        f"a run cannot depend on {value!r} of type {type(value).__name__}; expected numbers, "
        "strings, paths, dataclasses, or lists and dictionaries of them"
    )


def check_run_settings(
    place: str | Path,
    stored: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    older: Mapping[str, Any] | None = None,
    free: Collection[str] = (),
    remedy: str = "choose another folder, or remove that one",
) -> None:
    """Refuse to go on with a run whose results depend on other settings.

    Args:
        place: the folder or file that holds the run, named in the error.
        stored: its settings.
        asked: the settings of the run that would go on.
        older: for settings that older runs do not state, the value that those had.
        free: settings that may differ; dotted where they are nested.
        remedy: end of the error's sentence.

    Raises:
        RunSettingsError: naming every setting that differs, with both values.

    Example:
        >>> check_run_settings("out", {"seed": 0, "loop": {"steps": 5}}, {"seed": 0, "loop": {}})
        Traceback (most recent call last):
        wm_gym.run_settings.RunSettingsError: out holds a run with other settings (loop.steps: 5 \
there, nothing now); choose another folder, or remove that one
    """
    known = plain_settings(older or {})
    found = known | plain_settings(stored)
    wanted = known | plain_settings(asked)
    different = [
        f"{name}: {_shown(a)} there, {_shown(b)} now"
        for name, (a, b) in differing_settings(found, wanted).items()
        if name not in free
    ]
    if different:
        raise RunSettingsError(
            f"{place} holds a run with other settings ({'; '.join(different)}); {remedy}"
        )


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else _SHOWN.repr(value)


def differing_settings(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Both values of every setting that differs, by its name, dotted where they are nested.

    Args:
        there: settings as JSON values.
        here: others.
    """
    found = {}
    for name in [*there, *(name for name in here if name not in there)]:
        a, b = there.get(name, _ABSENT), here.get(name, _ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            nested = differing_settings(a, b).items()
            found |= {f"{name}.{inner}": values for inner, values in nested}
        elif a is _ABSENT or b is _ABSENT or not _equal(a, b):
            found[name] = (a, b)
    return found


def _equal(a: Any, b: Any) -> bool:
    """Equality of JSON values; NaN equals itself, and True is not 1."""
    return json.dumps(_floats(a), sort_keys=True) == json.dumps(_floats(b), sort_keys=True)


def _floats(value: Any) -> Any:
    """The value with whole numbers as floats: 1 and 1.0 are the same setting."""
    if isinstance(value, list):
        return [_floats(item) for item in value]
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


def read_run_settings(file: Path) -> dict[str, Any] | None:
    """The settings that a file holds, or None if there is no such file.

    Raises:
        RunSettingsError: if it is damaged.
    """
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise UserError(f"it holds a {type(content).__name__}, expected an object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunSettingsError(
            f"{file}, which states the settings of the run beside it, cannot be read ({error}); "
            "choose another folder, or remove that one"
        ) from error
    return content


def keep_run_settings(
    file: Path,
    settings: Mapping[str, Any],
    *,
    older: Mapping[str, Any] | None = None,
    remedy: str = "choose another folder, or remove that one",
) -> bool:
    """Write the settings of a run that begins, or compare them with those of the run that is there.

    Args:
        file: JSON file of the settings, in the folder of the run.
        settings: what the results depend on.
        older: see `check_run_settings`.
        remedy: see `check_run_settings`.

    Returns:
        Whether a run is there already.

    Raises:
        RunSettingsError: if it has other settings, or its file is damaged.
    """
    stored = read_run_settings(file)
    if stored is None:
        write_atomically(file, (json.dumps(plain_settings(settings), indent=1) + "\n").encode())
        return False
    check_run_settings(file.parent, stored, settings, older=older, remedy=remedy)
    return True
