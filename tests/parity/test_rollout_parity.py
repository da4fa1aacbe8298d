from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wm_gym.evaluation.parity.dynamics import roll_out, run_rollout_case
from wm_gym.evaluation.parity.latents import case_paths, read_case

DATA = Path(__file__).parent / "data"
CASES = case_paths(DATA, "rollout_*")


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_equals_the_authors_rollout_recomputed_and_cached(path):
    result = run_rollout_case(path)
    assert result.passed, result
    assert set(result.outputs) == {"off", "exact"}


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_rolling_differs_exactly_on_the_frames_after_the_window_slid(path):
    case = read_case(path)
    gap = (roll_out(case, "rolling") - case.outputs["latents"]).abs().amax((0, 2, 3, 4))
    length = case.config["max_frames"]
    assert gap[:length].max() < 2e-4
    assert (gap[length:] > 2e-4).all()


def with_actions(case, count):
    """The case with another number of actions, NaN after those that it had."""
    actions = case.inputs["actions"]
    more = torch.full((len(actions), 9, actions.shape[2]), torch.nan)
    return replace(case, inputs=case.inputs | {"actions": torch.cat([actions, more], 1)[:, :count]})


def test_actions_beyond_the_last_frame_are_not_read():
    case = read_case(CASES[0])
    frames = case.outputs["latents"].shape[1]
    found = roll_out(with_actions(case, frames + 5), "off")
    torch.testing.assert_close(found, roll_out(case, "off"), rtol=0, atol=0)
    with pytest.raises(ValueError, match=f"{frames} frames .* {frames - 1} actions"):
        roll_out(with_actions(case, frames - 1), "off")
