"""The tables of README.md about semantic world models."""

from __future__ import annotations

from typing import Any

from readme_format import number, share

PAPER = {
    "langtable-swm": ("unseen blocks", 92.9, 88.3),
    "cube-swm": ("unseen background", 96.9, 88.2),
}
"""What is new to a model out of distribution, and the paper's accuracies in and out of it."""


def future_qa(report: dict[str, Any]) -> list[str]:
    """How often a semantic world model answers right."""
    unseen, inside, outside = PAPER[report["model"]]
    found = report["future_qa"]
    places = [found[name] for name in ("in_distribution", "out_of_distribution")]
    lines = [
        "**Answers about the future**, held-out expert episodes, % right (`wm-gym evaluate "
        "semantic`; 95 % intervals over questions):",
        "",
        f"| | as trained | {unseen} |",
        "|---|---|---|",
        "| all questions | " + " | ".join(map(share, places)) + " |",
    ]
    parts = ("clear", "ambiguous", "untrained_phrasings")
    names = ("outside the ambiguity margin", "inside it", "wordings never trained on")
    for part, name in zip(parts, names, strict=True):
        lines.append(f"| {name} | " + " | ".join(share(place[part]) for place in places) + " |")
    for name, row in found["controls"].items():
        lines.append(f"| control: {name.replace('_', ' ')} | {share(row)} | |")
    lines.append(f"| the paper's model of 3 billion parameters | {inside} | {outside} |")
    return lines


def planning(report: dict[str, Any]) -> list[str]:
    """How often plans succeed in the simulator."""
    base = any(row["method"] == "base" for row in report["rows"])
    return [
        "**Planning**, success in the simulator in % (`benchmarks/planning_success.py`; 95 % "
        f"Wilson intervals{'; the base is the scripted expert with action noise' * base}):",
        *planning_table(report),
    ]


def multi_step(report: dict[str, Any]) -> list[str]:
    """How often tasks of two pushes succeed."""
    threshold = report["settings"]["done_threshold"]
    return [
        "**Two pushes in one episode**, success in the simulator in % (a push counts as done above "
        f"a probability of {threshold}, as in the published code: `--done-threshold {threshold}`):",
        *planning_table(report),
    ]


def planning_table(report: dict[str, Any]) -> list[str]:
    """Success by task and method, and what planning adds to the base."""
    lines = [
        "",
        "| task | method | success | episodes | the paper |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        paper = "" if row["paper"] is None else f"{100 * row['paper']:.0f}"
        task = row["task"].replace("_", " ")
        lines.append(f"| {task} | {row['method']} | {share(row)} | {row['episodes']} | {paper} |")
    for row in report["improvements"]:
        low, high = (number(value, 0) for value in row["interval"])
        lines += [
            "",
            f"{row['method'].capitalize()} over base, mean of {row['tasks']} "
            f"{row['group'].replace('_', '-')} tasks: {row['points']:+.0f} points [{low}, {high}].",
        ]
    return lines


def ablations(reports: dict[str, dict[str, Any]]) -> list[str]:
    """What planning reaches when one thing about its questions is changed."""
    lines = [
        "**Other questions**: success of `separate` by MPPI in %, and points that gradient ascent "
        "adds to the base, mean over the pushes (`benchmarks/planning_success.py`; the same "
        "seeds):",
        "",
        "| questions | separate | episodes | points on pushes | paired episodes |",
        "|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        cells = ["", "", "", ""]
        for row in report["rows"]:
            if (row["group"], row["method"]) == ("separate", "mppi"):
                cells[:2] = [share(row), str(row["episodes"])]
        for row in report["improvements"]:
            if (row["group"], row["method"]) == ("push", "gradient"):
                low, high = (number(value, 0) for value in row["interval"])
                cells[2:] = [f"{row['points']:+.0f} [{low}, {high}]", str(row["episodes"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def data_mixtures(report: dict[str, Any]) -> list[str]:
    """The paper's Table 2 at our size."""
    lines = [
        f"**Suboptimal data** (`benchmarks/data_mixtures.py`; {report['training_steps']} steps "
        "each from one common start, answers about held-out expert episodes, % right, mean ± "
        f"standard deviation over {len(report['seeds'])} training seeds; in brackets the paper's):",
        "",
        "| trained on | known blocks | unseen blocks |",
        "|---|---|---|",
    ]
    for row in report["rows"]:
        cells = [
            f"{place['mean']:.1f} ± {place['deviation']:.1f} ({place['paper']:.1f})"
            for place in (row["in_distribution"], row["out_of_distribution"])
        ]
        lines.append(f"| {row['mixture']} | {' | '.join(cells)} |")
    return lines


def planner_time(report: dict[str, Any]) -> list[str]:
    """What a plan costs, and what sharing saves."""
    seconds = {(r["planner"], r["keys_and_values"]): r["seconds_per_chunk"] for r in report["rows"]}
    parts = [
        f"{name} {number(seconds[name, 'shared'], 2)} s "
        f"({number(row['alone_over_shared'], 1)}× without sharing)"
        for name, row in report["ratios"].items()
    ]
    return [
        f"A plan of {report['horizon']} actions takes, with keys and values shared between "
        f"questions: {', '.join(parts)} (`benchmarks/planner_time.py`)."
    ]
