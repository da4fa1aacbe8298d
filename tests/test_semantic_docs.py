"""The commands and names in docs/semantic-models.md exist."""

import re
import shlex
from importlib import import_module
from pathlib import Path

from wm_gym.cli import COMMANDS, _command_name, _parse

TEXT = (Path(__file__).parent.parent / "docs" / "semantic-models.md").read_text()


def test_every_command_is_understood():
    block = re.search(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("wm-gym")]
    assert len(commands) == 12
    for words in commands:
        name = _command_name(words)
        assert name is not None, words
        command = COMMANDS[name]
        config = getattr(import_module(command.module), command.config)
        assert isinstance(_parse(config, name, words[len(name.split()) :]), config)


def test_every_import_is_there():
    found = re.findall(r"^from (wm_gym\S+) import (\w+)$", TEXT, re.MULTILINE)
    assert len(found) == 6
    for module, name in found:
        assert hasattr(import_module(module), name)
