"""`wm-gym label-questions` and `decompose-task`, against a local server and simulator truth."""

import json
import re

import numpy as np
import pytest

from tests.chat.chat_server import ScriptedServer, images_of, texts_of
from tests.semantic.episodes import write_episodes
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.envs.sims.langtable_questions import slack
from wm_gym.envs.sims.langtable_shapes import OBJECTS
from wm_gym.envs.sims.langtable_tasks import is_success, parse_instruction
from wm_gym.evaluation.label_questions import LABELS
from wm_gym.semantic.question_types import LANGTABLE_QUESTIONS
from wm_gym.semantic.tasks import langtable_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("automatic")
    write_episodes(folder / "episodes", ["expert", "expert", "random"])
    collect_qa(CollectQAConfig((folder / "episodes",), folder / "qa", stride=4))
    return folder


@pytest.fixture(scope="module")
def knowing(folder):
    """Answers by the simulator: the first pixel of a picture says which state it shows."""
    data = EpisodeDataset(folder / "episodes")

    def answer(request):
        pictures = images_of(request)
        states = [data.labels(int(p[0, 0, 0]))[0][int(p[0, 0, 1])] for p in pictures]
        words = re.findall(r"Question: (.*)", texts_of(request)[0])[0]
        found = slack(LANGTABLE_QUESTIONS.parse(words), states[0], states[-1], OBJECTS)
        return f"I see it. Answer: {'yes' if found > 0 else 'no'}"

    return answer


def label(folder, server, out, *more) -> int:
    return main(
        ["label-questions", "--qa", str(folder / "qa"), "--out", str(out), "--frames", "10",
         "--chat.model", "m", "--chat.base-url", server.base_url, "--chat.retries", "1",
         "--side", "0", *more]
    )  # fmt: skip


def test_a_model_that_knows_is_always_right(folder, knowing, tmp_path):
    with ScriptedServer(knowing) as server:
        assert label(folder, server, tmp_path, "--samples", "3", "--json",
                     str(tmp_path / "f.json")) == 0  # fmt: skip
        assert len(server.requests) == 10 * 4 * 3
        found = json.loads((tmp_path / "f.json").read_text())["labels"]
        assert (found["accuracy"], found["questions"], found["unanswered"]) == (1.0, 40, 0)
        assert sum(row["questions"] for row in found["by_type"].values()) == 40
        rows = [json.loads(line) for line in (tmp_path / LABELS).read_text().splitlines()]
        assert sorted(row["number"] for row in rows) == list(range(40))
        assert label(folder, server, tmp_path, "--samples", "3") == 0
        assert len(server.requests) == 120  # all were stored
        assert label(folder, server, tmp_path, "--samples", "5") == 2


def test_failures_are_counted_and_asked_again(folder, knowing, tmp_path, capsys):
    one = ("--samples", "1", "--temperature", "0", "--chat.concurrency", "1")
    with ScriptedServer(knowing, ["refuse", "ok", "filter"]) as server:
        assert label(folder, server, tmp_path, *one) == 0
    assert "2 unanswered" in capsys.readouterr().out
    with (tmp_path / LABELS).open("a") as file:
        file.write('{"number": 0, "yes": tr')  # a kill cut the line off
    with ScriptedServer(knowing) as server:
        assert label(folder, server, tmp_path, *one) == 0
        assert len(server.requests) == 2
    assert "unanswered" not in capsys.readouterr().out


def test_what_came_before_the_server_went_away_is_kept(folder, knowing, tmp_path, capsys):
    one = ("--samples", "1", "--temperature", "0", "--chat.concurrency", "1")
    with ScriptedServer(knowing, ["ok"] * 5 + ["401"]) as server:
        assert label(folder, server, tmp_path, *one) == 2
    assert "refuses model" in capsys.readouterr().err
    assert 5 <= len((tmp_path / LABELS).read_text().splitlines()) < 40


def test_a_task_is_stored_and_held_against_the_simulator(folder, tmp_path, capsys):
    words = EpisodeDataset(folder / "episodes")[0].instruction
    goal = parse_instruction(words, OBJECTS)
    task = langtable_task("push", goal.objects)
    data = EpisodeDataset(folder / "episodes")
    states = np.concatenate([data.labels(n)[0] for n in range(len(data))])
    true = np.array([is_success(state, goal, OBJECTS) for state in states])
    done = LANGTABLE_QUESTIONS.parse(task.subgoals[-1].done[0].question)
    said = np.array([slack(done, state, state, OBJECTS) > 0 for state in states])
    replies = iter([json.dumps(task.to_dict()), "I would rather not."])
    with ScriptedServer(lambda request: next(replies)) as server:
        assert main(
            ["decompose-task", "--instruction", words, "dance", "--out", str(tmp_path),
             "--attempts", "1", "--chat.model", "m", "--chat.base-url", server.base_url,
             "--data", str(folder / "episodes"), "--json", str(tmp_path / "f.json")]
        ) == 0  # fmt: skip
    assert json.loads((tmp_path / "task_0.json").read_text()) == json.loads(
        json.dumps(task.to_dict())
    )
    assert not (tmp_path / "task_1.json").exists()
    assert "1 of 2 instructions" in capsys.readouterr().out
    first, second = json.loads((tmp_path / "f.json").read_text())["tasks"]
    assert (first["states"], first["successes"]) == (len(states), int(true.sum()))
    assert first["missed"] == int((true & ~said).sum())
    assert first["too_early"] == int((said & ~true).sum())
    assert "no whole JSON object" in second["error"]


def test_tasks_that_came_are_kept_and_only_the_rest_is_asked_again(tmp_path, capsys):
    """Also where the server goes away in the middle; another model's tasks are its own."""
    words = ["push the red moon to the green star", "reach the red moon"]
    tasks = [
        langtable_task("push", ("red moon", "green star")),
        langtable_task("reach", ("red moon",)),
    ]

    def ask(server, model="m") -> int:
        return main(
            ["decompose-task", "--instruction", *words, "--out", str(tmp_path), "--attempts", "1",
             "--chat.model", model, "--chat.base-url", server.base_url, "--chat.retries", "0"]
        )  # fmt: skip

    def knowing(request):
        said = texts_of(request)[0]
        return json.dumps(tasks[words[1] in said.split("Objects")[0]].to_dict())

    with ScriptedServer(knowing, ["ok", "401"]) as server:
        assert ask(server) == 2
    assert "refuses model" in capsys.readouterr().err
    assert (tmp_path / "task_0.json").exists() and not (tmp_path / "task_1.json").exists()
    with ScriptedServer(knowing) as server:
        assert ask(server) == 0
        assert len(server.requests) == 1
        assert ask(server) == 0
        assert len(server.requests) == 1
        assert ask(server, "other") == 0
        assert len(server.requests) == 3
    for number, task in enumerate(tasks):
        stored = json.loads((tmp_path / f"task_{number}.json").read_text())
        assert stored == json.loads(json.dumps(task.to_dict()))
