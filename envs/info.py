"""The `info` of every environment: one fixed set of keys, in `reset` and in every step.

Recorders, vector environments and replay buffers want the same keys and types each time, so what is
not known has a neutral value: -1 for numbers, none of which is ever negative otherwise, "" for
text, False for yes or no. Gymnasium's checker would take NaN for randomness.
"""

from __future__ import annotations

import copy
import json
from typing import Any

UNKNOWN = -1.0

SHARED: dict[str, Any] = {
    "instruction": "",
    "task": "",
    "start": "",
    "is_success": False,
    "success_at_reset": False,
    "action_clipped": False,
    "distance": UNKNOWN,
    "error": "",
}
"""Of every environment, simulators included."""

JUDGED: dict[str, Any] = {"score": UNKNOWN, "rationale": "", "name": "", "facts": ""}
"""Of the verdict under `judge`; it is filled in an episode's last step."""

IMAGINED: dict[str, Any] = {
    **SHARED,
    "surprise": UNKNOWN,
    "success_probability": UNKNOWN,
    "judge": JUDGED,
}
"""Of latent world models."""

SEMANTIC: dict[str, Any] = {**SHARED, "value": UNKNOWN, "answers": "", "judge": JUDGED}
"""Of semantic world models; `answers` is JSON, question and answer -> probability."""


def make_info(neutral: dict[str, Any], **known: Any) -> dict[str, Any]:
    """Fill in what is known.

    Args:
        neutral: the keys of the kind of environment, with their neutral values.
        **known: what is known; NaN is not.

    Returns:
        A new dictionary with exactly the keys of `neutral`.

    Raises:
        KeyError: for a key that the kind of environment does not have.
    """
    if unknown := set(known) - set(neutral):
        raise KeyError(f"info has no keys {sorted(unknown)}; expected some of {sorted(neutral)}")
    found = {name: UNKNOWN if value != value else value for name, value in known.items()}
    return copy.deepcopy({**neutral, **found})


def verdict(score: float, rationale: str, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What stands under `judge` in the last step of an episode; `facts` become JSON text."""
    told = json.dumps(facts, ensure_ascii=False) if facts else ""
    return {"score": float(score), "rationale": rationale, "name": name, "facts": told}
