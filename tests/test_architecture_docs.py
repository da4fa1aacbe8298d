"""docs/architecture.md names the files and registries that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_and_folder_exists():
    named = [name for name in re.findall(r"`([\w./-]+(?:\.py|\.toml|/))`", TEXT)]
    paths = [name for name in named if "NAME" not in name and "test_NAME" not in name]
    assert len(paths) > 30
    roots = (ROOT, ROOT / "wm_gym", ROOT / "policies", ROOT / "envs")
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []


def test_every_registry_is_in_its_file():
    registries = re.findall(r"`([A-Z_]{5,})` in `([\w/]+\.py)`", TEXT)
    assert len(registries) >= 8
    for name, path in registries:
        assert re.search(
            rf"^{name}\b.*=", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        ), (name, path)


def test_the_layers_are_those_that_import_linter_holds():
    contract = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    )
    layers = re.findall(r"\w+", contract)
    drawing = TEXT.split("```mermaid")[1].split("```")[0]
    missing = set(layers) - {"commands", "semantic_card", "chat"} - set(re.findall(r"\w+", drawing))
    assert missing == set()
