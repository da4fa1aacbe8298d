"""A local HTTP server that speaks chat completions with images, and fails as told."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Answerer = Callable[[dict[str, Any]], str]

GARBAGE = {
    "page": b"<html>Welcome to our gateway</html>",
    "latin": '{"choices": [{"message": {"content": "Stück"}}]}'.encode("latin-1"),
    "deep": b"[" * 100_000,
    "digits": b'{"created": ' + b"9" * 5000 + b"}",
    "null": b"null",
    "error": b'{"error": {"message": "overloaded"}}',
    "words": b'{"choices": "abc"}',
    "mapping": b'{"choices": {"a": 1}}',
    "sentence": b'{"choices": [{"message": "hello", "finish_reason": "stop"}]}',
    "number": b'{"choices": [{"message": {"content": 1}}]}',
    "parts": b'{"choices": [{"message": {"content": [{"type": "text", "text": "hm"}]}}]}',
}
"""Bodies with status 200 that are no completions."""


class ScriptedServer:
    """Answers `/v1/chat/completions`; a script says what goes wrong with which request.

    Args:
        answer: what it says, given the request's JSON.
        script: one entry per request in the order of arrival: "ok", "429", "500", "400", "401",
            "404", "hang", "cut" (JSON that breaks off), "drop" (a connection that breaks off),
            "refuse", "filter", "empty", "long", a name of `GARBAGE`; after its end every request is
            "ok".
        pause_s: time an answer takes.
        hang_s: how long "hang" hangs.
    """

    def __init__(
        self,
        answer: Answerer = lambda request: "It arrived. Score: 1",
        script: Sequence[str] = (),
        pause_s: float = 0.0,
        hang_s: float = 2.0,
    ) -> None:
        self.answer, self.script, self.pause_s, self.hang_s = answer, list(script), pause_s, hang_s
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        """Address up to the version."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        content = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append(content)
            self.keys.append(http.headers.get("Authorization"))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._act(http, content, self.script[number] if number < len(self.script) else "ok")
        except OSError:
            pass  # the client has given up waiting
        finally:
            with self._lock:
                self._at_once -= 1

    def _act(self, http: BaseHTTPRequestHandler, content: dict[str, Any], what: str) -> None:
        time.sleep(self.hang_s if what == "hang" else self.pause_s)
        if what == "drop":
            http.connection.close()
        elif what.isdigit():
            error = {"error": {"message": f"told to say {what}", "type": "test", "code": what}}
            self._send(http, int(what), json.dumps(error))
        elif what == "cut":
            self._send(http, 200, json.dumps(completion("Score: 1"))[:-30])
        elif what == "refuse":
            self._send(http, 200, json.dumps(completion(None, refusal="I may not look at robots")))
        elif what == "filter":
            self._send(http, 200, json.dumps(completion("", finished="content_filter")))
        elif what == "empty":
            self._send(http, 200, json.dumps(completion("")))
        elif what == "long":
            self._send(http, 200, json.dumps(completion(None, finished="length")))
        elif what in GARBAGE:
            self._send(http, 200, GARBAGE[what])
        else:
            self._send(http, 200, json.dumps(completion(self.answer(content))))

    def _send(self, http: BaseHTTPRequestHandler, status: int, text: str | bytes) -> None:
        body = text.encode() if isinstance(text, str) else text
        http.send_response(status)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(body)))
        if status in (429, 500):
            http.send_header("retry-after-ms", "20")
        http.end_headers()
        http.wfile.write(body)


def _handler_of(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path != "/v1/chat/completions":
                self.send_error(404)
                return
            server.handle(self)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def completion(
    text: str | None, finished: str = "stop", refusal: str | None = None
) -> dict[str, Any]:
    """A completion as servers send it."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finished, "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip


def texts_of(request: dict[str, Any]) -> list[str]:
    """The texts of a request, in order."""
    return [part["text"] for part in request["messages"][-1]["content"] if part["type"] == "text"]


def images_of(request: dict[str, Any]) -> list[np.ndarray]:
    """The images of a request, in order, as pixels."""
    found = []
    for part in request["messages"][-1]["content"]:
        if part["type"] == "image_url":
            kind, _, code = part["image_url"]["url"].partition(";base64,")
            assert kind == "data:image/png"
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")))
    return found
