"""A snapshot that is cut off, altered or somebody else's changes nothing, in any engine."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.semantic.conftest import tiny_semantic_model


@pytest.fixture(scope="module")
def engines(tiny_model):
    """Environments under way with snapshots of theirs, one of each engine and size."""
    made = {
        "latent": gym.make("WM-LangTable-VAE-v0", model=tiny_model),
        "judged": gym.make("WM-LangTable-VAE-v0", model=tiny_model, reward="judge:classifier"),
        "rows": gym.make_vec("WM-LangTable-VAE-v0", num_envs=2, model=tiny_model),
        "semantic": gym.make("WM-LangTable-SWM-v0", model=tiny_semantic_model()),
    }
    for name, env in made.items():
        if name == "semantic":
            spec = env.unwrapped.card.frame
            picture = np.zeros((spec.height, spec.width, 3), np.uint8)
            env.reset(seed=1, options={"frames": picture, "instruction": "reach the red moon"})
        else:
            env.reset(seed=1)
        env.step(np.zeros(env.action_space.shape, np.float32))
    return {name: (env.unwrapped, env.unwrapped.snapshot()) for name, env in made.items()}


def damage(content: bytes, kind: str, where: float, mask: int) -> bytes:
    at = min(len(content) - 1, int(where * len(content)))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]
    if kind == "zeros":
        return content[:at] + bytes(len(content) - at)
    return content[:at] + content[at // 2 :]


@pytest.mark.parametrize("name", ["latent", "judged", "rows", "semantic"])
@given(
    st.sampled_from(["cut", "flip", "zeros", "doubled"]),
    st.floats(0, 1),
    st.integers(1, 255),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_refused_with_nothing_changed_or_did_no_harm(engines, name, kind, where, mask):
    env, whole = engines[name]
    try:
        env.restore(damage(whole, kind, where, mask))
    except ValueError:
        assert env.snapshot() == whole
    else:  # a bit that carries nothing, such as a date in the archive
        assert env.snapshot() == whole


@pytest.mark.parametrize("mine", ["latent", "judged", "rows", "semantic"])
@pytest.mark.parametrize("other", ["latent", "judged", "rows", "semantic"])
def test_a_snapshot_of_another_kind_is_refused_with_nothing_changed(engines, mine, other):
    env, whole = engines[mine]
    theirs = engines[other][1]
    if mine == other or (mine, other) == ("latent", "judged"):  # which needs no clips
        env.restore(theirs)
        env.restore(whole)
    else:
        with pytest.raises(ValueError, match=r"snapshot|judge"):
            env.restore(theirs)
    assert env.snapshot() == whole


def test_damaged_parts_inside_a_whole_archive_are_refused(engines):
    from wm_gym.envs.engine_snapshot import from_bytes, model_identity, to_bytes

    env, whole = engines["latent"]
    identity = model_identity(env.engine.model)
    for change in (
        lambda s: s.episodes[0].pop("steps") and s.episodes[0].update(colour="red"),
        lambda s: s.generators.__setitem__(0, {"bit_generator": "PCG64", "state": "none"}),
        lambda s: object.__setattr__(s, "latents", s.latents[:, :1]),
        lambda s: object.__setattr__(s, "rollout", s.rollout[:-8]),
        lambda s: s.known.update({7: np.zeros((32, 32, 3), np.uint8)}),
    ):
        state = from_bytes(whole, identity, 1)
        change(state)
        with pytest.raises(ValueError, match="snapshot"):
            env.restore(to_bytes(state))
        assert env.snapshot() == whole
