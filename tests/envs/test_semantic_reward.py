"""reward="semantic:<task>": the generated frame is asked about after every step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.semantic.conftest import tiny_semantic_model
from wm_gym.data.frames import resize
from wm_gym.envs.imagined import WorldModelEnv
from wm_gym.envs.imagined_vector import WorldModelVectorEnv
from wm_gym.semantic.tasks import langtable_task
from wm_gym.semantic.value import present_probabilities
from wm_gym.semantic.world_model import load_semantic_model, save_semantic_model

PUSH, REACH = "push the red moon to the green star", "reach the red moon"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swm") / "model"
    model = tiny_semantic_model()
    save_semantic_model(folder, model.spec, model.network, model.tokenizer)
    return folder


def make(model, folder, task="push", horizon=4, more="", **kwargs) -> WorldModelEnv:
    reward = f"semantic:{task}?checkpoint={folder}{more}"
    return WorldModelEnv(model=model, reward=reward, horizon=horizon, **kwargs)


def asked(folder, frame, task="push", blocks=("red moon", "green star")) -> float:
    """What the model says of a frame, asked directly."""
    done = langtable_task(task, blocks).subgoals[-1].done
    shown = resize(frame, 24, 24)  # the card's size
    view = load_semantic_model(folder).look(torch.from_numpy(shown)[None])
    return float(present_probabilities(view, [done])[0].min())


@pytest.mark.parametrize("obs", ["pixels", "latents"])
def test_the_score_is_the_answer_about_the_frame_that_is_shown(tiny_model, folder, obs):
    env = make(tiny_model, folder, more="&threshold=0.99", obs=obs)
    env.reset(seed=0, options={"instruction": PUSH})
    scores = []
    for step in range(4):
        action = np.array([0.02, -0.01], np.float32)
        _, reward, terminated, truncated, info = env.step(action)
        scores.append(info["success_probability"])
        assert scores[-1] == pytest.approx(asked(folder, env.render()), abs=1e-5)
        assert (reward, terminated, truncated) == (0.0, False, step == 3)
    assert len(set(scores)) == 4
    assert info["judge"]["name"].startswith("semantic:push?checkpoint=")
    assert "Is the red moon touching the green star? yes 0." in info["judge"]["rationale"]


def test_the_episode_ends_with_reward_one_where_every_answer_is_likely_enough(tiny_model, folder):
    env = make(tiny_model, folder, more="&threshold=1e-9")
    env.reset(seed=0, options={"instruction": PUSH})
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)


def test_the_cards_threshold_is_the_default(tiny_model, tmp_path):
    model = tiny_semantic_model(answer_threshold=1e-9)
    save_semantic_model(tmp_path / "low", model.spec, model.network, model.tokenizer)
    env = make(tiny_model, tmp_path / "low")
    env.reset(seed=0, options={"instruction": PUSH})
    assert env.step(np.zeros(2, np.float32))[2]


def test_a_row_gets_the_score_that_it_would_get_alone(tiny_model, folder):
    name = f"semantic:any?checkpoint={folder}&threshold=0.99"
    vector = WorldModelVectorEnv(2, model=tiny_model, reward=name, horizon=3)
    vector.reset(seed=[4, 5], options={"instruction": [PUSH, REACH]})
    actions = np.array([[0.01, 0.02], [-0.02, 0.0]], np.float32)
    *_, infos = vector.step(actions)
    for row, words in enumerate((PUSH, REACH)):
        env = make(tiny_model, folder, "any", more="&threshold=0.99")
        env.reset(seed=4 + row, options={"instruction": words})
        alone = env.step(actions[row])[-1]["success_probability"]
        assert infos["success_probability"][row] == pytest.approx(alone, abs=1e-4)


def test_only_the_named_task_is_drawn_and_judged(tiny_model, folder):
    env = make(tiny_model, folder, "reach")
    for seed in range(4):
        assert env.reset(seed=seed)[1]["instruction"].startswith("reach")
    with pytest.raises(ValueError, match=r"states task 'push'.*judges 'reach'"):
        env.reset(seed=0, options={"instruction": PUSH})
    with pytest.raises(ValueError, match="do not go together"):
        reward = f"semantic:reach?checkpoint={folder}"
        WorldModelEnv(model=tiny_model, task="push", reward=reward)


@pytest.mark.parametrize(
    "reward, words",
    [
        ("semantic:", "names no task"),
        ("semantic:push", "checkpoint: Field required"),
        ("semantic:push?checkpoint=x&threshold=2", "between 0 and 1"),
        ("semantic:push?checkpoint=x&colour=red", "colour"),
        ("semantic", "does not exist"),
    ],
)
def test_names_that_state_nothing_are_refused(tiny_model, reward, words):
    with pytest.raises(ValueError, match=words):
        WorldModelEnv(model=tiny_model, reward=reward)


def test_models_that_do_not_fit_are_refused(tiny_model, folder, tmp_path):
    with pytest.raises(ValueError, match="task 'stack' is unknown"):
        make(tiny_model, folder, "stack")
    model = tiny_semantic_model()
    cube = replace(model.spec, twin="Cube-v0")
    save_semantic_model(tmp_path / "cube", cube, model.network, model.tokenizer)
    with pytest.raises(ValueError, match=r"about Cube-v0, and .* imagines LangTable-v0"):
        make(tiny_model, tmp_path / "cube", "any")
