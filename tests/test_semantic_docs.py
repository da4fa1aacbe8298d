"""The commands and names in docs/semantic-models.md exist."""

import json
import re
from importlib import import_module
from pathlib import Path

from tests.docs_commands import assert_understood, documented_commands

TEXT = (Path(__file__).parent.parent / "docs" / "semantic-models.md").read_text(encoding="utf-8")


def test_every_command_is_understood():
    blocks = re.findall(r"```bash\n.*?```", TEXT, re.DOTALL)
    commands = [words for block in blocks for words in documented_commands(block)]
    assert len(commands) == 17
    for words in commands:
        assert_understood(words)


def test_every_import_is_there():
    found = re.findall(r"^from (wm_gym\S+) import (\w+)$", TEXT, re.MULTILINE)
    assert len(found) == 11
    for module, name in found:
        assert hasattr(import_module(module), name)


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "semantic-models.md", "exec"), names)
    assert names["found"].actions.shape == (1, 16, 2)
    assert all(record.error is None for record in names["records"])
    assert "-> ['Did the red moon move up?'" in capsys.readouterr().out


def test_what_a_threshold_is_worth_is_what_was_measured():
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    found = json.loads(
        (results / "answer_threshold_langtable_swm.json").read_text(encoding="utf-8")
    )
    report = found["answer_threshold"]
    said = re.sub(r"\s+", " ", TEXT)
    for key in ("exact_answers", "balanced_accuracy"):
        separate, push = (f"{100 * report['by_task'][t][key]:.1f}" for t in ("separate", "push"))
        assert re.search(rf"{separate} % [^;]*{push} %", said), key
    assert f"a threshold of {report['threshold']:.3f}" in said
