"""The `wm-gym` commands in a page of the documentation."""

import re
import shlex

from wm_gym.cli import parse_command


def documented_commands(text: str) -> list[list[str]]:
    """Words of the commands in a page's first block of shell, without `wm-gym`."""
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("wm-gym")]


def assert_understood(words: list[str]) -> None:
    """The command exists and takes these options."""
    assert parse_command(words) is not None
