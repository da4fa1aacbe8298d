"""Training runs that are killed, to see whether they go on where they stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wm_gym.training.loop import TrainingLoop


@contextmanager
def killed_once_at(step: int) -> Iterator[None]:
    """The first training loop in here that comes to this step is killed there, no later one."""
    run, died = TrainingLoop.run, []

    def killed(self, step_function, **options):
        def step_or_die(number: int):
            if number == step and not died:
                died.append(number)
                raise KeyboardInterrupt
            return step_function(number)

        return run(self, step_or_die, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "run", killed)
        yield
    assert died == [step], "no training loop came to that step"
