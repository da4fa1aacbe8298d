"""Info has one set of keys and types: in reset, step and last step, of every environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wm_gym
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.envs.info import IMAGINED, SEMANTIC, SHARED, UNKNOWN, make_info

LATENT, SEMANTIC_ID = "WM-LangTable-VAE-v0", "WM-LangTable-SWM-v0"
OWN = {"privileged"}


def shape_of(info: dict) -> dict:
    """Keys and types of an info, at every depth."""
    return {
        key: shape_of(value) if isinstance(value, dict) else type(value)
        for key, value in info.items()
        if key not in OWN
    }


def episode(env: gym.Env, steps: int = 3) -> list[dict]:
    _, info = env.reset(seed=0)
    infos = [info]
    for _ in range(steps):
        *_, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        infos.append(info)
        if terminated or truncated:
            break
    return infos


@pytest.mark.parametrize("reward", ["classifier", "distance", "none", "judge:classifier"])
def test_imagined_environments(tiny_model, reward):
    infos = episode(gym.make(LATENT, model=tiny_model, horizon=3, reward=reward))
    assert len(infos) > 1
    for info in infos:
        assert shape_of(info) == shape_of(IMAGINED)
    assert infos[0]["surprise"] == UNKNOWN and infos[0]["judge"]["name"] == ""
    assert bool(infos[-1]["judge"]["name"]) == (reward != "none")


def test_semantic_environments():
    model = tiny_semantic_model()
    env = gym.make(SEMANTIC_ID, model=model, horizon=2)
    picture = np.zeros((model.spec.frame.height, model.spec.frame.width, 3), np.uint8)
    options = {"frames": picture, "instruction": "reach the red moon"}
    infos = [env.reset(seed=0, options=options)[1]]
    infos += [env.step(np.zeros(model.spec.action.size, np.float32))[-1]]
    for info in infos:
        assert shape_of(info) == shape_of(SEMANTIC)


@pytest.mark.usefixtures("gl")
def test_simulators_and_twins(tiny_model):
    dream = gym.make(LATENT, model=tiny_model, horizon=3)
    for env in (gym.make("LangTable-v0"), wm_gym.make_twin(dream)):
        for info in episode(env):
            assert shape_of(info) == shape_of(SHARED)
    assert episode(wm_gym.make_twin(dream))[-1]["start"]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_vector_environments_say_the_same_of_every_row(tiny_model, mode):
    envs = gym.make_vec(LATENT, num_envs=3, model=tiny_model, horizon=2, autoreset_mode=mode)
    _, infos = envs.reset(seed=0)
    keys = set(infos)
    assert keys == set(IMAGINED) | {f"_{key}" for key in IMAGINED}
    for _ in range(2):
        actions = np.zeros((3, 2), np.float32)
        actions[1] = np.nan  # an error of one row
        *_, infos = envs.step(actions)
        assert keys <= set(infos)
        assert set(infos) - keys <= {"final_obs", "_final_obs", "final_info", "_final_info"}
        if mode == "Disabled":
            break
    if mode == "SameStep":
        final = infos["final_info"]
        assert {key for key in final if not key.startswith("_")} == set(IMAGINED)


def test_the_start_is_said_all_along_and_a_held_goal_at_reset(tiny_model):
    env = gym.make(LATENT, model=tiny_model, horizon=3)
    tiny = env.unwrapped.engine.reward.model
    thresholds = dict(tiny.thresholds)
    try:
        tiny.thresholds = dict.fromkeys(thresholds, -1.0)  # everything is a success
        infos = episode(env)
    finally:
        tiny.thresholds = thresholds
    assert all(info["success_at_reset"] for info in infos)
    assert {info["start"] for info in infos} == {infos[0]["start"]} != {""}
    assert not any(info["success_at_reset"] for info in episode(env))


@given(st.sampled_from(sorted(IMAGINED)), st.text(min_size=1))
@settings(max_examples=30, deadline=None)
def test_only_known_keys_are_filled_in_and_nothing_is_shared(known, other):
    filled = make_info(IMAGINED, **{known: IMAGINED[known]})
    assert filled == IMAGINED and filled is not IMAGINED
    filled["judge"]["name"] = "changed"
    assert IMAGINED["judge"]["name"] == ""
    if other not in IMAGINED:
        with pytest.raises(KeyError):
            make_info(IMAGINED, **{other: 1})
    assert make_info(IMAGINED, surprise=float("nan"))["surprise"] == UNKNOWN
