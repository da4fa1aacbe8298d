from pathlib import Path

import pytest

from wm_gym.evaluation.parity.latents import case_paths, run_latent_parity

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", case_paths(DATA, "svae*"), ids=lambda p: p.stem)
def test_equals_the_authors_network(path):
    result = run_latent_parity(path)
    assert result.passed, result
