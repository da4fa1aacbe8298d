"""A client of `POST /act` that is patient: time limits, retries with growing pauses."""

from __future__ import annotations

import math
import ssl
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import numpy as np

from wm_gym.addresses import is_address
from wm_gym.errors import UserError
from wm_gym.policies.act_server import decode, encode
from wm_gym.policies.base import PolicyError

PASSING = (408, 425, 429, 500, 502, 503, 504, 507, 529)
"""Statuses after which the same question may be answered later; all others refuse it."""


class PolicyServerError(PolicyError):
    """A policy server that does not answer, or not with an action."""


class PolicyServerWarning(UserWarning):
    """A question that a policy server may have begun with is asked again."""


@dataclass(frozen=True)
class ActClient:
    """Asks a policy server for actions.

    Attributes:
        url: its address, without `/act`.
        unnorm_key: of the statistics that actions are scaled by; None leaves it to the server.
        timeout_s: longest wait for one answer.
        patience_s: for how long a failing question is asked again, in all; a server that is
            started again within it goes on where it was, as it remembers nothing.
        first_pause_s: before the second attempt; every further pause is twice as long, up to 30 s.
        concurrency: questions under way at once.
    """

    url: str
    unnorm_key: str | None = "bridge_orig"
    timeout_s: float = 60.0
    patience_s: float = 300.0
    first_pause_s: float = 0.5
    concurrency: int = 4

    def __post_init__(self) -> None:
        """Check the address and the numbers."""
        if not is_address(self.url, ("http", "https")) or self.url.endswith("/"):
            raise PolicyError(f"url={self.url!r}; expected such as 'http://127.0.0.1:8000'")
        numbers = (self.timeout_s, self.patience_s, self.first_pause_s, self.concurrency)
        if not all(number > 0 for number in numbers) or self.timeout_s == math.inf:
            raise PolicyError(
                f"time limits and concurrency are {numbers}; expected more than 0, and an end to "
                "timeout_s"
            )

    def act(self, image: np.ndarray, instruction: str, unnorm_key: str | None = None) -> np.ndarray:
        """One action for one picture, uint8 (H, W, 3); of whatever shape, (A,) if all is well.

        Raises:
            PolicyServerError: if there is none after all attempts, or the question is refused.
        """
        question: dict[str, Any] = {"image": image, "instruction": instruction}
        key = unnorm_key or self.unnorm_key
        if key is not None:
            question["unnorm_key"] = key
        body = encode(question).encode()
        pause, until = self.first_pause_s, time.monotonic() + self.patience_s
        told = False
        while True:
            try:
                return self._ask(body)
            except urllib.error.HTTPError as error:
                fault = f"status {error.code}: {_said(error)}"
                if error.code not in PASSING:
                    raise PolicyServerError(f"{self.url}/act refused: {fault}") from error
                cause: Exception = error
            except urllib.error.URLError as error:
                fault, cause = f"{type(error).__name__}: {error}", error
                if isinstance(error.reason, ssl.SSLCertVerificationError):
                    raise PolicyServerError(f"{self.url}/act refused: {fault}") from error
            except (OSError, HTTPException, ValueError, RecursionError) as error:
                fault, cause = f"{type(error).__name__}: {error}", error
            if time.monotonic() + pause > until:
                raise PolicyServerError(
                    f"{self.url}/act gave no action for {self.patience_s:g} s ({fault}); start the "
                    "server (`wm-gym serve-openvla`) and run the same command again: finished "
                    "episodes are kept where `results` names a file"
                ) from cause
            if not told:
                warnings.warn(
                    f"{self.url}/act: {fault}; the question is asked again for up to "
                    f"patience_s={self.patience_s:g}",
                    PolicyServerWarning,
                    stacklevel=2,
                )
                told = True
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def act_all(self, images: np.ndarray, instructions: Sequence[str]) -> list[np.ndarray]:
        """An action for each of the pictures (B, H, W, 3), asked for side by side.

        Raises:
            PolicyServerError: as `act`.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self.act, images, instructions))

    def info(self) -> dict[str, Any]:
        """What our server says of itself: model, revision, …; OpenVLA's own server has none.

        Raises:
            PolicyServerError: if there is no answer.
        """
        try:
            with urllib.request.urlopen(f"{self.url}/info", timeout=self.timeout_s) as answer:
                return decode(answer.read())
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise PolicyServerError(f"{self.url}/info gave no answer: {error}") from error

    def _ask(self, body: bytes) -> np.ndarray:
        request = urllib.request.Request(
            f"{self.url}/act", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            found = decode(answer.read())
        if isinstance(found, str):  # OpenVLA's own server answers "error" with status 200
            raise UserError(f"the server answers {found[:200]!r}; its log says why")
        try:
            return np.asarray(found, np.float64)
        except (TypeError, OverflowError) as error:
            raise UserError(f"the server answers {found!r:.200}, expected an action") from error


def _said(error: urllib.error.HTTPError) -> str:
    """What a server says beside its status; it may have died over it."""
    try:
        return error.read()[:500].decode(errors="replace")
    except (OSError, HTTPException) as lost:
        return f"the rest of the answer was lost ({lost})"
