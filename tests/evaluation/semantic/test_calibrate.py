"""`wm-gym calibrate-semantic`: the threshold is the simulator's, and the card says where it is."""

import json

import numpy as np
import pytest

from tests.said import said
from tests.semantic.conftest import tiny_semantic_model
from tests.semantic.cube_episodes import write_cube_episodes
from tests.semantic.episodes import write_episodes
from wm_gym.checkpoints import Checkpoint
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.envs.sims.langtable.shapes import OBJECTS
from wm_gym.envs.sims.langtable.tasks import TASK_TEMPLATES, Goal, is_success
from wm_gym.evaluation.semantic.calibrate import (
    CalibrateSemanticConfig,
    best_threshold,
    choose_cases,
)
from wm_gym.semantic.world_model import save_semantic_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    write_episodes(folder / "episodes", ["expert"] * 6 + ["random"] * 2, steps=40)
    model = tiny_semantic_model()
    save_semantic_model(folder / "model", model.spec, model.network, model.tokenizer)
    return folder


def test_cases_are_balanced_and_true(folder):
    data = EpisodeDataset(folder / "episodes")
    config = CalibrateSemanticConfig("", folder / "episodes", per_task=6)
    cases = choose_cases(data, "LangTable-v0", TASK_TEMPLATES, config)
    for task in TASK_TEMPLATES:
        truths = [case.success for case in cases if case.goal.task == task]
        assert 0 < sum(truths) <= 6 and truths.count(False) == 6
    for case in cases:
        state = data.labels(case.episode)[0][case.frame]
        goal = Goal(case.goal.task, *case.goal.objects)
        assert is_success(state, goal, OBJECTS) == case.success
        if goal.task == "reach":  # touching is what the question asks, and the success
            assert case.exact == case.success
    assert any(case.exact != case.success for case in cases if case.goal.task == "separate")


def test_the_threshold_separates_what_can_be_separated():
    rng = np.random.default_rng(0)
    success = rng.random(400) < 0.5
    score = np.where(success, rng.uniform(0.62, 1, 400), rng.uniform(0, 0.58, 400))
    task = rng.choice(["reach", "push"], 400)
    assert 0.57 < best_threshold(score, success, task) < 0.63
    worse = np.where(rng.random(400) < 0.1, 1 - score, score)  # a tenth is wrong
    assert 0.5 < best_threshold(worse, success, task) < 0.7


def test_every_task_counts_the_same():
    """A rare task with another best place moves the threshold as much as a frequent one."""
    success = np.array([True] * 90 + [False] * 90 + [True] * 2 + [False] * 2)
    score = np.array([0.9] * 90 + [0.1] * 90 + [0.4, 0.4] + [0.3, 0.3])
    task = np.array(["push"] * 180 + ["reach"] * 4)
    assert best_threshold(score, success, task) == pytest.approx(0.35)


def test_the_command_writes_the_threshold_into_the_card(folder, tmp_path, capsys):
    words = ["calibrate-semantic", "--checkpoint", str(folder / "model"), "--data",
             str(folder / "episodes"), "--per-task", "20", "--batch", "30"]  # fmt: skip
    assert main([*words, "--json", str(tmp_path / "f.json"), "--write-card"]) == 0
    found = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["answer_threshold"]
    card = Checkpoint.open_semantic(folder / "model").spec
    assert card.answer_threshold == found["threshold"] != found["threshold_before"] == 0.9
    assert card.metrics["answer_threshold"]["by_task"] == found["by_task"]
    assert card.metrics["answer_threshold"]["command"]
    assert found["by_task"]["reach"]["exact_answers"] == 1.0
    assert "an answer counts above" in capsys.readouterr().out
    assert main([*words, "--per-task", "1"]) == 2
    assert "in both halves of the episodes" in capsys.readouterr().err
    assert main([*words, "--per-task", "0"]) == 2
    assert "at least 1" in said(capsys)
    assert main([*words, "--seed", "-1"]) == 2
    assert "seed=-1 at least 0" in said(capsys)


def test_what_it_cannot_use_is_refused_before_the_work(folder, tmp_path, capsys):
    words = ["calibrate-semantic", "--checkpoint", str(folder / "model"), "--data"]
    write_cube_episodes(tmp_path / "cube", 2)
    assert main([*words, str(tmp_path / "cube")]) == 2
    told = said(capsys)
    assert "episodes of Cube-v0" in told and "a model of LangTable-v0" in told
    assert main([*words, str(folder / "episodes"), "--json", str(tmp_path)]) == 2
    assert "is a folder; expected the name of a file" in capsys.readouterr().err
