"""The tables of README.md about agents that learn in imagination, and what planning adds."""

from __future__ import annotations

import json
from typing import Any

from readme_format import ROOT, number, share

NAMES = {
    "ppo_in_imagination": "PPO, trained in the dream alone",
    "ppo_without_surprise_penalty": "PPO, without the penalty on surprise",
    "sac_in_imagination": "SAC, trained in the dream alone",
    "ppo_push_in_imagination": "PPO, trained in the dream alone",
    "ppo_push_without_surprise_penalty": "PPO, without the penalty on surprise",
}
AGENTS = tuple(NAMES)
BESIDE = {
    "untrained": "before it has learned",
    "cloned_recorded": "cloned from the recorded actions of the world model's own episodes",
}
COLUMNS = {"base": "base policy", "idql": "IDQL over it", "planned": "planning from it"}
GAINS = {"idql": "IDQL", "planned": "Planning"}
BASES = {
    "policy_improvement": "The base is a diffusion policy of ours",
    "policy_improvement_unseen": "Two pushes with unseen blocks, the base is the scripted expert "
    "with noise",
}


def learning(reports: dict[str, dict[str, Any]]) -> list[str]:
    """What agents trained in imagination do in the simulator, and who stands beside them."""
    tasks: dict[str, dict[str, dict[str, Any]]] = {}
    for name, report in reports.items():
        settings = report["settings"]
        words = settings.get("instruction") or f"reach the {settings['target']}"
        tasks.setdefault(words, {})[name] = report
    lines = [
        "**Learning in imagination**: success in the simulator in %, starts that neither agent nor "
        "world model has seen (`examples/train_ppo_in_imagination.py`, "
        "`train_sac_in_imagination.py`; 95 % Wilson intervals):",
        "",
        "| task | policy | imagined steps | true success | starts | imagined success at the end |",
        "|---|---|---|---|---|---|",
    ]
    for words, of_task in tasks.items():
        for name, report in of_task.items():
            dreamt = report["history"][-1]["success"]
            row = report["true_success"]["trained"]
            lines.append(
                f"| {words} | {NAMES[name]} | {report['imagined_steps']} | {share(row)} | "
                f"{report['settings']['test_episodes']} | {100 * dreamt:.0f} |"
            )
        first = next(iter(of_task.values()))
        for other, row in first["true_success"].items():
            if other != "trained":
                called = BESIDE.get(other, f"beside it: {other}")
                episodes = first["settings"]["test_episodes"]
                lines.append(f"| {words} | {called} | 0 | {share(row)} | {episodes} | |")
    return lines


def planned_with(report: dict[str, Any]) -> str:
    """Says so where the model that planned is not the one that ships now."""
    card = json.loads((ROOT / "assets" / report["model"] / "card.json").read_text())
    if report["settings"]["weights_sha256"] == card["weights_sha256"]:
        return ""
    return f" (planning with an earlier `{report['model']}`)"


def improvement(reports: dict[str, dict[str, Any]]) -> list[str]:
    """Base policy, IDQL and planning from the base's proposals, beside the paper's figures."""
    lines = [
        "**What planning adds to a policy**, success in the simulator in % "
        "(`benchmarks/policy_improvement.py`; paired seeds, 95 % Wilson intervals; planning is "
        "gradient ascent with `langtable-swm`; the paper: base · planned):",
    ]
    for name, report in reports.items():
        columns = [c for c in COLUMNS if any(row["column"] == c for row in report["rows"])]
        lines += [
            "",
            f"{BASES[name]}{planned_with(report)}:",
            "",
            f"| task | {' | '.join(COLUMNS[c] for c in columns)} | episodes | the paper |",
            f"|---|{'---|' * len(columns)}---|---|",
        ]
        tasks: dict[str, dict[str, dict[str, Any]]] = {}
        for row in report["rows"]:
            tasks.setdefault(row["task"], {})[row["column"]] = row
        for task, rows in tasks.items():
            cells = " | ".join(share(rows[c]) if c in rows else "" for c in columns)
            paper = [rows[c]["paper"] for c in ("base", "planned") if c in rows]
            known = " · ".join(f"{100 * one:.0f}" for one in paper if one is not None)
            counts = sorted({row["episodes"] for row in rows.values()})
            texts = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
            lines.append(f"| {task.replace('_', ' ')} | {cells} | {texts} | {known} |")
        for row in report["improvements"]:
            low, high = (number(value, 0) for value in row["interval"])
            lines += [
                "",
                f"{GAINS[row['column']]} over the base, mean of {row['tasks']} "
                f"tasks: {row['points']:+.0f} points [{low}, {high}].",
            ]
    return lines
