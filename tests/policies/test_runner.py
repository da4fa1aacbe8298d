import json
import re

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.policies.line_world import ACTIONS, FRAMES, LineEnv, LineVectorEnv, Walker
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
            rows[row] = np.zeros((1, 5))
        return rows


@pytest.mark.parametrize(
    ("fault", "message"), [("nan", "NaN"), ("shape", r"expected \(rows, n, 1")]
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


def test_an_interrupted_run_gives_the_same_file(tmp_path):
    def content(path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    policy = NoisyPolicy(Walker(), 0.5)
    run(vector(1), policy, results=whole)

    class Killed(Exception):
        pass

    class Mortal(LineVectorEnv):
        def step(self, actions):
            if self.stepped > 40:
                raise Killed
            return super().step(actions)

    with pytest.raises(Killed):
        run(VectorRows(Mortal(1), ACTIONS, FRAMES), policy, results=part)
    assert len(content(part)) == BLOCK_ROUNDS
    with part.open("a") as file:
        file.write('{"index": 4, "sta')  # killed in the middle of a line
    records = run(vector(1), policy, results=part)
    assert content(part) == content(whole)
    assert len(records) == len(STARTS)
    again = LineVectorEnv(1)
    run(VectorRows(again, ACTIONS, FRAMES), policy, results=part)
    assert again.stepped == 0


def test_results_of_other_episodes_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    run(vector(2), Walker(), results=path)
    with pytest.raises(ResultsError, match="is not what is asked for"):
        run_policy(vector(2), Walker(), STARTS, [9] * 7, 30, results=path, progress=False)


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
