"""Fills the figures in README.md from benchmarks/results/*.json; nothing there is typed by hand.

python benchmarks/readme_figures.py            # rewrites the block between the markers
python benchmarks/readme_figures.py --check    # exit status 1 if the README is out of date
"""

from __future__ import annotations

import sys
from typing import Any

import tyro
from document_figures import FiguresConfig, fill
from readme_format import number, read
from readme_learning import AGENTS, BASES, improvement, learning
from readme_semantic import (
    ablations,
    data_mixtures,
    future_qa,
    multi_step,
    planner_time,
    planning,
)

from wm_gym.evaluation.latent_spaces.compare import table_rows


def open_loop_table(report: dict[str, Any]) -> list[str]:
    """Rollouts under recorded actions."""
    scores = report["open_loop"]
    lines = [
        "**Open loop**, held-out episodes, recorded actions (`wm-gym evaluate open-loop`; "
        "changed PSNR"
        " is over the pixels that changed since the start; gap closed is 0 for copying the first "
        "frame"
        " and 1 for the decoder's own limit):",
        "",
        "| horizon | gap closed | with shuffled actions | changed PSNR (copy · rollout · "
        "decoder), dB "
        "| effector off, % of width |",
        "|---|---|---|---|---|",
    ]
    for key, row in scores.items():
        if not key.startswith("horizon_"):
            continue
        psnr = " · ".join(
            number(row[f"changed_psnr{suffix}"], 1)
            for suffix in ("_copy_first", "", "_reconstruction")
        )
        lines.append(
            f"| {key.removeprefix('horizon_')} | {number(row['gap_closed'])} | "
            f"{number(row['gap_closed_shuffled_actions'])} | {psnr} | "
            f"{number(row.get('effector_error_percent_of_width_median'), 1)} |"
        )
    kept = scores.get("block_persistence")
    if kept:
        lines += [
            "",
            f"No block vanishes or doubles within {kept['steps']} steps in "
            f"{100 * kept['rollout']:.0f} % of rollouts (decoder alone "
            f"{100 * kept['reconstruction']:.0f} %, recorded truth {100 * kept['truth']:.0f} %).",
        ]
    return lines


def denoising_table() -> list[str]:
    """Rollouts of the same clips with different numbers of denoising steps."""
    reports = list(filter(None, map(read, BY_STEPS)))
    if not reports:
        return []
    by_steps = {one["open_loop"]["speed"]["denoising_steps"]: one["open_loop"] for one in reports}
    horizons = [key for key in by_steps[min(by_steps)] if key.startswith("horizon_")]
    shared = [key for key in horizons if all(key in one for one in by_steps.values())]
    lines = [
        "Gap closed by the number of denoising steps, on other clips, the same for all of them:",
        "",
        f"| steps | {' | '.join(key.replace('_', ' ') for key in shared)} |",
        f"|---|{'---|' * len(shared)}",
    ]
    for steps, scores in sorted(by_steps.items()):
        row = " | ".join(number(scores[key]["gap_closed"]) for key in shared)
        lines.append(f"| {steps} | {row} |")
    return lines


def reward_table(report: dict[str, Any]) -> list[str]:
    """The success classifier."""
    reward = report["reward_model"]
    lines = [
        "**Success classifier**, balanced accuracy with near misses as half of the negatives "
        "(`wm-gym evaluate reward-model`):",
        "",
        "| task | real held-out frames | imagined frames of the same actions |",
        "|---|---|---|",
    ]
    for task, row in reward["real"].items():
        dream = reward["imagined"].get(task)
        shown = number(dream["balanced_accuracy"]) if dream else "–"
        lines.append(f"| {task} | {number(row['balanced_accuracy'])} | {shown} |")
    return lines


def truth_table(worlds: dict[str, dict[str, Any]], report: dict[str, Any]) -> list[str]:
    """Does success in the dream predict success in the simulator.

    Args:
        worlds: results by the name of the world model.
        report: of one of them: how all were measured.
    """
    steps = report["world_model"]["denoising_steps"]
    lines = [
        f"**Imagined against true success**, {len(report['policies'])} policies, "
        f"{report['starts_per_task']} paired starts a task, {steps} denoising "
        f"step{'s' if steps > 1 else ''} a frame (`wm-gym compare-real`; 95 % bootstrap intervals "
        "over policies and episodes):",
        "",
        "| | Pearson | Spearman | MMRV |",
        "|---|---|---|---|",
    ]
    for name, rows in worlds.items():
        lines.append(agreement_row(name, rows))
        if split := rows.get("split"):
            lines.append(
                agreement_row(f"{name}: judged on real video against true", split["judge"])
            )
            lines.append(agreement_row(f"{name}: imagined against judged", split["dream"]))
    return lines


def agreement_row(name: str, rows: dict[str, Any]) -> str:
    """Statistics over policies with their intervals."""
    cells = []
    for statistic in ("pearson", "spearman", "mmrv"):
        low, high = rows[f"{statistic}_interval"]
        cells.append(f"{number(rows[statistic])} [{number(low)}, {number(high)}]")
    return f"| {name} | " + " | ".join(cells) + " |"


def policy_table(worlds: dict[str, dict[str, Any]]) -> list[str]:
    """Success of every policy in both worlds."""
    rates = {
        model: {entry["name"]: entry for entry in report["policies"]}
        for model, report in worlds.items()
    }
    names = list(next(iter(rates.values())))
    lines = [
        "",
        f"| policy | true success, % | {' | '.join(f'in the dream of {m}' for m in rates)} |",
        f"|---|---|{'---|' * len(rates)}",
    ]
    for name in names:
        entries = [known[name] for known in rates.values() if name in known]
        cells = " | ".join(f"{100 * entry['imagined_success_rate']:.0f}" for entry in entries)
        lines.append(f"| {name} | {100 * entries[0]['true_success_rate']:.0f} | {cells} |")
    return lines


def langtable_truth(report: dict[str, Any]) -> list[str]:
    """The shipped model of LangTable, and the one that is bad on purpose."""
    worlds = {"this model": report}
    if bad := report.get("bad_world_model"):
        worlds["a deliberately bad one (dynamics stopped early)"] = bad
    return truth_table(worlds, report) + policy_table({"this model": report})


def bridge_open_loop(reports: dict[str, dict[str, Any]]) -> list[str]:
    """Rollouts of both models of BridgeSim under recorded actions."""
    heading = [f"gap closed, {model} (shuffled actions)" for model in reports]
    heading += [f"gripper off, % of width, {model}" for model in reports]
    lines = [
        "**Open loop**, held-out episodes, recorded actions (`wm-gym evaluate open-loop`):",
        "",
        f"| horizon | {' | '.join(heading)} |",
        f"|---|{'---|' * len(heading)}",
    ]
    scores = [report["open_loop"] for report in reports.values()]
    for key in (key for key in scores[0] if key.startswith("horizon_")):
        row = [
            f"{number(s[key]['gap_closed'])} ({number(s[key]['gap_closed_shuffled_actions'])})"
            for s in scores
        ]
        row += [number(s[key].get("effector_error_percent_of_width_median"), 1) for s in scores]
        lines.append(f"| {key.removeprefix('horizon_')} | {' | '.join(row)} |")
    return lines


def bridge_rewards(reports: dict[str, dict[str, Any]]) -> list[str]:
    """The success classifiers of both models of BridgeSim."""
    lines = [
        "**Success classifier**, balanced accuracy, real held-out frames · imagined frames of the "
        "same actions (`wm-gym evaluate reward-model`):",
        "",
        f"| task | {' | '.join(reports)} |",
        f"|---|{'---|' * len(reports)}",
    ]
    rewards = [report["reward_model"] for report in reports.values()]
    for task in rewards[0]["real"]:
        cells = []
        for reward in rewards:
            pair = [reward[where].get(task, {}) for where in ("real", "imagined")]
            cells.append(" · ".join(number(row.get("balanced_accuracy")) for row in pair))
        lines.append(f"| {task.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def latent_spaces(report: dict[str, Any]) -> list[str]:
    """What either latent space keeps of the actions."""
    heading, *rows = table_rows(report)
    lines = [
        "**Latent spaces**: what inverse dynamics and CEM read back of the actions (`wm-gym "
        "evaluate latent-spaces`; `docs/latent-spaces.md` says what each column is):",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    for k, answer in report["families"].items():
        low, high = (number(value, 3) for value in answer["interval"])
        lines.append(
            f"Do semantic latents keep actions better here, {k.replace('_', ' = ')}? "
            f"**{answer['semantic_latents_keep_actions_better'].capitalize()}**: r on imagined "
            f"latents differs by {answer['semantic_minus_reconstruction']:+.3f} [{low}, {high}]."
        )
    return lines


def step_rows(report: dict[str, Any]) -> list[str]:
    """Seconds per step of every cache mode, at the shortest, a middle and the full context."""
    cells: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for row in report["rows"]:
        cells.setdefault((row["model"], row["batch"], row["context"]), {})[row["mode"]] = row
    contexts = sorted({context for _, _, context in cells})
    shown = {contexts[0], contexts[len(contexts) // 2], contexts[-1]}
    lines = []
    for (model, batch, context), modes in cells.items():
        if context not in shown:
            continue
        off = modes["off"]["seconds_per_step"]
        texts = [f"{number(off, 3)} s / {number(modes['off']['frame_passes'], 0)}"]
        for mode in ("exact", "rolling"):
            row = modes[mode]
            texts.append(
                f"{number(off / row['seconds_per_step'], 1)}× ({number(row['seconds_per_step'], 3)}"
                f" s / {number(row['frame_passes'], 0)})"
            )
        rate = number(modes["rolling"]["row_steps_per_second"], 2)
        threads = report["machine"]["torch_threads"]
        lines.append(
            f"| {model} | {threads} | {batch} | {context} | {' | '.join(texts)} | {rate} |"
        )
    return lines


def step_table(report: dict[str, Any]) -> list[str]:
    """Seconds per step by threads, batch and context, and what a long rollout keeps."""
    steps = {row["denoising_steps"] for row in report["rows"]}
    lines = [
        f"**One step** of {', '.join(map(str, sorted(steps)))} denoising steps "
        "(`benchmarks/rollout_step.py`; seconds / frame passes per row; times faster than `off`):",
        "",
        "| model | threads | batch | context | `off` | `exact` | `rolling` | rows/s of `rolling` |",
        "|---|---|---|---|---|---|---|---|",
        *step_rows(report),
    ]
    if second := read("rollout_step_2_threads"):
        lines += step_rows(second)
    if memory := report.get("memory"):
        sizes = {
            int(key.split("_")[3]): memory[key] for key in memory if key.startswith("snapshot_")
        }
        texts = [f"{size} bytes after {steps} steps" for steps, size in sorted(sizes.items())]
        lines += ["", f"What a rollout keeps: {', '.join(texts)}."]
    return lines


def finetune_table(report: dict[str, Any]) -> list[str]:
    """What fine-tuning on own episodes gains."""
    lines = [
        "**Fine-tuned on 100 own episodes** with six unseen blocks and a robot that covers 60 % of "
        "each commanded way (`examples/finetune_on_own_episodes.py`; changed PSNR on 24 held-out "
        "clips, dB):",
        "",
        "| horizon | copy first frame | as shipped | fine-tuned | decoder |",
        "|---|---|---|---|---|",
    ]
    for name, before in report["before"].items():
        cells = (
            before["changed_psnr_copy_first"],
            before["changed_psnr"],
            report["after"][name]["changed_psnr"],
            report["after"][name]["changed_psnr_reconstruction"],
        )
        figures = " | ".join(number(cell, 1) for cell in cells)
        lines.append(f"| {name.removeprefix('horizon_')} | {figures} |")
    return lines


BY_STEPS = tuple(f"open_loop_langtable_{steps}" for steps in ("1_step", "2_steps", "10_steps"))
LANGTABLE = {
    "open_loop_langtable": lambda report: [*open_loop_table(report), "", *denoising_table()],
    "reward_model_langtable": reward_table,
    "imagined_vs_real_langtable": langtable_truth,
    "rollout_step": step_table,
    "finetune_own_episodes": finetune_table,
}
BRIDGE_MODELS = {
    "bridge-vjepa-mini": "bridge_vjepa",
    "bridge-vae-mini": "bridge_vae",
    "bridge-vjepa96-mini": "bridge_vjepa96",
}


def read_bridge(measurement: str) -> dict[str, dict[str, Any]]:
    """Result files of one measurement by model of BridgeSim, of those it was made for."""
    found = {model: read(f"{measurement}_{name}") for model, name in BRIDGE_MODELS.items()}
    return {model: report for model, report in found.items() if report is not None}


def bridge_figures() -> list[str]:
    """Tables of BridgeSim's models."""
    blocks = []
    if reports := read_bridge("open_loop"):
        blocks.append(bridge_open_loop(reports))
    if reports := read_bridge("reward_model"):
        blocks.append(bridge_rewards(reports))
    if report := read("latent_spaces_bridge"):
        blocks.append(latent_spaces(report))
    if worlds := read_bridge("imagined_vs_real"):
        blocks.append(truth_table(worlds, next(iter(worlds.values()))) + policy_table(worlds))
    return ["\n".join(block) for block in blocks]


SEMANTIC = {
    "LangTable": {
        "future_qa_langtable_swm": future_qa,
        "planning_success_langtable": planning,
        "planning_success_langtable_multi_step": multi_step,
        "planner_time": planner_time,
        "data_mixtures_langtable": data_mixtures,
    },
    "Cube": {"future_qa_cube_swm": future_qa, "planning_success_cube": planning},
}
ABLATIONS = {
    "as in the paper": "planning_success_langtable",
    "all of the same weight": "planning_success_langtable_equal_weights",
    "in a wording never trained on": "planning_success_langtable_untrained_wording",
    "about a move in a direction, too": "planning_success_langtable_directed",
}
"""What a row says of the questions, and the result that it is from."""


def semantic_figures(domain: str) -> list[str]:
    """The tables of one semantic world model, as far as it was measured."""
    known = [(table, read(name)) for name, table in SEMANTIC[domain].items()]
    blocks = ["\n".join(table(report)) for table, report in known if report is not None]
    changed = {what: report for what, name in ABLATIONS.items() if (report := read(name))}
    if domain == "LangTable" and len(changed) > 1:
        blocks.append("\n".join(ablations(changed)))
    return [f"### A semantic world model of {domain}", *blocks] if blocks else []


def figures() -> str:
    """The whole block."""
    blocks = []
    for name, table in LANGTABLE.items():
        report = read(name)
        if report is not None:
            blocks.append("\n".join(table(report)))
    if bridge := bridge_figures():
        blocks = ["### LangTable", *blocks, "### BridgeSim", *bridge]
    for domain in SEMANTIC:
        blocks += semantic_figures(domain)
    agents = {name: report for name in AGENTS if (report := read(name)) is not None}
    improved = {name: report for name in BASES if (report := read(name)) is not None}
    if agents or improved:
        blocks.append("### Agents")
    if agents:
        blocks.append("\n".join(learning(agents)))
    if improved:
        blocks.append("\n".join(improvement(improved)))
    return "\n\n".join(blocks)


def main(config: FiguresConfig) -> int:
    """Rewrite or check the README."""
    return fill("README.md", figures(), "readme_figures.py", config)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(FiguresConfig)))
