"""docs/judges.md names the judges, parameters, commands and imports that there are."""

import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs_commands import assert_understood, documented_commands
from wm_gym.judges.language import APIJudgeConfig, LanguageJudgeConfig, VLMJudgeConfig
from wm_gym.judges.registry import JUDGES
from wm_gym.judges.rubric import PROMPT

TEXT = (Path(__file__).parent.parent / "docs" / "judges.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    """Rows of the first table below a heading, by their first column."""
    section = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return {line.split("|")[1].strip(): line for line in lines}


@pytest.mark.parametrize("kind", JUDGES)
def test_every_judge_and_its_parameters_are_explained(kind):
    table = rows("Names")
    assert set(table) == {f"`{name}`" for name in JUDGES}
    module, name = JUDGES[kind]
    config = getattr(import_module(module), name)
    shared = {entry.name for entry in fields(LanguageJudgeConfig)}
    own = {entry.name for entry in fields(config)} - (
        shared if config in (VLMJudgeConfig, APIJudgeConfig) else set()
    )
    assert own <= set(re.findall(r"`(\w+)`", table[f"`{kind}`"]))


def test_defaults_of_language_judges_are_the_stated_ones():
    table = rows("Vision-language models")
    named = {name for first in table for name in re.findall(r"`(\w+)`", first)}
    assert named == {entry.name for entry in fields(LanguageJudgeConfig)}
    config = VLMJudgeConfig(model="m")
    for name in ("frames", "side", "max_tokens"):
        assert f"| {getattr(config, name)} |" in table[f"`{name}`"]
    assert f"| `{PROMPT}` |" in table["`prompt`"]
    assert (config.samples, config.temperature, config.seed) == (1, 0.0, 0)


def test_every_command_is_understood():
    commands = documented_commands(TEXT)
    assert len(commands) == 6
    for words in commands:
        assert_understood(words)


def test_every_import_is_there():
    found = re.findall(r"^from (wm_gym\S+) import (.+)$", TEXT, re.MULTILINE)
    assert len(found) == 2
    for module, names in found:
        assert all(hasattr(import_module(module), name) for name in names.split(", "))
