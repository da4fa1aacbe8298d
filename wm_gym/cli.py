"""`wm-gym`: dispatches to the library. A command is a config dataclass and a function on it.

Nothing but the chosen command's module is imported, so `wm-gym --help` answers at once.
"""

from __future__ import annotations

import io
import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from wm_gym.commands.outputs import check_outputs
from wm_gym.commands.table import COMMANDS, Command
from wm_gym.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `wm-gym`; those of this process by default.

    Returns:
        Exit status: 0, what the command returned if that is an integer, 2 for input that the
        command refuses, 130 after Ctrl-C, 141 where nobody reads the output any longer (`| head`).
    """
    tolerant_output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _dispatch(words)
        finally:  # help ends by SystemExit
            sys.stdout.flush()
    except BrokenPipeError:
        if not _drop_closed_streams():
            raise
        return 141


def _dispatch(words: list[str]) -> int:
    """Run the command that the words begin with; what it refuses becomes one line."""
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
    except SystemExit as ended:
        if ended.code != 2:  # tyro has said what is wrong with an option; --help ends with 0
            raise
        return 2
    except BrokenPipeError:
        raise
    except Exception as error:
        if not isinstance(error, _refusals()):
            raise
        print(f"wm-gym: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if name.startswith("train "):  # what it has made, for the next command
        for path in result if isinstance(result, list) else [result]:
            if isinstance(path, Path):
                print(f"wrote {path}")
    return result if isinstance(result, int) else 0


def _refusals() -> tuple[type[Exception], ...]:
    """Errors that the user can mend: ours, the system's about files, Gymnasium's about ids."""
    from gymnasium.error import Error as GymnasiumError

    return (UserError, OSError, GymnasiumError)


def _drop_closed_streams() -> bool:
    """Send to nowhere what nobody reads any longer, so that ending says nothing about it.

    Returns:
        Whether standard output or standard error was such a stream.
    """
    closed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            watched = select.poll()
            watched.register(stream.fileno(), select.POLLOUT)
        except (AttributeError, OSError, ValueError):  # no descriptor, or a system without poll
            continue
        if any(event & select.POLLERR for _, event in watched.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            closed = True
    return closed


def tolerant_output() -> None:
    """Let what a terminal's encoding lacks be printed as "?", instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


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
        UserError: if there is no such command.
        SystemExit: if an option is unknown, missing, ill-typed or refused; the message is printed.
    """
    name = command_name(words)
    if name is None:
        raise UserError(f"wm-gym has no command {' '.join(words[:2])!r}; see `wm-gym --help`")
    command = COMMANDS[name]
    config_class = getattr(import_module(command.module), command.config)
    return _parse(config_class, name, words[len(name.split()) :])


def _parse(config_class: type, name: str, words: Sequence[str]) -> Any:
    import tyro

    return tyro.cli(config_class, prog=f"wm-gym {name}", args=list(words))


def _run(command: Command, name: str, words: Sequence[str]) -> Any:
    module = import_module(command.module)
    config = _parse(getattr(module, command.config), name, words)
    check_outputs(config, command.out)
    with _plain_warnings():
        return getattr(module, command.function)(config)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print wm_gym's own warnings as one line of text, without file name and source line."""
    usual = warnings.formatwarning

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        line: str | None = None,
    ) -> str:  # fmt: skip
        if category.__module__.partition(".")[0] != "wm_gym":
            return usual(message, category, filename, lineno, line)
        return f"wm-gym: {message}\n"

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


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


if __name__ == "__main__":
    sys.exit(main())
