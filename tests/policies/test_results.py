"""Records go on only with what they depend on, one writer at a time, and say what was wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.policies.line_world import ACTIONS, FRAMES, LineEnv, LineVectorEnv, Walker
from wm_gym.policies.action_use import ActionUse, ActionUseWarning
from wm_gym.policies.base import Policy, policies_within, save_policy
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.records import EpisodeRecord, ResultsError
from wm_gym.policies.rows import VectorRows
from wm_gym.policies.runner import run_policy
from wm_gym.run_lock import InUseError
from wm_gym.run_settings import RunSettingsError

ROOT = Path(__file__).parents[2]
STARTS, SEEDS = ["s0", "s20", "s40"], [0, 1, 2]


def run(policy, results=None, env=None, max_steps=30, starts=STARTS, **kwargs):
    env = env or [LineEnv()]
    return run_policy(
        env, policy, starts, SEEDS, max_steps, results=results, progress=False, **kwargs
    )


def vector(rows=2, horizon=50):
    return VectorRows(LineVectorEnv(rows, horizon), ACTIONS, FRAMES)


class Mover(Policy):
    """Moves by what it was given, however it was given it."""

    direction = 1.0

    def __init__(self, pace_m=0.1):
        super().__init__(ACTIONS, FRAMES)
        self._pace_m = pace_m
        self.calls = 0

    def act(self, observation):
        self.calls += 1
        return np.full((len(observation), 1, 1), self.direction * self._pace_m)


class Backwards(Mover):
    direction = -1.0


def closed_over(pace_m):
    class Mine(Mover):
        def act(self, observation):
            return np.full((len(observation), 1, 1), pace_m)

    return Mine()


def changed_later(pace_m):
    policy = Mover()
    policy._pace_m = pace_m
    return policy


OTHERS = {
    "argument": lambda: (Mover(0.1), Mover(0.09)),
    "attribute": lambda: (changed_later(0.1), changed_later(0.09)),
    "class": lambda: (Mover(), Backwards()),
    "closure": lambda: (closed_over(0.1), closed_over(0.09)),
    "noise": lambda: (NoisyPolicy(Walker(), 0.1), NoisyPolicy(Walker(), 0.2)),
    "wrapped": lambda: (NoisyPolicy(Mover(0.1), 0.1), NoisyPolicy(Mover(0.09), 0.1)),
    "range": lambda: (Walker(), Walker(spec=replace(ACTIONS, high=(0.05,)))),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_results_of_another_policy_are_refused(kind, tmp_path):
    one, other = OTHERS[kind]()
    results = tmp_path / "r.jsonl"
    records = run(one, results)
    before = results.read_bytes()
    with pytest.raises(RunSettingsError, match=r"r\.jsonl holds a run with other settings .policy"):
        run(other, results)
    assert results.read_bytes() == before
    again = [LineEnv()]
    assert run(OTHERS[kind]()[0], results, env=again) == records  # made anew, it is the same
    assert again[0].resets == 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_steps": 20}, "max_steps: 30 there, 20 now"),
        ({"env": [LineEnv(horizon=5)]}, "environment.made_with.horizon: 50 there, 5 now"),
        ({"env": vector()}, "environment.class.name: .*LineEnv' there, .*LineVectorEnv' now"),
    ],
)
def test_results_of_another_environment_or_length_are_refused(changed, named, tmp_path):
    run(Mover(), tmp_path / "r.jsonl")
    with pytest.raises(RunSettingsError, match=named):
        run(Mover(), tmp_path / "r.jsonl", **changed)


def test_a_policy_that_counts_goes_on_in_its_own_process_and_in_another(tmp_path):
    policy, results = Mover(), tmp_path / "r.jsonl"
    records = run(policy, results)
    assert policy.calls and run(policy, results) == records == run(Mover(), results)


class Tiring(Mover):
    """Changes what it was made with."""

    def act(self, observation):
        self._pace_m *= 0.99
        return super().act(observation)


def test_what_acting_changes_is_no_setting(tmp_path):
    policy, results = Tiring(), tmp_path / "r.jsonl"
    records = run(policy, results)
    assert run(policy, results) == records == run(Tiring(), results)
    stored = json.loads((tmp_path / "r.jsonl.settings.json").read_text(encoding="utf-8"))
    assert stored["changed_by_acting"] == ["policy.attributes._pace_m"]
    with pytest.raises(RunSettingsError, match=r"policy\.made_with"):
        run(Tiring(0.05), results)


def test_results_begun_with_other_options_are_refused(tmp_path):
    first = [{"start": "s0", "instruction": words} for words in ("go", "go", "go")]
    run(Mover(), tmp_path / "r.jsonl", starts=first)
    with pytest.raises(ResultsError, match=r"episode 1 .* begun with other options"):
        other = [first[0], {**first[1], "instruction": "stay"}, first[2]]
        run(Mover(), tmp_path / "r.jsonl", starts=other)


def test_records_without_their_settings_are_refused_by_name(tmp_path):
    results = tmp_path / "r.jsonl"
    run(Mover(), results)
    (tmp_path / "r.jsonl.settings.json").unlink()
    with pytest.raises(RunSettingsError, match=r"r\.jsonl holds records without r\.jsonl\.sett"):
        run(Mover(), results)
    results.unlink()
    assert len(run(Mover(), results)) == 3


def test_a_dream_and_its_twin_and_another_checkpoint_differ(tiny_model, tmp_path):
    import gymnasium

    import wm_gym
    from wm_gym.policies.random_policy import RandomPolicy
    from wm_gym.policies.rows import as_rows
    from wm_gym.policies.run_identity import run_identity

    def dream(model=tiny_model, **settings):
        return gymnasium.make_vec(
            "WM-LangTable-VAE-v0", num_envs=2, model=model, autoreset_mode="Disabled", **settings
        )

    def identity(env):
        return run_identity(as_rows(env), RandomPolicy(tiny_model.spec.action), 5)

    world = identity(dream())
    assert identity(dream()) == world
    single = gymnasium.make("WM-LangTable-VAE-v0", model=tiny_model)
    twin = identity(wm_gym.make_twin(single))
    others = [dream(horizon=7), dream(reward="none"), dream(cache="off")]
    assert all(identity(other) != world for other in others)
    assert twin != world and identity(wm_gym.make_twin(single)) == twin
    weights = {**tiny_model.spec.weights_sha256, "dynamics.safetensors": "f" * 64}
    spec = replace(tiny_model.spec, weights_sha256=weights)
    changed = type(tiny_model).__new__(type(tiny_model))
    changed.__dict__.update(tiny_model.__dict__, spec=spec)
    assert identity(dream(changed)) != world
    with_changed = gymnasium.make("WM-LangTable-VAE-v0", model=changed)
    assert identity(wm_gym.make_twin(with_changed)) == twin  # one simulator for both


PROGRAM = """
import sys
from pathlib import Path
from tests.policies.line_world import LineEnv
from tests.policies.test_results import Mover, run

class Slow(LineEnv):
    def step(self, action):
        if self.resets == 2:
            print("in the middle", flush=True)
            sys.stdin.readline()
        return super().step(action)

run(Mover(), Path(sys.argv[1]), env=[Slow()])
"""


def test_two_processes_do_not_write_one_file(tmp_path):
    results = tmp_path / "r.jsonl"
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(results)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    encoding="utf-8")  # fmt: skip
    assert first.stdout is not None and first.stdout.readline() == "in the middle\n"
    with pytest.raises(InUseError, match=rf"r\.jsonl is being written by process {first.pid} on "):
        run(Mover(), results)
    first.kill()
    first.communicate()
    assert len(run(Mover(), results)) == 3  # a kill leaves no lock behind
    assert len(results.read_text(encoding="utf-8").splitlines()) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.settings.json"]


class Waiting(Walker):
    """Says when it acts, and waits to be let go."""

    def __init__(self):
        super().__init__()
        self.acting, self.go = threading.Event(), threading.Event()

    def act(self, observation):
        self.acting.set()
        assert self.go.wait(30)
        return super().act(observation)


@pytest.mark.parametrize("shared", ["policy", "base of another", "environment"])
def test_what_another_thread_uses_is_refused(shared):
    policy, env = Waiting(), LineEnv()
    thread = threading.Thread(target=run, args=(policy,), kwargs={"env": [env]}, name="first")
    thread.start()
    try:
        assert policy.acting.wait(30)
        mine = {"policy": policy, "base of another": NoisyPolicy(policy, 0.1)}
        with pytest.raises(InUseError, match=r"in use by run_policy .*in thread 'first'"):
            run(mine.get(shared, Walker()), env=[env if shared == "environment" else LineEnv()])
    finally:
        policy.go.set()
        thread.join()
    assert len(run(policy, env=[env])) == 3


def test_policies_within_are_found_wherever_they_are():
    class Team(Walker):
        def __init__(self, *members):
            super().__init__()
            self.members = {"all": list(members)}

    one, two = Walker(), Walker()
    inner = NoisyPolicy(two, 0.1)
    found = policies_within(Team(one, inner))
    assert [any(policy is p for p in found) for policy in (one, two, inner)] == [True] * 3
    assert len(found) == 4


# ---- how the range of actions is used --------------------------------------------------------


def test_clipped_and_nearly_null_actions_are_told():
    use = ActionUse((-0.1, 0.0), (0.1, 1.0))
    assert not use.clipped(np.float32([0.1, 1.0])) and use.clipped(np.float32([0.1, 1.1]))
    assert use.nearly_null(np.float32([0.0009, 1.0]))  # an open hand moves nothing
    assert not use.nearly_null(np.float32([0.0011, 0.0]))
    absolute = ActionUse((-0.1, -1.0), (0.1, 1.0), ("delta", "absolute"))
    assert absolute.nearly_null(np.float32([0.0, 1.0]))


@pytest.mark.parametrize(
    ("pace_m", "clipped", "null"), [(0.1, 0.0, 0.0), (100.0, 1.0, 0.0), (0.0001, 0.0, 1.0)]
)
def test_a_record_says_how_its_policy_used_the_range(pace_m, clipped, null, tmp_path):
    results = tmp_path / "r.jsonl"
    if clipped or null:
        with pytest.warns(ActionUseWarning, match="100% of the actions of episodes"):
            records = run(Mover(pace_m), results)
    else:
        records = run(Mover(pace_m), results)
    shares = [(record.clipped_share, record.null_share) for record in records]
    assert shares == [(clipped, null)] * 3
    stored = [
        EpisodeRecord(**json.loads(line))
        for line in results.read_text(encoding="utf-8").splitlines()
    ]
    assert [(r.clipped_share, r.null_share) for r in stored] == shares


class Near(LineEnv):
    def reset(self, **arguments):
        frame, info = super().reset(**arguments)
        return frame, info | {"is_success": abs(self.x - 0.8) < 0.051}


def test_success_at_reset_is_said():
    records = run(Mover(), env=[Near()], starts=["s0", "s80", "s40"])
    assert [record.success_at_reset for record in records] == [False, True, False]


def test_every_kind_of_policy_has_an_identity_that_its_copy_shares(tmp_path):
    from wm_gym.policies.base import load_policy
    from wm_gym.policies.random_policy import RandomPolicy
    from wm_gym.policies.resized import ResizedPolicy

    for policy in (
        RandomPolicy(ACTIONS),
        NoisyPolicy(RandomPolicy(ACTIONS, chunk=3), 0.3),
        ResizedPolicy(NoisyPolicy(RandomPolicy(ACTIONS, FRAMES), 0.3), FRAMES),
    ):
        copy = load_policy(save_policy(policy, tmp_path / type(policy).__name__))
        assert json.dumps(copy.identity()) == json.dumps(policy.identity())
