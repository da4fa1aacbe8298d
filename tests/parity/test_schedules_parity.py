from pathlib import Path

from wm_gym.evaluation.parity.dynamics import run_schedules

DATA = Path(__file__).parent / "data"


def test_shifts_and_noise_schedules_are_the_authors():
    result = run_schedules(DATA / "schedules.json")
    assert result.passed, result
    assert len(result.outputs) > 20
