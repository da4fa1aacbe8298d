"""Judges by name: `classifier`, `semantic?checkpoint=runs/swm`, `api?model=…&base_url=…`.

A name is plain text, so that it can be an argument of `gymnasium.make` (`reward="judge:<name>"`),
an option of a command, and part of a stored environment specification. Parameters follow a question
mark as in a URL, and are checked against the judge's config before anything is loaded.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from wm_gym.errors import UserError
from wm_gym.judges.verdicts import Judge, JudgeConfig, JudgeContext, JudgeError

JUDGES: dict[str, tuple[str, str]] = {
    "classifier": ("wm_gym.judges.classifier", "ClassifierJudgeConfig"),
    "oracle": ("wm_gym.judges.oracle", "OracleJudgeConfig"),
    "semantic": ("wm_gym.judges.semantic", "SemanticJudgeConfig"),
    "vlm": ("wm_gym.judges.language", "VLMJudgeConfig"),
    "api": ("wm_gym.judges.language", "APIJudgeConfig"),
    "consensus": ("wm_gym.judges.consensus", "ConsensusJudgeConfig"),
    "paper": ("wm_gym.judges.consensus", "PaperJudgeConfig"),
}
"""Judge -> module and class of its config. A judge of your own is one more entry."""


def read_judge_name(name: str) -> JudgeConfig:
    """The config that a name states.

    Args:
        name: `kind` or `kind?parameter=value&…`; a parameter that takes several values is
            repeated.

    Raises:
        ValueError: naming the judges or the parameters there are.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    kind, _, query = name.partition("?")
    if kind not in JUDGES:
        raise UserError(f"judge {kind!r} does not exist; expected one of {', '.join(JUDGES)}")
    module, class_name = JUDGES[kind]
    config: Any = getattr(import_module(module), class_name)
    given: dict[str, list[str]] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        given.setdefault(key, []).append(value)
    several = {entry.name for entry in fields(config) if str(entry.type).startswith("tuple")}
    repeated = [key for key, values in given.items() if len(values) > 1 and key not in several]
    if repeated:
        raise UserError(f"judge {name!r} states {', '.join(repeated)} more than once")
    values = {key: value if key in several else value[0] for key, value in given.items()}
    setattr(config, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
    try:
        return TypeAdapter(config).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or kind}: {e['msg']}" for e in error.errors()
        )
        known = ", ".join(entry.name for entry in fields(config)) or "none"
        raise UserError(
            f"judge {name!r} is not stated properly: {faults}; {kind!r} takes {known}"
        ) from error


def judge_name(kind: str, **parameters: str | int | float | list[str]) -> str:
    """The name of a judge with parameters; those that hold `&` or `=` are quoted.

    Example:
        >>> judge_name("semantic", checkpoint="runs/swm")
        'semantic?checkpoint=runs/swm'
        >>> judge_name("consensus", judge=["classifier", "semantic?checkpoint=runs/swm"])
        'consensus?judge=classifier&judge=semantic?checkpoint%3Druns/swm'
    """
    query = urlencode(parameters, doseq=True, safe="/:?", quote_via=quote)
    return f"{kind}?{query}" if query else kind


def make_judge(name: str, context: JudgeContext | None = None) -> Judge:
    """Make a judge.

    Args:
        name: see `read_judge_name`.
        context: what it may use of the place it is made for.

    Raises:
        ValueError: if the name is not understood.
        JudgeError: if the judge needs something that is not there.
    """
    return read_judge_name(name).make(context or JudgeContext())


__all__ = ["JUDGES", "JudgeContext", "JudgeError", "judge_name", "make_judge", "read_judge_name"]
