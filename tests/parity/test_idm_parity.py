from pathlib import Path

import pytest

from wm_gym.evaluation.parity.latents import run_latent_parity

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("idm*.safetensors")), ids=lambda p: p.stem)
def test_equals_the_authors_network(path):
    result = run_latent_parity(path)
    assert result.passed, result
