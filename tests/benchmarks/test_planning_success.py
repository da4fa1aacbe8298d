"""Planning success in the simulator: the base policy, multi-step tasks, and the measurement."""

from __future__ import annotations

import dataclasses
import json
import zlib

import numpy as np
import pytest

from experiments import planning_success
from experiments.expert_proposals import ExpertProposals
from experiments.planning_success import (
    PlanningConfig,
    improvements_over_base,
    make_policy,
    make_rows,
    measure_planning,
    success_rows,
)
from experiments.planning_tasks import PLANNING_TASKS, chosen_tasks
from tests.benchmark_scripts import RESULTS, benchmark_script
from tests.semantic.conftest import TINY, randomise, tiny_semantic_model, tiny_spec
from wm_gym.domains import CUBE
from wm_gym.envs.sims.langtable.env import LangTableEnv
from wm_gym.envs.sims.langtable.expert import Expert
from wm_gym.envs.sims.langtable.layout import PUSH_START_M
from wm_gym.envs.sims.langtable.multi_step import LangTableMultiStep
from wm_gym.envs.sims.langtable.tasks import parse_instruction, task_distance
from wm_gym.planning.gradient import GradientConfig
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.policies.base import Observation
from wm_gym.policies.planner import PlannerPolicy
from wm_gym.policies.runner import EpisodeRecord
from wm_gym.semantic.model import SemanticNetwork
from wm_gym.semantic.tokens import cube_tokenizer
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model

LANGTABLE_TASKS = PLANNING_TASKS["LangTable-v0"]
PUSH = "push the green cube to the blue moon"


def seen(env, rows=(0,), step=0, words=PUSH):
    frames = np.zeros((len(rows), 4, 4, 3), np.uint8)
    return Observation(frames, (words,) * len(rows), np.full(len(rows), step), np.array(rows))


def begun(noise_m, *, envs=1, words=PUSH, **settings):
    simulators = [LangTableEnv(obs="state") for _ in range(envs)]
    for number, env in enumerate(simulators):
        env.reset(seed=6000 + number, options={"instruction": words})
    policy = ExpertProposals(simulators, noise_m, **settings)
    policy.reset(range(envs), [7 + number for number in range(envs)], [words] * envs)
    return simulators, policy


def test_proposals_are_what_the_expert_does_from_here_on():
    (env,), policy = begun(0.0, chunk=80)
    before = env.privileged_state()
    (chunk,) = policy.act(seen(env))
    np.testing.assert_array_equal(env.privileged_state(), before)
    expert = Expert()
    seed = [7, zlib.crc32(PUSH.encode()), 0, 0]
    expert.reset(parse_instruction(PUSH), np.random.default_rng(seed))
    for action in chunk:
        np.testing.assert_array_equal(expert.act(env), action)
        *_, terminated, _, _ = env.step(action)
        if terminated:
            return
    pytest.fail("the expert needs fewer than 80 steps from this start")


def test_noise_is_a_function_of_seed_step_and_number_alone():
    (one, two), policy = begun(0.03, envs=2)
    both = policy.act(seen(one, (0, 1), step=3))
    np.testing.assert_array_equal(policy.act(seen(two, (1,), step=3))[0], both[1])
    assert np.abs(both).max() <= 0.03 + 1e-7
    _, other = begun(0.03, envs=2, number=1)
    _, short = begun(0.03, envs=2, chunk=4)
    assert not np.array_equal(other.act(seen(one, (0, 1), step=3)), both)
    np.testing.assert_array_equal(short.act(seen(one, (0, 1), step=3)), both[:, :4])
    assert not np.array_equal(policy.act(seen(one, (0,), step=4))[0], both[0])


def test_correlated_noise_goes_on_from_step_to_step_and_keeps_its_size():
    noise, kept = 0.02, 0.9
    _, policy = begun(noise, envs=2, correlation=kept)
    long = np.stack([policy._noise(row, 20_000) for row in (0, 1)])
    np.testing.assert_array_equal(policy._noise(0, 30), long[0, :30])  # whenever it is asked for
    assert abs(long.std() / noise - 1) < 0.05
    for lag in (1, 5):
        found = np.corrcoef(long[0, lag:, 0], long[0, :-lag, 0])[0, 1]
        assert abs(found - kept**lag) < 0.05
    assert abs(np.corrcoef(long[0, :, 0], long[0, :, 1])[0, 1]) < 0.1
    policy.reset([0], [7], ["push the red moon to the green star"])  # same seed, another task
    assert abs(np.corrcoef(long[0, :, 0], policy._noise(0, 20_000)[:, 0])[0, 1]) < 0.1
    begins = [policy._noise(0, 1)]
    for seed in range(400):
        policy.reset([0], [seed], [PUSH])
        begins.append(policy._noise(0, 1))
    assert abs(np.std(begins) / noise - 1) < 0.1  # from the first step on
    with pytest.raises(ValueError, match=r"correlation=1.0 at least 0 and below 1"):
        begun(noise, correlation=1.0)


def test_a_multi_step_episode_succeeds_when_all_pairs_are_together():
    env = LangTableMultiStep(obs="state", horizon=240)
    _, info = env.reset(seed=6001, options={"instruction": "MS2"})
    starts = env.unwrapped.get_state()
    assert info["instruction"] == "MS2" and not info["is_success"]
    state = env.langtable.privileged_state()
    for goal in env.goals:
        assert task_distance(state, goal, env.langtable.objects) >= PUSH_START_M
    policy = ExpertProposals([env], 0.0, chunk=1)
    policy.reset([0], [3], ["MS2"])
    done, apart = False, False
    for step in range(240):
        (chunk,) = policy.act(seen(env, step=step, words="MS2"))
        _, reward, done, _, info = env.step(chunk[0])
        held = [task_distance(s, g, env.langtable.objects) < 0.075 for g in env.goals
                for s in [env.langtable.privileged_state()]]  # fmt: skip
        apart |= any(held) and not all(held)
        assert done == info["is_success"] == all(held) == bool(reward)
        if done:
            break
    assert done and apart
    env.reset(seed=6001, options={"instruction": "MS2"})
    again = env.unwrapped.get_state()
    np.testing.assert_array_equal(starts["positions"], again["positions"])
    with pytest.raises(ValueError, match="one of MS1, MS2, MS3, MS4"):
        env.reset(options={"instruction": PUSH})


@pytest.fixture(scope="module")
def swm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planning") / "model"
    model = tiny_semantic_model()
    save_semantic_model(folder, model.spec, model.network, model.tokenizer)
    return str(folder)


@pytest.fixture
def small(swm_folder, tmp_path):
    return PlanningConfig(
        swm_folder, out=tmp_path / "out", tasks=("push_red_moon_green_star",), episodes=6,
        max_steps=3, rows=1, horizon=4, execute=2, mppi=MPPIConfig(2, 1),
        gradient=GradientConfig(iterations=1),
    )  # fmt: skip


def test_it_goes_on_where_it_was_killed(small, monkeypatch, tmp_path):
    whole = measure_planning(dataclasses.replace(small, out=tmp_path / "whole"), lambda line: None)
    run = planning_success.run_policy
    calls = []

    def killed(*arguments, **settings):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(settings["results"])
        return run(*arguments, **settings)

    monkeypatch.setattr(planning_success, "run_policy", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_planning(small)
    # a first round of four episodes of everybody, then the second of the base
    held = {
        path.name: len(path.read_text(encoding="utf-8").splitlines())
        for path in small.out.glob("*.jsonl")
    }
    name = small.tasks[0]
    assert held == {
        f"{name}-base.jsonl": 6,
        f"{name}-gradient.jsonl": 4,
        f"{name}-uniform.jsonl": 4,
    }
    with (small.out / f"{name}-gradient.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"index": 4, "sta')  # as kill -9 leaves it
    monkeypatch.setattr(planning_success, "run_policy", run)
    report = measure_planning(small, lambda line: None)
    assert report["rows"] == whole["rows"]
    assert [row["episodes"] for row in report["rows"]] == [6, 6, 6]
    assert report["improvements"] == whole["improvements"]
    assert report["duration_s"] > 0
    with pytest.raises(ValueError, match=r"other settings .*phrasing"):
        measure_planning(dataclasses.replace(small, phrasing=8))


def test_when_the_time_is_up_it_reports_what_is_there(small):
    nothing = measure_planning(dataclasses.replace(small, max_minutes=0.0), lambda line: None)
    assert nothing["rows"] == []
    four = dataclasses.replace(small, methods=("base",), episodes=4)
    measure_planning(four, lambda line: None)
    rows = measure_planning(dataclasses.replace(small, max_minutes=0.0), lambda line: None)["rows"]
    assert [(row["method"], row["episodes"]) for row in rows] == [("base", 4)]
    six = dataclasses.replace(small, methods=("base",), episodes=6)  # two of the next block of four
    measure_planning(six, lambda line: None)
    more = dataclasses.replace(small, episodes=20, max_minutes=0.0)
    rows = measure_planning(more, lambda line: None)["rows"]
    assert [(row["method"], row["episodes"]) for row in rows] == [("base", 6)]


def test_the_report_counts_and_pairs():
    def records(*won):
        return [EpisodeRecord(i, "", 6000 + i, "", bool(w), 10) for i, w in enumerate(won)]

    name = "push_red_moon_green_star"
    outcomes = {
        (name, "base"): records(0, 0, 0, 1),
        (name, "gradient"): records(1, 1, 0, 1, 1, 1),
        ("reach", "mppi"): records(1, 1),
    }
    rows = {(row["task"], row["method"]): row for row in success_rows(outcomes, LANGTABLE_TASKS)}
    assert rows[name, "gradient"]["success_rate"] == pytest.approx(5 / 6)
    assert rows["reach", "mppi"]["interval"][0] == pytest.approx(0.342, abs=1e-3)  # Wilson, 2 of 2
    assert rows["reach", "mppi"]["paper"] == 1.0
    (gain,) = improvements_over_base(outcomes, LANGTABLE_TASKS)
    assert (gain["group"], gain["episodes"]) == ("push", 4)
    assert gain["points"] == pytest.approx(50.0)
    assert gain["interval"] == [0.0, 100.0]


def test_a_card_keeps_figures_of_other_groups():
    known = {
        "planning": {
            "rows": [{"group": "reach", "task": "reach"}, {"group": "push", "task": "old"}],
            "improvements": [{"group": "push", "points": 35}],
            "command": "of the time before",
        }
    }
    figures = {
        "rows": [{"group": "push", "task": "new"}],
        "improvements": [{"group": "push", "points": 18}],
    }
    assert planning_success.beside_other_groups(known, figures) == {
        "rows": [{"group": "reach", "task": "reach"}, {"group": "push", "task": "new"}],
        "improvements": [{"group": "push", "points": 18}],
    }
    assert planning_success.beside_other_groups({}, figures) == figures


def test_who_plans_with_what(swm_folder, small):
    model = load_semantic_model(swm_folder)
    config = dataclasses.replace(small, proposals=3, phrasing=5, max_steps=3)
    tasks = {task.name: task for task in LANGTABLE_TASKS}
    rows = make_rows(config, model, True)

    def made(name, method):
        return make_policy(config, model, rows, tasks[name], method)

    base = made("reach", "base")
    assert isinstance(base, ExpertProposals) and base.chunk == config.execute
    assert (base.noise_m, base.correlation) == (config.base_noise_m, config.base_correlation)
    several = made("MS1", "gradient")
    assert isinstance(several, PlannerPolicy)
    assert several.planner.order == "by_value" and len(several.proposals.bases) == 6
    assert {base.step for base in several.proposals.bases} == {0, 1}
    single = made("push_red_moon_green_star", "gradient")
    assert single.planner.order == "given" and len(single.proposals.bases) == 3
    uniform = made("push_red_moon_green_star", "uniform")
    assert uniform.planner.planner == dataclasses.replace(config.gradient, candidates=3)
    assert made("reach", "mppi").planner.planner == config.mppi
    single.reset([0], [1], [PUSH])
    (step,) = single._tasks[0].subgoals
    assert step.answers[0].question == "Is the green cube in physical contact with the blue moon?"


def test_names_and_groups_of_tasks():
    table = "LangTable-v0"
    assert len(chosen_tasks(table, ())) == 11
    chosen = chosen_tasks(table, ("multi_step", "reach"))
    assert [task.name for task in chosen][:2] == ["reach", "MS1"]
    assert [task.name for task in chosen_tasks("Cube-v0", ())] == ["reach", "stack"]
    with pytest.raises(ValueError, match=r"\['pull'\] are unknown in LangTable.*groups \(reach"):
        chosen_tasks(table, ("pull",))
    with pytest.raises(ValueError, match="'BridgeSim-v0' has no tasks to plan; expected a model"):
        chosen_tasks("BridgeSim-v0", ())


def test_cubes_are_reached_for_in_their_own_simulator(tmp_path):
    pytest.importorskip("ogbench")
    tokenizer = cube_tokenizer()
    sizes = dataclasses.replace(TINY, vocabulary=tokenizer.size, action_width=5)
    spec = tiny_spec(
        tokenizer, twin="Cube-v0", action=dataclasses.replace(CUBE.action, width=5),
        network=dataclasses.asdict(sizes), objects=CUBE.objects, tasks=CUBE.tasks,
    )  # fmt: skip
    network = randomise(SemanticNetwork(sizes, "block_causal"))
    save_semantic_model(tmp_path / "cube", spec, network, tokenizer)
    config = PlanningConfig(
        str(tmp_path / "cube"), out=tmp_path / "out", tasks=("reach",), episodes=2, max_steps=3,
        rows=1, horizon=4, execute=2, mppi=MPPIConfig(2, 1),
    )  # fmt: skip
    (row,) = measure_planning(config, lambda line: None)["rows"]
    assert (row["method"], row["episodes"], row["errors"], row["paper"]) == ("mppi", 2, 0, 0.97)
    records = [
        json.loads(line) for line in (config.out / "reach-mppi.jsonl").open(encoding="utf-8")
    ]
    assert {record["steps"] for record in records} <= {1, 2, 3}
    assert all("cube" in record["instruction"] for record in records)
    with pytest.raises(ValueError, match="Cube-v0 has no base policy to improve; expected mppi"):
        measure_planning(dataclasses.replace(config, methods=("base",)))


def test_the_script_writes_its_figures(small, tmp_path, capsys):
    config = dataclasses.replace(
        small, tasks=("reach", "MS3"), episodes=1, json=tmp_path / "figures.json"
    )
    with benchmark_script("planning_success") as script:
        script.main(config)
    report = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [(row["task"], row["method"]) for row in report["rows"]] == [
        ("reach", "mppi"), ("MS3", "base"), ("MS3", "gradient"),
    ]  # fmt: skip
    assert report["settings"]["base_noise_m"] == small.base_noise_m
    assert "gradient over base, mean of 1 multi_step tasks" in capsys.readouterr().out


def test_the_base_policys_noise_is_one_that_was_measured():
    report = json.loads((RESULTS / "base_policy_noise.json").read_text(encoding="utf-8"))
    chosen = PlanningConfig("any").base_noise_m
    (row,) = (row for row in report["rows"] if row["noise_m"] == chosen)
    assert 0.10 <= row["success_rate"] <= 0.25
    assert report["rows"][0]["noise_m"] == 0 and report["rows"][0]["success_rate"] > 0.95
    assert max(report["seeds"]) < PlanningConfig("any").seed
    assert report["correlation"] == PlanningConfig("any").base_correlation


def test_the_noise_script_counts_successes(tmp_path):
    with benchmark_script("base_policy_noise") as script:
        config = script.BaseNoiseConfig(
            noise_m=(0.0,), episodes=1, out=tmp_path, json=tmp_path / "n.json"
        )
        (row,) = script.main(config)["rows"]
    assert row["success_rate"] == 1.0 and row["episodes"] == 5
    assert json.loads((tmp_path / "n.json").read_text(encoding="utf-8"))["wanted"] == [0.1, 0.25]
