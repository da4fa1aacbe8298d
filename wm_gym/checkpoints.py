"""Checkpoint folders: `card.json` beside safetensors files, found, verified and loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from urllib.parse import quote, unquote

from wm_gym.errors import UserError
from wm_gym.packed_files import PackedFileError, is_stored, packed_path, read_file
from wm_gym.semantic_card import SemanticSpec, semantic_spec_from_dict
from wm_gym.spec import CardError, WorldModelSpec, spec_from_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

Card = TypeVar("Card", bound=WorldModelSpec | SemanticSpec)

HF_PATTERN = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<folder>.+))?$"
)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be found, or whose files are damaged or do not fit."""


def assets_folder() -> Path:
    """Folder of the checkpoints and start states that ship with wm_gym."""
    from importlib.resources import files

    return Path(str(files("wm_gym.assets")))


def absolute_checkpoint(checkpoint: str | os.PathLike[str]) -> str:
    """A `checkpoint` argument that names the same folder wherever the process goes."""
    name = os.fspath(checkpoint)
    if name == "embedded" or name.startswith("hf://"):
        return name
    return str(Path(name).expanduser().absolute())


def absolute_query(name: str) -> str:
    """A name such as `judge:semantic?checkpoint=runs/swm` with the checkpoint's absolute path."""

    def absolute(found: re.Match[str]) -> str:
        given = unquote(found[2])
        whole = absolute_checkpoint(given)
        return found[0] if whole == given else found[1] + quote(whole, safe="/")

    return re.sub(r"([?&]checkpoint=)([^&]+)", absolute, name)


_MADE_BY = {"latent": "train latent-dynamics", "semantic": "train semantic"}
_CONVERTED_BY = {
    "latent": ("import-checkpoint", "a released .pt file"),
    "semantic": ("import-semantic", "a PaliGemma in transformers' layout"),
}


def resolve_checkpoint(
    checkpoint: str,
    embedded: str | None,
    env_id: str = "this model",
    kind: Literal["latent", "semantic"] = "latent",
) -> Path:
    """Find the folder a `checkpoint` argument names.

    Args:
        checkpoint: "embedded", a folder, or "hf://org/repo[@revision][/folder]".
        embedded: folder name under assets/ of the embedded model, or None if the id has none.
        env_id: named in errors.
        kind: of world model; decides the ways to get one that errors name.

    Returns:
        A folder that holds card.json.

    Raises:
        CheckpointError: with the ways to get a checkpoint.
    """
    command, source = _CONVERTED_BY[kind]
    if checkpoint == "embedded":
        folder = assets_folder() / embedded if embedded else None
        if folder is None or not (folder / "card.json").exists():
            raise CheckpointError(
                f"{env_id} has no embedded checkpoint. Give one: "
                f"checkpoint='hf://org/repo@revision' for a published one "
                "in wm_gym's layout, checkpoint='/path/to/folder' for your own (`wm-gym "
                f"{command}` converts {source}), or train one with `wm-gym {_MADE_BY[kind]}`"
            )
        return folder
    if checkpoint.startswith("hf://"):
        match = HF_PATTERN.match(checkpoint)
        if match is None:
            raise CheckpointError(
                f"checkpoint {checkpoint!r} is not of the form hf://org/repo[@revision][/folder]"
            )
        return _download(checkpoint, match, kind)
    folder = Path(checkpoint).expanduser()
    if not (folder / "card.json").exists():
        inside = sorted(path.parent.name for path in folder.glob("*/card.json"))
        raise CheckpointError(
            f"checkpoint {checkpoint!r} names no folder with a card.json; expected 'embedded', a "
            "folder or 'hf://org/repo'"
            + (f". Checkpoints inside it: {', '.join(inside[:6])}; name one" if inside else "")
            + (f". `wm-gym {command}` converts {source}" if _is_transformers(folder) else "")
        )
    return folder


def _is_transformers(folder: Path) -> bool:
    """Whether a folder looks like a model in transformers' layout."""
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors"))


def _download(checkpoint: str, match: re.Match[str], kind: Literal["latent", "semantic"]) -> Path:
    from huggingface_hub import snapshot_download

    folder = match["folder"]
    within = f"{folder}/" if folder else ""
    patterns = [f"{within}*.{ending}" for ending in ("json", "safetensors", "npz", "xz")]
    try:
        root = Path(
            snapshot_download(match["repo"], revision=match["revision"], allow_patterns=patterns)
        )
    except Exception as error:
        raise CheckpointError(
            f"could not fetch {checkpoint!r} ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). If the repository is "
            f"gated, accept its terms at https://huggingface.co/{match['repo']} and log in with "
            f"`hf auth login`; "
            "offline, pass a local folder as checkpoint"
        ) from error
    path = root / folder if folder else root
    if not (path / "card.json").exists():
        command, source = _CONVERTED_BY[kind]
        raise CheckpointError(
            f"{checkpoint!r} holds no card.json; if it is {source}, convert it with `wm-gym "
            f"{command}`"
        )
    return path


@dataclass(frozen=True)
class Checkpoint(Generic[Card]):
    """A verified folder: its path and its card."""

    folder: Path
    spec: Card

    @staticmethod
    def open(folder: Path) -> Checkpoint[WorldModelSpec]:
        """Read and validate `card.json` of a latent world model.

        Weights are verified when they are loaded.

        Raises:
            CheckpointError: if the card is not readable JSON.
            CardError: if it is not a valid card, or that of a semantic world model.
        """
        path, card = _read_card(folder)
        if card.get("kind") == "semantic":
            raise CardError(
                f"{path} is the card of a semantic world model, which answers questions and makes "
                "no frames; use it with WM-LangTable-SWM-v0 or load_semantic_model"
            )
        return Checkpoint(folder, spec_from_dict(card, str(path)))

    @staticmethod
    def open_semantic(folder: Path) -> Checkpoint[SemanticSpec]:
        """Read and validate `card.json` of a semantic world model.

        Raises:
            CheckpointError: if the card is not readable JSON.
            CardError: if it is not a valid card, or that of another kind of model.
        """
        path, card = _read_card(folder)
        return Checkpoint(folder, semantic_spec_from_dict(card, str(path)))

    def read(self, filename: str, remedy: str = "get the checkpoint again") -> bytes:
        """Read one file beside the card, plain or packed, after checking its hash.

        Args:
            filename: name within the folder.
            remedy: what the error says to do.

        Raises:
            CardError: if the card states no hash for it.
            CheckpointError: if the file is missing or is not the one the card means.
        """
        path = self.folder / filename
        if not is_stored(path):
            raise CheckpointError(f"{path} is missing; {remedy}")
        expected = (self.spec.weights_sha256 | self.spec.data_sha256).get(filename)
        if expected is None:
            raise CardError(
                f"{self.folder / 'card.json'} states no SHA-256 of {filename}, so a damaged file "
                f"would go unnoticed; `wm-gym hash-files {self.folder}` adds it if you trust the "
                f"file, else {remedy}"
            )
        try:
            content = read_file(path)
        except PackedFileError as error:
            raise CheckpointError(str(error)) from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"{path} has SHA-256 {found[:12]}…, its card says {expected[:12]}…: the file is "
                f"truncated, altered or of another version; {remedy}"
            )
        return content

    def load(self, filename: str) -> dict[str, torch.Tensor]:
        """Load one safetensors file as float32 tensors after checking its hash.

        Raises:
            CardError: if the card states no hash for it.
            CheckpointError: if the file is missing, altered, truncated, or holds NaN or infinite
                values.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.folder / filename
        try:
            tensors = load(self.read(filename))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({error})") from error
        return {key: _finite(key, tensor, path) for key, tensor in tensors.items()}


def open_any(folder: Path) -> Checkpoint[Any]:
    """Open a checkpoint of whichever kind its card says; raises as the two `open` methods do."""
    if _read_card(folder)[1].get("kind") == "semantic":
        return Checkpoint.open_semantic(folder)
    return Checkpoint.open(folder)


def _read_card(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}); get the checkpoint again"
        ) from error
    if not isinstance(card, dict):
        raise CardError(f"{path} is not a valid card: it is no JSON object")
    return path, card


def _finite(key: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    import torch

    if not tensor.is_floating_point():
        return tensor
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: tensor {key} holds NaN or infinite values")
    return tensor.float()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    temporary.chmod(0o644)
    os.replace(temporary, path)


def save_card(folder: Path, spec: WorldModelSpec | SemanticSpec) -> None:
    """Write `card.json` atomically."""
    text = json.dumps(spec.to_dict(), indent=1, ensure_ascii=False)
    write_atomically(folder / "card.json", (text + "\n").encode())


def save_data_file(folder: Path, filename: str, content: bytes) -> Path:
    """Write a file that is no weights, such as start states, and its hash into the card.

    Args:
        folder: checkpoint folder, which has a card.
        filename: name within the folder.
        content: bytes of the file.

    Returns:
        The file written.
    """
    spec = open_any(folder).spec
    write_atomically(folder / filename, content)
    hashes = {**spec.data_sha256, filename: hashlib.sha256(content).hexdigest()}
    save_card(folder, replace(spec, data_sha256=hashes))
    return folder / filename


def save_checkpoint(
    folder: Path,
    spec: Card,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    dtype: torch.dtype | None = None,
) -> Card:
    """Write weights and card; the card's hashes are filled in.

    The whole folder is prepared beside its place and moved into it, so a failure leaves the old
    one untouched. Files of an existing folder that are not among `weights` are kept, and of data
    files that are there the hashes too.

    Args:
        folder: checkpoint folder, made if needed.
        spec: the card; its `weights_sha256` and `data_sha256` are updated.
        weights: tensors by file name.
        dtype: floating-point type to store, e.g. `torch.bfloat16`; None keeps each tensor's own.

    Returns:
        The spec as written.

    Raises:
        CheckpointError: if the folder cannot be made; nothing is left behind then.
    """
    from safetensors.torch import save

    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file, no folder; choose another one to write to")
    hashes = dict(spec.weights_sha256)
    contents: dict[str, bytes] = {}
    for filename, tensors in weights.items():
        stored = {
            key: (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor)
            .detach()
            .contiguous()
            .cpu()
            for key, tensor in tensors.items()
        }
        contents[filename] = save(stored)
        hashes[filename] = hashlib.sha256(contents[filename]).hexdigest()
    data = {
        filename: found
        for filename, found in (spec.data_sha256 | _stored_data_hashes(folder)).items()
        if (folder / filename).exists()
    }
    written = replace(spec, weights_sha256=hashes, data_sha256=data)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}: {folder.parent}); choose another folder"
        ) from error
    try:
        for filename, content in contents.items():
            write_atomically(staging / filename, content)
        save_card(staging, written)
        folder.mkdir(exist_ok=True)
        for filename in [*contents, "card.json"]:
            os.replace(staging / filename, folder / filename)
            packed_path(folder / filename).unlink(missing_ok=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written


def _stored_data_hashes(folder: Path) -> dict[str, str]:
    try:
        return open_any(folder).spec.data_sha256
    except (CheckpointError, CardError):  # no card yet, or one that is to be replaced anyway
        return {}
