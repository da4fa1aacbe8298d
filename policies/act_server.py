"""OpenVLA's REST protocol, `POST /act`: its arrays in JSON, a server, and OpenVLA behind it.

This file imports nothing of wm_gym: `wm-gym serve-openvla` runs it in an environment of its own,
where OpenVLA's code finds the old transformers that it needs.

    python act_server.py --model openvla/openvla-7b --revision <commit> --port 8000
"""

from __future__ import annotations

import argparse
import base64
import json
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Act = Callable[[np.ndarray, str, "str | None"], np.ndarray]
"""(image uint8 (H, W, 3), instruction, unnorm_key) -> action (A,)."""

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
MAX_BYTES = 64 * 2**20
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
    """

    daemon_threads = True

    def __init__(
        self, act: Act, info: Mapping[str, Any], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__((host, port), _Handler)
        self.act, self.info = act, dict(info)

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ActServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a robot asks several times a second."""

    def do_GET(self) -> None:
        if self.path == "/info":
            self._answer(200, self.server.info)
        else:
            self._answer(404, {"error": f"there is no {self.path}; expected /info or /act"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/act" or not 0 < length <= MAX_BYTES:
            self._answer(404, {"error": f"POST {self.path} with {length} bytes; expected /act"})
            return
        try:
            payload = decode(self.rfile.read(length))
            twice = isinstance(payload, dict) and list(payload) == ["encoded"]
            if twice:  # for clients whose JSON library cannot be taught about arrays
                payload = decode(payload["encoded"])
            image, words = np.asarray(payload["image"]), str(payload["instruction"])
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
            action = self.server.act(image, words, payload.get("unnorm_key"))
        except (KeyError, TypeError, ValueError) as error:
            self._answer(400, {"error": f"{type(error).__name__}: {error}"})
        except Exception as error:
            traceback.print_exc()
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})
        else:
            self._answer(200, encode(action) if twice else action)

    def _answer(self, status: int, content: Any) -> None:
        body = encode(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
