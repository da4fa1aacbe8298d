"""A run goes on only with the settings behind it, and nobody else writes beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.run_lock import InUseError, RunLock, one_writer
from wm_gym.run_settings import (
    RunSettingsError,
    check_run_settings,
    differing_settings,
    keep_run_settings,
    plain_settings,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), VALUES))
def test_settings_equal_what_json_keeps_of_them(made):
    assert differing_settings(made, json.loads(json.dumps(made))) == {}


@pytest.mark.parametrize(
    ("there", "here", "named"),
    [
        ({"seed": 0}, {"seed": 1}, "seed: 0 there, 1 now"),
        ({"loop": {"steps": 5, "clip": 1.0}}, {"loop": {"steps": 6, "clip": 1}}, "loop.steps: 5 "),
        ({"data": "a"}, {}, "data: 'a' there, nothing now"),
        ({}, {"context": "clean"}, "context: nothing there, 'clean' now"),
        ({"noise": None}, {}, "noise: None there, nothing now"),
        ({"flag": True}, {"flag": 1}, "flag: True there, 1 now"),
        ({"tasks": ["a", "b"]}, {"tasks": ("b", "a")}, r"tasks: ['a', 'b'] there, ['b', 'a'] now"),
    ],
)
def test_every_difference_is_named_with_both_values(there, here, named):
    with pytest.raises(RunSettingsError) as refused:
        check_run_settings("out", there, here)
    assert str(refused.value).startswith("out holds a run with other settings (")
    assert named in str(refused.value) and "clip" not in str(refused.value)
    check_run_settings("out", there, here, free=[named.partition(":")[0]])


def test_older_runs_have_what_there_was_before_the_choice():
    older = {"context": "noisy"}
    check_run_settings("out", {"seed": 0}, {"seed": 0, "context": "noisy"}, older=older)
    with pytest.raises(RunSettingsError, match="context: 'noisy' there, 'clean' now"):
        check_run_settings("out", {"seed": 0}, {"seed": 0, "context": "clean"}, older=older)


def test_settings_are_kept_as_json_and_what_has_no_json_form_is_named():
    @dataclass
    class Part:
        size: tuple[int, int] = (1, 2)

    made = {"out": Path("a"), "part": Part(), "seeds": range(2), "mean": np.float32(0.5)}
    assert plain_settings(made) == {
        "out": "a", "part": {"size": [1, 2]}, "seeds": [0, 1], "mean": 0.5,
    }  # fmt: skip
    with pytest.raises(TypeError, match="type object"):
        plain_settings({"thing": object()})


def test_a_file_of_settings_is_written_once_and_then_compared(tmp_path):
    file = tmp_path / "run" / "settings.json"
    assert not keep_run_settings(file, {"seed": 0})
    before = file.stat().st_mtime_ns
    assert keep_run_settings(file, {"seed": 0})
    with pytest.raises(RunSettingsError, match="seed: 0 there, 2 now"):
        keep_run_settings(file, {"seed": 2})
    assert file.stat().st_mtime_ns == before
    for damage in (b"{", b"[]", b"\xff", b"[" * 100_000):
        file.write_bytes(damage)
        with pytest.raises(RunSettingsError, match=r"settings.json, .* cannot be read"):
            keep_run_settings(file, {"seed": 0})
        assert file.read_bytes() == damage


HOLD = """
import sys
from wm_gym.run_lock import RunLock
lock = RunLock.of_folder(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def start_holder(folder: Path) -> subprocess.Popen:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    return holder


def test_another_process_is_named_and_its_kill_leaves_no_lock(tmp_path):
    holder = start_holder(tmp_path)
    try:
        with pytest.raises(InUseError) as refused:
            RunLock.of_folder(tmp_path).acquire()
        for part in (str(tmp_path), f"process {holder.pid} ", socket.gethostname(), "since 20"):
            assert part in str(refused.value)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with RunLock.of_folder(tmp_path) as lock:
        assert json.loads(lock.file.read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_another_thread_is_refused_too(tmp_path):
    refusals = []

    def write():
        with pytest.raises(InUseError, match=f"this process {os.getpid()} "):
            RunLock.of_file(tmp_path / "r.jsonl").acquire()
        refusals.append(True)

    with RunLock.of_file(tmp_path / "r.jsonl"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        write()
    assert refusals == [True, True]


def test_a_child_that_was_forked_holds_nothing(tmp_path):
    lock = RunLock.of_folder(tmp_path).acquire()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        lock.release()  # releases and removes nothing: it is the parent's
        os._exit(0)
    os.close(reader)
    lock.release()
    with RunLock.of_folder(tmp_path) as other:  # though the child lives
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0
        assert other.file.exists()


def test_a_folder_that_nothing_was_written_to_is_gone_again(tmp_path):
    with one_writer(tmp_path / "new", None, tmp_path / "." / "new"):
        assert (tmp_path / "new" / ".lock").exists()
    assert not (tmp_path / "new").exists()
    with one_writer(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
