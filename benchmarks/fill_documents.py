"""Fill the tables in README.md and docs/ from benchmarks/results/*.json.

python benchmarks/fill_documents.py            # rewrites every table between its two marks
python benchmarks/fill_documents.py --check    # exit status 1 if a document is out of date

A document places a table with `<!-- table: NAME -->` and `<!-- end of table -->`; `aims.py` and
`result_tables.py` define the names. Captions and explanations are prose of the document.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import tyro
from aims import AIMS, aims_table
from result_tables import ROOT, TABLES, latent_spaces, render

DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/langtable-model.md",
    "docs/bridge-models.md",
)
BLOCK = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- end of table -->", re.DOTALL)


@dataclass(frozen=True)
class FillConfig:
    """Write, or check, the tables of all documents."""

    check: bool = False
    """Change nothing; exit status 1 if a document is out of date."""


def table(name: str) -> str:
    """Return one table as Markdown.

    Raises:
        KeyError: if no table has this name.
        FileNotFoundError: if a result file of the table is missing.
    """
    if name in AIMS:
        return aims_table(AIMS[name])
    if name == "latent-spaces":
        return latent_spaces()
    if name not in TABLES:
        known = ", ".join([*AIMS, *TABLES])
        raise KeyError(f"there is no table {name!r}; result_tables.py and aims.py have {known}")
    return render(TABLES[name])


def filled(text: str) -> str:
    """Return a document's text with every table rendered anew."""
    return BLOCK.sub(
        lambda found: f"<!-- table: {found[1]} -->\n{table(found[1])}\n<!-- end of table -->", text
    )


def main(config: FillConfig) -> int:
    """Rewrite or check all documents.

    Returns:
        Exit status: 1 if a check found a document out of date.
    """
    outdated = []
    for document in DOCUMENTS:
        path = ROOT / document
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if before != after and config.check:
            outdated.append(document)
        elif before != after:
            path.write_text(after, encoding="utf-8")
    for document in outdated:
        print(f"{document} is out of date: run python benchmarks/fill_documents.py")
    return int(bool(outdated))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(FillConfig)))
