"""Evaluations in tiny worlds whose process is killed; run as a program by `test_kill_9.py`.

    python -m tests.evaluation.killed_evaluations FOLDER

Every evaluation runs once undisturbed, in FOLDER/<name>/whole, and once in FOLDER/<name>/killed,
where two processes die of SIGKILL after some of their steps and a third comes to the end.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import matplotlib.figure  # noqa: F401  once for all processes
import numpy as np

from tests.evaluation.compare_real import test_compare_real as tiny
from tests.policies.line_world import ACTIONS, FRAMES, LineEnv, Walker
from wm_gym.evaluation.compare_real import judge_episodes
from wm_gym.evaluation.compare_real import run as compare_real
from wm_gym.evaluation.report import write_json
from wm_gym.judges.registry import JUDGES
from wm_gym.policies.action_replay import ActionReplayPolicy
from wm_gym.policies.base import save_policy
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.rows import SimulatorRows
from wm_gym.policies.runner import run_policy

LIVES = (0.3, 0.45)
"""After which share of all steps of the undisturbed run each process dies."""
LIFE: dict[str, float] = {"steps": 0, "left": math.inf}
"""Of the process: no closure, as what a class's code holds tells environments apart."""


def make_policies(folder: Path) -> tuple[str, ...]:
    """Two policies of different pace."""
    for name, pace_m in (("slow", 0.03), ("fast", 0.1)):
        policy = ActionReplayPolicy(ACTIONS, sequences=[np.full((20, 1), pace_m)])
        save_policy(policy, folder / name)
    return str(folder / "slow"), str(folder / "fast")


def compared(out: Path, judge: str | None = None) -> None:
    """`wm-gym compare-real`, by the reward or by a judge afterwards."""
    compare_real.compare_real(
        compare_real.CompareRealConfig(
            checkpoint="good", bad_checkpoint=None if judge else "bad",
            policies=make_policies(out.parent / "policies"), noise=(0.3,),
            tasks=("reach", "leave"), starts=10, max_steps=15, rows=2, resamples=20, judge=judge,
            out=out,
        )
    )  # fmt: skip


def in_simulator(out: Path) -> None:
    """Two policies in the simulator, a file of records each."""
    found = {}
    for name, policy in {"steady": Walker(), "shaky": NoisyPolicy(Walker(0.08), 1.0)}.items():
        rows = SimulatorRows.make(LineEnv, 4, ACTIONS, FRAMES)
        starts = [{"instruction": "reach the end"}] * 40
        records = run_policy(
            rows, policy, starts, range(40), 12, results=out / f"{name}.jsonl", progress=False
        )
        found[name] = [(record.success, record.steps) for record in records]
    write_json(out / "report.json", found)


EVALUATIONS: dict[str, Callable[[Path], None]] = {
    "compared": compared,
    "judged": lambda out: compared(out, "dot?cell=16"),
    "in the simulator": in_simulator,
}


def run(evaluate: Callable[[Path], None], out: Path, steps_to_live: float) -> int:
    """Evaluate in a process of its own, which writes how many steps it took to `<out>.steps`.

    Returns:
        What `os.waitpid` says of its end.
    """
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    LIFE.update(steps=0, left=steps_to_live)

    def or_die(whole: Callable) -> Callable:
        def step(self, *arguments):
            LIFE["steps"] += 1
            if LIFE["steps"] > LIFE["left"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(self, *arguments)

        return step

    gains = {"good": 1.0, "bad": 0.0}
    JUDGES["dot"] = (tiny.__name__, "DotJudgeConfig")
    with (
        mock.patch.object(LineEnv, "step", or_die(LineEnv.step)),
        mock.patch.object(tiny.DotJudge, "judge", or_die(tiny.DotJudge.judge)),
        mock.patch.object(judge_episodes, "EPISODES_AT_ONCE", 3),
        mock.patch.object(
            compare_real,
            "open_dream",
            lambda config, checkpoint: tiny.FakeDream(
                config.rows, config.max_steps, gains[checkpoint], stored=checkpoint == "good"
            ),
        ),
        mock.patch.object(compare_real, "make_twin", lambda dream: LineEnv(dream.envs[0].horizon)),
    ):
        evaluate(out)
    out.with_suffix(".steps").write_text(str(LIFE["steps"]), encoding="utf-8")
    os._exit(0)


def main(folder: Path) -> None:
    """All evaluations, undisturbed and killed."""
    for name, evaluate in EVALUATIONS.items():
        assert run(evaluate, folder / name / "whole", math.inf) == 0
        steps = int((folder / name / "whole.steps").read_text(encoding="utf-8"))
        for share in LIVES:
            assert run(evaluate, folder / name / "killed", share * steps) == signal.SIGKILL
        assert run(evaluate, folder / name / "killed", math.inf) == 0
        # a quarter was left to do, and the last block of episodes was lost each time
        assert int((folder / name / "killed.steps").read_text(encoding="utf-8")) < 0.75 * steps


if __name__ == "__main__":
    main(Path(sys.argv[1]))
