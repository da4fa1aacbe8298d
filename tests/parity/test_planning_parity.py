from pathlib import Path

import pytest

from wm_gym.evaluation.parity.latents import case_paths, read_case
from wm_gym.evaluation.parity.planning import run_planning_parity

CASES = case_paths(Path(__file__).parent / "data", "planner_*")


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_equals_the_authors_trace(path):
    result = run_planning_parity(path)
    assert result is not None
    assert result.passed, result
    assert set(result.outputs) == set(read_case(path).outputs)
    for name in ("actions_hist", "plan"):
        assert result.outputs[name] < 1e-5


def test_both_planners_have_traces():
    names = {path.stem for path in CASES}
    assert names == {"planner_mppi", "planner_gradient", "planner_gradient_multi"}
