"""How often plans of a semantic world model succeed in the real simulator.

    python benchmarks/planning_success.py --checkpoint runs/langtable-swm/checkpoint \
        --out outputs/planning --json benchmarks/results/planning_success_langtable.json

All of the paper's planning experiments with LangTable (arXiv:2510.19818): MPPI from uniform
actions (reach, separate), gradient ascent from a base policy and from uniform actions (five
pushes), and the multi-step tasks MS1 to MS4. The base is the scripted expert with action noise.
Every method begins a task from the same seeds. A run that was stopped, or killed, goes on when it
is given again.

One part of it, in little time:

    ... --checkpoint FOLDER --tasks push --episodes 20 --max-minutes 8

Ablations take a folder of their own (--out):

    ... --tasks push --methods base gradient --value.no-weighted      equal weights of the questions
    ... --tasks push --methods base gradient --phrasing 5             other wordings; 8, 9 untrained
    ... --tasks push --methods base gradient --value.sub-chunk 0      Eq. 1 instead of Eq. 2
"""

from __future__ import annotations

from typing import Any

import tyro

from experiments.planning_success import PlanningConfig, measure_planning
from wm_gym.evaluation.report import write_json


def main(config: PlanningConfig) -> dict[str, Any]:
    """Measure, print and write."""
    report = measure_planning(config)
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(PlanningConfig))
