"""What needs a simulator's picture is skipped, and says so, where no OpenGL platform is installed.

`make test` then still tells whether everything else holds; its last lines name the packages.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from wm_gym.envs.sims.renderer import SceneRenderer

SIGN = "no OpenGL platform answers"


@pytest.fixture(scope="session", autouse=True)
def skip_without_gl() -> Iterator[None]:
    """Turns the error of a simulator that cannot render into a skipped test."""
    original = SceneRenderer.__init__

    def make(self: SceneRenderer, *args, **kwargs) -> None:
        try:
            original(self, *args, **kwargs)
        except RuntimeError as error:
            if SIGN in str(error):
                pytest.skip(str(error))
            raise

    with mock.patch.object(SceneRenderer, "__init__", make):
        yield


@pytest.fixture(scope="session")
def gl() -> None:
    """Asked for by tests whose pictures are made in other processes."""
    code = "import gymnasium, wm_gym; gymnasium.make('LangTable-v0', frame_size=8).reset(seed=0)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if SIGN in run.stderr:
        pytest.skip(run.stderr.strip().splitlines()[-1])
