"""The `wm-gym` commands in a page of the documentation."""

import re
import shlex
from importlib import import_module

from wm_gym.cli import _command_name, _parse
from wm_gym.commands.table import COMMANDS


def documented_commands(text: str) -> list[list[str]]:
    """Words of the commands in a page's first block of shell, without `wm-gym`."""
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("wm-gym")]


def assert_understood(words: list[str]) -> None:
    """The command exists and takes these options."""
    name = _command_name(words)
    assert name is not None, words
    command = COMMANDS[name]
    config = getattr(import_module(command.module), command.config)
    assert isinstance(_parse(config, name, words[len(name.split()) :]), config)
