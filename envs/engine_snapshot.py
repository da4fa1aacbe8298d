"""Snapshots of the engine: arrays and JSON in one npz, nothing pickled."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_gym.errors import UserError

LAYOUT = 1
# what NumPy and zipfile raise for damaged files; NotImplementedError is a wrong method or version
UNREADABLE_SNAPSHOT = (OSError, LookupError, TypeError, ValueError, EOFError, ArithmeticError)
UNREADABLE_SNAPSHOT += (RuntimeError, zipfile.BadZipFile, zlib.error, AttributeError, MemoryError)


@dataclass(frozen=True)
class EngineState:
    """What an engine needs to go on, besides its model.

    Attributes:
        model: identity of the world model, see `model_identity`.
        rollout: what `Rollout.snapshot` returned.
        episodes: one dict of plain values per row.
        generators: states of the rows' bit generators.
        latents: newest latents shown, (B, h, w, D).
        frames: newest frames (B, H, W, 3), or None if nobody has asked for them.
        known: frames that need no decoding, by row.
        clips: what a judge will see, by row and step (see `EpisodeClips`); None without a judge.
    """

    model: dict[str, Any]
    rollout: bytes
    episodes: list[dict[str, Any]]
    generators: list[dict[str, Any]]
    latents: np.ndarray
    frames: np.ndarray | None
    known: dict[int, np.ndarray]
    clips: list[dict[int, np.ndarray]] | None = None


def model_identity(model: Any) -> dict[str, Any]:
    """Which weights, sampled how, a snapshot belongs to."""
    return {
        "name": model.spec.name,
        "weights_sha256": dict(model.spec.weights_sha256),
        "denoising_steps": model.denoising_steps,
    }


def to_bytes(state: EngineState) -> bytes:
    """Serialise."""
    header = {
        "layout": LAYOUT,
        "model": state.model,
        "episodes": state.episodes,
        "generators": state.generators,
        "known": list(state.known),
        "clips": None if state.clips is None else [list(row) for row in state.clips],
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "rollout": np.frombuffer(state.rollout, np.uint8),
        "latents": state.latents,
    }
    if state.frames is not None:
        arrays["frames"] = state.frames
    if state.known:
        arrays["known"] = np.stack(list(state.known.values()))
    if state.clips is not None:
        for row, pictures in enumerate(state.clips):
            arrays |= {f"clip_{row}_{step}": shown for step, shown in pictures.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def from_bytes(content: bytes, model: dict[str, Any], rows: int) -> EngineState:
    """Read a snapshot back.

    Args:
        content: result of `to_bytes`.
        model: identity of the model that shall go on.
        rows: rows of the engine that shall go on.

    Raises:
        ValueError: if the content is damaged, or belongs to another model or number of rows.
    """
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UserError(
            f"a snapshot is bytes, got {content!r} of type {type(content).__name__}; pass what "
            "snapshot() returned, from a file Path(…).read_bytes()"
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays["header"].tobytes())
        layout = header["layout"]
    except UNREADABLE_SNAPSHOT as error:
        raise UserError(
            f"this is not a snapshot of an imagined environment, or it is cut off ({error}); pass "
            "what env.unwrapped.snapshot() returned"
        ) from error
    if layout != LAYOUT:
        raise UserError(f"snapshot has layout {layout}, this wm_gym reads {LAYOUT}; take it anew")
    if not isinstance(header.get("model"), dict) or not {"name", "denoising_steps"} <= set(
        header["model"]
    ):
        raise UserError("the snapshot is damaged: it does not say of which model; take another")
    if header["model"] != model:
        raise UserError(
            f"snapshot is of model {header['model']['name']!r} with "
            f"{header['model']['denoising_steps']} denoising steps, this environment runs "
            f"{model['name']!r} with {model['denoising_steps']}, or with other weights; restore it "
            "in an environment made with the same arguments"
        )
    if missing := {"episodes", "generators", "known"} - set(header):
        raise UserError(f"the snapshot is damaged: {sorted(missing)} missing; take another")
    if len(header["episodes"]) != rows:
        raise UserError(
            f"snapshot has {len(header['episodes'])} rows, this environment has {rows}; restore it "
            "in gym.make (one row) or gym.make_vec (num_envs rows) with as many"
        )
    known = dict(zip(header["known"], arrays.get("known", []), strict=True))
    clips = None
    if (steps_by_row := header.get("clips")) is not None:
        clips = [
            {step: arrays[f"clip_{row}_{step}"] for step in steps}
            for row, steps in enumerate(steps_by_row)
        ]
    if missing := {"rollout", "latents"} - set(arrays):
        raise UserError(f"the snapshot is damaged: {sorted(missing)} missing; take another")
    return EngineState(
        header["model"],
        arrays["rollout"].tobytes(),
        header["episodes"],
        header["generators"],
        arrays["latents"],
        arrays.get("frames"),
        known,
        clips,
    )
