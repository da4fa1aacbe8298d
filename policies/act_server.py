"""OpenVLA's REST protocol, `POST /act`: its arrays in JSON, a server, and OpenVLA behind it.

This file imports nothing of wm_gym: `wm-gym serve-openvla` runs it in an environment of its own,
where OpenVLA's code finds the old transformers that it needs.

    python act_server.py --model openvla/openvla-7b --revision <commit> --port 8000
"""

from __future__ import annotations

import argparse
import base64
import json
import time
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Act = Callable[[np.ndarray, str, "str | None"], np.ndarray]
"""(image uint8 (H, W, 3), instruction, unnorm_key) -> action (A,)."""

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
MAX_BYTES = 64 * 2**20
"""Longest body that is read."""
DRAINED_BYTES = 16 * MAX_BYTES
"""How much of a longer one is thrown away, so that its sender reads why it is refused."""
BLACK_AND_WHITE = ("pick up the object", (224, 224, 3))


def encode(value: Any) -> str:
    """JSON with arrays as json-numpy writes them: base64 of the bytes, dtype and shape."""
    return json.dumps(value, default=_encode_array)


def _encode_array(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"an array of {array.dtype} cannot be sent; expected numbers")
        content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return {"__numpy__": content, "dtype": array.dtype.str, "shape": list(array.shape)}
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON form")


def decode(text: str | bytes) -> Any:
    """Inverse of `encode`.

    Raises:
        ValueError: if it is no JSON, or an array in it is damaged.
    """
    return json.loads(text, object_hook=_decode_array)


def _decode_array(found: dict[str, Any]) -> Any:
    if "__numpy__" not in found:
        return found
    try:
        dtype, shape = np.dtype(found["dtype"]), tuple(found["shape"])
        if dtype.kind not in "biuf":
            raise ValueError(f"dtype {dtype}")
        content = base64.b64decode(found["__numpy__"], validate=True)
        return np.frombuffer(content, dtype).reshape(shape).copy()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an array of numbers in json-numpy's form: {error}") from error


class ActServer(ThreadingHTTPServer):
    """Answers `POST /act` and `GET /info`, one thread a request.

    Args:
        act: chooses an action.
        info: what `/info` says: model, revision, …
        host: interface to listen on.
        port: 0 takes a free one, see `url`.
        body_timeout_s: longest time for a body to arrive, and for a connection to say nothing.
    """

    daemon_threads = True

    def __init__(
        self,
        act: Act,
        info: Mapping[str, Any],
        host: str = "127.0.0.1",
        port: int = 0,
        body_timeout_s: float = 60.0,
    ) -> None:
        super().__init__((host, port), _Handler)
        self.act, self.info, self.body_timeout_s = act, dict(info), body_timeout_s

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


class _Refusal(Exception):
    """A question that is not answered: a status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ActServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self) -> None:
        """Begin a connection; one that says nothing is closed in the end."""
        self.timeout = self.server.body_timeout_s  # pyright: ignore[reportAttributeAccessIssue]
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a robot asks several times a second."""

    def do_GET(self) -> None:
        if self.path == "/info":
            self._answer(200, self.server.info)
        else:
            self._answer(404, {"error": f"there is no {self.path}; expected /info or /act"})

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path != "/act":
                raise _Refusal(404, f"there is no POST {self.path}; expected /act")
            image, words, key, twice = read_question(body)
            action = self.server.act(image, words, key)
            answer = encode(action)
            self._answer(200, answer if twice else action)
        except _Refusal as refusal:
            self._answer(refusal.status, {"error": str(refusal)})
        except (KeyError, ValueError) as error:
            self._answer(400, {"error": f"{type(error).__name__}: {error}"})
        except Exception as error:
            traceback.print_exc()
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})

    def _body(self) -> bytes:
        """The body of a request, whole."""
        said = self.headers.get("Content-Length")
        if said is None:
            raise _Refusal(411, "there is no Content-Length; send the body's length")
        if not (said.isascii() and said.isdigit()) or len(said) > 18:
            raise _Refusal(400, f"Content-Length is {said[:40]!r}; expected a number of bytes")
        length = int(said)
        if length > MAX_BYTES:
            self._read(min(length, DRAINED_BYTES), keep=False)
            self.close_connection = True
            raise _Refusal(
                413,
                f"the body has {length} bytes; expected at most {MAX_BYTES}: send a smaller image",
            )
        if length == 0:
            raise _Refusal(400, "the body is empty; expected JSON with image and instruction")
        return self._read(length, keep=True)

    def _read(self, length: int, *, keep: bool) -> bytes:
        """Read `length` bytes of the body, within the time for all of it."""
        until = time.monotonic() + self.server.body_timeout_s
        parts, missing = [], length
        while missing:
            try:
                part = self.rfile.read1(min(missing, 2**20))  # pyright: ignore[reportAttributeAccessIssue]
            except TimeoutError:
                part = None
            except ConnectionError:
                part = b""  # whoever asked has gone
            if part is None or time.monotonic() > until:
                self.close_connection = True
                raise _Refusal(
                    408,
                    f"{length - missing} of {length} bytes came within "
                    f"{self.server.body_timeout_s:g} s; send them faster",
                )
            if not part:
                self.close_connection = True
                raise _Refusal(400, f"the body ended after {length - missing} of {length} bytes")
            missing -= len(part)
            if keep:
                parts.append(part)
        return b"".join(parts)

    def _answer(self, status: int, content: Any) -> None:
        body = encode(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # whoever asked has gone


def read_question(body: bytes) -> tuple[np.ndarray, str, str | None, bool]:
    """Image uint8 (H, W, 3), instruction, unnorm_key, and whether the body was encoded twice.

    Raises:
        ValueError: saying which of them is not what is expected.
    """
    try:
        payload = decode(body)
        twice = isinstance(payload, dict) and list(payload) == ["encoded"]
        if twice:  # for clients whose JSON library cannot be taught about arrays
            payload = decode(payload["encoded"])
    except (RecursionError, TypeError) as error:
        raise ValueError(f"the body is nested too deeply or encoded wrongly ({error})") from error
    absent = {"image", "instruction"} - set(payload if isinstance(payload, dict) else ())
    if absent:
        raise ValueError(f"the body lacks {sorted(absent)}; expected image and instruction")
    image, words, key = payload["image"], payload["instruction"], payload.get("unnorm_key")
    try:
        image = np.asarray(image)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"image is no array ({error}); expected uint8 (H, W, 3)") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3), not empty"
        )
    if not isinstance(words, str) or not isinstance(key, str | None):
        raise ValueError(
            f"instruction is {words!r:.80} and unnorm_key {key!r:.80}; expected text, and text or "
            "nothing"
        )
    return image, words, key, twice


def check_images_matter(act: Act, unnorm_key: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ask about a black and a white picture; a model that answers the same does not look.

    Returns:
        Both actions.

    Raises:
        RuntimeError: if they are equal: with transformers of 4.50 or newer OpenVLA is reported to
            ignore its image, and nothing else tells.
    """
    words, shape = BLACK_AND_WHITE
    black, white = (
        np.asarray(act(np.full(shape, value, np.uint8), words, unnorm_key), np.float64)
        for value in (0, 255)
    )
    if np.array_equal(black, white):
        raise RuntimeError(
            f"the model answers {black.tolist()} to a black and to a white picture: it ignores its "
            "image. OpenVLA does so with a transformers that is too new; run it in the environment "
            "that `wm-gym serve-openvla` makes"
        )
    return black, white


def load_openvla(model: str, revision: str, device: str) -> tuple[Act, dict[str, Any]]:
    """OpenVLA from the hub or a folder; runs the model's own code, pinned by the revision.

    Args:
        model: repository or folder.
        revision: commit of the repository.
        device: torch device.

    Returns:
        What acts, and what `/info` says.
    """
    import threading

    import torch
    import transformers
    from PIL import Image

    options = {"revision": revision, "trust_remote_code": True}
    processor = transformers.AutoProcessor.from_pretrained(model, **options)
    vision_to_sequence = transformers.AutoModelForVision2Seq  # pyright: ignore[reportAttributeAccessIssue]  newer ones lack it
    network = vision_to_sequence.from_pretrained(
        model, torch_dtype=torch.bfloat16, low_cpu_mem_usage=True, **options
    ).to(device)
    lock = threading.Lock()  # one accelerator, one picture at a time

    def act(image: np.ndarray, instruction: str, unnorm_key: str | None) -> np.ndarray:
        prompt = PROMPT.format(instruction=instruction.lower())
        with lock:
            inputs = processor(prompt, Image.fromarray(image)).to(device, dtype=torch.bfloat16)
            return network.predict_action(**inputs, unnorm_key=unnorm_key, do_sample=False)

    return act, {
        "model": model,
        "revision": revision,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "unnorm_keys": sorted(network.norm_stats),
    }


def main() -> None:
    """Load OpenVLA, make sure that it looks, serve it until it is stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--unnorm-key", default="bridge_orig")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    act, info = load_openvla(given.model, given.revision, given.device)
    black, white = check_images_matter(act, given.unnorm_key)
    print(f"black {black.tolist()}\nwhite {white.tolist()}", flush=True)
    server = ActServer(act, info, given.host, given.port)
    print(f"{encode(info)}\nserving at {server.url}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
