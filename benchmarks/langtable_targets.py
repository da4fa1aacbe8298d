"""Fills the table of aims in docs/langtable-model.md from benchmarks/results/*.json.

python benchmarks/langtable_targets.py            # rewrites the block between the marks
python benchmarks/langtable_targets.py --check    # exit status 1 if the document is out of date

What was aimed at stands here; what was reached, and whether that is enough, comes from the results.
"""

from __future__ import annotations

import sys

import tyro
from aims import Aim, results, table
from document_figures import FiguresConfig, fill
from readme_format import number

DOCUMENT = "docs/langtable-model.md"


def open_loop_aims() -> list[Aim]:
    """Rollouts under recorded actions."""
    name = "open_loop_langtable"
    found = results(name)["open_loop"]
    peg = found["horizon_20"]["effector_error_percent_of_width_median"]
    kept = found["block_persistence"]
    return [
        Aim("gap closed at horizon 10", 0.5, found["horizon_10"]["gap_closed"], name),
        Aim("gap closed at horizon 20", 0.3, found["horizon_20"]["gap_closed"], name),
        Aim("peg off at horizon 20, % of the width, median", 5.0, peg, name, 1, most=True),
        Aim(
            f"rollouts in which no block vanishes or doubles within {kept['steps']} steps, %",
            90.0, 100 * kept["rollout"], name, 0,
        ),
    ]  # fmt: skip


def classifier_aims() -> list[Aim]:
    """The success classifier on recorded frames."""
    name = "reward_model_langtable"
    found = results(name)["reward_model"]["real"]
    return [
        Aim(f"success classifier, {task}, balanced accuracy", 0.9, row["balanced_accuracy"], name)
        for task, row in found.items()
    ]


def comparison_aims() -> list[Aim]:
    """The comparison with the truth has to tell a good model from a bad one."""
    name = "imagined_vs_real_langtable"
    found = results(name)
    bad = found["bad_world_model"]
    return [
        Aim("Pearson, more than the bad model's", bad["pearson"], found["pearson"], name),
        Aim("MMRV, less than the bad model's", bad["mmrv"], found["mmrv"], name, most=True),
    ]


def step_aims() -> list[Aim]:
    """Seconds of a step of ten denoising steps, in the full context."""
    aims = []
    for threads, name in ((2, "rollout_step_2_threads"), (1, "rollout_step")):
        rows = {
            (row["batch"], row["mode"]): row
            for row in results(name)["rows"]
            if row["model"] == "langtable-vae-mini" and row["context"] == 10
        }
        many = f"{threads} thread{'s' if threads > 1 else ''}"
        for mode, ratio in (("exact", 3.3), ("rolling", 4.5)):
            one = rows[1, mode]
            if threads == 2:
                where = f"`{mode}`, {many}"
                seconds, rate = one["seconds_per_step"], rows[16, mode]["row_steps_per_second"]
                aims += [
                    Aim(f"seconds a step, one row, {where}", 0.12, seconds, name, 3, most=True),
                    Aim(f"rows·steps/s, 16 rows, {where}", 20, rate, name, 1),
                ]
            for batch in (1, 16):
                faster = rows[batch, mode]["times_faster_than_off"]
                label = f"`{mode}` times faster than `off`, batch {batch}, {many}"
                aims.append(Aim(label, ratio, faster, name))
    return aims


def other_aims() -> list[Aim]:
    """Two denoising steps, and the simulator."""
    two = "open_loop_langtable"
    speed = results(two)["open_loop"]["speed"]
    if speed["denoising_steps"] != 2:
        raise ValueError(f"{two} was measured with {speed['denoising_steps']} steps, expected 2")
    simulator = "simulator_step"
    row = next(
        row
        for row in results(simulator)["rows"]
        if (row["simulator"], row["frame_size"]) == ("LangTable-v0", "64x64")
    )
    rate, clock = row["steps_per_processor_second"], row["steps_per_second"]
    label = "`LangTable-v0` with a 64×64 frame, steps per second"
    return [
        Aim(
            f"rows·steps/s at two denoising steps, {speed['batch']} rows, 1 thread, busy machine",
            60, speed["row_steps_per_second"], two, 1,
        ),
        Aim(f"{label} of the processor", 150, rate, simulator, 0),
        Aim(f"{label} by the clock, on a core shared with others", 150, clock, simulator, 0),
    ]  # fmt: skip


def longer_table() -> list[str]:
    """What further training brought."""
    reports = {
        "the model that ships": results("open_loop_langtable"),
        "trained on": results("open_loop_langtable_longer"),
    }
    lines = [
        "| gap closed at horizon | 1 | 5 | 10 | 20 | 50 | all blocks kept, 30 steps | clips |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        found = report["open_loop"]
        kept = found["block_persistence"]
        cells = [number(found[f"horizon_{h}"]["gap_closed"]) for h in (1, 5, 10, 20, 50)]
        cells += [f"{100 * kept['rollout']:.0f} %", str(kept["clips"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def figures() -> str:
    """The whole block."""
    aims = [*open_loop_aims(), *classifier_aims(), *comparison_aims(), *step_aims(), *other_aims()]
    return "\n".join([*table(aims), "", *longer_table()])


def main(config: FiguresConfig) -> int:
    """Rewrite or check the document."""
    return fill(DOCUMENT, figures(), "langtable_targets.py", config)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(FiguresConfig)))
