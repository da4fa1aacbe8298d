"""Measured quality of saved policies, in their `policy.json` under `metrics`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_gym.checkpoints import write_atomically
from wm_gym.policies.base import POLICY_FILE, PolicyError
from wm_gym.policies.named import short_name


def true_success_of(report: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """True success per task of a policy, from a report of `wm-gym compare-real`.

    Args:
        report: the report.
        folder: of the saved policy; the report has it under the folder's name.

    Returns:
        `tasks`, each with `success_rate`, `interval` and `episodes`, and where they come from.

    Raises:
        PolicyError: if the report has no such policy, naming those it has.
    """
    name = short_name(str(folder))
    entries = {entry["name"]: entry for entry in report["policies"] if not entry["noise"]}
    if name not in entries:
        raise PolicyError(f"the report has no policy {name!r}; expected one of {list(entries)}")
    return {
        "command": report["command"],
        "date": report["date"],
        "max_steps": report["max_steps"],
        "tasks": {
            task: {
                "success_rate": rates["true_success_rate"],
                "interval": rates["true_interval"],
                "episodes": rates["true_episodes"],
            }
            for task, rates in entries[name]["tasks"].items()
        },
    }


def write_policy_metric(folder: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Write a measurement into a policy's `policy.json`; records of the policy stay valid.

    Raises:
        PolicyError: if the folder is no saved policy.
    """
    path = folder / POLICY_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PolicyError(
            f"{path} cannot be read as JSON ({error}); expected a folder written by save_policy"
        ) from error
    content.setdefault("metrics", {})[name] = dict(figures)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
