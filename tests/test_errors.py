"""What the user can mend is a UserError: one line on the command line, everything else a bug."""

import ast
import pickle
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from wm_gym.cli import main
from wm_gym.commands.outputs import KINDS, PLACES, check_outputs
from wm_gym.commands.table import COMMANDS
from wm_gym.errors import MissingPackageError, RenderError, UserError

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("wm_gym", "envs", "policies")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / "policies" / "act_server.py"  # imports nothing of wm_gym
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_what_is_refused_by_hand_is_a_user_error():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in ("ValueError", "ImportError")
    ]
    assert not found, "raise wm_gym.errors.UserError (a ValueError) there"


def test_every_public_error_is_a_user_error_and_what_it_was_before():
    for path, tree in TREES.items():
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or not node.name.endswith("Error"):
                continue
            if node.name == "UserError":
                continue
            top, *rest = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(["wm_gym", *([] if top == "wm_gym" else [top]), *rest])
            error = getattr(import_module(module), node.name)
            assert issubclass(error, UserError), node.name
            raised = error("said")
            assert str(pickle.loads(pickle.dumps(raised))) == str(raised)
    for error, before in ((MissingPackageError, ImportError), (RenderError, RuntimeError)):
        assert issubclass(error, before) and issubclass(error, ValueError)


@pytest.mark.parametrize("error", [UserError, FileNotFoundError, MissingPackageError, OSError])
def test_what_the_user_can_mend_is_one_line(error, monkeypatch, capsys):
    from wm_gym.commands import list_ids

    def refuse():
        raise error("x=3;\n expected 4")

    monkeypatch.setattr(list_ids, "describe_ids", refuse)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "wm-gym: x=3; expected 4\n"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, ImportError])
def test_a_bug_in_our_own_lines_keeps_its_traceback(error, monkeypatch):
    from wm_gym.commands import list_ids

    def break_down():
        raise error("a bug")

    monkeypatch.setattr(list_ids, "describe_ids", break_down)
    with pytest.raises(error, match="a bug"):
        main(["list"])


def path_options(name):
    """Options of a command that name places to write to."""
    config = getattr(import_module(COMMANDS[name].module), COMMANDS[name].config)
    named = {entry.name: str(entry.type) for entry in fields(config)}
    return {n: t for n, t in named.items() if n in (*PLACES, *KINDS) and "Path" in t}


@pytest.mark.parametrize("name", [name for name in COMMANDS if path_options(name)])
def test_no_command_begins_where_it_cannot_write(name, tmp_path, monkeypatch, capsys):
    """A file in place of a folder, a folder in place of a file, a place below a file, /proc."""
    command = COMMANDS[name]
    module = import_module(command.module)
    (tmp_path / "file").write_bytes(b"kept")
    options = path_options(name)
    for option in options:
        kind = command.out if option in PLACES else KINDS[option]
        ending = {"picture": ".png"}.get(kind, "")
        wrong = [tmp_path / "file" / f"x{ending}", Path(f"/proc/nowhere/x{ending}")]
        wrong.append(tmp_path / "file" if kind == "folder" else tmp_path)
        for place in wrong:
            given = SimpleNamespace(**dict.fromkeys(options), **{})
            setattr(given, option, place)
            monkeypatch.setattr("wm_gym.commands.outputs.fields", lambda _: map_fields(options))
            with pytest.raises(UserError, match=option):
                check_outputs(given, command.out)
        fine = SimpleNamespace(**dict.fromkeys(options))
        setattr(fine, option, tmp_path / f"new/place{ending or '.json'}")
        check_outputs(fine, command.out)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert callable(getattr(module, command.function))


def map_fields(options):
    return [SimpleNamespace(name=name) for name in options]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["record", "LangTable-v0", "--out", "FOLDER"], "out="),
        (["list", "--json", "FOLDER"], "json="),
        (["info", "LangTable-v0", "--json", "FILE/x.json"], "json="),
        (["collect", "--out", "FILE"], "out="),
        (["judge", "a.mp4", "--instruction", "x", "--json", "FOLDER"], "json="),
    ],
)
def test_places_are_checked_before_the_work(words, named, tmp_path, capsys):
    (tmp_path / "f").write_bytes(b"")
    words = [w.replace("FOLDER", str(tmp_path)).replace("FILE", str(tmp_path / "f")) for w in words]
    assert main(words) == 2
    assert named in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


@pytest.mark.parametrize("words", [["info", "LangTable-v0"], ["list"], ["--help"], ["--version"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(words):
    import os
    import subprocess
    import sys

    read, write = os.pipe()
    os.close(read)
    code = "import sys; from wm_gym.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        cwd=ROOT,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_an_error(monkeypatch):
    from wm_gym.commands import list_ids

    def lose():
        raise BrokenPipeError("a server has gone")

    monkeypatch.setattr(list_ids, "describe_ids", lose)
    with pytest.raises(BrokenPipeError, match="a server has gone"):
        main(["list"])
