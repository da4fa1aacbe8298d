"""What IDQL and planning add to a base policy: the columns of arXiv:2510.19818's Table 6.

    python benchmarks/policy_improvement.py --base runs/langtable-diffusion-policy/policy/stage_2 \
        --idql runs/langtable-idql/critics/stage_1 --json benchmarks/results/policy_improvement.json

Success of the base policy, of IDQL over it, and of gradient ascent from its proposals with the
semantic world model that ships, on the five LangTable pushes, from the same 50 seeds. The two
pushes of Table 4 have blocks that no policy of ours has words for, so their base is the scripted
expert with noise:

    python benchmarks/policy_improvement.py --base expert --groups push_unseen \
        --out outputs/improvement_unseen --json benchmarks/results/policy_improvement_unseen.json

A run that was stopped, or killed, goes on when it is given again. Part of it, in little time:

    ... --episodes 20 --max-minutes 8
"""

from __future__ import annotations

from typing import Any

import tyro

from experiments.policy_improvement import ImprovementConfig, measure_improvement
from wm_gym.evaluation.report import write_json


def main(config: ImprovementConfig) -> dict[str, Any]:
    """Measure, print and write."""
    report = measure_improvement(config)
    if config.json is not None:
        print(f"wrote {write_json(config.json, report)}")
    return report


if __name__ == "__main__":
    main(tyro.cli(ImprovementConfig))
