"""The examples of docs/policies.md run, its commands are understood, its names exist."""

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wm_gym.cli import parse_command

TEXT = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
MODULES = ("my_policies", "my_trained_policies")


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A current directory with the modules of the page; the other Python blocks."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    others = []
    for block in blocks:
        named = re.match(r"# (\w+)\.py\n", block)
        if named is None:
            others.append(block)
        else:
            (tmp_path / f"{named[1]}.py").write_text(block, encoding="utf-8")
    assert sorted(path.stem for path in tmp_path.glob("*.py")) == list(MODULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield others
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_example_acts_in_dream_and_twin(modules, embedded_checkpoint, capsys):
    (block,) = [block for block in modules if "run_policy" in block]
    names = {}
    exec(compile(block, "docs/policies.md", "exec"), names)
    for records in (names["imagined"], names["true"]):
        assert [r.start for r in records] == names["starts"]
        assert all(r.error is None and 1 <= r.steps <= 12 for r in records)
    assert [r.instruction for r in names["imagined"]] == [r.instruction for r in names["true"]]
    assert capsys.readouterr().out.count("reach the") == 4


def test_the_planner_is_saved_as_a_policy(modules, embedded_checkpoint, tmp_path):
    from wm_gym.policies.base import load_policy
    from wm_gym.policies.latent_planner import LatentPlannerPolicy

    (block,) = [block for block in modules if "LatentPlannerPolicy" in block]
    exec(compile(block, "docs/policies.md", "exec"), {})
    policy = load_policy(tmp_path / "planner")
    assert isinstance(policy, LatentPlannerPolicy)
    assert str(policy.model.folder) == embedded_checkpoint


def test_remote_policies_are_saved(modules, tmp_path):
    from wm_gym.policies.base import load_policy

    for name, kind in (("OpenVLAPolicy", "openvla"), ("OpenPiPolicy", "openpi")):
        (block,) = [block for block in modules if name in block]
        exec(compile(block, "docs/policies.md", "exec"), {})
        assert load_policy(tmp_path / "runs" / kind).kind == kind


def test_a_checkpoint_of_lerobot_is_saved(modules, tmp_path):
    from tests.policies.diffusion_policy.test_lerobot import FRAMES, PUSHT, write
    from wm_gym.policies.base import load_policy

    write(tmp_path / "pretrained_model")
    (block,) = [block for block in modules if "load_lerobot" in block]
    names = {"card": SimpleNamespace(action=PUSHT, frame=FRAMES)}
    exec(compile(block, "docs/policies.md", "exec"), names)
    assert load_policy(tmp_path / "runs" / "lerobot").kind == "diffusion-policy"


def test_a_function_loads_what_the_class_needs(modules, tmp_path):
    from tests.policies.line_world import ACTIONS, FRAMES, LineEnv
    from wm_gym.policies.named import open_policy
    from wm_gym.policies.runner import run_policy

    np.save(tmp_path / "bias.npy", np.array([1.0]))
    policy = open_policy("my_trained_policies:biased", ACTIONS, FRAMES)
    (record,) = run_policy([LineEnv()], policy, ["s0"], [0], 30, progress=False)
    assert (record.success, record.steps) == (True, 8)  # the bias is more than all the wandering


def test_every_command_is_understood():
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("wm-gym")]
    assert len(commands) > 1
    for words in commands:
        assert parse_command(words) is not None


def test_the_fields_of_the_report_are_those_it_explains():
    from wm_gym.evaluation.compare_real.summary import Bootstrap, agreement

    outcomes = np.array([[False, True], [True, True]])
    fields = set(agreement(outcomes, outcomes, Bootstrap(5, 0)))
    named = {f"{n}{end}" for n in ("pearson", "spearman", "mmrv") for end in ("", "_interval")}
    named |= {f"{n}_undefined_resamples" for n in ("pearson", "spearman", "mmrv")}
    assert fields == named | {"episode_agreement", "mean_rate_difference"}
    for field in ("pearson", "spearman", "mmrv", "episode_agreement", "mean_rate_difference"):
        assert f"| `{field}` |" in TEXT
