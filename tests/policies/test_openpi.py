"""openpi's websocket protocol, against a server that speaks it, over real sockets."""

from __future__ import annotations

import threading
import time
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from tests.policies.line_world import ACTIONS, FRAMES, LineEnv
from wm_gym.policies.act_client import PolicyServerError, PolicyServerWarning
from wm_gym.policies.base import PolicyError, load_policy, save_policy
from wm_gym.policies.openpi import OpenPiConfig, OpenPiPolicy, pack, unpack
from wm_gym.policies.runner import run_policy

pytest.importorskip("msgpack")
websockets = pytest.importorskip("websockets.sync.server")


@contextmanager
def serving(infer, port=0):
    """As openpi's server: metadata first, then an answer to each question, text on a fault."""

    def handle(connection):
        connection.send(pack({"policy": "walker"}))
        for message in connection:
            try:
                answer = infer(unpack(message))
            except ConnectionAbortedError:
                connection.close()
                return
            except Exception as error:
                connection.send(f"Traceback: {error}")
            else:
                connection.send(pack(answer))

    server = websockets.serve(handle, "127.0.0.1", port, compression=None, max_size=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()


def policy(url, **settings):
    return OpenPiPolicy(
        ACTIONS, FRAMES, config=OpenPiConfig(url, **{"timeout_s": 5, "patience_s": 0.2} | settings)
    )


def test_arrays_are_written_as_openpi_writes_them():
    import msgpack

    raw = msgpack.unpackb(pack({"a": np.array([1, 2], np.uint8), "b": np.float32(0.5)}))
    array = {b"__ndarray__": True, b"data": b"\x01\x02", b"dtype": "|u1", b"shape": [2]}
    assert raw["a"] == array
    assert raw["b"] == {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}
    found = unpack(pack({"a": np.arange(6.0).reshape(2, 3)[:, ::-1], "b": np.float32(0.5)}))
    np.testing.assert_array_equal(found["a"], [[2, 1, 0], [5, 4, 3]])
    assert found["b"] == np.float32(0.5)
    with pytest.raises(ValueError, match="not an array of numbers"):
        unpack(msgpack.packb(array | {b"dtype": "|O"}))
    with pytest.raises(TypeError, match="cannot be sent"):
        pack({"a": object()})


def test_chunks_drive_episodes():
    asked = []

    def infer(question):
        asked.append(question)
        return {"actions": np.full((5, 1), 0.1, np.float32)}

    with serving(infer) as url:
        remote = policy(url, execute=2, constants={"observation/state": [1.0, 2.0]})
        records = run_policy([LineEnv()], remote, ["s0", "s40"], [0, 1], 30, progress=False)
        remote.close()
    assert [(record.success, record.steps) for record in records] == [(True, 8), (True, 4)]
    assert len(asked) == 4 + 2, "two of five actions are carried out before it is asked again"
    assert asked[0]["prompt"] == "reach the end"
    assert asked[0]["observation/image"].shape == (4, 20, 3)
    assert asked[0]["observation/state"].tolist() == [1.0, 2.0]
    assert remote.metadata == {"policy": "walker"}


def test_a_broken_connection_is_opened_again():
    calls = []

    def infer(question):
        calls.append(1)
        if len(calls) == 3:
            raise ConnectionAbortedError
        return {"actions": np.full((1, 1), 0.1)}

    with serving(infer) as url:
        remote = policy(url, patience_s=20)
        with pytest.warns(PolicyServerWarning, match="lost a question after") as told:
            (record,) = run_policy([LineEnv()], remote, ["s0"], [0], 30, progress=False)
        remote.close()
    assert len([w for w in told if w.category is PolicyServerWarning]) == 1
    assert (record.success, record.steps, len(calls)) == (True, 8, 9)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"actions": np.zeros((2, 3))}, r"chunk of shape \(2, 3\), expected \(n, 1\)"),
        ({"action": 1}, "gave no actions: KeyError"),
        (None, "failed: Traceback: out of memory"),
    ],
)
def test_wrong_answers_are_named(answer, message):
    def infer(question):
        if answer is None:
            raise RuntimeError("out of memory")
        return answer

    with serving(infer) as url:
        remote = policy(url)
        with pytest.raises(PolicyServerError, match=message):
            run_policy([LineEnv()], remote, ["s0"], [0], 5, progress=False)
        remote.close()


def test_an_interrupted_question_leaves_no_answer_for_the_next():
    asked = []

    def infer(question):
        asked.append(question["prompt"])
        return {"actions": np.full((1, 1), float(question["prompt"]))}

    with serving(infer) as url:
        remote = policy(url)
        connect = remote._connect

        def connect_and_interrupt():
            connect()
            receive = remote._connection.recv

            def interrupted(*arguments):
                remote._connection.recv = receive
                raise KeyboardInterrupt

            remote._connection.recv = interrupted

        remote._connect = connect_and_interrupt
        with pytest.raises(KeyboardInterrupt):
            remote._ask(np.zeros((4, 20, 3), np.uint8), "1")
        remote._connect = connect
        assert remote._ask(np.zeros((4, 20, 3), np.uint8), "2").tolist() == [[2.0]]
        remote.close()
    assert asked == ["1", "2"]


def test_a_server_of_something_else_is_named():
    def handle(connection):
        connection.send(b"\xc1 no msgpack")

    server = websockets.serve(handle, "127.0.0.1", 0, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        remote = policy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        with pytest.raises(PolicyServerError, match=r"gave no answer for 0\.2 s"):
            run_policy([LineEnv()], remote, ["s0"], [0], 5, progress=False)
    finally:
        server.shutdown()
        thread.join()


def test_a_server_that_thinks_long_is_not_dropped_by_keepalive(monkeypatch):
    """It cannot answer pings meanwhile; `timeout_s` alone says when to give up."""
    from websockets.sync import client

    connect, asked = client.connect, []

    def impatient(url, **options):
        """As the library's own keepalive, whose 20 s would be long for a test."""
        return connect(url, **{"ping_interval": 0.1, "ping_timeout": 0.1} | options)

    def infer(question):
        asked.append(1)
        time.sleep(1.0)
        return {"actions": np.full((1, 1), 0.1)}

    monkeypatch.setattr(client, "connect", impatient)
    with serving(infer) as url, warnings.catch_warnings():
        warnings.simplefilter("error", PolicyServerWarning)
        remote = policy(url, timeout_s=5)
        monkeypatch.setattr("websockets.server.ServerProtocol.recv_frame", deaf_to_pings())
        chunk = remote._ask(np.zeros((4, 20, 3), np.uint8), "go")
        remote.close()
    assert chunk.tolist() == [[np.float32(0.1)]] and len(asked) == 1


def deaf_to_pings():
    from websockets.frames import Opcode
    from websockets.server import ServerProtocol

    hear = ServerProtocol.recv_frame

    def recv_frame(self, frame):
        if frame.opcode is not Opcode.PING:
            hear(self, frame)

    return recv_frame


def test_a_question_that_takes_too_long_says_so():
    with serving(lambda question: time.sleep(0.5)) as url:
        remote = policy(url, timeout_s=0.1, patience_s=0.2)
        with pytest.raises(PolicyServerError, match=r"timeout_s=0\.1\); raise timeout_s"):
            remote._ask(np.zeros((4, 20, 3), np.uint8), "go")
        remote.close()


@pytest.mark.parametrize("settings", [{"execute": 0}, {"execute": -1}, {"timeout_s": float("nan")}])
def test_settings_are_checked(settings):
    with pytest.raises(PolicyError, match="expected"):
        OpenPiConfig("ws://localhost", **settings)


def test_a_server_that_stays_away_is_named():
    with serving(lambda question: {}) as url:
        pass
    with pytest.raises(PolicyServerError, match=r"gave no answer for 0\.2 s"):
        run_policy([LineEnv()], policy(url), ["s0"], [0], 5, progress=False)
    with pytest.raises(PolicyError, match="expected such as 'ws://"):
        OpenPiConfig("http://localhost")
    with pytest.raises(PolicyError, match="expected such as 'ws://"):
        OpenPiConfig("ws://localhost:80x0")


def test_it_is_saved_and_loaded(tmp_path):
    remote = policy("ws://127.0.0.1:8000", image_keys=("a", "b"), constants={"s": [0.0]})
    loaded = load_policy(save_policy(remote, tmp_path))
    assert isinstance(loaded, OpenPiPolicy) and loaded.settings == remote.settings
