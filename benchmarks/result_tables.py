"""The tables of README.md and docs/: result files, and what each column reads from them."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from wm_gym.evaluation.latent_spaces.compare import table_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Table:
    """One table of figures.

    A column is a format string over the fields `label` (of the file), `key` (of the row), `row`,
    `file` (the whole report) and the names in `beside`, such as `{row[gap_closed]:.2f}`. A format
    that ends with `%` multiplies by 100, `words` replaces underscores and `count` is a length. An
    absent value is shown as a dash.
    """

    files: Mapping[str, str]
    """Result files, without `.json`, by the label of their rows."""
    rows: Mapping[str, str] | str
    """Path to a mapping or list whose entries are the rows, or one path for each named row."""
    columns: Mapping[str, str | Callable[[dict[str, Any]], str]]
    """Format string by heading, or a function of the whole report."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Paths to further values, `{key}` being the row's; a column refers to them by name."""
    only: str = ""
    """Beginning of the keys that are rows."""
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values that a field of the row may have."""


class _Cells(string.Formatter):
    """`str.format` with percentages without the sign and a dash for what is absent."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        try:
            return super().get_field(field_name, args, kwargs)
        except (KeyError, IndexError, TypeError):
            return None, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "–"
        if format_spec == "words":
            return str(value).replace("_", " ")
        if format_spec == "count":
            return str(len(value))
        if format_spec.endswith("%"):
            value, format_spec = 100 * value, f"{format_spec[:-1]}f"
        return super().format_field(value, format_spec)


def read(name: str) -> dict[str, Any]:
    """Return a result file.

    Raises:
        FileNotFoundError: if the measurement has not been made.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"benchmarks/results/{name}.json is missing; measure it first")
    return json.loads(path.read_text(encoding="utf-8"))


def find(report: Any, path: str) -> Any:
    """Return the value at a path such as `open_loop.horizon_1`, None if there is none."""
    for part in filter(None, path.split(".")):
        if isinstance(report, list):
            report = report[int(part)]
        else:
            report = report.get(part) if isinstance(report, Mapping) else None
    return report


def entries(table: Table, report: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of every row of one file."""
    if isinstance(table.rows, Mapping):
        found: Any = {name: find(report, path) for name, path in table.rows.items()}
    else:
        found = find(report, table.rows)
    pairs = found.items() if isinstance(found, Mapping) else enumerate(found)
    for key, row in pairs:
        allowed = all(find(row, name) in values for name, values in table.where.items())
        if row is not None and str(key).startswith(table.only) and allowed:
            yield str(key), row


def cell(column: str | Callable[[dict[str, Any]], str], values: dict[str, Any]) -> str:
    """Return the text of one cell."""
    return column(values["file"]) if callable(column) else _Cells().format(column, **values)


def markdown(rows: list[list[str]], headings: list[str]) -> str:
    """Return rows of text as a Markdown table."""
    return tabulate(rows, headings, tablefmt="github", disable_numparse=True)


def render(table: Table) -> str:
    """Return a table as Markdown."""
    rows = []
    for label, name in table.files.items():
        report = read(name)
        for key, row in entries(table, report):
            shown = key.removeprefix(table.only) or "all"
            values = {"label": label, "key": shown, "row": row, "file": report} | {
                name: find(report, path.format(key=key)) for name, path in table.beside.items()
            }
            rows.append([cell(column, values) for column in table.columns.values()])
    return markdown(rows, list(table.columns))


def latent_spaces() -> str:
    """Return the comparison of latent spaces, one model a column."""
    heading, *models = table_rows(read("latent_spaces_bridge"))
    rows = [list(row) for row in zip(heading, *models, strict=True)]
    return markdown(rows[1:], rows[0])


def planned_by(report: dict[str, Any]) -> str:
    """Return the name of the model that planned, marked if its weights no longer ship."""
    card = json.loads((ROOT / "assets" / report["model"] / "card.json").read_text(encoding="utf-8"))
    current = report["settings"]["weights_sha256"] == card["weights_sha256"]
    return report["model"] if current else f"an earlier {report['model']}"


LANGTABLE = {"langtable-vae-mini": "langtable"}
BRIDGE = {"bridge-vjepa-mini": "bridge_vjepa", "bridge-vae-mini": "bridge_vae"}
MODELS = {**LANGTABLE, **BRIDGE, "bridge-vjepa96-mini": "bridge_vjepa96"}


def files(measurement: str, models: Mapping[str, str]) -> dict[str, str]:
    """Return the result files of one measurement by model."""
    return {model: f"{measurement}_{name}" for model, name in models.items()}


def interval(statistic: str) -> str:
    """Return the format of a correlation with its interval."""
    low, high = (f"{{row[{statistic}_interval][{end}]:.2f}}" for end in (0, 1))
    return f"{{row[{statistic}]:.2f}} [{low}, {high}]"


def accuracy(place: str) -> str:
    """Return the format of a share of right answers with its interval."""
    return f"{{{place}[accuracy]:.1%}} [{{{place}[low]:.1%}}, {{{place}[high]:.1%}}]"


SUCCESS = "{row[success_rate]:.1%} [{row[interval][0]:.1%}, {row[interval][1]:.1%}]"
POINTS = "{row[points]:+.0f} [{row[interval][0]:.0f}, {row[interval][1]:.0f}]"
AGREEMENT = {
    name: interval(key)
    for name, key in (("Pearson", "pearson"), ("Spearman", "spearman"), ("MMRV", "mmrv"))
}
PLANNING = {
    "task": "{row[task]:words}",
    "method": "{row[method]}",
    "success, %": SUCCESS,
    "episodes": "{row[episodes]}",
    "the paper, %": "{row[paper]:.0%}",
}
GAINS = {
    "questions": "{label}",
    "method": "{row[method]}",
    "tasks": "{row[tasks]} {row[group]:words}",
    "points over the base": POINTS,
    "paired episodes": "{row[episodes]}",
}
QUESTIONS = {
    "as in the paper": "planning_success_langtable",
    "equal weights": "planning_success_langtable_equal_weights",
    "wording never trained on": "planning_success_langtable_untrained_wording",
    "with directions": "planning_success_langtable_directed",
}
AGENTS = {
    "PPO": "ppo_in_imagination",
    "PPO, no surprise penalty": "ppo_without_surprise_penalty",
    "PPO, push": "ppo_push_in_imagination",
    "PPO, push, no surprise penalty": "ppo_push_without_surprise_penalty",
}
SEMANTIC = {"langtable-swm": "future_qa_langtable_swm", "cube-swm": "future_qa_cube_swm"}
ANSWERS = ("clear", "ambiguous", "untrained_phrasings")
CONTROLS = ("no_actions", "other_actions", "no_image")
BASES = {
    "diffusion policy": "policy_improvement",
    "scripted expert with noise": "policy_improvement_unseen",
}
HORIZONS = tuple(f"horizon_{horizon}" for horizon in (1, 5, 10, 20))

TABLES = {
    "agreement": Table(
        files("imagined_vs_real", {**LANGTABLE, **BRIDGE}),
        {"all": ""},
        {
            "model": "{label}",
            "policies": "{row[policies]:count}",
            "tasks": "{row[tasks]:count}",
            "starts a task": "{row[starts_per_task]}",
            **AGREEMENT,
        },
    ),
    "open-loop": Table(
        files("open_loop", MODELS),
        "open_loop",
        {
            "model": "{label}",
            "horizon": "{key}",
            "gap closed": "{row[gap_closed]:.2f}",
            "shuffled actions": "{row[gap_closed_shuffled_actions]:.2f}",
            "copy, dB": "{row[changed_psnr_copy_first]:.1f}",
            "rollout, dB": "{row[changed_psnr]:.1f}",
            "decoder, dB": "{row[changed_psnr_reconstruction]:.1f}",
            "effector error, % of width": "{row[effector_error_percent_of_width_median]:.1f}",
        },
        only="horizon_",
    ),
    "block-persistence": Table(
        files("open_loop", LANGTABLE),
        {"all": "open_loop.block_persistence"},
        {
            "steps": "{row[steps]}",
            "imagined, %": "{row[rollout]:.0%}",
            "decoder alone, %": "{row[reconstruction]:.0%}",
            "recorded, %": "{row[truth]:.0%}",
        },
    ),
    "denoising-steps": Table(
        {name: f"open_loop_langtable_{name}" for name in ("1_step", "2_steps", "10_steps")},
        {"all": "open_loop"},
        {
            "denoising steps": "{row[speed][denoising_steps]}",
            **{h.replace("_", " "): f"{{row[{h}][gap_closed]:.2f}}" for h in HORIZONS},
        },
    ),
    "classifier": Table(
        files("reward_model", MODELS),
        "reward_model.real",
        {
            "model": "{label}",
            "task": "{key:words}",
            "recorded frames": "{row[balanced_accuracy]:.2f}",
            "imagined frames": "{imagined[balanced_accuracy]:.2f}",
        },
        beside={"imagined": "reward_model.imagined.{key}"},
    ),
    "imagined-against-true": Table(
        files("imagined_vs_real", {**LANGTABLE, **BRIDGE}),
        {
            "imagined against simulator": "",
            "judged on simulator video against simulator": "split.judge",
            "imagined against judged": "split.dream",
            "undertrained model against simulator": "bad_world_model",
        },
        {"model": "{label}", "comparison": "{key}", **AGREEMENT},
    ),
    "success-by-policy": Table(
        files("imagined_vs_real", {**LANGTABLE, **BRIDGE}),
        "policies",
        {
            "model": "{label}",
            "policy": "{row[name]}",
            "simulator, %": "{row[true_success_rate]:.0%}",
            "imagined, %": "{row[imagined_success_rate]:.0%}",
        },
    ),
    "step-time": Table(
        {"1": "rollout_step", "2": "rollout_step_2_threads"},
        "rows",
        {
            "model": "{row[model]}",
            "threads": "{label}",
            "batch": "{row[batch]}",
            "context": "{row[context]}",
            "cache": "`{row[mode]}`",
            "seconds a step": "{row[seconds_per_step]:.3f}",
            "frame passes": "{row[frame_passes]:.0f}",
            "times faster than `off`": "{row[times_faster_than_off]:.1f}",
            "rows/s": "{row[row_steps_per_second]:.2f}",
        },
        where={"context": (2, 6, 10), "mode": ("off", "exact", "rolling")},
    ),
    "rollout-memory": Table(
        {"": "rollout_step"},
        {"all": "memory"},
        {
            "after 50 steps, bytes": "{row[snapshot_bytes_after_50_steps]}",
            "after 1000 steps, bytes": "{row[snapshot_bytes_after_1000_steps]}",
        },
    ),
    "fine-tuning": Table(
        {"": "finetune_own_episodes"},
        "before",
        {
            "horizon": "{key}",
            "copy first frame, dB": "{row[changed_psnr_copy_first]:.1f}",
            "as shipped, dB": "{row[changed_psnr]:.1f}",
            "fine-tuned, dB": "{after[changed_psnr]:.1f}",
            "decoder, dB": "{after[changed_psnr_reconstruction]:.1f}",
        },
        beside={"after": "after.{key}"},
        only="horizon_",
    ),
    "semantic-latents": Table(
        {"": "latent_spaces_bridge"},
        "families",
        {
            "k": "{key}",
            "semantic latents keep actions better": "{row[semantic_latents_keep_actions_better]}",
            "difference of r on imagined latents": "{row[semantic_minus_reconstruction]:+.3f} "
            "[{row[interval][0]:.3f}, {row[interval][1]:.3f}]",
        },
        only="k_",
    ),
    "answers": Table(
        SEMANTIC,
        {
            "": "future_qa.in_distribution",
            **{part: f"future_qa.in_distribution.{part}" for part in ANSWERS},
            **{name: f"future_qa.controls.{name}" for name in CONTROLS},
        },
        {
            "model": "{label}",
            "questions or control": "{key:words}",
            "as in training, %": accuracy("row"),
            "unseen blocks or background, %": accuracy("unseen"),
        },
        beside={"unseen": "future_qa.out_of_distribution.{key}"},
    ),
    "planning-langtable": Table(QUESTIONS, "rows", {"questions": "{label}", **PLANNING}),
    "planning-multi-step": Table({"": "planning_success_langtable_multi_step"}, "rows", PLANNING),
    "planning-cube": Table({"": "planning_success_cube"}, "rows", PLANNING),
    "planning-gains": Table(
        {**QUESTIONS, "two pushes": "planning_success_langtable_multi_step"}, "improvements", GAINS
    ),
    "planner-time": Table(
        {"": "planner_time"},
        "rows",
        {
            "planner": "{row[planner]}",
            "keys and values": "{row[keys_and_values]}",
            "seconds a plan of 16 actions": "{row[seconds_per_chunk]:.2f}",
        },
    ),
    "data-mixtures": Table(
        {"": "data_mixtures_langtable"},
        "rows",
        {
            "trained on": "{row[mixture]}",
            **{
                f"{blocks} blocks, %{who}": value
                for blocks, place in (("known", "in"), ("unseen", "out_of"))
                for who, value in (
                    (
                        "",
                        f"{{row[{place}_distribution][mean]:.1f}} ± "
                        f"{{row[{place}_distribution][deviation]:.1f}}",
                    ),
                    (" (the paper)", f"{{row[{place}_distribution][paper]:.1f}}"),
                )
            },
        },
    ),
    "agents": Table(
        AGENTS,
        "true_success",
        {
            "run": "{label}",
            "policy": "{key:words}",
            "imagined steps": "{file[imagined_steps]}",
            "success in the simulator, %": SUCCESS,
            "episodes": "{row[episodes]}",
            "imagined success at the end, %": "{end[success]:.0%}",
        },
        beside={"end": "history.-1"},
    ),
    "policy-improvement": Table(
        BASES,
        "rows",
        {
            "base": "{label}",
            "task": "{row[task]:words}",
            "policy": "{row[column]}",
            "success, %": SUCCESS,
            "episodes": "{row[episodes]}",
            "the paper, %": "{row[paper]:.0%}",
            "planned by": planned_by,
        },
    ),
    "policy-improvement-gains": Table(
        BASES,
        "improvements",
        {
            "base": "{label}",
            "policy": "{row[column]}",
            "tasks": "{row[tasks]}",
            "points over the base": POINTS,
        },
    ),
    "further-training": Table(
        {"as shipped": "open_loop_langtable", "trained further": "open_loop_langtable_longer"},
        {"all": "open_loop"},
        {
            "model": "{label}",
            **{
                f"gap closed at {h.removeprefix('horizon_')}": f"{{row[{h}][gap_closed]:.2f}}"
                for h in (*HORIZONS, "horizon_50")
            },
            "all blocks kept for 30 steps, %": "{row[block_persistence][rollout]:.0%}",
            "clips": "{row[block_persistence][clips]}",
        },
    ),
}
"""Every table by the name that a document's mark states."""
