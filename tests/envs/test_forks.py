"""What a forked child inherits: it computes on one thread, and is told that OpenGL needs spawn."""

import os
import subprocess
import sys

import pytest

from wm_gym.envs.sims.renderer import ForkedRendererError

DREAM = "WM-LangTable-VAE-v0"
SEMANTIC = "WM-LangTable-SWM-v0"


def run(code, *arguments, timeout=240, cwd=None):
    """Output of a program in a fresh process with torch's default threads."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=environment, capture_output=True, text=True, encoding="utf-8", timeout=timeout, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


ASYNC = """
import sys, gymnasium, wm_gym
envs = gymnasium.make_vec(sys.argv[1], num_envs=2, vectorization_mode="async")
envs.reset(seed=0)
envs.step(envs.action_space.sample())
print("stepped")
envs.close()
"""

POOL = """
import multiprocessing, gymnasium, torch, wm_gym
env = gymnasium.make("WM-LangTable-VAE-v0")
env.reset(seed=0)
torch.zeros(600, 600) @ torch.zeros(600, 600)          # the parent's threads are there

def act(_):
    env.step(env.action_space.sample())
    return torch.get_num_threads()

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(act, range(2)))
"""

FORKED_RENDERER = """
import os, gymnasium, wm_gym
env = gymnasium.make("LangTable-v0")
env.reset(seed=0)
if os.fork() == 0:
    for render in (env.render, lambda: gymnasium.make("LangTable-v0").reset(seed=0)):
        try:
            render()
        except RuntimeError as error:
            print(type(error).__name__, 'context="spawn"' in str(error), flush=True)
    env.close()
    os._exit(0)
os.wait()
print(env.render().shape)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("env_id", [DREAM, SEMANTIC])
def test_gymnasiums_processes_imagine_after_a_fork(env_id):
    assert run(ASYNC, env_id).strip() == "stepped"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_compute_on_one_thread():
    assert run(POOL).strip() == "[1, 1]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_after_a_picture_is_told_to_spawn():
    *told, shape = run(FORKED_RENDERER).splitlines()
    assert told == [f"{ForkedRendererError.__name__} True"] * 2
    assert shape == "(180, 320, 3)"
