"""What Python calls an argument, as the command line spells it.

The library's errors name arguments as one writes them in Python (`checkpoint='…'`); whoever typed a
command wants to read `--checkpoint …`. The translation knows a command's own options only, so words
that are no option of it stay as they are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

VALUE = r"""'[^']*'|"[^"]*"|\([^()]*\)|[^\s,;:()]*"""


def in_flags(message: str, config: type) -> str:
    """A message with `name=value` and `long_name` in the words of a command's options.

    Args:
        message: what an error or a warning says.
        config: dataclass of the command's options.

    Example:
        >>> from wm_gym.commands.record import RecordConfig
        >>> in_flags("steps=0 must be at least 1; pass checkpoint='hf://a/b'", RecordConfig)
        '--steps 0 must be at least 1; pass --checkpoint hf://a/b'
    """
    flags = _flags(config)
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    said = re.sub(
        rf"(?<![\w.'\"/-])(?<!\w\()({names})=({VALUE})",  # not reset(seed=3), which is Python
        lambda found: _flag_with_value(flags[found[1]], found[2]),
        message,
    )
    long_names = "|".join(re.escape(name) for name in flags if "_" in name)
    if long_names:
        said = re.sub(rf"(?<![\w.'\"/-])({long_names})(?![\w.=/-])", lambda f: flags[f[1]], said)
    return said


def _flags(config: type, prefix: str = "--") -> dict[str, str]:
    """Option by field name; fields of a nested dataclass only where no outer field has the name."""
    import tyro

    own: dict[str, str] = {}
    inner: dict[str, str] = {}
    hints: dict[str, Any] = get_type_hints(config, include_extras=True)
    for entry in fields(config):
        hint = hints[entry.name]
        option = entry.name.replace("_", "-")
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            own[entry.name] = entry.name.upper()
        else:
            own[entry.name] = f"{prefix}{option}"
        if isinstance(hint, type) and is_dataclass(hint):
            inner |= _flags(hint, f"{prefix}{option}.")
    return inner | own


def _flag_with_value(flag: str, value: str) -> str:
    end = "." if value.endswith(".") else ""
    value = value.removesuffix(".")
    if value == "True":
        return flag + end
    if value == "False":
        return flag.replace("--", "--no-", 1) + end
    if value == "None":
        return f"no {flag}{end}"
    if value.startswith("("):
        value = value.strip("()").replace(",", " ")
        value = " ".join(word.strip("'\"") for word in value.split())
    elif value[:1] in ("'", '"') and " " not in value and len(value) > 2:
        value = value[1:-1]
    return f"{flag} {value}{end}"


@contextmanager
def plain_warnings(config: type) -> Iterator[None]:
    """Print wm_gym's own warnings as one line of text, without file name and source line."""
    usual = warnings.formatwarning

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        line: str | None = None,
    ) -> str:  # fmt: skip
        if category.__module__.partition(".")[0] != "wm_gym":
            return usual(message, category, filename, lineno, line)
        return f"wm-gym: {in_flags(str(message), config)}\n"

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual
