"""Nothing global decides what is imagined, and nothing of ours changes it."""

from __future__ import annotations

import locale
import os
import random
import subprocess
import sys
import warnings
from contextlib import ExitStack, contextmanager

import gymnasium as gym
import numpy as np
import pytest
import torch

from wm_gym.checkpoints import assets_folder
from wm_gym.plain_torch import plain_torch
from wm_gym.policies.base import load_policy
from wm_gym.policies.runner import run_policy

LATENT, SEMANTIC, TWIN = "WM-LangTable-VAE-v0", "WM-LangTable-SWM-v0", "LangTable-v0"
STEPS = 3


def play(env_id: str, **arguments) -> list[np.ndarray]:
    """All that an episode of `env_id` shows, made from nothing."""
    env = gym.make(env_id, **arguments)
    observation, info = env.reset(seed=7)
    seen = [observation, info]
    for step in range(STEPS):
        action = np.full(2, 0.01 * (step - 1), np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        seen += [observation, reward, terminated, truncated, info]
        if terminated or truncated:
            break
    if env_id == LATENT:
        seen += [env.render(), env.unwrapped.snapshot()]
    env.close()
    return seen


def act() -> list[np.ndarray]:
    """What two shipped policies do in the dream."""
    envs = gym.make_vec(LATENT, num_envs=2, autoreset_mode="Disabled", denoising_steps=1)
    found = []
    for name in ("langtable-bc/stage_4", "langtable-dp/diffusion_1"):
        policy = load_policy(assets_folder() / name)
        starts = ["reach-6500", "push-6501"]
        records = run_policy(envs, policy, starts, [0, 1], STEPS, keep_actions=True, progress=False)
        found += [record.actions for record in records]
    return found


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
    return one == other or (one != one and other != other)


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def numpy_raises():
    with np.errstate(all="raise"):
        yield


@contextmanager
def german_numbers():
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            continue
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@contextmanager
def seeded():
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002  what other people's code does
    random.seed(123)
    yield


@contextmanager
def other_folder(tmp_path):
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def no_warning_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


TURNED = {
    "default dtype": default_dtype,
    "default device": default_device,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no grad": torch.no_grad,
    "generators": seeded,
    "numpy errors": numpy_raises,
    "locale": german_numbers,
    "warnings": no_warning_shown,
}


@pytest.fixture(scope="module")
def plain():
    return {LATENT: play(LATENT), SEMANTIC: play(SEMANTIC), "policies": act()}


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("env_id", [LATENT, SEMANTIC])
def test_frames_are_the_same_whatever_is_global(turned, env_id, plain):
    with TURNED[turned]():
        assert same(play(env_id), plain[env_id])


@pytest.mark.parametrize("turned", TURNED)
def test_policies_act_the_same_whatever_is_global(turned, plain):
    with TURNED[turned]():
        assert same(act(), plain["policies"])


def test_a_switch_in_the_middle_of_an_episode_changes_nothing(plain):
    env = gym.make(LATENT)
    seen = list(env.reset(seed=7))
    for step in range(STEPS):
        with ExitStack() as stack:
            for turn in (default_dtype, seeded, TURNED["autocast"])[step:]:
                stack.enter_context(turn())
            seen += env.step(np.full(2, 0.01 * (step - 1), np.float32))
    seen += [env.render(), env.unwrapped.snapshot()]
    assert same(seen, plain[LATENT])


def test_rewards_of_every_kind_are_the_same_in_float64():
    for reward in ("distance", "semantic:reach?checkpoint=embedded"):
        task = {"task": "reach"} if reward.startswith("semantic") else {}
        expected = play(LATENT, reward=reward, **task)
        with default_dtype():
            assert same(play(LATENT, reward=reward, **task), expected)


@pytest.mark.usefixtures("gl")
def test_the_simulator_is_the_same_whatever_is_global():
    expected = play(TWIN)
    for turned in ("default dtype", "generators", "locale"):
        with TURNED[turned]():
            assert same(play(TWIN), expected)


def test_another_folder_changes_nothing(plain, tmp_path):
    with other_folder(tmp_path):
        assert same(play(LATENT), plain[LATENT])


def globals_of_this_process() -> dict[str, object]:
    return {
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "numpy generator": repr(np.random.get_state()),  # noqa: NPY002
        "random": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "errors": np.geterr(),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "filters": list(warnings.filters),
    }


@pytest.mark.parametrize("what", [LATENT, SEMANTIC, "policies"])
def test_nothing_global_is_changed(what):
    before = globals_of_this_process()
    if what == "policies":
        act()
    else:
        play(what)
    after = globals_of_this_process()
    assert {key for key in before if before[key] != after[key]} == set()


def test_plain_torch_gives_back_what_it_found():
    with default_dtype(), torch.autocast("cpu", torch.bfloat16):
        with plain_torch():
            assert torch.zeros(1).dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
        assert torch.zeros(1).dtype == torch.float64 and torch.is_autocast_enabled("cpu")
    before = torch.get_rng_state()
    with plain_torch(fork_generators=True):
        torch.rand(3)
    assert torch.get_rng_state().equal(before)


def test_one_thread_or_two_give_the_same_frames():
    script = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1]));"
        "import gymnasium as gym, numpy as np, wm_gym, hashlib;"
        f"e = gym.make({LATENT!r}); e.reset(seed=0);"
        "frames = [e.step(np.full(2, .01, np.float32))[0] for _ in range(3)];"
        "print(np.stack(frames).astype(int).sum(), torch.get_num_threads())"
    )
    sums = []
    for threads in (1, 2):
        command = [sys.executable, "-W", "ignore", "-c", script, str(threads)]
        out = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=300, encoding="utf-8"
        )
        total, used = out.stdout.split()
        assert int(used) == threads
        sums.append(int(total))
    assert abs(sums[0] - sums[1]) <= 1e-5 * sums[0]
