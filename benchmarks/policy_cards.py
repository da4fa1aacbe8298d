"""Writes true success per task from a comparison's report into the policies' `policy.json`.

    python benchmarks/policy_cards.py --report benchmarks/results/imagined_vs_real_langtable.json \
        --policies assets/langtable-bc/stage_*

The report is one of `wm-gym compare-real`; a folder is found in it by its name, without noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.policy_cards import true_success_of, write_policy_metric


@dataclass(frozen=True)
class PolicyCardsConfig:
    """Write true success into policy.json."""

    report: Path
    """Report of `wm-gym compare-real`."""
    policies: tuple[Path, ...]
    """Folders of saved policies that it measured."""


def main(config: PolicyCardsConfig) -> None:
    """Read, write and print."""
    report = json.loads(config.report.read_text(encoding="utf-8"))
    found = {folder: true_success_of(report, folder) for folder in config.policies}
    for folder, figures in found.items():
        write_policy_metric(folder, "true_success", figures)
        rates = ", ".join(f"{t} {e['success_rate']:.0%}" for t, e in figures["tasks"].items())
        print(f"{folder}: {rates}")


if __name__ == "__main__":
    main(tyro.cli(PolicyCardsConfig))
