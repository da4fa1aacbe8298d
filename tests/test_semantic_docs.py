"""The commands and names in docs/semantic-models.md exist."""

import re
from importlib import import_module
from pathlib import Path

from tests.docs_commands import assert_understood, documented_commands

TEXT = (Path(__file__).parent.parent / "docs" / "semantic-models.md").read_text()


def test_every_command_is_understood():
    blocks = re.findall(r"```bash\n.*?```", TEXT, re.DOTALL)
    commands = [words for block in blocks for words in documented_commands(block)]
    assert len(commands) == 17
    for words in commands:
        assert_understood(words)


def test_every_import_is_there():
    found = re.findall(r"^from (wm_gym\S+) import (\w+)$", TEXT, re.MULTILINE)
    assert len(found) == 6
    for module, name in found:
        assert hasattr(import_module(module), name)
