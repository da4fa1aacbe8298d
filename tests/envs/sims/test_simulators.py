"""What holds for every simulator: the Gymnasium contract, determinism, state and errors."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.conftest import NEEDS_OGBENCH
from wm_gym.domains import DOMAINS
from wm_gym.envs.registration import SIMULATORS
from wm_gym.envs.sims.behaviours import BEHAVIOURS
from wm_gym.instructions import InstructionSet


@dataclass(frozen=True)
class Sample:
    """A simulator and what is particular to it in these tests."""

    env_id: str
    size: int
    task: str

    def make(self, **keywords):
        return gymnasium.make(
            self.env_id, disable_env_checker=True, **{"obs": "state", **keywords}
        ).unwrapped


SAMPLES = [
    Sample("LangTable-v0", 2, "separate"),
    Sample("BridgeSim-v0", 7, "green_block_on_yellow_block"),
    Sample("Cube-v0", 5, "stack"),
]

# a machine on which no GL library is installed: loading one fails
WITHOUT_LIBRARIES = """
import ctypes
load = ctypes.CDLL.__init__
def refuse(self, name, *args, **kwargs):
    if any(part in str(name) for part in ("libEGL", "libOSMesa", "libGL", "libOpenGL")):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = refuse
"""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(s, id=s.env_id, marks=NEEDS_OGBENCH if s.env_id == "Cube-v0" else ())
        for s in SAMPLES
    ],
)
def sample(request):
    return request.param


@pytest.fixture(scope="module")
def env(sample):
    return sample.make(task="any")


def random_actions(env, steps, seed=0):
    box = env.action_space
    return np.random.default_rng(seed).uniform(box.low, box.high, (steps, *box.shape))


def test_every_simulator_is_held_to_this_contract():
    ids = {sample.env_id for sample in SAMPLES}
    assert ids == set(SIMULATORS) == set(BEHAVIOURS)
    assert ids == {domain.twin for domain in DOMAINS.values()}


@pytest.mark.parametrize("obs", ["pixels", "state"])
def test_check_env(sample, obs):
    env = sample.make(frame_size="48x64", obs=obs, render_mode="rgb_array")
    with warnings.catch_warnings():
        # an unbounded state space is no fault
        warnings.filterwarnings("ignore", message=".*Box observation space.*infinity.*")
        check_env(env, skip_close_check=True)
    env.close()


def test_a_domain_says_what_its_simulator_does(sample, env):
    domain = next(d for d in DOMAINS.values() if d.twin == sample.env_id)
    assert domain.action.space() == env.action_space
    assert domain.action.control_hz == env.control_hz == env.metadata["render_fps"]
    assert domain.horizon == env.horizon and tuple(domain.tasks) == env.tasks
    words = InstructionSet(domain.tasks, domain.objects)
    for task in env.tasks:
        _, info = env.reset(seed=0, options={"task": task})
        goal = words.parse(info["instruction"])
        assert (goal.task, goal.objects) == (info["task"], env.goal.objects)
        assert words.render(goal) == info["instruction"]


def test_same_seed_same_episode(sample, env):
    twin = sample.make(task="any")
    for seed in range(3):
        first, info = env.reset(seed=seed)
        second, twin_info = twin.reset(seed=seed)
        assert info["instruction"] == twin_info["instruction"]
        np.testing.assert_array_equal(first, second)
        for action in random_actions(env, 10, seed):
            np.testing.assert_array_equal(env.step(action)[0], twin.step(action)[0])


def test_frames_of_the_same_state_are_equal(sample):
    env = sample.make(obs="pixels", frame_size=64)
    frame, _ = env.reset(seed=5)
    state = env.get_state()
    for action in random_actions(env, 3):
        env.step(action)
    assert (env.render() != frame).any()
    again, _ = env.reset(options={"state": state})
    np.testing.assert_array_equal(frame, again)
    np.testing.assert_array_equal(frame, env.render())
    env.close()
    np.testing.assert_array_equal(frame, env.render())
    env.close()


@pytest.mark.parametrize("form", ["arrays", "json", "npz"])
def test_continuation_from_a_stored_state_is_the_same_bit_for_bit(sample, env, form, tmp_path):
    env.reset(seed=11)
    actions = random_actions(env, 30, 1)
    for action in actions[:12]:
        env.step(action)
    state = env.get_state()
    before = [env.step(action) for action in actions[12:]]
    next_start, _ = env.reset()
    if form == "json":
        state = json.loads(
            json.dumps(
                {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}
            )
        )
    elif form == "npz":
        np.savez(tmp_path / "state.npz", **state)
        state = dict(np.load(tmp_path / "state.npz"))
    other = sample.make(task="any")
    other.reset(seed=99)
    other.set_state(state)
    for action, (observation, reward, terminated, truncated, info) in zip(
        actions[12:], before, strict=True
    ):
        result = other.step(action)
        np.testing.assert_array_equal(result[0], observation)
        assert result[1:4] == (reward, terminated, truncated)
        assert result[4]["instruction"] == info["instruction"]
    np.testing.assert_array_equal(other.reset()[0], next_start)


def test_a_state_brings_its_goal_and_not_its_step_counter(sample):
    env = sample.make(task="any", horizon=4, terminate_on_success=False)
    env.reset(seed=0, options={"task": sample.task})
    for action in random_actions(env, 3):
        env.step(action)
    state, before = env.get_state(), env.privileged_state()
    observation, info = env.reset(seed=1, options={"state": state})
    np.testing.assert_array_equal(observation, before)
    assert info["task"] == sample.task
    assert env.task_description == env.instruction == info["instruction"]
    ends = [env.step(action)[3] for action in random_actions(env, 4)]
    assert ends == [False, False, False, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instruction": "eat the green cube"}, "expected one"),
        ({"task": "juggle"}, "expected one of '"),
        ({"goal": "reach"}, "expected instruction, task or state"),
        ({"state": {"steps": 0}}, "state lacks .*generator"),
    ],
)
def test_wrong_reset_options_are_explained(env, options, words):
    with pytest.raises(ValueError, match=words):
        env.reset(seed=0, options=options)
    env.reset(seed=0)
    env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"task": "fly"}, "task='fly'"),
        ({"obs": "latents"}, "obs='latents'"),
        ({"frame_size": "big"}, "is not a frame size"),
        ({"frame_size": "4x4"}, "is not a frame size"),
        ({"horizon": 0}, "horizon=0"),
    ],
)
def test_wrong_keywords_are_explained(sample, keywords, words):
    with pytest.raises(ValueError, match=words):
        sample.make(**keywords)


def test_wrong_actions_raise_and_leave_the_environment_usable(sample, env):
    before, _ = env.reset(seed=2)
    wrong = np.zeros(sample.size)
    wrong[0] = np.nan
    for action, words in (
        (wrong, "finite"),
        (np.zeros(sample.size + 1), rf"expected \({sample.size},\)"),
        (np.zeros((1, sample.size)), "without a batch axis"),
    ):
        with pytest.raises(ValueError, match=words):
            env.step(action)
    np.testing.assert_array_equal(env.privileged_state(), before)
    env.step(np.zeros(sample.size))


def test_out_of_range_actions_are_clipped_and_reported(sample, env):
    env.reset(seed=3)
    state = env.get_state()
    action = np.zeros(sample.size)
    action[0] = 1.0
    far, *_, info = env.step(action)
    assert info["action_clipped"]
    env.set_state(state)
    action[0] = env.action_space.high[0]
    near, *_, info = env.step(action.astype(np.float32))
    assert not info["action_clipped"]
    np.testing.assert_array_equal(far, near)


def test_truncates_at_the_horizon_and_not_before(sample):
    env = sample.make(horizon=7)
    env.reset(seed=0)
    ends = [env.step(np.zeros(sample.size))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_pickled_environment_plays_the_same_episode(sample):
    env = sample.make(task=sample.task, horizon=9)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.horizon == 9 and copy.task == sample.task
    np.testing.assert_array_equal(env.reset(seed=4)[0], copy.reset(seed=4)[0])


@pytest.mark.parametrize("size", ["96", 64, (90, 160)])
def test_frame_size(sample, size):
    env = sample.make(obs="pixels", frame_size=size)
    frame, _ = env.reset(seed=0)
    assert frame.dtype == np.uint8 and env.observation_space.contains(frame)
    env.close()


def test_without_gl_the_state_works_and_a_picture_says_what_to_install(sample):
    code = f"""
import gymnasium, wm_gym
env = gymnasium.make("{sample.env_id}", obs="state", render_mode="rgb_array").unwrapped
env.reset(seed=0)
env.step(env.action_space.sample())
try:
    env.render()
except RuntimeError as error:
    print("ERROR", error)
"""
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM")
    bare = {key: value for key, value in os.environ.items() if key not in hidden}

    def said(code: str, **environment: str) -> str:
        command = [sys.executable, "-c", code]
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=bare | environment,
            check=True,
            encoding="utf-8",
        )
        assert "Warning" not in run.stderr
        return run.stdout

    name = sample.env_id.removesuffix("-v0")
    for text in (said(code, MUJOCO_GL="disable"), said(WITHOUT_LIBRARIES + code)):
        assert f"ERROR {name} cannot render because no OpenGL platform answers" in text
        assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri" in text
        assert f'{name}Env(obs="state")' in text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MuJoCo chooses otherwise there")
def test_a_platform_that_is_asked_for_and_not_installed_says_what_to_install():
    code = f"""{WITHOUT_LIBRARIES}
from wm_gym.envs.sims.mujoco_import import import_mujoco
try:
    import_mujoco()
except RuntimeError as error:
    print("ERROR", error)
"""
    environment = os.environ | {"MUJOCO_GL": "egl"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        encoding="utf-8",
    )
    assert "ERROR MuJoCo cannot be imported with MUJOCO_GL='egl'" in run.stdout
    assert "apt-get install libegl1" in run.stdout and "unset MUJOCO_GL" in run.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MuJoCo chooses otherwise there")
@pytest.mark.usefixtures("gl")
def test_mujoco_imported_before_the_platform_is_chosen(sample):
    """Without a display MuJoCo's own choice cannot render; the error says what to change."""
    code = f"""
import mujoco
import gymnasium, wm_gym
env = gymnasium.make("{sample.env_id}", frame_size=16, render_mode="rgb_array").unwrapped
try:
    env.reset(seed=0)
except RuntimeError as error:
    print("ERROR", error)
else:
    print("FRAME", env.render().shape)
"""
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM")
    bare = {key: value for key, value in os.environ.items() if key not in hidden}

    def said(code: str, **environment: str) -> str:
        command = [sys.executable, "-c", code]
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=bare | environment,
            check=True,
            encoding="utf-8",
        )
        return run.stdout

    name = sample.env_id.removesuffix("-v0")
    broken = said(code)
    assert f"ERROR {name} cannot render: MuJoCo was imported before MUJOCO_GL was set" in broken
    assert "set MUJOCO_GL=egl before Python starts" in broken
    # each of the three remedies
    assert "FRAME (16, 16, 3)" in said(code, MUJOCO_GL="egl")
    assert "FRAME" in said("import os; os.environ['MUJOCO_GL'] = 'egl'\n" + code)
    assert "FRAME" in said(code.replace("import mujoco\n", ""))


def test_import_loads_no_mujoco():
    packages = [entry.partition(":")[0] for entry in SIMULATORS.values()]
    modules = [f"{package}.{name}" for package in packages for name in ("env", "expert")]
    heavy = ["mujoco", "mink", "torch", "ogbench"]
    code = f"import sys, {', '.join(modules)}; assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Mesa's renderer is Linux's")
@pytest.mark.usefixtures("gl")
def test_triton_is_loaded_before_the_first_picture_or_not_at_all(tmp_path: Path):
    # after Mesa's LLVM, Triton's crashes the interpreter; torch's CUDA builds load it with the
    # first optimizer. Here a stand-in says when it was imported.
    (tmp_path / "triton.py").write_text(
        "import sys; print('first', 'mujoco' not in sys.modules)", encoding="utf-8"
    )
    program = (
        "import gymnasium as gym, wm_gym; env = gym.make('LangTable-v0', frame_size=64);"
        "env.reset(seed=0); print('rendered')"
    )

    def said() -> list[str]:
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
        return run.stdout.split("\n")[:-1]

    assert said() == ["first True", "rendered"]
    (tmp_path / "triton.py").write_text(
        "raise ImportError('a broken installation')", encoding="utf-8"
    )
    assert said() == ["rendered"]
