"""Reader of RLDS episodes as TensorFlow Datasets stores them, without TensorFlow.

```
<dataset>/<version>/features.json                         names, shapes and encodings of everything
                    dataset_info.json
                    <name>-train.tfrecord-00000-of-00064  one record per episode
```

A record is a `tf.train.Example`; every feature of `steps` is one list over all steps of the
episode. A step holds what was observed and the action taken then, so an episode of N steps has N
states and N - 1 actions, as in other recordings. The folder to open is that of a version.
"""

from __future__ import annotations

import io
import json
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_gym.data.episodes import EpisodeError
from wm_gym.data.video_episodes import VideoEpisodes, choose_cameras

HEADER = struct.Struct("<QI")  # length of the record and a checksum of these eight bytes
KEPT_RECORDS = 4
INSTRUCTIONS = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "episode_metadata/language_instruction",
)


@dataclass(frozen=True)
class _Feature:
    """One leaf of features.json.

    Attributes:
        kind: "image", "text" or "tensor".
        shape: of one step's value.
        dtype: NumPy name of a tensor's type.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str = ""


def import_tfrecord() -> tuple[Any, Any]:
    """The message class of a record and the checksum function.

    Raises:
        EpisodeError: if the package is not installed.
    """
    try:
        from crc32c import crc32c
        from tfrecord import example_pb2
    except ImportError as error:
        raise EpisodeError(
            "reading RLDS needs the package tfrecord, which is not installed; "
            "`pip install 'wm_gym[rlds]'`"
        ) from error
    return example_pb2.Example, crc32c  # pyright: ignore[reportAttributeAccessIssue]


class RLDSDataset(VideoEpisodes):
    """The episodes of one split, in the order of the files, read on demand.

    Success of a state is a reward of 1 for the step that led to it, as RLDS data sets of successes
    store it; other rewards count as none.

    Args:
        folder: folder that holds `features.json`.
        cameras: image features, by full name (`steps/observation/image_0`) or by what follows the
            last slash; several are put side by side. A camera that is alone need not be named.
        split: which split.
        fps: steps per second; RLDS does not store it, 0 says that it is not known.

    Raises:
        EpisodeError: if the folder is incomplete or damaged, or lacks camera or action.
    """

    def __init__(
        self,
        folder: str | Path,
        cameras: str | Sequence[str] | None = None,
        split: str = "train",
        fps: float = 0.0,
    ) -> None:
        super().__init__()
        self._message, self._checksum = import_tfrecord()
        self.folder, self.fps = Path(folder).expanduser(), float(fps)
        self._features = _read_features(self.folder / "features.json")
        images = [name for name, found in self._features.items() if found.kind == "image"]
        short = [name.replace("/", ".") for name in images]  # as other readers name cameras
        asked = [cameras] if isinstance(cameras, str) else list(cameras or ())
        chosen = choose_cameras(self.folder, short, [name.replace("/", ".") for name in asked])
        self.cameras = tuple(images[short.index(name)] for name in chosen)
        self._parts = [
            name
            for name, found in self._features.items()
            if (name == "steps/action" or name.startswith("steps/action/"))
            and found.kind == "tensor"
        ]
        if not self._parts:
            raise EpisodeError(
                f"{self.folder} has no feature steps/action, expected numbers under that name; "
                f"found {sorted(self._features)}"
            )
        self.action_names = tuple(_component_names(self._parts, self._features))
        self._files = sorted(self.folder.glob(f"*-{split}.tfrecord-*"))
        if not self._files:
            splits = sorted({p.name.rsplit(".tfrecord", 1)[0].rsplit("-", 1)[-1]
                             for p in self.folder.glob("*.tfrecord-*")})  # fmt: skip
            raise EpisodeError(f"{self.folder} has no split {split!r}, expected one of {splits}")
        self._places = [place for path in self._files for place in self._index(path)]
        self._records: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the records kept in memory and the classes of the library."""
        return {**self.__dict__, "_records": OrderedDict(), "_message": None, "_checksum": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Find the library's classes again."""
        for name, value in state.items():
            setattr(self, name, value)
        self._message, self._checksum = import_tfrecord()

    # ---- records -----------------------------------------------------------------------------

    def _index(self, path: Path) -> list[tuple[Path, int, int]]:
        """File, first byte and length of every record of a file."""
        size, at, found = path.stat().st_size, 0, []
        with path.open("rb") as file:
            while at < size:
                file.seek(at)
                header = file.read(HEADER.size)
                whole = len(header) == HEADER.size
                length, check = HEADER.unpack(header) if whole else (0, 0)
                if not whole or self._masked(header[:8]) != check:
                    raise EpisodeError(
                        f"{path} is damaged or truncated at byte {at} of {size}, where a record of "
                        "an episode is expected; copy or download it again"
                    )
                found.append((path, at + HEADER.size, length))
                at += HEADER.size + length + 4
        if at != size:
            raise EpisodeError(
                f"{path} has {size} bytes, expected {at}: it is truncated; copy or download it "
                "again"
            )
        return found

    def _masked(self, content: bytes) -> int:
        """The checksum as TFRecord files store it."""
        value = self._checksum(content)
        return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

    def _record(self, index: int) -> dict[str, Any]:
        """The features of one episode by name, each a list over its steps."""
        if index in self._records:
            self._records.move_to_end(index)
            return self._records[index]
        path, start, length = self._places[index]
        with path.open("rb") as file:
            file.seek(start)
            content, check = file.read(length), file.read(4)
        if self._masked(content) != int.from_bytes(check, "little"):
            raise EpisodeError(
                f"{path}: episode {index}, at byte {start}, does not have its checksum; copy or "
                "download it again"
            )
        message = self._message()
        message.ParseFromString(content)
        values = {}
        for name, feature in message.features.feature.items():
            kind = feature.WhichOneof("kind")
            values[name] = getattr(feature, kind).value if kind else ()
        self._records[index] = values
        if len(self._records) > KEPT_RECORDS:
            self._records.popitem(last=False)
        return values

    def _values(self, index: int, name: str) -> Any:
        record = self._record(index)
        if name not in record:
            raise EpisodeError(
                f"{self._places[index][0]}: episode {index} lacks {name}, which features.json "
                "names; copy or download the dataset again"
            )
        return record[name]

    # ---- what VideoEpisodes asks for ---------------------------------------------------------

    def _count_rows(self) -> list[int]:
        return [len(self._values(i, self.cameras[0])) for i in range(len(self._places))]

    def __len__(self) -> int:
        """Number of episodes, without reading any."""
        return len(self._places)

    def _read_instructions(self) -> list[str]:
        name = next((n for n in INSTRUCTIONS if n in self._features), None)
        if name is None:
            return [""] * len(self)
        texts = (self._values(i, name) for i in range(len(self)))
        return [bytes(text[0]).decode("utf-8", "replace") if len(text) else "" for text in texts]

    def _camera_frames(self, index: int, camera: str, states: np.ndarray) -> np.ndarray:
        from PIL import Image

        codes = self._values(index, camera)
        pictures = []
        for state in states:
            try:
                picture = Image.open(io.BytesIO(codes[int(state)])).convert("RGB")
            except OSError as error:
                raise EpisodeError(
                    f"{self._places[index][0]}: picture {int(state)} of episode {index} cannot be "
                    f"read ({error}); copy or download the dataset again"
                ) from error
            pictures.append(np.asarray(picture, np.uint8))
        height, width = self._features[camera].shape[:2] or (0, 0)
        return np.stack(pictures) if pictures else np.empty((0, height, width, 3), np.uint8)

    def _row_actions(self, index: int) -> np.ndarray:
        steps, columns = int(self.rows[index]), []
        for name in self._parts:
            size = int(np.prod(self._features[name].shape, dtype=int))
            values = np.asarray(self._values(index, name), np.float32)
            if len(values) != steps * size:
                raise EpisodeError(
                    f"{self._places[index][0]}: episode {index} has {len(values)} numbers of "
                    f"{name}, expected {steps * size}, {size} for each of {steps} steps; copy or "
                    "download the dataset again"
                )
            columns.append(values.reshape(steps, size))
        return np.concatenate(columns, axis=1)

    def _row_success(self, index: int) -> np.ndarray:
        success = np.zeros(self.rows[index], bool)
        if "steps/reward" in self._features:
            rewarded = np.asarray(self._values(index, "steps/reward"), np.float32) == 1.0
            success[1:] = rewarded[:-1]
            success[-1] |= rewarded[-1]
        return success


def _read_features(path: Path) -> dict[str, _Feature]:
    """The leaves of features.json by name.

    Raises:
        EpisodeError: if the file is absent, no JSON, or describes no `steps`.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(
            f"{path} cannot be read ({error}); copy or download the dataset again"
        ) from error
    found = dict(_leaves(described, ""))
    if not any(name.startswith("steps/") for name in found):
        raise EpisodeError(
            f"{path} describes no episodes (no feature `steps`), found {sorted(found)}; open the "
            "folder of an RLDS data set's version"
        )
    return found


def _leaves(node: Any, name: str) -> list[tuple[str, _Feature]]:
    """Leaves below a node of features.json."""
    if not isinstance(node, dict):
        return []
    if "featuresDict" in node:
        children = node["featuresDict"].get("features", {})
        prefix = f"{name}/" if name else ""
        return [leaf for key, child in children.items() for leaf in _leaves(child, prefix + key)]
    if "sequence" in node:
        return _leaves(node["sequence"].get("feature"), name)
    for kind in ("image", "text", "tensor", "scalar"):
        if kind in node:
            dimensions = (node[kind].get("shape") or {}).get("dimensions", ())
            shape = tuple(max(0, int(side)) for side in dimensions)
            dtype = str(node[kind].get("dtype", ""))
            text = kind == "text" or dtype == "string"
            kind = "image" if kind == "image" else "text" if text else "tensor"
            return [(name, _Feature(kind, shape, dtype))]
    return []


def _component_names(parts: Sequence[str], features: dict[str, _Feature]) -> list[str]:
    """A name for every component of the joined actions."""
    names = []
    for part in parts:
        size = int(np.prod(features[part].shape, dtype=int))
        name = part.rsplit("/", 1)[-1]
        names += [name] if size == 1 else [f"{name}_{i}" for i in range(size)]
    return names
