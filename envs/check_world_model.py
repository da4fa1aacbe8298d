"""`check_world_model`: does a world model keep what wm_gym promises of every world model?

What is checked here is what we promise: determinism, independence of rows, exact caches, snapshots,
forks, bounded memory, shapes and finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_gym.dynamics.acceleration import arithmetic_of
from wm_gym.dynamics.dit import DiT
from wm_gym.errors import UserError
from wm_gym.semantic.world_model import SemanticWorldModel

TOLERANCE = 1e-4
SETTLING_ROLLS = 6
"""Rolls of the probe after which what a rollout keeps must have stopped growing."""


class WorldModelCheckError(UserError, AssertionError):
    """A world model that breaks a promise; the message lists every failed check."""


@dataclass(frozen=True)
class Check:
    """One check: what is promised, whether it holds, and the figures behind it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """All checks of one model, printable, with a note where something makes checks fail."""

    model: str
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        lines = [f"{self.model}: {sum(c.passed for c in self.checks)} of {len(self.checks)} hold"]
        lines += [f"  {'ok  ' if c.passed else 'FAIL'} {c.name}: {c.detail}" for c in self.checks]
        return "\n".join([*lines, f"  note: {self.note}"] if self.note else lines)


@dataclass
class _Probe:
    """A model with the frames and actions it is tried on: 3 rows, a few steps more than context."""

    model: Any
    frames: Tensor  # (3, H, W, 3) uint8
    actions: Tensor  # (steps, 3, A)

    seeds = (11, 12, 13)

    @property
    def steps(self) -> int:
        return len(self.actions)

    def begin(self, rows: tuple[int, ...] = (0, 1, 2), **kwargs: Any) -> Any:
        seeds = [self.seeds[row] for row in rows]
        return self.model.begin(self.frames[list(rows)], seeds=seeds, **kwargs)

    def roll(self, rollout: Any, rows: tuple[int, ...] = (0, 1, 2), start: int = 0) -> Tensor:
        """Latents (steps - start, B, h, w, D) of the remaining steps."""
        latents = [rollout.step(action[list(rows)]).clone() for action in self.actions[start:]]
        return torch.stack(latents)


def check_world_model(
    model: Any, *, frames: np.ndarray | None = None, raise_on_failure: bool = True
) -> CheckReport:
    """Check a world model against everything wm_gym promises of one.

    Args:
        model: the model, e.g. from `wm_gym.load_world_model`.
        frames: start frames (3, H, W, 3) uint8 to try it on; noise by default.
        raise_on_failure: raise if a check fails; otherwise look at the report.

    Returns:
        The report; print it.

    Raises:
        TypeError: if it is a semantic world model.
        WorldModelCheckError: listing every failed check with its figures.

    Example:
        >>> import wm_gym
        >>> model = wm_gym.load_world_model("embedded", embedded="langtable-vae-mini")
        >>> print(wm_gym.check_world_model(model))
    """
    if isinstance(model, SemanticWorldModel):
        raise TypeError(
            f"{model.spec.name} is a semantic world model, and what is checked here are latent "
            "ones; measure it with `wm-gym evaluate semantic`"
        )
    probe = _make_probe(model, frames)
    checks = tuple(_run(name, check, probe) for name, check in CHECKS.items())
    report = CheckReport(model.spec.name, checks, _note(model))
    if raise_on_failure and not report.passed:
        raise WorldModelCheckError(f"world model breaks promises\n{report}")
    return report


def _note(model: Any) -> str:
    network = getattr(model, "network", None)
    arithmetic = arithmetic_of(network) if isinstance(network, DiT) else "float32"
    if arithmetic == "float32":
        return ""
    return (
        f"the network computes in {arithmetic}, which rounds to 8 bits: batches, caches and copies "
        f"agree to a few percent there, not to {TOLERANCE:g}. What is promised is promised in "
        "float32; check the model with dtype='float32'"
    )


def _make_probe(model: Any, frames: np.ndarray | None) -> _Probe:
    spec, rng = model.spec, np.random.default_rng(0)
    shape = (3, spec.frame.height, spec.frame.width, 3)
    if frames is None:
        frames = rng.integers(0, 256, shape, np.uint8)
    if frames.shape != shape or frames.dtype != np.uint8:
        raise UserError(f"frames are {frames.dtype} {frames.shape}, expected uint8 {shape}")
    steps = spec.context.length + 3  # far enough for the context to slide
    low, high = np.float32(spec.action.low), np.float32(spec.action.high)
    actions = rng.uniform(low, high, (steps, 3, spec.action.size)).astype(np.float32)
    return _Probe(model, torch.from_numpy(frames), torch.from_numpy(actions))


def _run(name: str, check: Callable[[_Probe], tuple[bool, str]], probe: _Probe) -> Check:
    try:
        passed, detail = check(probe)
    except Exception as error:  # a check that crashes is a failed check, and the report says why
        passed, detail = False, f"{type(error).__name__}: {error}"
    return Check(name, bool(passed), detail)


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _spaces(probe: _Probe) -> tuple[bool, str]:
    spec, rollout = probe.model.spec, probe.begin()
    latents = rollout.step(probe.actions[0])
    frames = rollout.frames()
    expected = (3, *spec.latent.grid, spec.latent.channels)
    good = tuple(latents.shape) == expected and latents.dtype == torch.float32
    good &= tuple(frames.shape) == tuple(probe.frames.shape) and frames.dtype == torch.uint8
    good &= spec.action.space().contains(probe.actions[0, 0].numpy())
    return good, (
        f"latents {tuple(latents.shape)} {latents.dtype}, frames {tuple(frames.shape)} "
        f"{frames.dtype}; the card says {expected} and {tuple(probe.frames.shape)}"
    )


def _finite(probe: _Probe) -> tuple[bool, str]:
    latents = probe.roll(probe.begin())
    bad = (~torch.isfinite(latents)).sum().item()
    return bad == 0, f"{bad} NaN or infinite values in {probe.steps} steps of 3 rows"


def _deterministic(probe: _Probe) -> tuple[bool, str]:
    difference = _difference(probe.roll(probe.begin()), probe.roll(probe.begin()))
    return difference == 0, f"same seeds and actions differ by {difference:g}, expected 0"


def _rows_independent(probe: _Probe) -> tuple[bool, str]:
    together = probe.roll(probe.begin())
    alone = probe.roll(probe.begin((1,)), (1,))[:, 0]
    rollout = probe.begin()
    half = probe.steps // 2
    parts = []
    for step, action in enumerate(probe.actions):
        if step == half:
            rollout.restart([0], probe.frames[[2]], seeds=[99])
        parts.append(rollout.step(action).clone())
    size = _difference(together[:, 1], alone)
    neighbour = _difference(together[:, 1:], torch.stack(parts)[:, 1:])
    return max(size, neighbour) <= TOLERANCE, (
        f"a row alone differs by {size:.2g}, beside a neighbour that restarts by {neighbour:.2g}; "
        f"at most {TOLERANCE:g}"
    )


def _cache_exact(probe: _Probe) -> tuple[bool, str]:
    reference = probe.roll(probe.begin(cache="off"))
    modes = ["exact", "auto"]
    if probe.model.spec.context.kind == "banded":
        modes.append("rolling")
    found = {m: _difference(reference, probe.roll(probe.begin(cache=m))) for m in modes}
    text = ", ".join(f"{mode} {difference:.2g}" for mode, difference in found.items())
    return max(found.values()) <= TOLERANCE, f"against off: {text}; at most {TOLERANCE:g}"


def _snapshot(probe: _Probe) -> tuple[bool, str]:
    half = probe.steps // 2
    rollout = probe.begin()
    for action in probe.actions[:half]:
        rollout.step(action)
    content = rollout.snapshot()
    expected = probe.roll(rollout, start=half)
    resumed = type(rollout).restore(probe.model, content)
    difference = _difference(expected, probe.roll(resumed, start=half))
    return difference == 0, f"the continuation differs by {difference:g}, expected 0"


def _fork(probe: _Probe) -> tuple[bool, str]:
    half = probe.steps // 2
    rollout = probe.begin()
    for action in probe.actions[:half]:
        rollout.step(action)
    branch = rollout.fork([1, 1])
    expected = probe.roll(rollout, start=half)[:, [1, 1]]
    difference = _difference(expected, probe.roll(branch, (1, 1), start=half))
    return difference <= TOLERANCE, f"two copies of a row differ by {difference:.2g} from it"


def _chunks(probe: _Probe) -> tuple[bool, str]:
    single = probe.roll(probe.begin()).transpose(0, 1)
    chunk = probe.begin().step(probe.actions.transpose(0, 1))
    difference = _difference(single, chunk)
    return difference <= TOLERANCE, f"a chunk differs from its steps by {difference:.2g}"


def _bounded(probe: _Probe) -> tuple[bool, str]:
    rollout, sizes = probe.begin(), []
    slack = 64  # step counters grow by a digit
    for _ in range(SETTLING_ROLLS):  # what a banded model can see reaches back several contexts
        probe.roll(rollout)
        sizes.append(len(rollout.snapshot()))
        if len(sizes) > 1 and sizes[-1] <= sizes[-2] + slack:
            return True, f"{sizes[-1]} bytes, the same after {probe.steps} more steps"
    return False, f"every {probe.steps} steps it grows: {', '.join(map(str, sizes))} bytes"


def _refuses(probe: _Probe) -> tuple[bool, str]:
    rollout = probe.begin()
    size = probe.actions.shape[-1]
    wrong = {"a wrong action shape": torch.zeros(3, size + 1)}
    accepted = []
    for name, action in wrong.items():
        try:
            rollout.step(action)
            accepted.append(name)
        except ValueError:
            pass
    unharmed = _difference(probe.roll(rollout), probe.roll(probe.begin()))
    return not accepted and unharmed == 0, (
        f"accepted: {', '.join(accepted) or 'nothing wrong'}; afterwards off by {unharmed:g}"
    )


def _encoder(probe: _Probe) -> tuple[bool, str]:
    latents = probe.model.encode(probe.frames)
    frames = probe.model.decode(latents)
    good = frames.shape == probe.frames.shape and frames.dtype == torch.uint8
    return good and bool(torch.isfinite(latents).all()), (
        f"frames {tuple(probe.frames.shape)} -> latents {tuple(latents.shape)} -> "
        f"{tuple(frames.shape)} {frames.dtype}"
    )


CHECKS: dict[str, Callable[[_Probe], tuple[bool, str]]] = {
    "shapes and types follow the card": _spaces,
    "encoder and decoder fit": _encoder,
    "latents stay finite": _finite,
    "deterministic": _deterministic,
    "rows are independent": _rows_independent,
    "caches are exact": _cache_exact,
    "snapshot and restore": _snapshot,
    "fork": _fork,
    "chunks equal single steps": _chunks,
    "memory is bounded": _bounded,
    "wrong actions are refused": _refuses,
}
"""Promise -> check; every world model is held to all of them."""
