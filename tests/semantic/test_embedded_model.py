"""Facts about the semantic world models that ship, on the starts that ship with them."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import wm_gym  # noqa: F401  registers the ids
from wm_gym.checkpoints import Checkpoint, assets_folder
from wm_gym.envs.registration import SEMANTIC_MODELS
from wm_gym.envs.settings import EmbeddedModelWarning, _announced
from wm_gym.envs.sims.langtable.tasks import split_state
from wm_gym.envs.start_states import FILENAME, StartStates
from wm_gym.planning.mppi import MPPIConfig
from wm_gym.planning.plan import ActionBox
from wm_gym.planning.planner import plan
from wm_gym.semantic.tasks import langtable_task
from wm_gym.semantic.value import TaskValue
from wm_gym.semantic.world_model import load_semantic_model

TWINS = {"WM-LangTable-SWM-v0": "LangTable-v0", "WM-Cube-SWM-v0": "Cube-v0"}
LANGTABLE = assets_folder() / "langtable-swm"


@pytest.fixture(scope="module", params=[i for i, name in SEMANTIC_MODELS.items() if name])
def env_id(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(env_id) -> Path:
    name = SEMANTIC_MODELS[env_id]
    assert name is not None
    return assets_folder() / name


@pytest.fixture(scope="module")
def model():
    return load_semantic_model(LANGTABLE)


@pytest.fixture(scope="module")
def starts():
    return StartStates.from_bytes(Checkpoint.open_semantic(LANGTABLE).read(FILENAME), LANGTABLE)


def test_the_card_says_what_it_is_and_what_was_measured(env_id, folder):
    spec = Checkpoint.open_semantic(folder).spec
    assert spec.embedded and spec.twin == TWINS[env_id]
    assert "not one of the published models" in spec.description
    assert spec.prefix_attention == "block_causal"
    assert {"future_qa", "answer_threshold"} <= set(spec.metrics)
    found = spec.metrics["future_qa"]["in_distribution"]
    controls = spec.metrics["future_qa"]["controls"]
    assert all(found["accuracy"] > row["accuracy"] for row in controls.values())
    assert spec.answer_threshold == spec.metrics["answer_threshold"]["threshold"]


def test_it_is_small(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3.2e6


def test_it_tells_where_the_peg_is(model, starts):
    """Left or right of a block: better than what it says of another picture."""
    frames, rows, truth = torch.from_numpy(starts.frames), [], []
    for state in starts.states:
        peg, poses = split_state(np.asarray(state["positions"]))
        across, up = (peg - poses[:, :2]).T
        clear = np.flatnonzero(np.abs(across) > 1.5 * np.abs(up))[:1]
        chosen = int(clear[0]) if len(clear) else 0
        block = str(state["blocks"]).split(", ")[chosen]
        rows.append([(f"Is the peg to the right of the {block}?", 0)])
        truth.append(bool(across[chosen] > 0) if len(clear) else None)
    kept = np.array([answer is not None for answer in truth])
    right = np.array([bool(answer) for answer in truth])
    none = torch.zeros(len(frames), 0, model.spec.action.size)

    def share(pictures: torch.Tensor) -> float:
        p = model.look(pictures).probabilities(none, model.ask(*rows))[:, 0].numpy()
        return float(((p[:, 0] > p[:, 1]) == right)[kept].mean())

    assert kept.sum() > 40
    assert share(frames) > share(frames.roll(1, 0)) + 0.05


def test_gym_make_needs_no_checkpoint_and_says_which_model_runs(env_id, folder):
    _announced.discard(env_id)
    with pytest.warns(EmbeddedModelWarning, match=folder.name):
        env = gymnasium.make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbeddedModelWarning)
        again = gymnasium.make(env_id)
    observation, info = env.reset(seed=3)
    np.testing.assert_array_equal(again.reset(seed=3)[0]["frame"], observation["frame"])
    assert observation["frame"].std() > 10
    total, value = 0.0, info["value"]
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    action = env.action_space.high / 3
    for _ in range(20):
        observation, reward, terminated, _, info = env.step(action)
        total += float(reward)
        if terminated:
            break
    assert terminated
    assert total == pytest.approx(info["value"] - value, abs=1e-4)


def test_plans_are_worth_more_than_what_they_began_with(model, starts):
    row = starts.index("push-6500")
    instruction = starts.instructions[row]
    first, second = instruction.removeprefix("push the ").split(" to the ")
    view = model.look(torch.from_numpy(starts.frames[row : row + 1]))
    value = TaskValue(view, langtable_task("push", (first, second)).subgoals[0])
    found = plan(value, ActionBox.of(model.spec.action), 16, [0], MPPIConfig(16, 4))
    assert found.batch_values[-1].mean() > found.batch_values[0].mean()
