"""The figures that were aimed at before training, beside those that were reached."""

from __future__ import annotations

from dataclasses import dataclass

from result_tables import BRIDGE, ROOT, find, markdown, read


@dataclass(frozen=True)
class Aim:
    """One figure that was aimed at: at least `aim`, or at most where `most` is set."""

    what: str
    aim: float
    file: str
    """Result file, or `assets` for the size of the Bridge models."""
    path: str
    """Path to the figure in the file; for timings from the entry of `rows` that `where` selects."""
    digits: int = 2
    most: bool = False
    scale: float = 1
    where: tuple[tuple[str, object], ...] = ()
    """Fields that select one entry of `rows`."""
    aim_path: str = ""
    """Path to the aim itself, where it is a measured figure too."""


def reached(aim: Aim, path: str) -> float:
    """Return a measured figure.

    Raises:
        LookupError: if the file has no such figure.
    """
    if aim.file == "assets":
        folders = [ROOT / "assets" / model for model in BRIDGE]
        return sum(file.stat().st_size for folder in folders for file in folder.iterdir()) / 1e6
    report = read(aim.file)
    if aim.where:
        (report,) = (
            row for row in report["rows"] if all(row[key] == value for key, value in aim.where)
        )
    value = find(report, path)
    if value is None:
        raise LookupError(f"benchmarks/results/{aim.file}.json has no {path}; measure it again")
    return aim.scale * value


def aims_table(aims: list[Aim]) -> str:
    """Return all aims as a Markdown table, and how many are met."""
    rows, met = [], 0
    for one in aims:
        value = reached(one, one.path)
        aim = reached(one, one.aim_path) if one.aim_path else one.aim
        enough = value <= aim if one.most else value >= aim
        met += enough
        sign = "≤" if one.most else "≥"
        rows.append([one.what, f"{sign} {aim:.{one.digits}f}", f"{value:.{one.digits}f}",
                     "yes" if enough else "**no**", f"`{one.file}`"])  # fmt: skip
    headings = ["figure", "aimed at", "reached", "met", "result"]
    return f"{markdown(rows, headings)}\n\n{met} of {len(aims)} are met."


def langtable_steps() -> list[Aim]:
    """Return the aims for a step of ten denoising steps in the full context."""
    aims = []
    for threads, file in (("2 threads", "rollout_step_2_threads"), ("1 thread", "rollout_step")):
        for mode, ratio in (("exact", 3.3), ("rolling", 4.5)):
            where = {
                batch: (("model", "langtable-vae-mini"), ("context", 10), ("batch", batch),
                        ("mode", mode))
                for batch in (1, 16)
            }  # fmt: skip
            if threads == "2 threads":
                aims += [
                    Aim(f"seconds a step, 1 row, `{mode}`, {threads}", 0.12, file,
                        "seconds_per_step", 3, most=True, where=where[1]),
                    Aim(f"rows·steps/s, 16 rows, `{mode}`, {threads}", 20, file,
                        "row_steps_per_second", 1, where=where[16]),
                ]  # fmt: skip
            aims += [
                Aim(f"`{mode}` times faster than `off`, batch {batch}, {threads}", ratio, file,
                    "times_faster_than_off", where=where[batch])
                for batch in (1, 16)
            ]  # fmt: skip
    return aims


def simulator_steps(simulator: str, aim: float) -> list[Aim]:
    """Return the aims for the speed of a simulator."""
    where = (("simulator", simulator), ("frame_size", "64x64"))
    label = f"`{simulator}` with a 64×64 frame, steps per second"
    return [
        Aim(f"{label} of processor time", aim, "simulator_step", "steps_per_processor_second", 0,
            where=where),
        Aim(f"{label} of wall time, on a shared core", aim, "simulator_step", "steps_per_second", 0,
            where=where),
    ]  # fmt: skip


def classifier(model: str, file: str) -> list[Aim]:
    """Return the aims for a success classifier on recorded frames."""
    prefix = f"{model}: " if model else ""
    tasks = read(file)["reward_model"]["real"]
    return [
        Aim(f"{prefix}success classifier, {task.replace('_', ' ')}, balanced accuracy", 0.9, file,
            f"reward_model.real.{task}.balanced_accuracy")
        for task in tasks
    ]  # fmt: skip


OPEN_LOOP = "open_loop_langtable"
COMPARED = "imagined_vs_real_langtable"

AIMS: dict[str, list[Aim]] = {
    "langtable-aims": [
        Aim("gap closed at horizon 10", 0.5, OPEN_LOOP, "open_loop.horizon_10.gap_closed"),
        Aim("gap closed at horizon 20", 0.3, OPEN_LOOP, "open_loop.horizon_20.gap_closed"),
        Aim("peg error at horizon 20, % of the width, median", 5, OPEN_LOOP,
            "open_loop.horizon_20.effector_error_percent_of_width_median", 1, most=True),
        Aim("rollouts in which no block vanishes or doubles within 30 steps, %", 90, OPEN_LOOP,
            "open_loop.block_persistence.rollout", 0, scale=100),
        *classifier("", "reward_model_langtable"),
        Aim("Pearson, above that of the undertrained model", 0, COMPARED, "pearson",
            aim_path="bad_world_model.pearson"),
        Aim("MMRV, below that of the undertrained model", 0, COMPARED, "mmrv", most=True,
            aim_path="bad_world_model.mmrv"),
        *langtable_steps(),
        Aim("rows·steps/s at 2 denoising steps, 16 rows, 1 thread, busy machine", 60, OPEN_LOOP,
            "open_loop.speed.row_steps_per_second", 1),
        *simulator_steps("LangTable-v0", 150),
    ],
    "bridge-aims": [
        *(
            aim
            for model, name in BRIDGE.items()
            for aim in (
                Aim(f"{model}: gap closed at horizon 10", 0.4, f"open_loop_{name}",
                    "open_loop.horizon_10.gap_closed"),
                Aim(f"{model}: gap closed at horizon 20", 0.25, f"open_loop_{name}",
                    "open_loop.horizon_20.gap_closed"),
                Aim(f"{model}: gripper error at horizon 10, pixels of 64, median", 3,
                    f"open_loop_{name}", "open_loop.horizon_10.effector_error_px_median", 1,
                    most=True),
            )
        ),
        *(
            aim
            for model, name in BRIDGE.items()
            for aim in classifier(model, f"reward_model_{name}")
        ),
        *(
            Aim(f"{model}: r of actions read from imagined frames, k = 1, relative to encoded ones",
                0.8, "latent_spaces_bridge", f"models.{model}.idm.k_1.generated_over_encoder")
            for model in BRIDGE
        ),
        *(
            Aim(f"{model}: {key.capitalize()}, imagined against simulator", 0.8,
                f"imagined_vs_real_{name}", key)
            for model, name in BRIDGE.items()
            for key in ("pearson", "spearman")
        ),
        *simulator_steps("BridgeSim-v0", 100),
        Aim("both models on disk, MB (10⁶ bytes)", 15, "assets", "", 1, most=True),
    ],
}  # fmt: skip
"""Every table of aims by the name that a document's mark states."""
