"""How the tables of README.md read results and write numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> dict[str, Any] | None:
    """A result file, None if the measurement has not been made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(row: dict[str, Any]) -> str:
    """An accuracy or a success rate with its interval, in percent."""
    rate = row["accuracy"] if "accuracy" in row else row["success_rate"]
    low, high = row["interval"] if "interval" in row else (row["low"], row["high"])
    return f"{100 * rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
