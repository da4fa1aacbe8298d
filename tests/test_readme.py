"""README.md and the page of a model's aims state only figures that a committed result holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["readme_figures.py", "langtable_targets.py", "bridge_targets.py"])
def test_documents_show_the_committed_results(name):
    script = ROOT / "benchmarks" / name
    run = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", ["langtable-model.md", "bridge-models.md"])
def test_a_missed_aim_is_called_missed(page):
    page = (ROOT / "docs" / page).read_text()
    rows = re.findall(r"\| (≥|≤) ([\d.]+) \| ([\d.]+) \| (yes|\*\*no\*\*) \|", page)
    assert len(rows) > 15
    for sign, aim, reached, met in rows:
        if aim != reached:  # both are rounded
            enough = float(reached) > float(aim) if sign == "≥" else float(reached) < float(aim)
            assert (met == "yes") == enough


def test_the_readme_gives_the_commands_of_the_makefile():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile


def test_the_example_of_a_policy_acts_in_both_worlds(embedded_checkpoint, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "run_policy" in block]
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    for records in (names["imagined"], names["true"]):
        assert [record.instruction.split()[0] for record in records] == ["reach", "push"]
        assert all(record.error is None for record in records)
    assert capsys.readouterr().out.count("(") == 2
