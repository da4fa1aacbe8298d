"""OpenVLA's tokens, its protocol over real sockets, and a client that outlives its server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.policies.line_world import ACTIONS, FRAMES, LineEnv
from wm_gym.policies.act_client import ActClient, PolicyServerError
from wm_gym.policies.act_server import (
    MAX_BYTES,
    ActServer,
    check_images_matter,
    decode,
    encode,
)
from wm_gym.policies.base import PolicyError, load_policy, save_policy
from wm_gym.policies.compatibility import check_compatible
from wm_gym.policies.openvla import (
    BRIDGE_ACTION,
    BRIDGE_ORIG,
    EMPTY_TOKEN,
    PAPER_PROTOCOL,
    OpenVLAPolicy,
    detokenise,
    unnormalise,
    with_empty_token,
)
from wm_gym.policies.recordings import read_recording
from wm_gym.policies.runner import run_policy

PARITY = Path(__file__).parents[1] / "parity" / "data" / "schedules.json"


def walk(image, instruction, unnorm_key):
    """To the right, slower where the picture is dark; what it was asked does not matter."""
    return np.array([0.1 if image.max() > 0 else 0.05], np.float32)


@contextmanager
def serving(act, info=None, port=0):
    server = ActServer(act, info or {"model": "walker"}, port=port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client(url, **settings):
    return ActClient(url, **{"timeout_s": 5.0, "patience_s": 0.3, "first_pause_s": 0.05} | settings)


# ---- tokens -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    return json.loads(PARITY.read_text(encoding="utf-8"))["openvla_bridge_orig"]


def test_statistics_are_those_of_the_reference(reference):
    assert BRIDGE_ORIG.low == tuple(reference["q01"])
    assert BRIDGE_ORIG.high == tuple(reference["q99"])
    assert BRIDGE_ORIG.scaled == tuple(reference["mask"])


def test_tokens_mean_what_the_authors_code_says(reference):
    examples = reference["examples"]
    assert len(examples) > 2
    tokens = np.array([example["token_ids"] for example in examples])
    numbers = np.array([example["normalized"] for example in examples])
    np.testing.assert_allclose(detokenise(tokens), numbers, rtol=1e-12)
    physical = [example["action_unnormalised"] for example in examples]
    np.testing.assert_allclose(unnormalise(numbers, BRIDGE_ORIG), physical, rtol=1e-9, atol=1e-12)


def test_tokens_at_and_beyond_the_ends():
    assert detokenise(np.array([31999, 31745])).tolist() == [-1 + 1 / 255, 1 - 1 / 255]
    # 256 ids, 255 intervals: the last one shares its neighbour's; others are taken for the nearest
    assert (
        detokenise(np.array([31744, 5, 32050])).tolist()
        == detokenise(np.array([31745, 31745, 31999])).tolist()
    )
    assert (np.diff(detokenise(np.arange(31745, 32000))) < 0).all()


def test_the_prompt_ends_with_the_empty_token():
    assert with_empty_token(np.array([1, 2])).tolist() == [1, 2, EMPTY_TOKEN]
    assert with_empty_token(np.array([1, EMPTY_TOKEN])).tolist() == [1, EMPTY_TOKEN]


def test_its_actions_fit_the_bridge_domain():
    from wm_gym.domains import BRIDGE

    policy = OpenVLAPolicy(client=client("http://127.0.0.1:1"))
    assert check_compatible(policy, BRIDGE.action, BRIDGE.frame).is_identity
    assert BRIDGE_ACTION.low == BRIDGE_ORIG.low


# ---- arrays in JSON -----------------------------------------------------------------------------


def test_arrays_look_as_json_numpy_writes_them():
    text = encode(np.array([0, 1, 2]))
    assert text == '{"__numpy__": "AAAAAAAAAAABAAAAAAAAAAIAAAAAAAAA", "dtype": "<i8", "shape": [3]}'


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "bool", ">i4"])
def test_arrays_come_back(dtype):
    array = np.arange(6).reshape(2, 3)[:, ::-1].astype(dtype)  # not contiguous
    found = decode(encode({"a": [array, 1.5]}))["a"]
    assert found[0].dtype == array.dtype and found[1] == 1.5
    np.testing.assert_array_equal(found[0], array)
    assert decode(encode(np.float32(0.5))).shape == ()


@pytest.mark.parametrize(
    "damage", [{"dtype": "|O"}, {"shape": [7]}, {"__numpy__": "?"}, {"dtype": "no such"}]
)
def test_damaged_arrays_are_refused(damage):
    text = json.dumps(json.loads(encode(np.arange(3))) | damage)
    with pytest.raises(ValueError, match="not an array of numbers"):
        decode(text)
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(np.array(["text"]))


# ---- over real sockets --------------------------------------------------------------------------


def test_rows_are_asked_side_by_side_and_stay_in_order():
    seen = []

    def act(image, instruction, unnorm_key):
        seen.append((instruction, unnorm_key))
        time.sleep(0.15)
        return np.array([float(image[0, 0, 0]), 0.5])

    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = range(4)
    with serving(act) as server:
        began = time.monotonic()
        actions = client(server.url, concurrency=4).act_all(images, list("abcd"))
        assert time.monotonic() - began < 4 * 0.15
    assert np.stack(actions).tolist() == [[0, 0.5], [1, 0.5], [2, 0.5], [3, 0.5]]
    assert sorted(seen) == [(words, "bridge_orig") for words in "abcd"]


def test_the_double_encoding_of_plain_clients_is_understood():
    question = {"image": np.ones((2, 2, 3), np.uint8), "instruction": "go"}
    with serving(walk) as server:
        body = json.dumps({"encoded": encode(question)}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}/act", body)) as answer:
            inner = json.loads(answer.read())
    assert decode(inner).tolist() == pytest.approx([0.1])


def test_info_reports_the_revision():
    with serving(walk, {"model": "openvla/openvla-7b", "revision": "f" * 40}) as server:
        assert client(server.url).info()["revision"] == "f" * 40
    with pytest.raises(PolicyServerError, match="/info gave no answer"):
        client(server.url).info()


@pytest.mark.parametrize("fault", ["raises", "says error", "no action", "hangs"])
def test_what_fails_is_asked_again(fault):
    calls = []

    def act(image, instruction, unnorm_key):
        calls.append(time.monotonic())
        if len(calls) < 3:
            if fault == "raises":
                raise RuntimeError("out of memory")
            if fault == "hangs":
                time.sleep(0.4)
            return {"action": None} if fault == "no action" else "error"
        return walk(image, instruction, unnorm_key)

    with serving(act) as server:
        timeout = 0.2 if fault == "hangs" else 5.0
        asked = client(server.url, patience_s=10.0, timeout_s=timeout)
        assert asked.act(np.ones((2, 2, 3), np.uint8), "go").tolist() == pytest.approx([0.1])
    assert len(calls) == 3
    assert calls[2] - calls[1] > calls[1] - calls[0] - timeout / 2, "pauses grow"


def test_what_is_refused_is_not_asked_again():
    with (
        serving(walk) as server,
        pytest.raises(PolicyServerError, match=r"refused.*expected uint8 \(H, W, 3\)"),
    ):
        client(server.url, patience_s=60).act(np.zeros((2, 2), np.uint8), "go")


@pytest.mark.parametrize(
    ("status", "again"),
    [
        (307, False),
        (401, False),
        (404, False),
        (413, False),
        (501, False),
        (408, True),
        (503, True),
    ],
)
def test_a_status_says_whether_to_ask_again(status, again):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", "900")  # and dies before it has said so much
            self.end_headers()
            self.wfile.write(b"no such robot")

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        said = f"no action for 0.3 s.*status {status}" if again else f"refused: status {status}"
        asking = client(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(PolicyServerError, match=said):
            asking.act(np.zeros((2, 2, 3), np.uint8), "go")
    finally:
        server.shutdown()
        server.server_close()
    assert (len(asked) > 1) == again


QUESTION = {"image": np.ones((2, 2, 3), np.uint8), "instruction": "go"}


def exchange(server, *parts, pause_s=0.0, end=True):
    """Status and content of the answer to raw bytes."""
    with socket.create_connection(server.server_address, timeout=10) as wire:
        for part in parts:
            wire.sendall(part)
            time.sleep(pause_s)
        if end:
            wire.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := wire.recv(2**16):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def request(length, path="/act"):
    said = "" if length is None else f"Content-Length: {length}\r\n"
    return f"POST {path} HTTP/1.1\r\nConnection: close\r\n{said}\r\n".encode()


@pytest.mark.parametrize(
    ("length", "body", "status", "reason"),
    [
        (MAX_BYTES + 1, b"x" * (MAX_BYTES + 1), 413, f"expected at most {MAX_BYTES}"),
        ("ten", b"", 400, "Content-Length is 'ten'"),
        ("-1", b"", 400, "Content-Length is '-1'"),
        ("9" * 5000, b"", 400, "Content-Length is"),
        (None, b"", 411, "no Content-Length"),
        (0, b"", 400, "body is empty"),
        (100, b"{", 400, "ended after 1 of 100"),
        (10**6, b"[" * 10**6, 400, "nested too deeply"),
        (2, b"[]", 400, "lacks ['image', 'instruction']"),
        (2, b"\xff\xff", 400, "UnicodeDecodeError"),
        (14, b'{"encoded": 1}', 400, "encoded wrongly"),
    ],
)
def test_bodies_that_cannot_be_read_are_refused_with_a_reason(length, body, status, reason):
    with serving(walk) as server:
        found, said = exchange(server, request(length), body)
        assert found == status and reason in said
        assert client(server.url).act(**QUESTION).shape == (1,), "it goes on answering"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": np.zeros((0, 2, 3), np.uint8)}, "not empty"),
        ({"image": np.zeros((2, 0, 3), np.uint8)}, "not empty"),
        ({"image": [[1], [1, 2]]}, "image is"),
        ({"instruction": 3}, "expected text"),
        ({"instruction": None}, "expected text"),
        ({"unnorm_key": ["a"]}, "expected text"),
    ],
)
def test_questions_that_are_none_are_refused(change, reason):
    body = encode(QUESTION | change).encode()
    with serving(walk) as server:
        status, said = exchange(server, request(len(body)), body)
    assert status == 400 and reason in said


def test_a_slow_body_ends_in_time_and_blocks_nobody():
    body = encode(QUESTION).encode()
    with serving(walk) as server:
        server.body_timeout_s = 0.3
        began = time.monotonic()
        drops = [body[i : i + 1] for i in range(4)]
        status, said = exchange(server, request(len(body)), *drops, pause_s=0.05, end=False)
        assert status == 408 and "send them faster" in said
        assert time.monotonic() - began < 5


def test_a_body_that_is_too_long_is_not_sent_again():
    asked = []
    with serving(walk) as server:
        read = server.RequestHandlerClass._body
        server.RequestHandlerClass._body = lambda self: asked.append(1) or read(self)
        try:
            big = np.zeros((4096, 4300, 3), np.uint8)  # more than 64 MiB as base64
            with pytest.raises(PolicyServerError, match=r"refused: status 413.*smaller image"):
                client(server.url, patience_s=60, timeout_s=30).act(big, "go")
        finally:
            server.RequestHandlerClass._body = read
    assert len(asked) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:80x0", "http://", "http://[::1", "http://a b:1"])
def test_an_address_that_no_server_has_is_refused_at_once(url):
    with pytest.raises(PolicyError, match="expected such as 'http://"):
        ActClient(url)
    from wm_gym.chat.server import ChatServerConfig

    with pytest.raises(ValueError, match="expected an address"):
        ChatServerConfig(url, "m")


def test_a_server_that_stays_away_is_named_with_the_remedy():
    with serving(walk) as server:
        url = server.url
    with pytest.raises(PolicyServerError, match=r"no action for 0\.3 s.*wm-gym serve-openvla"):
        client(url).act(np.zeros((2, 2, 3), np.uint8), "go")


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[1" + b"0" * 400 + b"]", b"\xff", b"<html>"])
def test_an_answer_that_is_no_action_is_asked_for_again(body, monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append(request)
        return contextlib.nullcontext(SimpleNamespace(read=lambda: body))

    monkeypatch.setattr("urllib.request.urlopen", answer)
    with pytest.raises(PolicyServerError, match=r"gave no action for 0\.3 s"):
        client("http://127.0.0.1:1").act(np.zeros((2, 2, 3), np.uint8), "go")
    assert len(asked) > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "localhost:8000"},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"patience_s": float("nan")},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(PolicyError, match="expected"):
        ActClient(**{"url": "http://localhost:8000"} | settings)


def test_a_model_that_does_not_look_is_refused():
    def blind(image, instruction, unnorm_key):
        return np.array([0.1])

    black, white = check_images_matter(walk)
    assert black < white
    with serving(blind) as server:
        policy = OpenVLAPolicy(ACTIONS, client=client(server.url))
        with pytest.raises(PolicyError, match="ignores its image"):
            run_policy([LineEnv()], policy, ["s0"], [0], 5, progress=False)
        policy = OpenVLAPolicy(ACTIONS, client=client(server.url), check_images=False)
        assert run_policy([LineEnv()], policy, ["s0"], [0], 30, progress=False)[0].success


def test_the_gripper_is_an_opening():
    def act(image, instruction, unnorm_key):
        return np.array([0.01] * 6 + [-0.26 if image.max() else 0.996])

    from wm_gym.policies.base import Observation

    frames = np.stack([np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)])
    observation = Observation(frames, ("a", "b"), np.zeros(2), np.arange(2))
    with serving(act) as server:
        policy = OpenVLAPolicy(client=client(server.url))
        actions = policy.act(observation)
        with pytest.raises(PolicyError, match=r"of shape \(7,\), the action_spec has 1 comp"):
            OpenVLAPolicy(ACTIONS, client=client(server.url)).act(observation)
    assert actions.shape == (2, 1, 7)
    np.testing.assert_allclose(actions[:, 0, -1], [0.996, 0], rtol=1e-6)


def test_it_is_saved_and_loaded(tmp_path):
    policy = OpenVLAPolicy(ACTIONS, FRAMES, client=client("http://127.0.0.1:8000"))
    loaded = load_policy(save_policy(policy, tmp_path))
    assert isinstance(loaded, OpenVLAPolicy) and loaded.client == policy.client
    assert (loaded.action_spec, loaded.frame_spec) == (ACTIONS, FRAMES)


def test_a_server_that_dies_loses_no_finished_episode(tmp_path):
    """It dies in the third episode; the run goes on with a new server, and is as if it had not."""
    starts, seeds = ["s0", "s20", "s40", "s60"], [3, 4, 5, 6]
    undisturbed = run_policy(
        [LineEnv()], _local(), starts, seeds, 30, results=tmp_path / "whole", progress=False
    )
    asked = []

    def mortal(image, instruction, unnorm_key):
        asked.append(instruction)
        if len(asked) == 2 + 8 + 6 + 2:  # the pictures' check, two whole episodes, two steps
            raise ConnectionAbortedError
        return walk(image, instruction, unnorm_key)

    results = tmp_path / "results"
    kept = {"results": results, "recordings": tmp_path / "frames", "progress": False}
    with serving(mortal) as server:
        port = server.server_address[1]
        policy = OpenVLAPolicy(ACTIONS, client=client(server.url, patience_s=0.01))
        with pytest.raises(PolicyServerError, match="gave no action"):
            run_policy([LineEnv()], policy, starts, seeds, 30, **kept)
    assert not results.exists(), "the block is not whole"
    env = LineEnv()
    with serving(walk, port=port) as server:
        policy = OpenVLAPolicy(ACTIONS, client=client(server.url))
        records = run_policy([env], policy, starts, seeds, 30, **kept)
    lengths = [len(read_recording(tmp_path / "frames", k)) for k in range(4)]
    assert lengths == [record.steps + 1 for record in records]
    assert env.resets == 2, "the first two episodes are not run again"
    assert [(r.index, r.success, r.steps) for r in records] == [
        (r.index, r.success, r.steps) for r in undisturbed
    ]
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    whole = [
        json.loads(line) for line in (tmp_path / "whole").read_text(encoding="utf-8").splitlines()
    ]
    for line in lines + whole:
        del line["seconds"]
    assert lines == whole
    assert [path.name for path in tmp_path.iterdir() if "finished" in path.name] == []


def _local():
    from tests.policies.line_world import Walker

    return Walker(chunk=1)


def test_a_server_that_comes_back_in_time_is_not_noticed():
    server = ActServer(walk, {})
    port, url = server.server_address[1], server.url
    server.server_close()
    found = []
    asking = threading.Thread(
        target=lambda: found.append(
            client(url, patience_s=20.0).act(np.ones((2, 2, 3), np.uint8), "go")
        )
    )
    asking.start()
    time.sleep(0.2)
    with serving(walk, port=port):
        asking.join(20)
    assert found[0].tolist() == pytest.approx([0.1])


def test_finished_episodes_of_another_run_are_refused(tmp_path):
    from wm_gym.policies.runner import ResultsError

    class Broken(type(_local())):
        def act(self, observation):
            if len(self.asked) == 10:
                raise PolicyServerError("gone")
            return super().act(observation)

    arguments = ([LineEnv()], Broken(chunk=1), ["s0", "s20"])
    with pytest.raises(PolicyServerError):
        run_policy(*arguments, [0, 1], 30, results=tmp_path / "r", progress=False)
    with pytest.raises(ResultsError, match=r"r\.finished holds episode 0 .*remove the file"):
        run_policy(*arguments, [7, 8], 30, results=tmp_path / "r", progress=False)


# ---- protocol of the paper ----------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"trials": 0}, {"episodes": 0}, {"out_of_distribution": -1}])
def test_a_protocol_without_episodes_is_refused(changes):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        replace(PAPER_PROTOCOL, **changes)


def test_the_papers_protocol():
    names = tuple(f"start-{k}" for k in range(25))
    starts, seeds = PAPER_PROTOCOL.plan(names)
    assert len(starts) == 160 and PAPER_PROTOCOL.max_steps == 50
    assert starts[:9] == ["start-0"] * 8 + ["start-1"] and len(set(seeds)) == 160
    assert len(PAPER_PROTOCOL.plan(names, changed=True)[0]) == 80
    with pytest.raises(ValueError, match="3 starts; expected at least 20"):
        PAPER_PROTOCOL.plan(names[:3])


def test_the_default_policy_acts_in_a_default_import_of_a_published_model(tmp_path):
    import gymnasium as gym
    import torch

    from wm_gym.dynamics.dit import DiT, DiTConfig
    from wm_gym.latents.fetch import file_sha256
    from wm_gym.policies.compatibility import IncompatiblePolicyError
    from wm_gym.policies.resampled import ResampledPolicy
    from wm_gym.training.import_checkpoint import ImportOptions, import_checkpoint

    torch.manual_seed(0)
    released = DiT(DiTConfig(channels=16, dim=64, depth=1, heads=1, action_width=10))
    torch.save(released.state_dict(), tmp_path / "DiT.pt")
    layers = {
        "encoder.jit": torch.nn.Conv2d(3, 16, 16, stride=16),
        "decoder.jit": torch.nn.ConvTranspose2d(16, 3, 16, stride=16),
    }
    for name, layer in layers.items():
        torch.jit.script(layer).save(str(tmp_path / name))
    pins = {name: file_sha256(tmp_path / name) for name in layers}
    options = ImportOptions(space_config={"local": str(tmp_path), "sha256": pins})
    import_checkpoint(tmp_path / "DiT.pt", "Cosmos", tmp_path / "model", options=options)

    env = gym.make_vec(
        "WM-Bridge-Cosmos-v0",
        num_envs=2,
        checkpoint=str(tmp_path / "model"),
        autoreset_mode="Disabled",
        denoising_steps=1,
        reward="none",
    )
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    starts = [{"frames": picture, "instruction": "put the carrot on the plate"}] * 2
    right = np.array([0.02, 0, 0, 0, 0, 0, 1.0])
    seen = []

    def act(image, instruction, unnorm_key):
        seen.append((image.shape, instruction, unnorm_key))
        return right * (1.0 if image.mean() > 1 else 0.5)

    with serving(act) as server:
        policy = OpenVLAPolicy(client=client(server.url))
        with pytest.raises(IncompatiblePolicyError, match="ResampledPolicy"):
            run_policy(env, policy, starts, [0, 1], 3, progress=False)
        held = ResampledPolicy(policy, env.unwrapped.card.action, "hold")
        records = run_policy(env, held, starts, [0, 1], 3, keep_actions=True, progress=False)
    assert [record.steps for record in records] == [3, 3]
    for record in records:
        np.testing.assert_allclose(record.actions, np.tile(right, (3, 1)), rtol=1e-6)
    assert seen[-1] == ((256, 256, 3), "put the carrot on the plate", "bridge_orig")
