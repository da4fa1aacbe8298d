from pathlib import Path

import pytest

from wm_gym.evaluation.parity.latents import case_paths, read_case
from wm_gym.evaluation.parity.semantic import load_network, run_semantic_parity

DATA = Path(__file__).parent / "data"
CASES = case_paths(DATA, "swm_*")


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_equals_the_authors_network(path):
    result = run_semantic_parity(path)
    assert result is not None
    assert result.passed, result
    # logits, probabilities, loss and gradients; nothing of the reference is left out
    assert set(result.outputs) == set(read_case(path).outputs)


def test_the_cases_cover_logits_loss_and_gradients():
    stored = set().union(*(read_case(path).outputs for path in CASES))
    assert stored >= {"last_logits", "p_yes", "p_no", "grad_p_yes", "grad_p_no", "loss"}


def test_a_case_without_weights_says_what_it_lacks(tmp_path):
    case = read_case(DATA / "swm_tiny_loss.safetensors")
    case.config["weights"] = "elsewhere"
    with pytest.raises(ValueError, match="names no case"):
        load_network(case, tmp_path)
