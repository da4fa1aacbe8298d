"""Cube: OGBench's physics, what is particular to its state, tasks, pictures and behaviours."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import NEEDS_OGBENCH
from wm_gym.envs.collect import CollectConfig, collect
from wm_gym.envs.sims.cube import env as cube
from wm_gym.envs.sims.cube import expert as cube_expert
from wm_gym.envs.sims.cube.env import CubeEnv
from wm_gym.envs.sims.cube.expert import ACTION_LIMIT, Expert, NoisyExpert, seeded_globally
from wm_gym.envs.sims.cube.play import NearMiss, RandomPlay
from wm_gym.envs.sims.cube.state import CUBE_HALF_M, CubeState, state_size
from wm_gym.envs.sims.cube.tasks import (
    OBJECTS,
    CubeGoal,
    goals,
    is_success,
    parse_cubes,
    task_distance,
)
from wm_gym.envs.sims.cube.view import project
from wm_gym.envs.sims.teachers import TEACHERS
from wm_gym.instructions import Goal, InstructionError

pytestmark = NEEDS_OGBENCH
PAIR = OBJECTS[:2]
STACK = CubeGoal("stack", *PAIR)


@pytest.fixture(scope="module")
def env():
    return CubeEnv(obs="state", terminate_on_success=False)


def scene(first_m, second_m, gap_m=0.0, pad_m=0.05):
    """A state of two upright cubes, the hand far above."""
    return CubeState(
        hand_m=np.array([0.4, 0.0, 0.3]),
        hand_yaw_rad=np.array(0.3),
        closed=np.array(0.0),
        force=np.array(0.0),
        cubes_m=np.array([first_m, second_m]),
        cubes_quaternion=np.array([[1.0, 0, 0, 0], [np.cos(0.2), 0, 0, np.sin(0.2)]]),
        pad_gaps_m=np.array([[pad_m, 0.1], [0.1, 0.1]]),
        cube_gaps_m=np.array([[np.inf, gap_m], [gap_m, np.inf]]),
    ).to_array()


def play(env, behaviour, seed, task, steps=200, stop=True):
    """Returns (whether it ever succeeded, actions, infos) of one episode."""
    env.reset(seed=seed, options={"task": task})
    behaviour.reset(env.goal, np.random.default_rng([seed, 1]), env.objects)
    actions, infos = [], []
    for _ in range(steps):
        actions.append(behaviour.act(env))
        infos.append(env.step(actions[-1])[-1])
        assert not infos[-1]["action_clipped"] and actions[-1].dtype == np.float32
        if stop and infos[-1]["is_success"]:
            break
    return any(info["is_success"] for info in infos), np.array(actions), infos


@pytest.mark.slow
def test_the_physics_is_that_of_the_package(env):
    """Bit for bit, once the package's derived quantities are brought up to date before a step."""
    import mujoco
    from ogbench.manipspace.envs.cube_env import CubeEnv as OGBenchCubeEnv

    package = OGBenchCubeEnv("quadruple", control_timestep=0.1, mode="data_collection")
    package.reset(seed=0)
    env.reset(seed=3)
    state = env.get_state()["physics"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(package.model, package.data, state, kind)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 5)):
        mujoco.mj_forward(package.model, package.data)
        package.step(action)
        env.step(action * ACTION_LIMIT)
        np.testing.assert_allclose(env._physics.data.qpos, package.data.qpos, atol=1e-9)
    read, state = package.compute_ob_info(), CubeState.from_array(env.privileged_state())
    np.testing.assert_allclose(state.closed, read["proprio/gripper_opening"][0], atol=1e-6)
    np.testing.assert_allclose(
        state.cubes_yaw_rad, [read[f"privileged/block_{k}_yaw"][0] for k in range(4)], atol=1e-6
    )
    assert (state.cubes_m[:, 2] > 0).all()
    for name in ("body_mass", "body_inertia", "geom_friction"):
        ours, theirs = getattr(env._physics.model, name), getattr(package.model, name)
        assert name == "geom_friction" or np.array_equal(ours, theirs)


def test_a_state_is_named_and_flattened_back():
    rng = np.random.default_rng(0)
    for cubes, size in ((1, 15), (2, 25), (3, 36), (4, 48)):
        assert state_size(cubes) == size
        flat = rng.normal(size=(5, 3, size))
        named = CubeState.from_array(flat)
        assert named.cubes_m.shape == (5, 3, cubes, 3)
        np.testing.assert_array_equal(named.to_array(), flat)
        np.testing.assert_array_equal(named.cube_gaps_m, named.cube_gaps_m.swapaxes(-1, -2))
    with pytest.raises(ValueError, match=r"one of \[15, 25, 36, 48\]"):
        CubeState.from_array(np.zeros(20))
    state = CubeState.from_array(scene([0, 0, 0], [1, 1, 1]))
    np.testing.assert_allclose(state.cubes_yaw_rad, [0.0, 0.4])


LOW = [0.4, 0.0, CUBE_HALF_M]
TOP = [0.4, 0.01, 3 * CUBE_HALF_M]


@pytest.mark.parametrize(
    ("state", "success"),
    [
        (scene(TOP, LOW), True),
        (scene(LOW, TOP), False),  # the wrong one on top
        (scene(TOP, LOW, gap_m=0.004), False),  # above, but not touching
        (scene(TOP, LOW, pad_m=0.001), False),  # still held
        (scene([0.4, 0.03, 3 * CUBE_HALF_M], LOW), False),  # too far aside
        (scene([0.4, 0.02, 2 * CUBE_HALF_M], LOW), False),  # leaning
    ],
)
def test_what_counts_as_stacked(state, success):
    assert is_success(state, STACK, PAIR) is success


def test_what_counts_as_reached():
    goal = CubeGoal("reach", "red cube")
    assert is_success(scene(LOW, TOP, pad_m=0.0019), goal, PAIR)
    assert not is_success(scene(LOW, TOP, pad_m=0.0021), goal, PAIR)
    assert not is_success(scene(LOW, TOP, pad_m=0.0), CubeGoal("reach", "blue cube"), PAIR)
    assert task_distance(scene(LOW, TOP), goal, PAIR) == pytest.approx(0.28)
    assert task_distance(scene(TOP, LOW), STACK, PAIR) == pytest.approx(0.01)


def test_goals_and_cubes_in_words(env):
    assert len(goals("any")) == 4 + 12
    assert parse_cubes(3) == parse_cubes("3") == OBJECTS[:3]
    assert parse_cubes("yellow cube,red cube") == ("yellow cube", "red cube")
    for wrong in ("5", "purple cube", "red cube, red cube", ""):
        with pytest.raises(ValueError, match="a number from 1 to 4"):
            parse_cubes(wrong)
    with pytest.raises(ValueError, match="two different ones"):
        CubeGoal("stack", "red cube", "red cube")
    with pytest.raises(InstructionError, match="twice"):
        env.reset(options={"instruction": "stack the red cube on the red cube"})
    info = env.reset(seed=0, options={"instruction": "Stack the blue cube on the yellow cube."})[1]
    assert info["instruction"] == "stack the blue cube on the yellow cube"
    assert env.distance("reach the red cube") > 0.1


def test_one_cube_can_be_reached_but_not_stacked():
    env = CubeEnv(cubes=1, obs="state", task="any")
    for seed in range(4):
        assert env.reset(seed=seed)[1]["instruction"] == "reach the red cube"
    with pytest.raises(ValueError, match="one cube cannot be stacked"):
        env.reset(options={"task": "stack"})
    with pytest.raises(ValueError, match="one cube cannot be stacked"):
        CubeEnv(cubes=1, task="stack")
    with pytest.raises(ValueError, match=r"Make one with cubes='red cube, blue cube'"):
        env.set_state(CubeEnv(cubes=2, obs="state").get_state() | {"generator": "{}"})


def test_starts_are_at_rest_and_apart(env):
    for seed in range(5):
        _, info = env.reset(seed=seed)
        cubes = info["privileged"]["cubes_m"]
        apart = np.linalg.norm(cubes[:, None] - cubes[None], axis=-1)
        assert (apart[np.triu_indices(4, 1)] > 0.1).all()
        assert not info["privileged"]["contacts"].any() and not info["is_success"]
        moved = env.step(np.zeros(5))[-1]["privileged"]["cubes_m"]
        np.testing.assert_allclose(moved, cubes, atol=2e-4)


def test_an_action_moves_the_hand_by_about_that_way(env):
    env.reset(seed=1)
    before = env._named_state()
    for _ in range(3):
        after = env.step(np.array([0.0, 0.02, -0.02, 0.1, 1.0]))[-1]["privileged"]
    way = after["hand_m"] - before["hand_m"]
    assert abs(way[0]) < 0.01 and 0.03 < way[1] < 0.07 and -0.07 < way[2] < -0.03
    assert before["closed"] < 0.05 and after["closed"] > 0.9


def test_what_is_missing_is_said():
    code = """
import sys
sys.modules["ogbench"] = None
import gymnasium, wm_gym
try:
    gymnasium.make("Cube-v0")
except ImportError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert "Cube-v0 runs on the package ogbench" in run.stdout
    assert "pip install 'wm_gym[ogbench]'" in run.stdout


def test_colours_are_where_the_state_says():
    """Each cube's colour is seen around its projected centre, on every background."""
    from wm_gym.envs.sims.cube.ogbench import BACKGROUNDS, CUBE_COLOURS

    assert tuple(BACKGROUNDS) == cube.BACKGROUNDS and tuple(CUBE_COLOURS) == OBJECTS
    floors = []
    for background in cube.BACKGROUNDS:
        env = CubeEnv(frame_size=96, background=background)
        frame, info = env.reset(seed=2)
        env.close()
        floors.append(frame[-3:, -3:].mean((0, 1)))
        x, y = (project(info["privileged"]["cubes_m"]) * (1, -1) + 1).T * 48
        for name, column, row in zip(OBJECTS, x.astype(int), y.astype(int), strict=True):
            patch = frame[row - 2 : row + 3, column - 2 : column + 3].astype(float)
            hues = patch / np.maximum(patch.max(-1, keepdims=True), 1)
            wanted = np.array(CUBE_COLOURS[name]) / max(CUBE_COLOURS[name])
            assert np.abs(hues - wanted).max(-1).min() < 0.15, (background, name)
    apart = np.linalg.norm(np.array(floors)[:, None] - floors, axis=-1)
    assert (apart[np.triu_indices(4, 1)] > 25).all()


@pytest.mark.parametrize("task", ["reach", "stack"])
def test_expert_succeeds(env, task):
    for seed in range(100, 102):
        succeeded, _, infos = play(env, Expert(), seed, task)
        contacts = infos[-1]["privileged"]["contacts"][env.objects.index(env.goal.first)]
        assert succeeded and contacts.any() == (task == "reach")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reach", "stack"])
def test_expert_succeeds_on_thirty_seeds(env, task):
    assert np.mean([play(env, Expert(), seed, task)[0] for seed in range(30)]) >= 0.95


@pytest.mark.parametrize("make", [Expert, lambda: NoisyExpert(0.2), RandomPlay, NearMiss])
def test_behaviours_follow_their_seed_and_leave_the_global_generator_alone(env, make):
    played = []
    for global_seed in (1, 2):
        np.random.seed(global_seed)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        played.append(play(env, make(), 5, "stack", 15)[1])
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(*played)


def test_the_global_generator_comes_back_after_an_error():
    np.random.seed(0)  # noqa: NPY002
    wanted = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(KeyError), seeded_globally(np.random.default_rng(1)):
        np.random.random()  # noqa: NPY002
        raise KeyError
    assert np.random.random() == wanted  # noqa: NPY002


def test_random_play_moves_things_and_covers_the_actions(env):
    moved, actions = [], []
    for seed in range(3):
        _, taken, infos = play(env, RandomPlay(), seed, "stack", 60, stop=False)
        way = infos[-1]["privileged"]["cubes_m"] - infos[0]["privileged"]["cubes_m"]
        moved.append((np.linalg.norm(way, axis=1) > 0.02).any())
        actions.append(taken)
    every = np.concatenate(actions) / ACTION_LIMIT
    assert np.mean(moved) >= 0.6
    assert (every.min(0) < -0.8).all() and (every.max(0) > 0.8).all()


def test_near_misses_miss(env):
    """They come near: the hand beside the cube, or the cube beside where it belongs."""
    for seed, task in enumerate(("stack", "stack", "reach")):
        succeeded, _, infos = play(env, NearMiss(), seed, task, 80)
        assert not succeeded
        first = env.objects.index(env.goal.first)
        named = [info["privileged"] for info in infos]
        way = np.array([state["hand_m"] - state["cubes_m"][first] for state in named])
        lowest = np.linalg.norm(way, axis=1).min()
        assert lowest < 0.12, (seed, task, lowest)


def test_a_near_miss_is_one_of_two_kinds():
    kinds = set()
    for seed in range(12):
        for goal, possible in ((STACK, NearMiss.KINDS), (CubeGoal("reach", "red cube"), ["empty"])):
            behaviour = NearMiss()
            behaviour.reset(goal, np.random.default_rng(seed), PAIR)
            assert behaviour.kind in possible
            aside = float(np.linalg.norm(behaviour._aside_m))
            low, high = (0.07, 0.1) if behaviour.kind == "empty" else (0.03, 0.07)
            assert low <= aside <= high
            kinds.add((goal.task, behaviour.kind))
    assert kinds == {("stack", "empty"), ("stack", "beside"), ("reach", "empty")}


def test_a_collection_goes_on_and_teaches(tmp_path):
    def config(name, episodes):
        return CollectConfig(
            out=tmp_path / name, env_id="Cube-v0", episodes=episodes, steps=6, frame_size="16x16",
            objects="2", shard_episodes=1, workers=1, behaviours={"noisy_expert": 1.0},
        )  # fmt: skip

    collect(config("a", 1), progress=False)
    dataset = collect(config("a", 2), progress=False)
    whole = collect(config("b", 2), progress=False)
    for one, other in zip(dataset, whole, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.privileged, other.privileged)
    episode = dataset[1]
    assert episode.privileged.shape == (7, state_size(2)) and episode.actions.shape == (6, 5)
    assert str(episode.start_state["cubes"]) == "red cube, blue cube"
    env = CubeEnv(cubes=2, obs="state")
    env.reset(seed=0, options={"state": episode.start_state})
    for action, after in zip(episode.actions, episode.privileged[1:], strict=True):
        np.testing.assert_array_equal(env.step(action)[0], after)


def test_the_teacher_labels_what_a_trembling_expert_saw(env):
    from wm_gym.data.episodes import Episode

    env.reset(seed=0, options={"instruction": "stack the blue cube on the green cube"})
    expert = NoisyExpert(0.3)
    expert.reset(env.goal, np.random.default_rng(0), env.objects)
    states, actions = [env.privileged_state()], []
    for _ in range(20):
        actions.append(expert.act(env))
        states.append(env.step(actions[-1])[0])
    goal = Goal("stack", ("blue cube", "green cube"))
    episode = Episode(
        frames=np.zeros((21, 8, 8, 3), np.uint8),
        actions=np.array(actions),
        goal=goal,
        behaviour="noisy_expert",
        privileged=np.array(states),
        success=np.zeros(21, bool),
    )
    teacher = TEACHERS["Cube-v0"]
    labels = teacher.labels(episode)
    assert labels.shape == (20, 5) and (np.abs(labels) <= ACTION_LIMIT + 1e-6).all()
    taken = np.array(actions)
    assert (labels * taken)[:, :3].sum() > 0.6 * np.linalg.norm(labels[:, :3]) * np.linalg.norm(
        taken[:, :3]
    )
    places = teacher.places(np.array(states), goal)
    assert places.shape == (21, 5, 2) and np.isfinite(places).all()
    assert cube_expert.PACE[0] < cube_expert.PACE[1]
