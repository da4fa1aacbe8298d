"""Writes, or checks, the text between a document's marks."""

from __future__ import annotations

from dataclasses import dataclass

from readme_format import ROOT

START, END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class FiguresConfig:
    """Write, or check, the figures in a document."""

    check: bool = False
    """Change nothing; exit status 1 if the document is out of date."""


def fill(document: str, block: str, script: str, config: FiguresConfig) -> int:
    """Put a block between the marks of a document, or check that it stands there.

    Args:
        document: path below the repository's root.
        block: the text between the marks.
        script: name of the script that fills it, for the remedy.
        config: whether to write or to check.

    Returns:
        Exit status: 1 if a check found the document out of date.
    """
    path = ROOT / document
    text = path.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    filled = f"{before}{START}\n{block}\n{END}{after}"
    if config.check:
        if filled != text:
            print(f"{document} is out of date: run python benchmarks/{script}")
        return int(filled != text)
    path.write_text(filled)
    return 0
