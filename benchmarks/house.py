"""How much a reader has to hold in mind: figures of the source tree of any revision.

    python benchmarks/house.py --json benchmarks/results/house.json

Each revision is checked out into a temporary folder, measured there and removed again, so that
figures before and after a change come from one command. Only the trace of a step runs code of the
revision. The seconds of `make test` are measured by hand, on an idle machine, and handed over:

    ... --test-seconds 578b513=1450 HEAD=560
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from source_tree import (
    circles,
    config_hops,
    imports,
    isinstance_calls,
    modules,
    near_copies,
    resume_guards,
)

from wm_gym.evaluation.report import measurement_header, write_json

ROOT = Path(__file__).resolve().parents[1]

READ_LINES = 5
"""Distinct lines of a file that a step runs, from which on a reader has to open it."""

TRACED = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import gymnasium, wm_gym
env = gymnasium.make("WM-LangTable-VAE-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
action = env.action_space.sample()
root, lines = Path(sys.argv[1]).resolve(), {}
def trace(frame, event, _):
    if frame.f_code.co_filename.startswith("<"):
        return None
    path = Path(frame.f_code.co_filename).resolve()
    if not path.is_relative_to(root) or ".venv" in path.parts:
        return None
    if event in ("call", "line"):
        lines.setdefault(str(path.relative_to(root)), set()).add(frame.f_lineno)
    return trace
sys.settrace(trace)
env.step(action)
sys.settrace(None)
print(json.dumps({name: len(found) for name, found in lines.items()}))
"""


@dataclass(frozen=True)
class HouseConfig:
    """Measure the source tree of revisions."""

    revisions: tuple[str, ...] = ("578b513", "HEAD")
    """Revisions to measure, the one before first."""
    test_seconds: tuple[str, ...] = ()
    """REVISION=SECONDS of `make test`, measured on two idle cores."""
    trace: bool = True
    """Trace a step, which runs the revision's code and needs its embedded model."""
    json: Path | None = None
    """File for the figures."""


def measure(root: Path, trace: bool) -> dict[str, Any]:
    """Figures of a checkout.

    Args:
        root: the checkout, a git worktree.
        trace: whether to run a step.

    Returns:
        One figure by name, and the lists that figures count under `<name>_list`.
    """
    tracked = _git(root, "ls-tree", "-r", "-l", "HEAD").splitlines()
    sizes = {line.split("\t")[1]: int(line.split()[3]) for line in tracked if " blob " in line}
    python = [root / name for name in sizes if name.endswith(".py")]
    sources = [p for p in python if p.relative_to(root).parts[0] not in ("tests", "assets")]
    library = set(modules(root).values())
    engines = sorted(
        path
        for path in (root / "envs").glob("*.py")
        if path.stem.endswith(("engine", "engine_base"))
    )
    graph = imports(root)
    copies = near_copies(sources)
    hops = config_hops(root, "wm_gym.training.latent_dynamics", "train_latent_dynamics")
    guards = resume_guards(root)
    figures: dict[str, Any] = {
        "readme_lines": _lines(root / "README.md"),
        "config_hops": len(hops),
        "config_hops_list": hops,
        "near_copies": len(copies),
        "near_copies_in_library": sum(a in library and b in library for a, _, b, _, _ in copies),
        "near_copies_list": [
            f"{a.relative_to(root)}:{m} = {b.relative_to(root)}:{n} ({length} lines)"
            for a, m, b, n, length in copies
        ],
        "circles": len(circles(graph)),
        "circles_list": circles(graph),
        "circles_at_import": len(circles(graph, ("top",))),
        "resume_guards": len(guards),
        "resume_guards_list": guards,
        "isinstance_in_engine": isinstance_calls(engines),
        "isinstance_in_engine_list": [str(path.relative_to(root)) for path in engines],
        "python_lines": sum(map(_lines, python)),
        "python_lines_without_tests": sum(map(_lines, sources)),
        "tracked_mib": round(sum(sizes.values()) / 2**20, 1),
    }
    if trace:
        traced = trace_step(root)
        read = [name for name, count in traced.items() if count >= READ_LINES]
        figures |= {
            "step_files_run": len(traced),
            "step_files_run_list": [f"{name} ({count} lines)" for name, count in traced.items()],
            "step_files_to_read": len(read),
            "step_files_to_read_list": read,
        }
    return figures


def trace_step(root: Path) -> dict[str, int]:
    """Distinct lines that one `env.step` of the LangTable model runs, by file in order of use."""
    subprocess.run(
        [sys.executable, str(root / "scripts" / "link_types.py")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done = subprocess.run(
        [sys.executable, "-c", TRACED, str(root)],
        cwd=root / ".types",
        env={**os.environ, "PYTHONPATH": str(root / ".types")},
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return json.loads(done.stdout.splitlines()[-1])


def house(config: HouseConfig) -> dict[str, Any]:
    """Measure every revision, and print one table."""
    seconds = dict(entry.split("=", 1) for entry in config.test_seconds)
    if unknown := set(seconds) - set(config.revisions):
        raise ValueError(f"test_seconds of {sorted(unknown)}; expected some of {config.revisions}")
    report: dict[str, Any] = {**measurement_header(), "revisions": {}}
    for revision in config.revisions:
        commit = _git(ROOT, "rev-parse", "--short", revision).strip()
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "tree"
            _git(ROOT, "worktree", "add", "--detach", "--quiet", str(root), commit)
            try:
                found = measure(root, config.trace)
            finally:
                _git(ROOT, "worktree", "remove", "--force", str(root))
        found["test_seconds"] = float(seconds[revision]) if revision in seconds else None
        report["revisions"][commit] = found
    _print(report["revisions"])
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


def _print(revisions: dict[str, dict[str, Any]]) -> None:
    names = [n for n in next(iter(revisions.values())) if not n.endswith("_list")]
    print(f"{'':28s}" + "".join(f"{commit:>12s}" for commit in revisions))
    for name in names:
        values = [found.get(name) for found in revisions.values()]
        print(f"{name:28s}" + "".join(f"{'-' if v is None else v:>12}" for v in values))


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return done.stdout


if __name__ == "__main__":
    house(tyro.cli(HouseConfig))
