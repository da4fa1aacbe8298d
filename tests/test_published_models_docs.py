"""The commands of docs/published-models.md exist and take these options."""

from pathlib import Path

import pytest

from tests.docs_commands import assert_understood, documented_commands

PAGE = (Path(__file__).parents[1] / "docs" / "published-models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "count"),
    [("## From a released file to an environment", 2), ("## Training a variant yourself", 6)],
)
def test_commands_are_understood(heading, count):
    commands = documented_commands(PAGE.split(heading)[1])
    assert len(commands) == count
    for words in commands:
        assert_understood(words)
