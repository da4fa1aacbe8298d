"""`wm-gym serve-openvla`: what it runs, and that what it serves stands alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.said import said
from wm_gym.cli import main
from wm_gym.commands.serve_openvla import (
    REQUIREMENTS,
    ServeError,
    ServeOpenVLAConfig,
    commands,
    serve_openvla,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_it_makes_an_environment_of_pinned_packages_and_serves(tmp_path):
    config = ServeOpenVLAConfig(COMMIT, environment=tmp_path / "env", port=9000)
    make, install, serve = commands(config)
    assert make == ["python3.11", "-m", "venv", "--clear", str(tmp_path / "env")]
    assert install[-len(REQUIREMENTS) :] == list(REQUIREMENTS)
    assert all("==" in requirement for requirement in REQUIREMENTS)
    assert serve[0] == install[0] == str(tmp_path / "env" / "bin" / "python")
    assert Path(serve[1]).name == "act_server.py"
    assert serve[serve.index("--revision") + 1] == COMMIT
    assert serve[serve.index("--port") + 1] == "9000"


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    ran = []

    def run(command, check):
        ran.append(command)
        (tmp_path / "env").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    config = ServeOpenVLAConfig(COMMIT, environment=tmp_path / "env")
    assert serve_openvla(config) == 0 and len(ran) == 3
    assert serve_openvla(config) == 0 and len(ran) == 4
    (tmp_path / "env" / "wm_gym.sha256").write_text("of other requirements", encoding="utf-8")
    assert len(commands(config)) == 3


def test_what_fails_is_named(tmp_path):
    with pytest.raises(ServeError, match=r"there is no no-such-python; name one with --python"):
        serve_openvla(
            ServeOpenVLAConfig(COMMIT, environment=tmp_path / "env", python="no-such-python")
        )
    assert not (tmp_path / "env").exists()


def test_an_environment_whose_making_was_interrupted_is_not_taken_for_whole(tmp_path, monkeypatch):
    status = {"venv": 0, "pip": 130}
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, check: subprocess.CompletedProcess(command, status[command[2]]),
    )
    config = ServeOpenVLAConfig(COMMIT, environment=tmp_path / "env")
    with pytest.raises(ServeError, match=r"could not be made \(status 130\)"):
        serve_openvla(config)
    assert len(commands(config)) == 3


def test_a_branch_is_refused_and_a_dry_run_only_tells(capsys, tmp_path):
    assert main(["serve-openvla", "--revision", "main"]) == 2
    assert "revision='main'; expected a commit" in said(capsys)
    words = ["serve-openvla", "--revision", COMMIT, "--dry-run"]
    assert main([*words, "--environment", str(tmp_path / "env")]) == 0
    assert capsys.readouterr().out.count("\n+ ") == 2
    assert not (tmp_path / "env").exists()


def test_the_server_needs_nothing_of_wm_gym():
    """As a script, with wm_gym hidden: its environment has only what REQUIREMENTS name."""
    script = Path(commands(ServeOpenVLAConfig(COMMIT))[-1][1])
    code = (
        "import sys, runpy; sys.modules['wm_gym'] = None\n"
        f"found = runpy.run_path({str(script)!r})\n"
        "print(found['decode'](found['encode'](found['np'].arange(2))).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "[0, 1]", done.stderr
    told = subprocess.run(
        [sys.executable, "-I", str(script), "--help"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert "--revision" in told.stdout and told.returncode == 0
