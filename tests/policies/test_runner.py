import json
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.policies.line_world import ACTIONS, FRAMES, LineEnv, LineVectorEnv, Walker
from wm_gym.policies.base import Policy, PolicyError
from wm_gym.policies.compatibility import IncompatiblePolicyError
from wm_gym.policies.noisy import NoisyPolicy
from wm_gym.policies.rows import SimulatorRows, VectorRows
from wm_gym.policies.runner import BLOCK_ROUNDS, ResultsError, run_policy

STARTS = [f"s{10 * k}" for k in range(7)]
SEEDS = list(range(7))


def vector(rows):
    return VectorRows(LineVectorEnv(rows), ACTIONS, FRAMES)


def run(env, policy, **kwargs):
    return run_policy(env, policy, STARTS, SEEDS, 30, progress=False, **kwargs)


def facts(records):
    return [(r.index, r.start, r.seed, r.success, r.steps, r.error) for r in records]


def test_counts_steps_to_success():
    records = run([LineEnv()], Walker())
    # from 0.0 in steps of 0.1 the dot is within 0.051 of 0.8 after 8 steps
    assert [r.steps for r in records] == [8, 7, 6, 5, 4, 3, 2]
    assert all(r.success and r.error is None for r in records)
    assert records[2].instruction == "reach the end"


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_simulators_and_vector_env_give_the_same_records(rows):
    policy = NoisyPolicy(Walker(), 0.8)
    alone = facts(run([LineEnv()], policy))
    assert facts(run(vector(rows), policy)) == alone
    assert facts(run(SimulatorRows([LineEnv() for _ in range(rows)]), policy)) == alone
    assert len({steps for *_, steps, _ in alone}) > 2


def test_rows_are_filled_again_as_soon_as_they_are_free():
    env = LineVectorEnv(3)
    run(VectorRows(env, ACTIONS, FRAMES), Walker())
    assert env.stepped < 8 + 7 + 6  # three rounds that wait for their slowest would take longer


def test_an_episode_ends_after_max_steps():
    records = run([LineEnv()], Walker(pace_m=0.0))
    assert all(not r.success and r.steps == 30 for r in records)


class Faulty(Walker):
    def __init__(self, fault):
        super().__init__(chunk=1)
        self.fault = fault

    def act(self, observation):
        chunk = super().act(observation)
        broken = [row for row, text in enumerate(observation.instructions) if "broken" in text]
        if self.fault == "nan":
            chunk[broken] = np.nan
            return chunk
        rows = list(chunk)
        for row in broken:
            rows[row] = FAULTS[self.fault]
        return rows


FAULTS = {
    "shape": np.zeros((1, 5)),
    "float64": np.full((1, 1), 1e300),  # infinite in float32
    "gradient": torch.ones(1, 1, requires_grad=True),
    "bfloat16": torch.ones(1, 1, dtype=torch.bfloat16),
    "integer": [[10**400]],
    "complex": np.full((1, 1), 1 + 2j),
    "text": np.array([["0.1"]]),
    "none": None,
}
NUMBERS = "something else than numbers"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "NaN"),
        ("shape", r"expected \(rows, n, 1"),
        ("float64", "an infinity"),
        ("gradient", f"{NUMBERS}.*requires grad"),
        ("bfloat16", f"{NUMBERS}.*BFloat16"),
        ("integer", NUMBERS),
        ("complex", f"{NUMBERS}.*complex128"),
        ("text", NUMBERS),
        ("none", NUMBERS),
    ],
)
def test_a_fault_ends_its_own_episode_only(fault, message):
    starts = [{"start": s, "instruction": "broken" if s == "s20" else "go"} for s in STARTS]
    records = run_policy(vector(4), Faulty(fault), starts, SEEDS, 30, progress=False)
    assert [r.error is not None for r in records] == [s == "s20" for s in STARTS]
    assert re.search(message, records[2].error)
    assert [r.success for r in records] == [s != "s20" for s in STARTS]


def test_a_wrong_number_of_chunks_is_named():
    class Short(Walker):
        def act(self, observation):
            return np.zeros((len(observation) + 1, 1, 1))

    records = run(vector(2), Short())
    assert all("3 chunks for 2 rows" in r.error for r in records[:6])


def test_an_interrupted_run_gives_the_same_file(tmp_path, monkeypatch):
    def content(path):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    policy = NoisyPolicy(Walker(), 0.5)
    run(vector(1), policy, results=whole)

    class Killed(Exception):
        pass

    whole_step = LineVectorEnv.step

    def step_or_die(self, actions):
        if self.stepped > 40:
            raise Killed
        return whole_step(self, actions)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        env = vector(1)
        patch.setattr(env.env, "step", partial(step_or_die, env.env))
        run(env, policy, results=part)
    assert len(content(part)) == BLOCK_ROUNDS
    with part.open("a", encoding="utf-8") as file:
        file.write('{"index": 4, "sta')  # killed in the middle of a line
    records = run(vector(1), policy, results=part)
    assert content(part) == content(whole)
    assert len(records) == len(STARTS)
    again = LineVectorEnv(1)
    run(VectorRows(again, ACTIONS, FRAMES), policy, results=part)
    assert again.stepped == 0


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_kill_before_finished_episodes_are_cleared_away_is_no_fault(tmp_path, blocks):
    path, kept = tmp_path / "results.jsonl", tmp_path / "results.jsonl.finished"
    whole = facts(run(vector(1), Walker(), results=path))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text(
        "".join(lines[:BLOCK_ROUNDS]), encoding="utf-8"
    )  # of the first block, which is there
    path.write_text("".join(lines if blocks == 2 else lines[:BLOCK_ROUNDS]), encoding="utf-8")
    assert facts(run(vector(1), Walker(), results=path)) == whole
    assert [
        json.loads(line)["index"] for line in path.read_text(encoding="utf-8").splitlines()
    ] == list(range(7))
    assert not kept.exists()


def test_results_of_other_episodes_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    run(vector(2), Walker(), results=path)
    with pytest.raises(ResultsError, match="is not what is asked for"):
        run_policy(vector(2), Walker(), STARTS, [9] * 7, 30, results=path, progress=False)


def test_a_tail_that_is_no_text_is_cut_off_and_a_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    run(vector(1), Walker(), results=path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + b"\xff\xfe\0")
    assert [r.index for r in run(vector(1), Walker(), results=path)] == list(range(7))
    assert len(path.read_bytes().splitlines()) == 7
    path.write_bytes(b"".join(lines[:5]) + b"\xff\xfe\0\n")
    with pytest.raises(ResultsError, match="line 6, is no record"):
        run(vector(1), Walker(), results=path)
    path.unlink()
    (tmp_path / "results.jsonl.finished").write_bytes(lines[0][:20])
    with pytest.raises(ResultsError, match=r"\.finished holds no records .*remove the file"):
        run(vector(1), Walker(), results=path)


def test_keeps_frames_and_actions():
    record = run([LineEnv()], Walker(), keep_frames=True, keep_actions=True)[0]
    assert record.frames.shape == (9, 4, 20, 3)
    assert record.actions.shape == (8, 1)
    assert record.frames[0].argmax() == 0


def test_the_policy_is_asked_once_per_chunk():
    policy = Walker(chunk=4)
    run_policy([LineEnv()], policy, ["s0"], [0], 30, progress=False)
    assert len(policy.asked) == 2  # 8 steps


def test_units_are_converted_and_other_rates_refused():
    from dataclasses import replace

    millimetres = replace(ACTIONS, units=("mm",), low=(-100.0,), high=(100.0,))
    records = run(vector(2), Walker(pace_m=100.0, spec=millimetres))
    assert [r.steps for r in records] == [8, 7, 6, 5, 4, 3, 2]
    with pytest.raises(IncompatiblePolicyError, match="control_hz is 5 in the policy and 10"):
        run(vector(2), Walker(spec=replace(ACTIONS, control_hz=5.0)))


def test_autoresetting_environments_are_refused():
    env = LineVectorEnv(2)
    env.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    with pytest.raises(ValueError, match="expected 'Disabled'"):
        run(env, Walker())


class Duck:
    def act(self, observation):
        raise AssertionError("asked before it was checked")


class Forgetful(Policy):
    def __init__(self):
        pass

    act = Duck.act


class Late(Walker):
    def __init__(self):
        super().__init__()
        self.action_spec = None

    act = Duck.act


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Duck(), r"Duck is no subclass of Policy and has no action_spec, frame_spec, reset: subc"),
        (
            SimpleNamespace(),
            r"has no action_spec, frame_spec, reset, act: subclass wm_gym\.policies",
        ),
        (Duck, r"Duck is a class, expected an instance of a Policy"),
        (Forgetful(), r"Forgetful has no action_spec, frame_spec: call super\(\).__init__"),
        (Late(), r"action_spec of Late is None, expected .* env\.unwrapped\.card\.action"),
    ],
)
def test_what_is_no_policy_is_refused_before_anything_runs(policy, message):
    env = LineEnv()
    with pytest.raises(PolicyError, match=message):
        run([env], policy)
    assert env.resets == 0


def test_a_policy_cannot_be_made_without_a_spec():
    with pytest.raises(PolicyError, match=r"action_spec of Walker is None, expected an ActionSpec"):
        Walker(spec=None)
    with pytest.raises(PolicyError, match=r"frame_spec of Walker is \(4, 20\), expected"):
        Walker(frame=(4, 20))


@pytest.mark.parametrize("nothing", [None, 3.0])
def test_a_policy_that_returns_no_chunks_is_told_so(nothing):
    class Silent(Walker):
        def act(self, observation):
            return nothing

    records = run(vector(2), Silent())
    assert all(f"returned {type(nothing).__name__} {nothing}" in r.error for r in records)


def test_dream_twin_and_simulator_state_their_specs(tiny_model):
    import gymnasium

    import wm_gym
    from wm_gym.policies.rows import as_rows

    env = gymnasium.make("WM-LangTable-VAE-v0", model=tiny_model)
    envs = gymnasium.make_vec(
        "WM-LangTable-VAE-v0", num_envs=2, model=tiny_model, autoreset_mode="Disabled"
    )
    twin = wm_gym.make_twin(env)
    card = tiny_model.spec
    for world in (env, envs, twin, [twin, twin]):
        rows = as_rows(world)
        assert (rows.action_spec, rows.frame_spec) == (card.action, card.frame)
    simulator = as_rows(gymnasium.make("LangTable-v0", frame_size=(48, 64)))
    assert simulator.action_spec.names == ("dx", "dy")
    assert (simulator.frame_spec.height, simulator.frame_spec.width) == (48, 64)
