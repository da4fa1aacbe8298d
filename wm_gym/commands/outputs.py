"""Check where a command writes, before it begins: hours of work must not end at a wrong name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from wm_gym.commands.table import OutputKind
from wm_gym.evaluation.output_files import check_file, check_folder, check_picture

CHECKS = {"folder": check_folder, "file": check_file, "picture": check_picture}
KINDS: dict[str, OutputKind] = {"json": "file", "plot": "picture"}
"""Kind of an option's place, the same in all commands."""
PLACES = ("out", "to", "environment")
"""Options whose place is of the kind that the command's entry in the table names."""


def check_outputs(config: Any, out: OutputKind) -> None:
    """Refuse places that cannot be written.

    Args:
        config: options of a command.
        out: kind of place that `out` and `to` name.

    Raises:
        UserError: naming the option, its value and what is in the way.
    """
    for entry in fields(config):
        value = getattr(config, entry.name)
        kind = out if entry.name in PLACES else KINDS.get(entry.name)
        if kind is not None and isinstance(value, Path):
            CHECKS[kind](entry.name, value.expanduser())
