"""`wm-gym label-questions` and `decompose-task`, against a local server and simulator truth."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.chat.chat_server import ScriptedServer, images_of, texts_of
from tests.said import said
from tests.semantic.cube_episodes import write_cube_episodes
from tests.semantic.episodes import write_episodes
from wm_gym.cli import main
from wm_gym.data.episodes import EpisodeDataset
from wm_gym.envs.collect_qa import CollectQAConfig, collect_qa
from wm_gym.envs.sims.langtable.questions import slack
from wm_gym.envs.sims.langtable.shapes import OBJECTS
from wm_gym.envs.sims.langtable.tasks import is_success, parse_instruction
from wm_gym.evaluation.semantic.label_questions import LABELS, SETTINGS
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
        found = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["labels"]
        assert (found["accuracy"], found["questions"], found["unanswered"]) == (1.0, 40, 0)
        assert sum(row["questions"] for row in found["by_type"].values()) == 40
        rows = [
            json.loads(line)
            for line in (tmp_path / LABELS).read_text(encoding="utf-8").splitlines()
        ]
        assert sorted(row["number"] for row in rows) == list(range(40))
        assert label(folder, server, tmp_path, "--samples", "3") == 0
        assert len(server.requests) == 120  # all were stored
        assert label(folder, server, tmp_path, "--samples", "5") == 2


def test_failures_are_counted_and_asked_again(folder, knowing, tmp_path, capsys):
    one = ("--samples", "1", "--temperature", "0", "--chat.concurrency", "1")
    with ScriptedServer(knowing, ["refuse", "ok", "filter"]) as server:
        assert label(folder, server, tmp_path, *one) == 0
    assert "2 unanswered" in capsys.readouterr().out
    with (tmp_path / LABELS).open("a", encoding="utf-8") as file:
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
    assert 5 <= len((tmp_path / LABELS).read_text(encoding="utf-8").splitlines()) < 40


ONE = ("--samples", "1", "--temperature", "0")


def asked_from(folder, home, seed: int) -> None:
    """Questions of a seed at a path that may hold others."""
    shutil.rmtree(home / "qa", ignore_errors=True)
    collect_qa(CollectQAConfig((folder / "episodes",), home / "qa", stride=4, seed=seed))


def test_labels_of_other_questions_are_not_taken_for_these(folder, knowing, tmp_path, capsys):
    with ScriptedServer(knowing) as server:
        asked_from(folder, tmp_path, 0)
        assert label(tmp_path, server, tmp_path / "out", *ONE) == 0
        asked_from(folder, tmp_path, 7)
        assert label(tmp_path, server, tmp_path / "out", *ONE) == 2
        assert "asked_sha256: " in capsys.readouterr().err
        settings = tmp_path / "out" / SETTINGS
        older = json.loads(settings.read_text(encoding="utf-8"))
        del older["asked_sha256"]  # as folders were written before there was one
        settings.write_text(json.dumps(older), encoding="utf-8")
        assert label(tmp_path, server, tmp_path / "out", *ONE) == 2
        assert re.search(r"labels\.jsonl, line 1: it answers .*, and question",
                         capsys.readouterr().err)  # fmt: skip
        asked_from(folder, tmp_path, 0)
        assert label(tmp_path, server, tmp_path / "out", *ONE) == 0
        assert json.loads(settings.read_text(encoding="utf-8"))["asked_sha256"]
        assert label(tmp_path, server, tmp_path / "out", *ONE, "--frames", "9") == 2
        assert "frames: 10 there, 9 now" in capsys.readouterr().err
        assert len(server.requests) == 40


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--seed", "-1"], "seed=-1"),
        (["--samples", "1", "--temperature", "-1"], "temperature=-1"),
        (["--chat.base-url", "localhost:8000"], "expected an address"),
        (["--json", "."], "is a folder"),
        (["--out", __file__], "is a file, no folder"),
    ],
)
def test_what_is_refused_claims_no_folder(folder, knowing, tmp_path, capsys, words, expected):
    with ScriptedServer(knowing) as server:
        assert label(folder, server, tmp_path / "out", *words) == 2
    assert expected in said(capsys)
    assert not (tmp_path / "out").exists()


def test_settings_without_labels_bind_nobody(folder, knowing, tmp_path):
    with ScriptedServer(knowing, ["404"] * 40) as server:
        assert label(folder, server, tmp_path, *ONE) == 2
    with ScriptedServer(knowing) as server:
        assert label(folder, server, tmp_path, *ONE, "--chat.model", "right") == 0
        assert label(folder, server, tmp_path, *ONE) == 2
    assert json.loads((tmp_path / SETTINGS).read_text(encoding="utf-8"))["model"] == "right"


def test_damaged_labels_are_named(folder, knowing, tmp_path, capsys):
    with ScriptedServer(knowing) as server:
        assert label(folder, server, tmp_path, *ONE) == 0
        whole = (tmp_path / LABELS).read_bytes()
        first, second, rest = whole.split(b"\n", 2)
        row = json.loads(second)
        damaged = {
            "Expecting value": b'{"number": ',
            "votes_no is absent": json.dumps({**row, "votes_no": 0}).replace("_no", "").encode(),
            "no JSON object": b"[]",
            "codec can't decode": second.replace(b"question", b"\xff"),
            "yes is 'maybe'": json.dumps({**row, "yes": "maybe"}).encode(),
            "votes for": json.dumps({**row, "votes_yes": "1"}).encode(),
            "number is 40": json.dumps({**row, "number": 40}).encode(),
        }
        for said, line in damaged.items():
            (tmp_path / LABELS).write_bytes(b"\n".join([first, line, rest]))
            assert label(folder, server, tmp_path, *ONE) == 2
            error = capsys.readouterr().err
            assert f"{tmp_path / LABELS}, line 2:" in error and said in error, error
            assert "remove that line" in error
        (tmp_path / LABELS).write_bytes(whole)
        (tmp_path / SETTINGS).write_text('{"qa": ', encoding="utf-8")
        assert label(folder, server, tmp_path, *ONE) == 2
        assert f"{tmp_path / SETTINGS}, which states" in capsys.readouterr().err
        assert len(server.requests) == 40


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
    assert json.loads((tmp_path / "task_0.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(task.to_dict())
    )
    assert not (tmp_path / "task_1.json").exists()
    assert "1 of 2 instructions" in capsys.readouterr().out
    first, second = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["tasks"]
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
        stored = json.loads((tmp_path / f"task_{number}.json").read_text(encoding="utf-8"))
        assert stored == json.loads(json.dumps(task.to_dict()))


REACH = langtable_task("reach", ("red moon",))


def reach(server, out, *more) -> int:
    return main(
        ["decompose-task", "--instruction", "reach the red moon", "--out", str(out),
         "--chat.model", "m", "--chat.base-url", server.base_url, *more]
    )  # fmt: skip


def test_damaged_tasks_are_named_before_anything_is_asked(tmp_path, capsys):
    with ScriptedServer(lambda request: json.dumps(REACH.to_dict())) as server:
        assert reach(server, tmp_path) == 0
        for name, others in (("task_0.json", b'{"name": "x"}'), ("made.json", b"[]")):
            whole = (tmp_path / name).read_bytes()
            for content in (b'{"name": ', b"{\xff}", others):
                (tmp_path / name).write_bytes(content)
                assert reach(server, tmp_path) == 2
                error = capsys.readouterr().err
                assert f"{tmp_path / name} is damaged" in error and "remove it" in error
            (tmp_path / name).write_bytes(whole)
        assert reach(server, tmp_path) == 0
        assert len(server.requests) == 1


def test_what_decompose_task_cannot_use_is_refused_before_anything_is_asked(tmp_path, capsys):
    write_cube_episodes(tmp_path / "cube", 2)
    (tmp_path / "file").touch()
    refused = {
        "is a file, no folder": ["--out", str(tmp_path / "file")],
        "is a folder; expected the name of a file": ["--json", str(tmp_path)],
        "episodes of Cube-v0, and env_id='LangTable-v0'": ["--data", str(tmp_path / "cube")],
        "holds an empty one": ["--instruction", "reach the red moon", " "],
    }
    with ScriptedServer(lambda request: json.dumps(REACH.to_dict())) as server:
        for expected, words in refused.items():
            assert reach(server, tmp_path / "out", *words) == 2
            assert expected in said(capsys)
    assert not server.requests and not (tmp_path / "out").exists()


def test_episodes_without_the_tasks_blocks_check_nothing(folder, tmp_path, capsys):
    write_episodes(tmp_path / "ood", ["random"], blocks="ood", steps=2)
    with ScriptedServer(lambda request: json.dumps(REACH.to_dict())) as server:
        assert reach(server, tmp_path / "out", "--data", str(tmp_path / "ood")) == 0
    told = capsys.readouterr().out
    assert "not checked: no episode" in told and "nan" not in told
