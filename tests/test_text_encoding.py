"""Text is UTF-8 whatever the locale says: files, pipes to other programs, and the terminal."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("wm_gym", "envs", "policies", "examples", "benchmarks", "scripts", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
BEFORE_ENCODING = {"read_text": 0, "write_text": 1}
"""Positional arguments of a method before its `encoding`."""


def mode_of(call: ast.Call, place: int) -> str:
    """Mode of a call that opens a file; "r" where none is given, "b" where it is computed."""
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else "b"


def is_locale_dependent(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the locale's encoding."""
    keywords = {keyword.arg for keyword in call.keywords}
    if keywords & {None, "encoding"}:
        return False
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in BEFORE_ENCODING:
        return len(call.args) <= BEFORE_ENCODING[name]
    if name in ("run", "Popen", "check_output"):
        return bool(keywords & {"text", "universal_newlines"})
    if name == "open":
        mode = mode_of(call, 1 if isinstance(function, ast.Name) else 0)
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        known = set(mode) <= set("rwax+t")  # others: Image.open(path), Checkpoint.open(folder)
        return known and owner not in ("Image", "av", "webbrowser", "stored") and len(call.args) < 3
    if name in ("NamedTemporaryFile", "TemporaryFile"):
        return "b" not in mode_of(call, 0) and bool(call.args or "mode" in keywords)
    return name == "fdopen" and "b" not in mode_of(call, 1)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("open(name)", True),
        ("open(name, 'rb')", False),
        ("path.open('a')", True),
        ("path.open()", True),
        ("Image.open(path)", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, capture_output=True)", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("tempfile.NamedTemporaryFile(dir=folder)", False),
        ("os.fdopen(handle, 'w')", True),
    ],
)
def test_the_walk_knows_such_calls(code, found):
    assert is_locale_dependent(ast.parse(code, mode="eval").body) == found


def test_no_call_leaves_the_encoding_to_the_locale():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and is_locale_dependent(node)
    ]
    assert not found, "pass encoding='utf-8' there"


def in_ascii(code: str) -> str:
    """What a program prints in a process whose locale knows no letter beyond ASCII."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **ASCII},
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode("ascii")


@pytest.mark.parametrize("writer", ["write_v21", "write_v30"])
def test_instructions_are_the_same_in_every_locale(writer, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    code = (
        "import locale; from wm_gym.data.open_dataset import open_dataset\n"
        "from tests.data import recorded_data\n"
        "assert locale.getpreferredencoding() != 'UTF-8'\n"
        "recorded_data.TASKS = ('M\\u00f6hre', 'push', '\\u80e1')\n"
        f"folder = recorded_data.{writer}(recorded_data.Path({str(tmp_path / 'set')!r}))\n"
        "print(ascii(open_dataset(folder, 'top').instructions))"
    )
    assert in_ascii(code).strip() == r"['M\xf6hre', 'push', '\u80e1']"


def test_utf_8_lines_of_other_programs_are_read(tmp_path):
    from wm_gym.data.lerobot import LeRobotDataset

    pytest.importorskip("pyarrow")
    from tests.data.recorded_data import TASKS, write_v21

    folder = write_v21(tmp_path / "set")
    lines = folder / "meta" / "episodes.jsonl"
    text = lines.read_text(encoding="utf-8").replace(TASKS[1], "Möhre")
    lines.write_text(text, encoding="utf-8")
    code = (
        "from wm_gym.data.open_dataset import open_dataset\n"
        f"print(ascii(open_dataset({str(folder)!r}, 'top').instructions[1]))"
    )
    assert in_ascii(code).strip() == r"'M\xf6hre'"
    lines.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"episodes\.jsonl cannot be read"):
        LeRobotDataset(folder, "top")


def test_commands_print_in_every_locale():
    code = "import sys; from wm_gym.cli import main; sys.exit(main(['info', 'LangTable-v0']))"
    assert "LangTable-v0" in in_ascii(code)
    words = "print('\\u2026')"
    assert in_ascii(f"from wm_gym.cli import tolerant_output; tolerant_output(); {words}") == "?\n"


def test_json_keeps_every_letter(tmp_path):
    path = tmp_path / "report.json"
    code = (
        "from wm_gym.evaluation.report import write_json; from pathlib import Path\n"
        f"write_json(Path({str(path)!r}), {{'words': 'M\\u00f6hre'}})"
    )
    in_ascii(code)
    assert json.loads(path.read_bytes())["words"] == "Möhre"
