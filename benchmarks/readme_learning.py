"""The table of README.md about agents that learn in imagination."""

from __future__ import annotations

from typing import Any

from readme_format import share

NAMES = {
    "ppo_in_imagination": "PPO, trained in the dream alone",
    "ppo_without_surprise_penalty": "the same without the penalty on surprise",
    "sac_in_imagination": "SAC, trained in the dream alone",
}


def learning(reports: dict[str, dict[str, Any]]) -> list[str]:
    """What agents trained in imagination do in the simulator, and who stands beside them."""
    first = next(iter(reports.values()))
    target, episodes = first["settings"]["target"], first["settings"]["test_episodes"]
    lines = [
        f"**Learning in imagination**, reach the {target}: success in the simulator in %, "
        f"{episodes} starts that neither agent nor world model has seen "
        "(`examples/train_ppo_in_imagination.py`, `train_sac_in_imagination.py`; 95 % Wilson "
        "intervals):",
        "",
        "| policy | imagined steps | true success | imagined success at the end |",
        "|---|---|---|---|",
    ]
    for name, report in reports.items():
        dreamt = report["history"][-1]["success"]
        lines.append(
            f"| {NAMES[name]} | {report['imagined_steps']} | "
            f"{share(report['true_success']['trained'])} | {100 * dreamt:.0f} |"
        )
    for other, row in first["true_success"].items():
        if other != "trained":
            called = "before it has learned" if other == "untrained" else f"beside it: {other}"
            lines.append(f"| {called} | 0 | {share(row)} | |")
    return lines
