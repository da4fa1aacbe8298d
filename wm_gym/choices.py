"""Settings that are one of a few names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from wm_gym.errors import UserError


def check_choice(name: str, given: Any, known: Collection[Any]) -> None:
    """Refuse a setting that is none of its choices.

    Args:
        name: of the setting.
        given: its value.
        known: the choices.

    Raises:
        ValueError: naming the value and the choices.
    """
    if given not in known:
        raise UserError(
            f"{name}={given!r} is unknown; expected one of {', '.join(map(repr, known))}."
        )
