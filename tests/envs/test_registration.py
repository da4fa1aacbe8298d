"""Ids, import cost, and what an id without a checkpoint says."""

import json
import pickle
import shutil
import statistics
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import wm_gym
from tests.conftest import NEEDS_OGBENCH
from wm_gym.checkpoints import CheckpointError
from wm_gym.envs import settings as settings_module
from wm_gym.envs.registration import EMBEDDED_MODELS, SIMULATORS, register_environments
from wm_gym.envs.settings import EmbeddedModelWarning

BRIDGE_IDS = [env_id for env_id in EMBEDDED_MODELS if env_id.startswith("WM-Bridge-")]


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout.strip()


def test_the_nine_bridge_ids_and_langtable_are_registered():
    assert len(BRIDGE_IDS) == 9
    for env_id in [*EMBEDDED_MODELS, *SIMULATORS]:
        assert env_id in gymnasium.registry


def test_registering_again_changes_nothing():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
    assert gymnasium.registry.keys() == before.keys()
    assert all(gymnasium.registry[env_id] is spec for env_id, spec in before.items())


def test_import_loads_no_torch_and_no_simulator():
    code = "import sys, json, wm_gym; print(json.dumps([m in sys.modules for m in %r]))"
    heavy = ["torch", "mujoco", "imageio", "pydantic", "diffusers", "transformers"]
    assert json.loads(_python(code % (heavy,))) == [False] * len(heavy)


def test_import_adds_at_most_50_ms_to_gymnasium():
    code = (
        "import time, gymnasium; t = time.process_time(); import wm_gym; "
        "print(time.process_time() - t)"  # of this process, so that a busy machine does not count
    )
    assert statistics.median(float(_python(code)) for _ in range(3)) <= 0.05


def test_gymnasium_finds_the_ids_by_module_name(tiny_checkpoint):
    code = (
        "import gymnasium; env = gymnasium.make('wm_gym:WM-LangTable-VAE-v0', "
        f"checkpoint={tiny_checkpoint!r}, reward='none'); print(env.reset(seed=0)[0].shape)"
    )
    assert _python(code) == "(32, 32, 3)"


@pytest.mark.parametrize("env_id", [i for i in BRIDGE_IDS if EMBEDDED_MODELS[i] is None])
def test_an_id_without_checkpoint_names_the_ways_to_get_one(env_id):
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(CheckpointError, match=r"hf://.*wm-gym train") as error:
            make(env_id, scale="S")
        assert env_id in str(error.value)


def test_a_bridge_id_runs_a_checkpoint_without_a_simulator(tiny_checkpoint, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(tiny_checkpoint, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | {"twin": None}), encoding="utf-8")
    env = gymnasium.make("WM-Bridge-VAE-v0", checkpoint=str(folder), reward="none")
    assert env.reset(seed=0)[0].shape == (32, 32, 3)
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(ValueError, match=r"latents are vae-mini; make WM-Bridge-VAE-v0, or"):
            make("WM-Bridge-VJEPA-v0", checkpoint=str(folder), reward="none")
    with pytest.raises(CheckpointError, match=r"Checkpoints inside it: own; name one"):
        gymnasium.make("WM-Bridge-VAE-v0", checkpoint=str(tmp_path))


def test_unknown_ids_are_gymnasiums_error():
    with pytest.raises(gymnasium.error.NameNotFound) as error:
        gymnasium.make("WM-Nowhere-VAE-v0")
    assert "WM-Nowhere-VAE" in str(error.value)


def test_an_embedded_model_is_announced_once(tiny_checkpoint, tiny_model, monkeypatch):
    monkeypatch.setattr(settings_module, "_announced", set())
    monkeypatch.setattr(settings_module, "load_world_model", lambda *_, **__: tiny_model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EmbeddedModelWarning)
        gymnasium.make("WM-LangTable-VAE-v0", reward="none")
        gymnasium.make("WM-LangTable-VAE-v0", reward="none")
    said = [str(w.message) for w in caught if issubclass(w.category, EmbeddedModelWarning)]
    assert len(said) == 1
    assert "'tiny'" in said[0] and "checkpoint='hf://" in said[0]


def test_the_spec_is_json_and_makes_the_same_environment(tiny_checkpoint):
    env = gymnasium.make(
        "WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, reward="none", task="push"
    )
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset(seed=3)[0], again.reset(seed=3)[0])


def test_an_environment_can_be_pickled_for_worker_processes(tiny_checkpoint):
    env = gymnasium.make("WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, reward="none")
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    np.testing.assert_array_equal(env.reset(seed=3)[0], copy.reset(seed=3)[0])


@pytest.mark.parametrize("obs", ["pixels", "latents", "dict"])
@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value.*")
def test_check_env(tiny_checkpoint, obs):
    env = gymnasium.make("WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, reward="none", obs=obs)
    check_env(env.unwrapped)


@pytest.mark.parametrize("env_id", BRIDGE_IDS)
def test_check_env_with_a_checkpoint_of_ones_own(tiny_checkpoint, tmp_path, monkeypatch, env_id):
    # the tiny model stands for one over the id's own latents, which ids insist on
    monkeypatch.setattr("wm_gym.envs.settings.stands_for", lambda _space: env_id.split("-")[2])
    folder = tmp_path / "own"
    shutil.copytree(tiny_checkpoint, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | {"twin": None}), encoding="utf-8")
    check_env(gymnasium.make(env_id, checkpoint=str(folder), reward="none").unwrapped)


def test_check_env_langtable():
    env = gymnasium.make("LangTable-v0", obs="state", render_mode=None)
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize(
    "env_id", [env_id for env_id, folder in EMBEDDED_MODELS.items() if folder is not None]
)
def test_check_env_embedded(embedded_checkpoint, env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbeddedModelWarning)
        env = gymnasium.make(env_id)
    check_env(env.unwrapped)
    assert env.unwrapped.card.embedded


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(i, marks=NEEDS_OGBENCH if i == "Cube-v0" else ())
        for i in ("WM-LangTable-VAE-v0", *SIMULATORS)
    ],
)
def test_an_environment_goes_on_after_a_first_reset_that_was_refused(tiny_checkpoint, env_id):
    simulated = env_id in SIMULATORS
    kwargs = {"obs": "state"} if simulated else {"checkpoint": tiny_checkpoint, "reward": "none"}
    env = gymnasium.make(env_id, **kwargs)
    with pytest.raises(ValueError, match="begin"):
        env.reset(options={"begin": "push-0"})
    env.reset(seed=0)
    assert len(env.step(env.action_space.sample())) == 5
    env.close()


def test_unknown_attributes_of_the_package_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wm_gym.nothing


def test_a_checkpoint_of_another_domain_is_refused(tiny_checkpoint: str):
    with pytest.raises(ValueError, match="a model of LangTable-v0; make the id of that domain"):
        gymnasium.make("WM-Bridge-VJEPA-v0", checkpoint=tiny_checkpoint)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "4"])
def test_denoising_steps_are_positive_whole_numbers(tiny_checkpoint: str, steps):
    with pytest.raises(ValueError, match=r"denoising_steps=.*expected a whole number"):
        gymnasium.make("WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, denoising_steps=steps)
