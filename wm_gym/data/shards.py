"""Writing of episode datasets: shards that appear whole or never, and Minari's index."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from wm_gym.checkpoints import write_atomically
from wm_gym.data.episodes import Episode, EpisodeEntry, EpisodeError, ImageFormat
from wm_gym.instructions import as_text

if TYPE_CHECKING:
    import gymnasium
    import h5py

MINARI_VERSION = "0.5.4"
JPEG_QUALITY = 95
_MAX_ATTRIBUTE_BYTES = 60_000  # HDF5 keeps attributes up to 64 KiB in an object's header


def write_shard(
    path: Path, episodes: Sequence[Episode], first_id: int, image_format: ImageFormat = "exact"
) -> None:
    """Write episodes `first_id`, `first_id + 1`, … into one file that appears whole or not at all.

    Args:
        path: the shard's file.
        episodes: the episodes, in order.
        first_id: number of the first one in the dataset.
        image_format: "exact" keeps every bit, "jpeg" is about ten times smaller.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with h5py.File(name, "w", libver=("earliest", "v110")) as file:
            for number, episode in enumerate(episodes, start=first_id):
                _write_episode(
                    file.create_group(f"episode_{number}"), number, episode, image_format
                )
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write_episode(
    group: h5py.Group, number: int, episode: Episode, image_format: ImageFormat
) -> None:
    import h5py

    state = json.dumps(state_to_json(episode.start_state))
    if len(state) > _MAX_ATTRIBUTE_BYTES:
        raise EpisodeError(
            f"start_state of episode {number} takes {len(state)} bytes as JSON, expected at most "
            f"{_MAX_ATTRIBUTE_BYTES}; keep only what set_state needs"
        )
    group.attrs.update(
        {
            "id": number,
            "seed": episode.seed,
            "total_steps": len(episode),
            "instruction": episode.instruction,
            "task": episode.goal.task,
            "objects": json.dumps(episode.goal.objects),
            "behaviour": episode.behaviour,
            "start_state": state,
        }
    )
    if image_format == "jpeg":
        encoded = [encode_jpeg(frame) for frame in episode.frames]
        images = group.create_dataset("observations", (len(encoded),), h5py.vlen_dtype(np.uint8))
        for i, code in enumerate(encoded):
            images[i] = code
    else:
        group.create_dataset("observations", data=np.ascontiguousarray(episode.frames))
    group.create_dataset("actions", data=np.asarray(episode.actions, np.float32))
    group.create_dataset("rewards", data=np.asarray(episode.success[1:], np.float32))
    group.create_dataset("terminations", data=np.zeros(len(episode), bool))
    group.create_dataset("truncations", data=np.arange(1, len(episode) + 1) == len(episode))
    infos = group.create_group("infos")
    infos.create_dataset("privileged", data=np.asarray(episode.privileged, np.float64))
    infos.create_dataset("success", data=np.asarray(episode.success, bool))


def encode_jpeg(frame: np.ndarray) -> np.ndarray:
    """JPEG bytes (n,) uint8 of one frame, at full colour resolution."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def write_index(
    folder: Path,
    *,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    image_format: ImageFormat,
    env_spec: str | None = None,
    description: str = "",
) -> None:
    """Make the shards under a folder one Minari dataset: write its links, then its metadata.

    Args:
        folder: folder that holds `shards/`.
        observation_space: space of one frame.
        action_space: space of one action.
        image_format: how the shards store images.
        env_spec: JSON of the Gymnasium spec of the environment, if it has one.
        description: sentence kept in the metadata.

    Raises:
        EpisodeError: if episodes are missing between the first and the last.
    """
    import h5py
    from minari.serialization import serialize_space

    shards = sorted((folder / "shards").glob("*.hdf5"))
    entries: dict[int, EpisodeEntry] = {}
    for shard in shards:
        entries.update(_read_entries(shard))
    missing = sorted(set(range(len(entries))) - set(entries))
    if missing:
        raise EpisodeError(
            f"{folder} lacks episodes {missing[:5]}…, expected 0 to {max(entries)}; collect again "
            "into it"
        )
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        for number, entry in sorted(entries.items()):
            file[f"episode_{number}"] = h5py.ExternalLink(f"shards/{entry.shard}", entry.group)
    write_atomically(folder / "main_data.hdf5", buffer.getvalue())
    sizes = {shard.name: shard.stat().st_size for shard in shards}
    index = {"shards": sizes, "episodes": [asdict(entries[i]) for i in range(len(entries))]}
    write_atomically(folder / "index.json", json.dumps(index).encode())
    metadata: dict[str, Any] = {
        "total_episodes": len(entries),
        "total_steps": sum(entry.shape[0] - 1 for entry in entries.values()),
        "data_format": "hdf5",
        "jpeg_encoding": image_format == "jpeg",
        "observation_space": serialize_space(observation_space),
        "action_space": serialize_space(action_space),
        "dataset_id": f"wm_gym/{_identifier(folder)}-v0",
        "minari_version": MINARI_VERSION,
        "dataset_size": round(sum(sizes.values()) / 1e6, 1),
        "description": description,
    }
    if env_spec is not None:
        metadata["env_spec"] = env_spec
    write_atomically(folder / "metadata.json", json.dumps(metadata).encode())


def _read_entries(shard: Path) -> dict[int, EpisodeEntry]:
    import h5py

    entries = {}
    with h5py.File(shard, "r") as file:
        for name, group in file.items():
            facts, images = dict(group.attrs), group["observations"]
            entries[int(facts["id"])] = EpisodeEntry(
                shard=shard.name,
                group=name,
                offset=images.id.get_offset() if images.dtype == np.uint8 else None,
                shape=images.shape,
                seed=int(facts["seed"]),
                behaviour=facts["behaviour"],
                instruction=as_text(facts["instruction"]),
                task=facts["task"],
                objects=tuple(json.loads(facts["objects"])),
            )
    return entries


def _identifier(folder: Path) -> str:
    kept = (c if c.isalnum() or c in "-_" else "-" for c in folder.resolve().name)
    return "".join(kept).strip("-") or "episodes"


def state_to_json(value: Any) -> Any:
    """A start state as JSON-ready values; arrays keep type, shape and every bit."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype), "shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: state_to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [state_to_json(item) for item in value]
    return value
