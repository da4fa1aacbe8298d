"""`wm-gym check-parity DIR`: every reference case of a folder against this code.

A folder holds one safetensors file per case, and JSON files. Which network a case is about, and all
its sizes and settings, come from its own metadata. A case that no runner knows is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wm_gym.errors import UserError
from wm_gym.evaluation.parity.latents import (
    ParityResult,
    case_paths,
    parity_kind,
    read_case,
    run_latent_parity,
)

Runner = Callable[[Path], ParityResult | None]
"""Runs one file; None if the file is about something else."""


@dataclass(frozen=True)
class CheckParityConfig:
    """Run every reference case of a folder; prints the largest errors of each."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder with reference cases, e.g. tests/parity/data."""
    strict: bool = False
    """Fail because of cases that no runner knows, too; they are named in any case."""
    json: Path | None = None
    """File for the errors."""


def _latents(path: Path) -> ParityResult | None:
    if path.suffix != ".safetensors" or parity_kind(read_case(path)) is None:
        return None
    return run_latent_parity(path)


def runners() -> tuple[Runner, ...]:
    """Everything that can run a case, asked in this order."""
    from wm_gym.evaluation.parity.dynamics import run_dynamics_parity
    from wm_gym.evaluation.parity.planning import run_planning_parity
    from wm_gym.evaluation.parity.semantic import run_semantic_parity

    return (_latents, run_dynamics_parity, run_semantic_parity, run_planning_parity)


def run_case(path: Path, tried: tuple[Runner, ...]) -> ParityResult | None:
    """Run one case; None if nobody knows it. A case that raises has failed, and says why.

    Args:
        path: the case's file.
        tried: runners, asked in order.
    """
    for runner in tried:
        try:
            result = runner(path)
        except Exception as error:  # one broken case must not hide the others
            print(f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return ParityResult(path.stem, {}, float("inf"), float("inf"), False)
        if result is not None:
            return result
    return None


def check_parity(config: CheckParityConfig) -> int:
    """Run `wm-gym check-parity`.

    Returns:
        0 if every case that a runner knows passes, and there is one; else 1.

    Raises:
        ValueError: if the folder holds no case.
    """
    paths = sorted([*case_paths(config.folder), *config.folder.glob("*.json")])
    if not paths:
        raise UserError(
            f"{config.folder} holds no *.safetensors or *.json; expected a folder laid out like "
            "tests/parity/data"
        )
    tried = runners()
    results: list[ParityResult] = []
    unknown: list[str] = []
    print(f"{'case':36}{'max abs':>11}{'max rel':>11}")
    for path in paths:
        result = run_case(path, tried)
        if result is None:
            unknown.append(path.name)
            print(f"{path.stem:36}{'-':>11}{'-':>11}  UNKNOWN: no runner for this case")
            continue
        results.append(result)
        verdict = "ok" if result.passed else "FAILED"
        print(f"{result.case:36}{result.max_abs:11.2e}{result.max_rel:11.2e}  {verdict}")
        if not result.passed:
            for name, error in result.outputs.items():
                print(f"    {name:32}{error:11.2e}")
    failed = [result.case for result in results if not result.passed]
    print(
        f"{len(results) - len(failed)} passed, {len(failed)} failed, {len(unknown)} unknown"
        + (f" ({', '.join(unknown)})" if unknown else "")
    )
    if config.json is not None:
        _write(config.json, results, unknown)
    return int(bool(failed or not results or (unknown and config.strict)))


def _write(path: Path, results: list[ParityResult], unknown: list[str]) -> None:
    from wm_gym.evaluation.report import measurement_header, write_json

    content: dict[str, Any] = {**measurement_header(), "cases": [asdict(r) for r in results]}
    write_json(path, {**content, "unknown": unknown})
