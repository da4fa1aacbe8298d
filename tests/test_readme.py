"""README.md and docs/ state only figures that a committed result holds; examples run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


MARKS = re.compile(r"<!-- table: [\w-]+ -->\n(.*?)<!-- end of table -->", re.DOTALL)
FILL = ROOT / "benchmarks" / "fill_documents.py"
DOCUMENTS = ("README.md", "docs/results.md", "docs/langtable-model.md", "docs/bridge-models.md")


def fill(*arguments: str, script: Path = FILL) -> subprocess.CompletedProcess:
    words = [sys.executable, str(script), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, encoding="utf-8")


def test_documents_show_the_committed_results():
    run = fill("--check")
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_changed_figure_is_found_and_filled_again(tmp_path):
    """A copy of documents and results, in which one result is another one than was shown."""
    for folder in ("benchmarks", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("recipes"))
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    result = tmp_path / "benchmarks" / "results" / "imagined_vs_real_langtable.json"
    report = json.loads(result.read_text(encoding="utf-8"))
    result.write_text(json.dumps(report | {"pearson": 0.123}), encoding="utf-8")
    script = tmp_path / "benchmarks" / FILL.name
    run = fill("--check", script=script)
    assert run.returncode == 1
    outdated = [line.split()[0] for line in run.stdout.splitlines()]
    assert outdated == ["README.md", "docs/results.md", "docs/langtable-model.md"]
    assert fill(script=script).returncode == 0 == fill("--check", script=script).returncode
    assert "0.12 [" in MARKS.findall((tmp_path / "README.md").read_text(encoding="utf-8"))[0]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_table_is_empty(document):
    tables = MARKS.findall((ROOT / document).read_text(encoding="utf-8"))
    assert tables and all(len(table.splitlines()) > 2 for table in tables)


@pytest.mark.parametrize("page", ["langtable-model.md", "bridge-models.md"])
def test_a_missed_aim_is_called_missed(page):
    page = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = re.findall(r"\| (≥|≤) (-?[\d.]+) +\| (-?[\d.]+) +\| (yes|\*\*no\*\*) +\|", page)
    assert len(rows) > 15
    for sign, aim, reached, met in rows:
        if aim != reached:  # both are rounded
            enough = float(reached) > float(aim) if sign == "≥" else float(reached) < float(aim)
            assert (met == "yes") == enough


def test_the_readme_gives_the_commands_of_the_makefile():
    readme, makefile = (
        (ROOT / "README.md").read_text(encoding="utf-8"),
        (ROOT / "Makefile").read_text(encoding="utf-8"),
    )
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile


def test_the_readme_is_short_and_its_links_and_pictures_are_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 135
    links = re.findall(r"\]\(([^):]+)\)", readme)
    assert [link for link in links if not (ROOT / link).exists()] == []
    (animation,) = [ROOT / link for link in links if link.endswith(".gif")]
    assert animation.stat().st_size <= 2**20
    with Image.open(animation) as picture:
        assert picture.n_frames == 50


def test_the_examples_run(embedded_checkpoint, capsys):
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) == 3
    for block in blocks:
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
        if "run_policy" in block:
            for records in (names["imagined"], names["true"]):
                assert [record.instruction.split()[0] for record in records] == ["reach", "push"]
                assert all(record.error is None for record in records)
    instruction, verdict, outcomes = capsys.readouterr().out.splitlines()
    assert instruction.startswith("push the ") and verdict.split()[0] in ("True", "False")
    assert outcomes.count("(") == 2
