"""BridgeSimEnv: kinematics, grasping, tasks, switches and picture."""

import time

import numpy as np
import pytest

from wm_gym.envs.sims.bridge.arm import HOME_RAD, RANGES_RAD
from wm_gym.envs.sims.bridge.env import BridgeSimEnv
from wm_gym.envs.sims.bridge.expert import Expert
from wm_gym.envs.sims.bridge.kinematics import ArmKinematics
from wm_gym.envs.sims.bridge.objects import DISTRACTORS, THINGS
from wm_gym.envs.sims.bridge.physics import TILT_LIMIT_RAD, WORKSPACE_M
from wm_gym.envs.sims.bridge.state import BridgeState
from wm_gym.envs.sims.bridge.tasks import TASKS, BridgeGoal, is_success, target_point
from wm_gym.envs.sims.mujoco_import import import_mujoco
from wm_gym.envs.sims.rotations import DOWN, from_rpy

STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])


@pytest.fixture(scope="module")
def env():
    return BridgeSimEnv(obs="state", terminate_on_success=False)


def named(env):
    return BridgeState.from_array(env.privileged_state())


def play_until(env, stage, task, seed=0):
    """Plays the expert up to a stage; returns it."""
    env.reset(seed=seed, options={"task": task})
    expert = Expert()
    expert.reset(env.goal, np.random.default_rng(seed), env.objects)
    for _ in range(50):
        action = expert.act(env)
        if expert.stage == stage:
            return expert
        env.step(action)
    raise AssertionError(f"{stage} was not reached")


def test_link_lengths_are_those_of_the_published_arm():
    position, rotation = ArmKinematics().hand_pose(np.zeros(6))
    np.testing.assert_allclose(position, (0.458325, 0.0, 0.36065), atol=1e-9)
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)


def test_inverse_kinematics_reaches_what_it_is_asked_for():
    arm, rng = ArmKinematics(), np.random.default_rng(0)
    angles = np.array(HOME_RAD)
    _, upright = arm.hand_pose(angles)
    for _ in range(40):
        position, _ = arm.hand_pose(angles)
        position = np.clip(position + rng.uniform(-0.05, 0.05, 3), *WORKSPACE_M)
        wanted = from_rpy(rng.uniform(-0.2, 0.2, 3)) @ upright
        angles = arm.solve(angles, position, wanted)
        reached, turned = arm.hand_pose(angles)
        np.testing.assert_allclose(reached, position, atol=5e-4)
        np.testing.assert_allclose(turned, wanted, atol=3e-3)
        assert (angles > np.array(RANGES_RAD)[:, 0]).all()
        assert (angles < np.array(RANGES_RAD)[:, 1]).all()


@pytest.mark.parametrize("axis", range(6))
def test_the_hand_moves_as_the_action_says(env, axis):
    env.reset(seed=1, options={"task": "carrot_on_plate"})
    env.step(np.array([0.03, 0, -0.02, 0, 0, 0, 1.0]))  # away from the workspace's edge
    before = named(env)
    action = STILL.copy()
    action[axis] = 0.02 if axis < 3 else 0.2
    env.step(action)
    after = named(env)
    np.testing.assert_allclose(after.hand_m - before.hand_m, action[:3], atol=0.002)
    turned = from_rpy(action[3:6]) @ before.hand_rotation
    np.testing.assert_allclose(after.hand_rotation, turned, atol=0.02)
    settled = named(env).hand_m
    env.step(STILL)
    np.testing.assert_allclose(named(env).hand_m, settled, atol=5e-4)


def test_the_gripper_opens_and_closes_as_the_action_says(env):
    env.reset(seed=1, options={"task": "carrot_on_plate"})
    for opening in (0.0, 0.5, 1.0):
        for _ in range(2):
            env.step(np.array([0, 0, 0, 0, 0, 0, opening]))
        assert named(env).opening == pytest.approx(opening, abs=0.03)


def test_the_hand_stays_in_its_workspace_and_upright(env):
    rng = np.random.default_rng(3)
    for corner in rng.choice([-1.0, 1.0], (4, 6)):
        env.reset(seed=0)
        for _ in range(12):
            env.step(np.append(env.action_space.high[:6] * corner, 1.0))
        state = named(env)
        low, high = WORKSPACE_M
        assert (state.hand_m > low - 0.03).all() and (state.hand_m < high + 0.03).all()
        tilt = np.arccos(np.clip(state.hand_rotation[:, 0] @ DOWN, -1, 1))
        assert tilt < TILT_LIMIT_RAD + 0.25  # where joint limits do not allow the pose


@pytest.mark.parametrize("task", TASKS)
def test_what_is_grasped_is_held_by_friction_alone(env, task):
    play_until(env, "carry", task)
    model = env._physics.model
    assert (
        model.eq_type == import_mujoco().mjtEq.mjEQ_JOINT
    ).all()  # only the fingers' coupling, no weld
    grip = named(env).things[0].position_m - named(env).hand_m
    for step in range(25):
        way = 0.04 * np.array([np.cos(step), np.sin(step), 0.0])
        env.step(np.concatenate([way, [0, 0, 0.2 * np.cos(step / 3)], [0.0]]))
    state = named(env)
    assert state.things[0].touched and state.things[0].position_m[2] > 0.05
    assert np.linalg.norm(state.things[0].position_m - state.hand_m) < np.linalg.norm(grip) + 0.01
    env.step(STILL)
    env.step(STILL)
    assert named(env).things[0].position_m[2] < 0.04 and not named(env).things[0].touched


def test_a_state_is_restored_exactly_while_something_is_held(env):
    expert = play_until(env, "carry", "spoon_on_towel", seed=2)
    state = env.get_state()
    actions = []
    for _ in range(12):
        actions.append(expert.act(env))
        env.step(actions[-1])
    end = env.privileged_state()
    other = BridgeSimEnv(obs="state", task="eggplant_in_basket")
    other.reset(seed=5)
    other.set_state(state)
    assert other.objects == ("spoon", "towel")
    for action in actions:
        other.step(action)
    np.testing.assert_array_equal(other.privileged_state(), end)


@pytest.mark.parametrize("task", TASKS)
def test_success_needs_the_place_rest_and_an_open_hand(env, task):
    env.reset(seed=0, options={"task": task})
    goal, state = env.goal, env.privileged_state()
    assert not is_success(state, goal)

    def put(offset_m=(0, 0, 0), speed=0.0, touched=0.0):
        changed = state.copy()
        changed[8:11] = target_point(BridgeState.from_array(state), goal.place) + offset_m
        changed[15:17] = speed, touched
        return is_success(changed, goal)

    assert put()
    assert not put(touched=1.0)
    assert not put(speed=0.1)
    assert not put(offset_m=(0, 0, 0.03))
    assert not put(offset_m=(0.075, 0.075, 0))


@pytest.mark.parametrize("task", TASKS)
def test_what_is_beside_a_tipped_thing_is_not_on_it(env, task):
    env.reset(seed=0, options={"task": task})
    goal, state = env.goal, env.privileged_state()
    state[15:17] = 0.0
    half = np.sqrt(0.5)
    state[20:24] = half, half, 0.0, 0.0  # a quarter turn about x: its axis lies along y
    for side in (-1, 1):
        state[8:11] = state[17:20] + np.array([0.0, side * goal.place.height_m, 0.0])
        assert not is_success(state, goal)
    state[8:11] = state[17:20] + np.array([0.0, 0.0, goal.place.height_m])
    assert is_success(state, goal) == (task == "green_block_on_yellow_block")
    named = BridgeState.from_array(state)
    np.testing.assert_allclose(
        target_point(named, goal.place)[2] - state[19],
        goal.place.height_m if is_success(state, goal) else 0.0,
        atol=1e-9,
    )


def test_words_of_the_goals(env):
    for task in TASKS:
        goal = BridgeGoal(task)
        _, info = env.reset(seed=0, options={"instruction": goal.instruction.upper() + "."})
        assert info["task"] == task and info["instruction"] == goal.instruction
    state = env.get_state()
    with pytest.raises(ValueError, match="only eggplant, basket are on the table"):
        env.reset(options={"state": state, "instruction": "put the carrot on the plate"})
    with pytest.raises(ValueError, match="these things are not on the table"):
        env.reset(options={"instruction": "stack the red block on the blue block"})
    red = BridgeSimEnv(obs="state", task="green_block_on_yellow_block", colours="unseen")
    assert red.reset(seed=0)[1]["instruction"] == "stack the red block on the blue block"
    assert red.objects == ("red block", "blue block")


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"distractors": "elephant"}, "expected different ones of red can"),
        ({"distractors": "red can, red can"}, "expected different ones"),
        ({"cameras": "top"}, "expected different ones of shoulder, side, wrist"),
        ({"colours": "odd"}, "colours='odd'"),
        ({"table": "glass"}, "expected one of 'wood', 'slate', 'mint'"),
        ({"background": "sky"}, "background='sky'"),
    ],
)
def test_wrong_keywords_are_explained(keywords, words):
    with pytest.raises(ValueError, match=words):
        BridgeSimEnv(**keywords)


def test_distractors_lie_apart_and_belong_to_the_state():
    env = BridgeSimEnv(obs="state", distractors="all")
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        assert env.objects[2:] == tuple(DISTRACTORS) and observation.shape == (8 + 9 * 5,)
        things = {**THINGS, **DISTRACTORS}
        places = info["privileged"]["things_m"][:, :2]
        for i, first in enumerate(env.objects):
            for j in range(i):
                apart = things[first].radius_m + things[env.objects[j]].radius_m
                assert np.linalg.norm(places[i] - places[j]) > apart
    with pytest.raises(ValueError, match="Make one with distractors="):
        BridgeSimEnv(obs="state").set_state(env.get_state())


def test_switches_change_the_picture_and_not_the_physics():
    plain = BridgeSimEnv(frame_size=64, task="carrot_on_plate")
    frame, _ = plain.reset(seed=3)
    state = plain.get_state()
    action = np.array([0.02, 0.03, -0.05, 0.1, 0, 0.2, 0.3])
    plain.step(action)
    for keywords in ({"colours": "unseen"}, {"table": "slate"}, {"background": "brick"}):
        other = BridgeSimEnv(frame_size=64, **keywords)
        seen, _ = other.reset(options={"state": state})
        changed = (np.abs(seen.astype(int) - frame).max(-1) > 20).mean()
        assert 0.005 < changed < 0.95, keywords
        other.step(action)
        np.testing.assert_array_equal(other.privileged_state(), plain.privileged_state())
        other.close()
    plain.close()


def test_several_cameras_stand_side_by_side():
    three = BridgeSimEnv(frame_size="48x64", cameras="shoulder, side, wrist")
    one = BridgeSimEnv(frame_size="48x64")
    frame, _ = three.reset(seed=0)
    assert frame.shape == (48, 192, 3) == three.observation_space.shape
    np.testing.assert_array_equal(frame[:, :64], one.reset(seed=0)[0])
    assert (frame[:, 64:128] != frame[:, :64]).mean() > 0.3
    assert (frame[:, 128:] != frame[:, :64]).mean() > 0.3
    three.close()
    one.close()


@pytest.mark.parametrize("task", TASKS)
def test_both_things_are_legible_at_64_pixels(task):
    """Taking one thing away changes at least 12 pixels clearly, wherever the two lie."""
    env = BridgeSimEnv(frame_size=64, task=task)
    for seed in range(6):
        env.reset(seed=seed)
        physics = env._physics
        poses = physics.data.qpos[8:].reshape(-1, 7).copy()
        hand = np.array([0.19, 0.14, 0.18])  # out of the way
        physics.place(hand, 0.0, poses)
        frame = env.render().astype(int)
        for thing in range(2):
            without = poses.copy()
            without[thing, 2] = -5.0
            physics.place(hand, 0.0, without)
            changed = np.abs(env.render().astype(int) - frame).max(-1) > 40
            assert changed.sum() >= 12, (seed, env.objects[thing])
    env.close()


def test_frames_come_fast_enough_for_collection():
    """A hundred a second on an idle core; CPU time, and a third of it, for a busy machine."""
    env = BridgeSimEnv(frame_size=64)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(env.action_space.low, env.action_space.high, (30, 7))
    env.step(actions[0])
    start = time.process_time()
    for action in actions:
        env.step(action)
    assert len(actions) / (time.process_time() - start) > 33
    env.close()
