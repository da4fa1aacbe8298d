"""A policy named on the command line: a saved folder or `module:Class`."""

import sys
from textwrap import dedent

import numpy as np
import pytest

from tests.policies.line_world import ACTIONS, FRAMES
from wm_gym.policies.base import Observation, PolicyError, save_policy
from wm_gym.policies.named import distinct_names, open_policy, policy_file, short_name
from wm_gym.policies.random_policy import RandomPolicy

SOURCE = """
    import numpy as np
    from wm_gym.policies.base import Policy

    class Right(Policy):
        pace = 1.0

        def act(self, observation):
            high = np.asarray(self.action_spec.high)
            return np.tile(self.pace * high, (len(observation), 1, 1))

    class Idle(Policy):
        pass

    class Duck:
        def act(self, observation):
            return None

    class Greedy(Right):
        def __init__(self, action_spec, frame_spec, pace):
            super().__init__(action_spec, frame_spec)

    def slow(action_spec, frame_spec):
        policy = Right(action_spec, frame_spec)
        policy.pace = 0.5
        return policy

    def nothing(action_spec, frame_spec):
        return None
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with own_policies.py, forgotten afterwards."""
    (tmp_path / "own_policies.py").write_text(dedent(SOURCE), encoding="utf-8")
    (tmp_path / "broken_policies.py").write_text(
        "import no_such_package_at_all\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_policies", "broken_policies"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "pace_m"), [("Right", 0.1), ("slow", 0.05)])
def test_a_class_or_function_gets_both_specs(here, name, pace_m):
    policy = open_policy(f"own_policies:{name}", ACTIONS, FRAMES)
    assert (policy.action_spec, policy.frame_spec) == (ACTIONS, FRAMES)
    frames = np.zeros((2, 4, 20, 3), np.uint8)
    chunk = policy.act(Observation(frames, ("", ""), np.zeros(2, int), np.arange(2)))
    np.testing.assert_allclose(chunk, np.full((2, 1, 1), pace_m))
    assert policy_file(f"own_policies:{name}") == here / "own_policies.py"
    assert short_name(f"own_policies:{name}") == f"own_policies.{name}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Right", r"no module 'no_such_module' in .* expected module:Class"),
        ("own_policies.inner:Right", r"no module 'own_policies.inner'"),
        ("own_policies:Left", r"has no 'Left'; it defines the policies \['Right', 'Idle', 'Greed"),
        ("own_policies:Duck", r"own_policies:Duck is no subclass of Policy: subclass wm_gym"),
        ("own_policies:Idle", r"own_policies:Idle does not define act"),
        ("own_policies:Greedy", r"called with \(action_spec, frame_spec\): .*'pace'"),
        ("own_policies:nothing", r"NoneType is no subclass of Policy"),
        ("nowhere", r"written by save_policy, or module:Class"),
        ("own_policies:Right()", r"written by save_policy, or module:Class"),
    ],
)
def test_what_gives_no_policy_is_named(here, name, message):
    with pytest.raises(PolicyError, match=message):
        open_policy(name, ACTIONS, FRAMES)


def test_a_mistake_inside_the_module_stays_visible(here):
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        open_policy("broken_policies:Right", ACTIONS, FRAMES)


def test_a_folder_comes_first_and_its_content_imports_nothing(here):
    folder = save_policy(RandomPolicy(ACTIONS), here / "own_policies:Right")
    assert isinstance(open_policy("own_policies:Right", ACTIONS, FRAMES), RandomPolicy)
    path = folder / "policy.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"random"', '"own_policies:Right"'),
        encoding="utf-8",
    )
    with pytest.raises(PolicyError, match="kind 'own_policies:Right' is unknown"):
        open_policy(str(folder), ACTIONS, FRAMES)
    assert "own_policies" not in sys.modules


def test_record_takes_an_own_policy_and_converts_its_units(here, capsys):
    from wm_gym.cli import main

    with (here / "own_policies.py").open("a", encoding="utf-8") as file:
        file.write(
            dedent("""
                from dataclasses import replace

                def millimetres(action_spec, frame_spec):
                    spec = replace(action_spec, units=("mm", "mm"), low=(-30, -30), high=(30, 30))
                    return Right(spec, frame_spec)

                def other_rate(action_spec, frame_spec):
                    return Right(replace(action_spec, control_hz=5.0), frame_spec)
            """)
        )
    words = ["record", "LangTable-v0", "--steps", "2", "--policy"]
    for name in ("Right", "millimetres"):
        assert main([*words, f"own_policies:{name}", "--out", f"{name}.mp4"]) == 0
    assert (here / "Right.mp4").read_bytes() == (here / "millimetres.mp4").read_bytes()
    capsys.readouterr()
    assert main([*words, "own_policies:other_rate"]) == 2
    assert "control_hz is 5 in the policy and 10 in the environment" in capsys.readouterr().err
    assert main([*words, "own_policies:Duck"]) == 2
    assert "no subclass of Policy" in capsys.readouterr().err


def test_policies_of_one_name_are_told_apart_by_the_folders_above(here):
    sources = ["runs/dp/stage_4", "runs/bc/stage_4/", "runs/bc/stage_3", "own_policies:Right"]
    names = ["dp.stage_4", "bc.stage_4", "stage_3", "own_policies.Right"]
    assert distinct_names(sources) == names
    assert distinct_names(["a/runs/x", "b/runs/x"]) == ["a.runs.x", "b.runs.x"]
    twice = [str(here / "runs" / "x"), "runs/x"]
    assert distinct_names(twice) == ["x", "x"], "one folder under two names is one policy"
