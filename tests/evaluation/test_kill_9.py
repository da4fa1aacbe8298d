"""An evaluation whose process is killed leaves, started again, what an undisturbed one leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.killed_evaluations import EVALUATIONS

ROOT = Path(__file__).parents[2]
OF_THE_RUN = {"seconds", "duration_s", "date"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    words = [sys.executable, "-m", "tests.evaluation.killed_evaluations", str(folder)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def content(path: Path) -> Any:
    """What a file says, clocks apart."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in OF_THE_RUN}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    if path.suffix == ".jsonl":
        return [
            timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()
        ]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tolist() for name in arrays}
    return path.read_bytes()


@pytest.mark.parametrize("name", EVALUATIONS)
def test_kill_9_changes_no_file(name, evaluated):
    whole, killed = evaluated / name / "whole", evaluated / name / "killed"
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(killed) for p in killed.rglob("*") if p.is_file())
    kinds = {path.suffix for path in files}
    assert kinds >= {".jsonl", ".json"} and (".npz" in kinds) == (name == "judged")
    for path in files:
        assert content(whole / path) == content(killed / path), path
