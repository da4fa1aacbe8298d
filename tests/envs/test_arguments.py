"""Arguments of `gymnasium.make` and options of `reset`: refused early, in words that help."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from wm_gym.devices import check_device
from wm_gym.envs import settings as settings_module
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.evaluation.models import load_by_id

ID = "WM-LangTable-VAE-v0"


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("a model was loaded before its arguments were checked")

    monkeypatch.setattr(settings_module, "load_world_model", load)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"cache": "sometimes"},
            r"cache='sometimes' is unknown.*'auto', 'off', 'exact', 'rolling'",
        ),
        ({"cache": None}, "cache=None has type NoneType; expected text"),
        ({"obs": "sound"}, "obs='sound' is unknown.*'pixels', 'latents', 'dict'"),
        ({"obs": ["pixels"]}, "obs=.*has type list; expected text"),
        ({"reward": "dense"}, "reward='dense' does not exist; .*'classifier', 'distance', 'none'"),
        ({"reward": None}, "reward=None has type NoneType"),
        ({"dtype": "int8"}, "dtype='int8' is unknown.*'float32', 'bfloat16', 'autocast'"),
        ({"compile": "yes"}, "compile='yes'; expected True or False"),
        ({"denoising_steps": 0}, "denoising_steps=0; expected a whole number of at least 1"),
        ({"denoising_steps": 2.5}, "denoising_steps=2.5; expected a whole number"),
        ({"denoising_steps": True}, "denoising_steps=True; expected a whole number"),
        ({"horizon": 0}, "horizon=0; expected a whole number of at least 1"),
        ({"horizon": "10"}, "horizon='10'; expected a whole number"),
        ({"task": 3}, "task=3 has type int; expected text"),
        ({"checkpoint": 3}, "checkpoint=3; expected 'embedded', a folder or"),
        ({"scale": 1}, "scale=1; expected text"),
        ({"device": "tpu9"}, "device='tpu9' is no torch device; expected e.g. 'cpu', 'cuda'"),
    ],
)
def test_an_argument_that_does_not_exist_is_refused_before_anything_is_loaded(
    make, kwargs, message
):
    with pytest.raises(ValueError, match=message):
        make(ID, **kwargs)


def test_a_device_that_is_not_there_says_why_and_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    message = "device='cuda': this torch is a build without CUDA; install .*or use device='cpu'"
    with pytest.raises(ValueError, match=message):
        gymnasium.make(ID, device="cuda")
    with pytest.raises(ValueError, match=message):
        load_by_id(ID, device="cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(ValueError, match="finds no GPU or driver; see `nvidia-smi`, or use"):
        check_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"there are 2 CUDA devices.*'cuda:0' to 'cuda:1'"):
        check_device("cuda:2")
    assert check_device("cuda:1") is None
    for device in ("meta", "xpu", "cpu:1"):
        with pytest.raises(ValueError, match=f"device='{device}' is not supported; expected 'cpu'"):
            check_device(device)


def test_an_unknown_render_mode_is_refused(tiny_model):
    for env_class in (WorldModelEnv, WorldModelVectorEnv):
        with pytest.raises(ValueError, match="render_mode='human'; expected 'rgb_array' or None"):
            env_class(model=tiny_model, reward="none", render_mode="human")


@pytest.mark.parametrize("num_envs", [0, 2.0, "2", True])
def test_the_number_of_rows_is_a_whole_number(tiny_model, num_envs):
    with pytest.raises(ValueError, match=r"num_envs=.*expected a whole number of at least 1"):
        WorldModelVectorEnv(num_envs, model=tiny_model, reward="none")


def test_an_unknown_autoreset_mode_names_the_three(tiny_model):
    with pytest.raises(
        ValueError, match=r"autoreset_mode='Never'; .*'NextStep', 'SameStep', 'Disa"
    ):
        WorldModelVectorEnv(2, model=tiny_model, reward="none", autoreset_mode="Never")


def test_max_episode_steps_means_the_same_in_make_and_make_vec(tiny_checkpoint):
    kwargs = {"checkpoint": tiny_checkpoint, "reward": "none", "max_episode_steps": 2}
    envs, env = gymnasium.make_vec(ID, 2, **kwargs), gymnasium.make(ID, **kwargs)
    assert envs.unwrapped.engine.horizon == 2
    envs.reset(seed=0)
    env.reset(seed=0)
    action = np.zeros((2, 2), np.float32)
    for end in (False, True):
        assert envs.step(action)[3].tolist() == [end, end]
        assert env.step(action[0])[3] == end
    with pytest.raises(
        ValueError, match=r"horizon=3 and max_episode_steps=2 .*give horizon= alone"
    ):
        gymnasium.make_vec(ID, 2, horizon=3, **kwargs)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
@pytest.mark.parametrize("env_id", [ID, "WM-LangTable-SWM-v0"])
def test_an_unknown_argument_names_those_that_exist(make, env_id):
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument .speed.; expected some of .*horizon"
    ):
        make(env_id, speed=3)


PICTURE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("push-0", "options are 'push-0'; expected a dict"),
        ({"state": 1, 7: 2}, r"options \['state', 7\] are unknown; expected \['actions', 'frames'"),
        ({"start": 3}, r"options\['start'\] is 3 of type int; expected text"),
        ({"instruction": 3}, r"options\['instruction'\] is 3 of type int; expected text"),
        ({"instruction": ()}, r"options\['instruction'\] is \(\) of type tuple"),
        (
            {"start": {"frames": PICTURE}},
            r"options\['start'\] is .{,90} of type dict; .*a picture goes into options\['frames'\]",
        ),
        ({"start": PICTURE}, r"'start'\] is .{,60} of type ndarray; .*a picture goes into"),
        (
            {"start": "reach-9"},
            "start 'reach-9' is unknown; the 6 stored ones are "
            "reach-0 to reach-1, separate-0, push-0 to push-2$",
        ),
        ({"frames": "picture.png"}, "dtype <U11 and shape .*expected uint8"),
        ({"frames": None}, "dtype object.*expected uint8"),
        ({"frames": [PICTURE, PICTURE[:16]]}, "cannot be read as an array.*one size"),
        ({"frames": PICTURE / 255}, r"dtype float64.*multiply by 255 and use \.astype"),
        ({"frames": PICTURE[:16]}, r"shape \(16, 32, 3\), expected .*resize with"),
        ({"frames": PICTURE[None][:0]}, r"shape \(0, 32, 32, 3\); expected a frame or more"),
        ({"frames": np.stack([PICTURE] * 2), "actions": "left"}, "cannot be read as numbers"),
    ],
)
def test_an_ill_typed_option_says_so_and_the_episode_goes_on(tiny_model, options, message):
    env = WorldModelEnv(model=tiny_model, reward="none", obs="latents")
    env.reset(seed=0)
    expected = env.step(np.zeros(2, np.float32))[0]
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    np.testing.assert_array_equal(env.step(np.zeros(2, np.float32))[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("push-0", "options are 'push-0'"),
        ({"start": np.array(["push-0", "push-1"])}, "a list with one per row"),
        ({"instruction": ["reach the red moon", 3]}, "is 3 of type int"),
        ({"frames": [PICTURE, PICTURE / 255]}, "float64"),
    ],
)
def test_the_vector_environment_refuses_the_same_options(tiny_model, options, message):
    envs = WorldModelVectorEnv(2, model=tiny_model, reward="none", obs="latents")
    envs.reset(seed=0)
    before = envs.engine.latents()
    with pytest.raises(ValueError, match=message):
        envs.reset(options=options)
    np.testing.assert_array_equal(envs.engine.latents(), before)


def test_one_denoising_step_has_no_surprise_to_report(tiny_checkpoint):
    kwargs = {"checkpoint": tiny_checkpoint, "reward": "none"}
    for steps in (1, 2):
        env = gymnasium.make(ID, denoising_steps=steps, **kwargs)
        envs = gymnasium.make_vec(ID, 2, denoising_steps=steps, **kwargs)
        env.reset(seed=0)
        envs.reset(seed=0)
        info = env.step(np.zeros(2, np.float32))[4]
        infos = envs.step(np.zeros((2, 2), np.float32))[4]
        known = info["surprise"] >= 0, bool((infos["surprise"] >= 0).all())
        assert known == (steps > 1, steps > 1)
        check_env(env.unwrapped)
    assert info["surprise"] > 0 and (infos["surprise"] > 0).all()


def test_a_penalty_on_surprise_is_taken_off_every_step(tiny_checkpoint):
    def rewards(**settings):
        envs = gymnasium.make_vec(
            "WM-LangTable-VAE-v0", num_envs=2, checkpoint=tiny_checkpoint, reward="distance",
            **settings,
        )  # fmt: skip
        envs.reset(seed=0)
        found = [envs.step(np.full((2, 2), 0.01, np.float32)) for _ in range(2)]
        return np.stack([step[1] for step in found]), np.stack([s[4]["surprise"] for s in found])

    plain, surprise = rewards()
    penalised, same = rewards(surprise_penalty=2.0)
    np.testing.assert_array_equal(surprise, same)
    np.testing.assert_allclose(penalised, plain - 2.0 * surprise)
    assert (surprise > 0).all()


@pytest.mark.parametrize("penalty", [-1, float("nan"), "1", True])
def test_a_penalty_on_surprise_is_a_number(tiny_checkpoint, penalty):
    with pytest.raises(ValueError, match=r"surprise_penalty=.*expected a finite number, 0 or more"):
        gymnasium.make("WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, surprise_penalty=penalty)


def test_a_penalty_on_surprise_needs_two_denoising_steps(tiny_checkpoint):
    with pytest.raises(ValueError, match=r"knows no surprise.*denoising_steps=2"):
        gymnasium.make(
            "WM-LangTable-VAE-v0", checkpoint=tiny_checkpoint, surprise_penalty=0.1,
            denoising_steps=1,
        )  # fmt: skip
