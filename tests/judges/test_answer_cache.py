"""Answers on disk: by content, whole or not at all, whoever writes and whenever it is killed."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from wm_gym.judges.answer_cache import AnswerCache, content_key, default_cache_folder
from wm_gym.judges.verdicts import JudgeError

WRITER = """
import sys
from pathlib import Path
from wm_gym.judges.answer_cache import AnswerCache
cache = AnswerCache(Path(sys.argv[1]))
print("ready", flush=True)
for n in range(100000):
    cache.put(f"{n % 7:064x}", {"texts": [sys.argv[2] * 20000], "seconds": 0.5})
"""


def test_an_answer_comes_back_and_another_process_sees_it(tmp_path):
    answer = {"texts": ["It arrived — ½. Score: 1"], "seconds": 0.25}
    AnswerCache(tmp_path).put("ab12", answer)
    assert AnswerCache(tmp_path).get("ab12") == answer
    assert AnswerCache(tmp_path).get("ab13") is None
    assert [p.name for p in tmp_path.rglob("*.json")] == ["ab12.json"]


def test_everything_that_an_answer_depends_on_is_in_its_name():
    frames = np.zeros((2, 3, 4, 3), np.uint8)
    changed = frames.copy()
    changed[1, 2, 3, 2] = 1
    facts = {"model": "a", "samples": 1, "instruction": "push"}
    keys = {
        content_key(facts, [frames]),
        content_key(facts, [changed]),
        content_key(facts, [frames.reshape(2, 4, 3, 3)]),
        content_key(facts, [frames[0], frames[1]]),
        content_key(facts, []),
        content_key({**facts, "model": "b"}, [frames]),
        content_key({**facts, "samples": 2}, [frames]),
        content_key({**facts, "instruction": "push "}, [frames]),
    }
    assert len(keys) == 8
    shuffled = dict(reversed(facts.items()))
    assert content_key(shuffled, [frames[:, ::-1][:, ::-1]]) == content_key(facts, [frames])


@pytest.mark.parametrize(
    "content", [b"", b'{"layout": 1, "ans', b"[]", b"\xff\xfe", b'{"layout": 1}']
)
def test_a_damaged_answer_is_reported_and_asked_for_again(tmp_path, content):
    cache = AnswerCache(tmp_path)
    cache.put("ab12", {"texts": ["x"]})
    cache.path("ab12").write_bytes(content)
    with pytest.warns(UserWarning, match=r"ab12\.json is damaged .*asked for again"):
        assert cache.get("ab12") is None
    cache.put("ab12", {"texts": ["y"]})
    assert cache.get("ab12") == {"texts": ["y"]}


def test_a_folder_that_cannot_be_used_is_named_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    cache = AnswerCache(tmp_path / "file")
    for use in (lambda: cache.get("ab" * 32), lambda: cache.put("ab" * 32, {"texts": []})):
        with pytest.raises(JudgeError, match=r"file \(.*cache=FOLDER, or keep none"):
            use()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wm_gym.judges.answer_cache.write_atomically", full)
    with pytest.raises(JudgeError, match="No space left on device"):
        AnswerCache(tmp_path).put("ab" * 32, {"texts": []})


def test_an_answer_of_another_layout_is_none(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.put("ab12", {"texts": ["x"]})
    cache.path("ab12").write_text(json.dumps({"layout": 99, "answer": {}}), encoding="utf-8")
    assert cache.get("ab12") is None


def test_the_folder_follows_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "wm_gym" / "judges"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_folder() == tmp_path / "home" / ".cache" / "wm_gym" / "judges"


def test_writers_that_collide_and_are_killed_leave_only_whole_answers(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, letter], stdout=subprocess.PIPE) for letter in "ab"]
    cache = AnswerCache(tmp_path)
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        until = time.monotonic() + 60
        seen, present = set(), 0
        while (len(seen) < 2 or present < 7) and time.monotonic() < until:
            found = [answer for n in range(7) if (answer := cache.get(f"{n:064x}")) is not None]
            present = len(found)
            seen |= {answer["texts"][0][0] for answer in found}  # both write: they collide
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
    assert seen == {"a", "b"}
    found = [cache.get(f"{n:064x}") for n in range(7)]
    for answer in found:
        assert answer is not None
        (text,) = answer["texts"]
        assert text in ("a" * 20000, "b" * 20000)
