"""Settings of planning success that mean nothing: refused before a folder is claimed."""

import re

import pytest

from experiments.planning_success import PlanningConfig, measure_planning
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.semantic.world_model import save_semantic_model


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phrasing": 99}, "phrasing=99 must be 0 to 9"),
        ({"execute": 0}, "execute=0 must be 1 to horizon=16"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"base_noise_m": -1.0}, "base_noise_m=-1.0 must be finite"),
        ({"base_correlation": 1.0}, "base_correlation=1.0 at least 0 and below 1"),
        ({"max_minutes": float("nan")}, "max_minutes=nan must be at least 0"),
        ({"done_threshold": 1.0}, "done_threshold=1.0 must be at least 0"),
    ],
)
def test_numbers_out_of_range(tmp_path, changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        PlanningConfig("anything", out=tmp_path / "out", **changes)


def test_what_the_model_cannot_do_claims_no_folder(tmp_path):
    model = tiny_semantic_model()
    save_semantic_model(tmp_path / "model", model.spec, model.network, model.tokenizer)
    out = tmp_path / "out"
    for changes, said in (
        ({"horizon": 99}, "at most 20 actions"),
        ({"json": tmp_path}, "a folder"),
    ):
        with pytest.raises(ValueError, match=said):
            measure_planning(PlanningConfig(str(tmp_path / "model"), out=out, **changes))
        assert not out.exists()
