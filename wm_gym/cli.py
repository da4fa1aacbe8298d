"""`wm-gym`: dispatches to the library. A command is a config dataclass and a function on it.

Nothing but the chosen command's module is imported, so `wm-gym --help` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from wm_gym.commands.table import COMMANDS, Command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `wm-gym`; those of this process by default.

    Returns:
        Exit status: 0, what the command returned if that is an integer, 2 for input that the
        command refuses, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from wm_gym import __version__

        print(f"wm-gym {__version__}")
        return 0
    name = command_name(words)
    if name is None:
        return _overview(words)
    try:
        result = _run(COMMANDS[name], name, words[len(name.split()) :])
    except KeyboardInterrupt:
        print("wm-gym: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_refusal(error):
            raise
        from wm_gym.flags import in_flags

        command = COMMANDS[name]
        said = in_flags(str(error), getattr(import_module(command.module), command.config))
        print(f"wm-gym: {' '.join(said.split())}", file=sys.stderr)
        return 2
    if name.startswith("train "):  # what it has made, for the next command
        for path in result if isinstance(result, list) else [result]:
            if isinstance(path, Path):
                print(f"wrote {path}")
    return result if isinstance(result, int) else 0


def command_name(words: Sequence[str]) -> str | None:
    """The longest command that the words begin with."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name
    return None


def parse_command(words: Sequence[str]) -> Any:
    """Read a command line without running it.

    Args:
        words: after `wm-gym`.

    Returns:
        The config that the command would run with.

    Raises:
        ValueError: if there is no such command, or its config refuses a value.
        SystemExit: if an option is unknown, missing or ill-typed; the message is printed.
    """
    name = command_name(words)
    if name is None:
        raise ValueError(f"wm-gym has no command {' '.join(words[:2])!r}; see `wm-gym --help`")
    command = COMMANDS[name]
    config_class = getattr(import_module(command.module), command.config)
    return _parse(config_class, name, words[len(name.split()) :])


def _run(command: Command, name: str, words: Sequence[str]) -> Any:
    from wm_gym.flags import plain_warnings

    module = import_module(command.module)
    config_class = getattr(module, command.config)
    config = _parse(config_class, name, words)
    with plain_warnings(config_class):
        return getattr(module, command.function)(config)


def _parse(config_class: type, name: str, words: Sequence[str]) -> Any:
    """Fill a config; what the config itself refuses is raised as it said it.

    tyro wraps such an error into a page of its own, so its words are held back until it is known
    whether they are about the syntax.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config_class, prog=f"wm-gym {name}", args=list(words))
    except SystemExit as ended:
        error = ended.__context__
        while error is not None:
            if isinstance(error, ValueError) and _is_refusal(error):
                raise error from None
            error = error.__context__
        sys.stderr.write(said.getvalue())
        raise


def _overview(words: Sequence[str]) -> int:
    """Help of all commands, or of one group; anything else is a mistake."""
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    asked = [word for word in words if word not in ("-h", "--help")]
    if not asked or (len(asked) == 1 and asked[0] in groups):
        group = asked[0] if asked else ""
        shown = {n: c for n, c in COMMANDS.items() if not group or n.split()[0] == group}
        width = max(map(len, shown))
        print(f"usage: wm-gym {f'{group} ' if group else ''}COMMAND [OPTIONS]\n")
        print("A trained robotic world model becomes a Gymnasium environment.\n")
        for name, command in shown.items():
            print(f"  {name:{width}}  {command.summary}")
        print("\n`wm-gym COMMAND --help` shows a command's options.")
        return 0 if len(asked) < len(words) or not words else 2
    from difflib import get_close_matches

    typed = " ".join(asked[:2] if asked[0] in groups else asked[:1])
    near = get_close_matches(typed, COMMANDS, 3, 0.4) or ["--help"]
    print(
        f"wm-gym: {typed!r} is no command; did you mean "
        f"{' or '.join(f'`wm-gym {name}`' for name in near)}?",
        file=sys.stderr,
    )
    return 2


def _is_refusal(error: Exception) -> bool:
    """Whether an error tells the user something about the input, rather than us about a bug.

    Ours are: exceptions that wm_gym defines, any ValueError raised by a line of wm_gym itself,
    files that are not there, and Gymnasium's own errors about ids and arguments.
    """
    from gymnasium.error import Error as GymnasiumError

    if type(error).__module__.partition(".")[0] == "wm_gym":
        return True
    if isinstance(error, FileNotFoundError | NotADirectoryError | GymnasiumError):
        return True
    if not isinstance(error, ValueError):
        return False
    raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
    folders = [
        Path(import_module(name).__path__[0])
        for name in ("wm_gym", "wm_gym.envs", "wm_gym.policies")
    ]
    return any(Path(raised_at).is_relative_to(folder) for folder in folders)


if __name__ == "__main__":
    sys.exit(main())
