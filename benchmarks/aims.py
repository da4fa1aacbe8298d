"""A figure that was aimed at beside the one that was reached, as a row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from readme_format import number, read

HEADING = ["| what | aimed at | reached | met | result |", "|---|---|---|---|---|"]


@dataclass(frozen=True)
class Aim:
    """One figure that was aimed at: at least `aim`, or at most where `most` is set."""

    what: str
    aim: float
    reached: float
    source: str
    digits: int = 2
    most: bool = False

    @property
    def met(self) -> bool:
        """Whether the measured figure is good enough, before rounding."""
        return self.reached <= self.aim if self.most else self.reached >= self.aim

    @property
    def line(self) -> str:
        """Its row of the table."""
        sign = "≤" if self.most else "≥"
        return (
            f"| {self.what} | {sign} {number(self.aim, self.digits)} | "
            f"{number(self.reached, self.digits)} | {'yes' if self.met else '**no**'} | "
            f"`{self.source}` |"
        )


def results(name: str) -> dict[str, Any]:
    """A result that the table needs.

    Raises:
        FileNotFoundError: if it has not been measured.
    """
    report = read(name)
    if report is None:
        raise FileNotFoundError(f"benchmarks/results/{name}.json is not there; measure it first")
    return report


def table(aims: list[Aim]) -> list[str]:
    """All rows, and how many are met."""
    met = sum(aim.met for aim in aims)
    return [*HEADING, *(aim.line for aim in aims), "", f"{met} of {len(aims)} are met."]
