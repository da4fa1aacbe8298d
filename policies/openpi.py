"""A policy behind openpi's websocket protocol: msgpack messages with arrays, one chunk an answer.

openpi-client itself asks for NumPy below 2, so the protocol is spoken here: after a connection the
server tells its metadata; then each binary message is a question, a dict, and is answered by a
dict with `actions` (n, A), or by text if something went wrong.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wm_gym.addresses import is_address
from wm_gym.errors import UserError
from wm_gym.policies.act_client import PolicyServerError, PolicyServerWarning
from wm_gym.policies.base import Observation, Policy, PolicyError, policy_identity
from wm_gym.policies.chunks import Chunks, join_chunks
from wm_gym.spec import ActionSpec, FrameSpec

if TYPE_CHECKING:
    import torch
    from websockets.sync.client import ClientConnection


def pack(message: Any) -> bytes:
    """A message with arrays of numbers as openpi writes it."""
    msgpack, _ = _packages()
    return msgpack.packb(message, default=_pack_array)


def unpack(content: bytes) -> Any:
    """Inverse of `pack`.

    Raises:
        ValueError: if it is no such message.
    """
    msgpack, _ = _packages()
    return msgpack.unpackb(content, object_hook=_unpack_array)


def _pack_array(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in "biuf":
        raise TypeError(f"{value!r} of type {type(value).__name__} cannot be sent")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    content, shape = np.ascontiguousarray(value).tobytes(), list(value.shape)
    return {b"__ndarray__": True, b"data": content, b"dtype": value.dtype.str, b"shape": shape}


def _unpack_array(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in found and b"__npgeneric__" not in found:
        return found
    try:
        dtype, content = np.dtype(found[b"dtype"]), found[b"data"]
        if dtype.kind not in "biuf":
            raise UserError(f"dtype {dtype}")
        if b"__npgeneric__" in found:
            return dtype.type(content)
        return np.frombuffer(content, dtype).reshape(found[b"shape"]).copy()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not an array of numbers in openpi's form: {error}") from error


def _packages() -> tuple[Any, Any]:
    try:
        import msgpack
        from websockets.sync import client
    except ImportError as error:
        raise PolicyError(
            f"openpi's protocol needs {error.name}: pip install 'wm_gym[openpi]'"
        ) from error
    return msgpack, client


@dataclass(frozen=True)
class OpenPiConfig:
    """Where an openpi server is, and what its policy calls things.

    Attributes:
        url: address, ws://host:port.
        image_keys: names under which the frame is sent.
        prompt_key: name of the instruction.
        constants: what else the policy wants and no picture tells, e.g. the robot's state.
        execute: how many actions of a chunk are carried out; None for all.
        timeout_s: longest wait for one answer.
        patience_s: for how long a server that is away is waited for.
    """

    url: str
    image_keys: tuple[str, ...] = ("observation/image",)
    prompt_key: str = "prompt"
    constants: dict[str, list[float]] = field(default_factory=dict)
    execute: int | None = None
    timeout_s: float = 60.0
    patience_s: float = 300.0

    def __post_init__(self) -> None:
        """Check the address and the numbers."""
        if not is_address(self.url, ("ws", "wss")):
            raise PolicyError(f"url={self.url!r}; expected such as 'ws://127.0.0.1:8000'")
        times = (self.timeout_s, self.patience_s)
        if not all(number > 0 for number in times) or not self.image_keys:
            raise PolicyError(
                f"time limits {self.timeout_s}, {self.patience_s} and image_keys "
                f"{self.image_keys}; expected numbers above 0 and at least one key"
            )
        if self.execute is not None and self.execute < 1:
            raise PolicyError(f"execute={self.execute}; expected at least 1, or None for all")


class OpenPiPolicy(Policy):
    """Asks an openpi server for chunks, row by row over one connection.

    Args:
        action_spec: what the server's actions are; it does not tell.
        frame_spec: frames it expects, None if any will do.
        config: where it is and what it calls things.
    """

    kind: ClassVar[str] = "openpi"

    def __init__(
        self, action_spec: ActionSpec, frame_spec: FrameSpec | None = None, *, config: OpenPiConfig
    ) -> None:
        super().__init__(action_spec, frame_spec)
        self.settings = config
        self.metadata: dict[str, Any] = {}
        self._connection: ClientConnection | None = None
        self._understood = False  # whether the server has ever given what the action_spec says
        self._open = contextlib.ExitStack()
        self._lock = threading.Lock()

    def act(self, observation: Observation) -> Chunks:
        """A chunk of every row, (B, n, A); one of another shape is that row's fault.

        Raises:
            PolicyServerError: if the server stays away, fails, answers without actions, or its
                first chunks are none of `action_spec`.
        """
        with self._lock:
            chunks = [
                self._ask(frame, words)
                for frame, words in zip(observation.frames, observation.instructions, strict=True)
            ]
        if not self._understood and all(
            chunk.shape[1:] != (self.action_spec.size,) for chunk in chunks
        ):
            raise PolicyServerError(
                f"{self.settings.url} gave a chunk of shape {chunks[0].shape}, expected (n, "
                f"{self.action_spec.size}): {self.action_spec.names}"
            )
        self._understood = True
        return join_chunks(chunks)

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        self._connection = None
        with contextlib.suppress(OSError):
            self._open.close()

    def _ask(self, frame: np.ndarray, words: str) -> np.ndarray:
        settings = self.settings
        question: dict[str, Any] = dict.fromkeys(settings.image_keys, frame)
        question |= {name: np.asarray(v, np.float32) for name, v in settings.constants.items()}
        answer = self._exchange(pack(question | {settings.prompt_key: words}))
        if isinstance(answer, str):
            raise PolicyServerError(f"{settings.url} failed: {answer[-500:]}")
        try:
            chunk = np.asarray(unpack(answer)["actions"], np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyServerError(f"{settings.url} gave no actions: {error!r}") from error
        return chunk[: settings.execute] if chunk.ndim else chunk

    def _exchange(self, question: bytes) -> str | bytes:
        from websockets.exceptions import WebSocketException

        settings = self.settings
        pause, until = 0.5, time.monotonic() + settings.patience_s
        while True:
            asked_at = None
            try:
                if self._connection is None:
                    self._connect()
                assert self._connection is not None
                asked_at = time.monotonic()
                self._connection.send(question)
                return self._connection.recv(settings.timeout_s)
            except (OSError, WebSocketException, ValueError) as error:
                self.close()
                fault, late = f"{type(error).__name__}: {error}", isinstance(error, TimeoutError)
                if asked_at is not None and late:
                    fault = f"no answer within timeout_s={settings.timeout_s:g}"
                if time.monotonic() + pause > until:
                    remedy = "raise timeout_s" if asked_at and late else "start the server"
                    raise PolicyServerError(
                        f"{settings.url} gave no answer for {settings.patience_s:g} s ({fault}); "
                        f"{remedy} and run the same command again"
                    ) from error
                if asked_at is not None:
                    warnings.warn(
                        f"{settings.url} lost a question after {time.monotonic() - asked_at:.1f} s "
                        f"({fault}); it is asked again",
                        PolicyServerWarning,
                        stacklevel=2,
                    )
            except BaseException:  # Ctrl-C: the answer under way is not that of the next question
                self.close()
                raise
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _connect(self) -> None:
        _, client = _packages()
        settings = self.settings
        self._open = contextlib.ExitStack()  # open from one question to the next
        self._connection = self._open.enter_context(
            client.connect(
                settings.url,
                open_timeout=settings.timeout_s,
                ping_interval=None,  # a server that thinks for a minute answers no pings
                compression=None,
                max_size=None,
            )
        )
        assert self._connection is not None
        hello = self._connection.recv(settings.timeout_s)
        self.metadata = unpack(hello) if isinstance(hello, bytes) else {}

    def config(self) -> dict[str, Any]:
        """Where the server is and what it calls things."""
        return asdict(self.settings)

    def identity(self) -> dict[str, Any]:
        """See `Policy.identity`; how patiently the server is asked does not count."""
        free = ("timeout_s", "patience_s")
        return policy_identity(self, {k: v for k, v in self.config().items() if k not in free})

    @classmethod
    def from_saved(
        cls,
        action_spec: ActionSpec,
        frame_spec: FrameSpec | None,
        config: dict[str, Any],
        weights: dict[str, torch.Tensor],
    ) -> OpenPiPolicy:
        """Builds the policy; nothing is asked yet."""
        del weights
        given = {**config, "image_keys": tuple(config["image_keys"])}
        return cls(action_spec, frame_spec, config=OpenPiConfig(**given))
