"""WM-LangTable-SWM-v0: the return is the gain in value; single and vector are one engine."""

import io
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import wm_gym  # noqa: F401  registers the ids
from tests.semantic.conftest import tiny_semantic_model
from wm_gym.checkpoints import CheckpointError, resolve_checkpoint, save_data_file
from wm_gym.cli import main
from wm_gym.envs.semantic import SemanticEnv, SemanticVectorEnv
from wm_gym.envs.start_states import FILENAME, StartStates
from wm_gym.instructions import InstructionError
from wm_gym.semantic.tasks import langtable_task
from wm_gym.semantic.value import ValueConfig, value_of
from wm_gym.semantic.world_model import save_semantic_model

ID = "WM-LangTable-SWM-v0"
WORDS = "push the red moon to the green star"
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return tiny_semantic_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("swm_env") / "model"
    save_semantic_model(folder, model.spec, model.network, model.tokenizer)
    return str(folder)


def begun(row=0, words=WORDS):
    return {"frames": FRAMES[row], "instruction": words}


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-0.03, 0.03, (count, 2)).astype(np.float32)


def value(model, frame, taken):
    (step,) = langtable_task("push", ("red moon", "green star")).subgoals
    asked = model.ask([(answer.question, len(taken)) for answer in step.answers])
    view = model.look(torch.from_numpy(frame[None]))
    found = view.probabilities(torch.from_numpy(np.asarray(taken)).reshape(1, -1, 2), asked)
    return value_of(found[0][:, None], step.answers, 1, ValueConfig(0)).item()


def test_the_return_is_what_the_value_gained(model):
    env = SemanticEnv(model=model, horizon=6)
    observation, info = env.reset(seed=0, options=begun())
    assert info["value"] == pytest.approx(value(model, FRAMES[0], np.zeros((0, 2), "f4")), abs=1e-5)
    total, taken = 0.0, actions(6)
    for n, action in enumerate(taken):
        observation, reward, terminated, truncated, after = env.step(action)
        total += reward
        assert after["value"] == pytest.approx(value(model, FRAMES[0], taken[: n + 1]), abs=1e-5)
        np.testing.assert_array_equal(observation["actions"][: n + 1], taken[: n + 1])
        assert not observation["actions"][n + 1 :].any()
        assert observation["step"] == n + 1
        assert terminated == (n == 5)
        assert not truncated
    np.testing.assert_array_equal(observation["frame"], FRAMES[0])
    assert total == pytest.approx(after["value"] - info["value"], abs=1e-5)
    assert after["judge"]["name"] == "semantic"
    assert "Is the red moon touching the green star? yes" in after["judge"]["rationale"]


def test_answers_that_hold_end_the_episode(model):
    env = SemanticEnv(model=model, threshold=1e-6)
    env.reset(options=begun())
    _, _, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert terminated
    assert info["is_success"]
    patient = SemanticEnv(model=model, threshold=1 - 1e-9)
    patient.reset(options=begun())
    assert not patient.step(np.zeros(2, np.float32))[2]


@pytest.mark.filterwarnings("ignore:.*render_modes.*")
def test_gymnasiums_own_check(model, folder):
    starts = StartStates(("push-0",), (WORDS,), FRAMES[:1], ({},))
    save_data_file(Path(folder), FILENAME, starts.to_bytes())
    check_env(gymnasium.make(ID, checkpoint=folder).unwrapped, skip_render_check=True)


def test_a_row_of_many_is_the_single_environment(model):
    envs = SemanticVectorEnv(3, model=model, horizon=4, autoreset_mode="Disabled")
    words = [WORDS, "reach the blue cube", "separate the red moon from the blue cube"]
    options = {"frames": list(FRAMES), "instruction": words}
    envs.reset(seed=[1, 2, 3], options=options)
    taken = actions(12).reshape(4, 3, 2)
    rewards = np.array([envs.step(batch)[1] for batch in taken])
    for row in range(3):
        env = SemanticEnv(model=model, horizon=4)
        env.reset(seed=row + 1, options=begun(row, words[row]))
        alone = [env.step(batch[row])[1] for batch in taken]
        np.testing.assert_allclose(rewards[:, row], alone, atol=1e-5)


def test_a_bad_action_ends_only_its_row(model):
    envs = gymnasium.make_vec(ID, num_envs=2, model=model, horizon=4)
    envs.reset(seed=0, options={"frames": list(FRAMES[:2]), "instruction": [WORDS, WORDS]})
    batch = actions(2)
    batch[0] = np.nan
    _, _, terminated, truncated, infos = envs.step(batch)
    assert truncated.tolist() == [True, False]
    assert not terminated.any()
    assert "finite" in infos["error"][0]
    env = SemanticEnv(model=model)
    env.reset(options=begun())
    for wrong, said in (([np.nan, 0.0], "finite"), ([], "shape"), ([0.0] * 3, "shape")):
        with pytest.raises(ValueError, match=said):
            env.step(np.array(wrong))
    assert env.step(np.zeros(2, np.float32))[0]["step"] == 1  # nothing was lost


def test_a_snapshot_goes_on_bit_for_bit(model):
    env = SemanticEnv(model=model, horizon=6)
    env.reset(seed=3, options=begun())
    taken = actions(6)
    env.step(taken[0])
    content = env.snapshot()
    expected = [env.step(action)[:2] for action in taken[1:4]]
    other = SemanticEnv(model=model, horizon=6)
    other.restore(content)
    for action, (observation, reward) in zip(taken[1:4], expected, strict=True):
        again, same, *_ = other.step(action)
        assert same == reward
        np.testing.assert_equal(again, observation)
    with pytest.raises(ValueError, match="horizon 6; here are 1 rows and horizon 5"):
        SemanticEnv(model=model, horizon=5).restore(content)
    with pytest.raises(ValueError, match="no snapshot"):
        other.restore(b"nothing")
    strange = io.BytesIO()
    header = np.frombuffer(b'{"layout": 1}', np.uint8)
    np.savez(strange, header=header, frames=FRAMES, actions=np.zeros((3, 6, 2)))
    with pytest.raises(ValueError, match="no snapshot of a semantic environment"):
        other.restore(strange.getvalue())


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(CheckpointError, match="WM-My-SWM-v0 has no embedded check") as missing:
        resolve_checkpoint("embedded", None, "WM-My-SWM-v0", "semantic")
    ways = ("wm-gym import-semantic", "wm-gym train semantic")
    assert all(way in str(missing.value) for way in ways)
    assert "latent-dynamics" not in str(missing.value)
    with pytest.raises(ValueError, match="trained with at most 20"):
        SemanticEnv(model=model, horizon=21)
    with pytest.raises(ValueError, match="threshold=2"):
        SemanticEnv(model=model, threshold=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cache'"):
        SemanticEnv(model=model, cache="off")
    env = SemanticEnv(model=model)
    with pytest.raises(ValueError, match="begins from one picture"):
        env.reset(options={"frames": FRAMES[:2], "instruction": WORDS})
    with pytest.raises(ValueError, match=r"give options\['instruction'\]"):
        env.reset(options={"frames": FRAMES[0]})
    with pytest.raises(InstructionError, match="not understood"):
        env.reset(options=begun(words="push the pink moon to the green star"))


def test_the_card_is_shown(folder, capsys):
    assert main(["info", ID, "--checkpoint", folder]) == 0
    shown = capsys.readouterr().out
    assert "attention block_causal" in shown
    assert "up to 20 in a sequence" in shown
    assert main(["list"]) == 0
    assert ID in capsys.readouterr().out
