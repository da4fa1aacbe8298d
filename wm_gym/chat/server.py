"""A chat model behind an OpenAI-compatible server: vLLM, `transformers serve`, or a hosted one.

The `openai` package speaks the protocol: it tries again after 408, 409, 429, 5xx, lost connections
and timeouts, with growing pauses or those that the server asks for. Added here are many requests at
once, images, answers that are cut off or unreadable, and refusals.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from wm_gym.addresses import is_address
from wm_gym.chat.requests import PROGRESS_FROM, ChatError, ChatReply, ChatRequest, OnReply
from wm_gym.errors import UserError

LONGEST_PAUSE_S = 8.0
JITTER = random.Random()
"""Spreads repeated questions in time; a generator of its own, so that nobody else's advances."""


@dataclass(frozen=True)
class ChatServerConfig:
    """Where a server is and how it is asked."""

    base_url: str
    """Address up to the version, e.g. http://localhost:8000/v1."""
    model: str
    """Name under which the server knows the model."""
    revision: str = ""
    """Revision of the model, for the record; a server does not tell."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; a server without keys needs none."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout_s: float = 120.0
    """Longest wait for a sign of life, in seconds."""
    retries: int = 5
    """How often a request is tried again."""

    def __post_init__(self) -> None:
        """Check address and numbers."""
        if not is_address(self.base_url, ("http", "https")):
            raise UserError(
                f"base_url={self.base_url!r}; expected an address such as http://localhost:8000/v1"
            )
        if self.concurrency < 1 or not 0 < self.timeout_s < math.inf or self.retries < 0:
            raise UserError(
                f"concurrency={self.concurrency}, timeout_s={self.timeout_s}, "
                f"retries={self.retries}; expected at least 1, more than 0, and 0 or more"
            )


class _NoAnswer(Exception):
    """One request that has no answer; its text says why."""


class ChatServer:
    """A `ChatModel` behind HTTP.

    Args:
        config: where and how.

    Raises:
        ChatError: if the `openai` package is not installed.
    """

    def __init__(self, config: ChatServerConfig) -> None:
        try:
            import openai
        except ImportError as error:
            raise ChatError(
                "asking a server needs the openai package; `pip install 'wm_gym[api]'`"
            ) from error
        self.config = config
        self.model, self.revision = config.model, config.revision
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.key_variable) or "none",
            timeout=config.timeout_s,
            max_retries=config.retries,
        )

    def ask(
        self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None
    ) -> list[ChatReply]:
        """Ask `concurrency` requests at a time, see `ChatModel.ask`.

        `on_reply` is called from one thread at a time.
        """
        told = threading.Lock()
        hidden = len(requests) < PROGRESS_FROM
        shown = tqdm(total=len(requests), desc="asking", unit="clip", disable=hidden)

        def answer(number: int, request: ChatRequest) -> ChatReply:
            reply = self._reply(request)
            with told:
                shown.update()
                if on_reply is not None:
                    on_reply(number, reply)
            return reply

        with shown, ThreadPoolExecutor(self.config.concurrency) as pool:
            waiting: list[Future[ChatReply]] = [
                pool.submit(answer, number, request) for number, request in enumerate(requests)
            ]
            try:
                wait(waiting, return_when=FIRST_EXCEPTION)
            finally:  # what has not begun when all is lost, or after Ctrl-C, is left alone
                for future in waiting:
                    future.cancel()
            for future in waiting:
                if not future.cancelled() and (error := future.exception()) is not None:
                    raise error
        return [future.result() for future in waiting]

    def _reply(self, request: ChatRequest) -> ChatReply:
        began = time.monotonic()
        messages = [{"role": "user", "content": [_content(part) for part in request.parts]}]
        try:
            texts = tuple(self._sample(request, messages, i) for i in range(request.samples))
        except _NoAnswer as error:
            return ChatReply((), time.monotonic() - began, str(error))
        return ChatReply(texts, time.monotonic() - began)

    def _sample(self, request: ChatRequest, messages: list[dict[str, Any]], sample: int) -> str:
        """One answer, asked again while what comes back is unreadable."""
        config, errors = self.config, self._errors
        for attempt in range(config.retries + 1):
            if attempt:
                pause = min(LONGEST_PAUSE_S, 0.5 * 2 ** (attempt - 1))
                time.sleep(pause * JITTER.uniform(0.75, 1.0))
            try:
                completion = self._client.chat.completions.create(
                    model=config.model,
                    messages=messages,  # pyright: ignore[reportArgumentType]
                    temperature=request.temperature,
                    max_tokens=request.max_tokens,
                    seed=request.seed + sample,
                )
                return _text(completion, request)
            except (ValueError, RecursionError, errors.APIResponseValidationError):
                continue  # no JSON, no UTF-8, a number of thousands of digits
            except errors.APITimeoutError as error:
                raise _NoAnswer(
                    f"no answer within {config.timeout_s:g} s, {config.retries + 1} times"
                ) from error
            except errors.APIConnectionError as error:
                raise ChatError(
                    f"{config.base_url} cannot be reached ({error.__cause__ or error}); start the "
                    "server, then run this again: answers that came are stored"
                ) from error
            except (
                errors.AuthenticationError,
                errors.PermissionDeniedError,
                errors.NotFoundError,
            ) as error:
                raise ChatError(
                    f"{config.base_url} refuses model {config.model!r}: {error.message}; check "
                    f"the address, the model's name and the key in {config.key_variable}"
                ) from error
            except errors.APIStatusError as error:
                raise _NoAnswer(f"HTTP {error.status_code}: {error.message}") from error
        raise _NoAnswer(f"unreadable answer, {config.retries + 1} times")


def _content(part: str | np.ndarray) -> dict[str, Any]:
    """A part of a message; images travel as PNG inside the text."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    buffer = io.BytesIO()
    Image.fromarray(part).save(buffer, "PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{code}"}}


def _text(completion: Any, request: ChatRequest) -> str:
    """The answer in a completion.

    Raises:
        _NoAnswer: if the model refused, or was cut off before it said anything.
        json.JSONDecodeError: if the content is no completion.
    """
    try:
        message, finished = completion.choices[0].message, completion.choices[0].finish_reason
        content, refusal = message.content, message.refusal
        if not isinstance(content, str | None):
            raise TypeError(f"content has type {type(content).__name__}")
    except (AttributeError, LookupError, TypeError) as error:
        fault = f"no completion: {error}"
        raise json.JSONDecodeError(fault, str(completion)[:80], 0) from error
    if refusal or finished == "content_filter":
        raise _NoAnswer(f"refused: {refusal or 'content filter'}")
    if not (content or "").strip():
        cut_off = f" within max_tokens={request.max_tokens}" if finished == "length" else ""
        raise _NoAnswer(f"the model said nothing{cut_off}")
    return (content or "").encode(errors="replace").decode()  # lone surrogates have no UTF-8
