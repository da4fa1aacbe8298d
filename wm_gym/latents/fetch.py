"""Getting published weights: from a local folder, or from where their authors publish them.

Nothing here runs code that comes with weights: pickles are read with `weights_only=True`, and a
TorchScript archive, which is a program, is opened only if its checksum is known or by an explicit
flag.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wm_gym.checkpoints import CheckpointError
from wm_gym.packed_files import PackedFileError, load_tensors

logger = logging.getLogger(__name__)

MODELS_VARIABLE = "WM_GYM_MODELS"
"""Environment variable: a folder that holds published models as <org>/<name>/<files>."""


@dataclass(frozen=True)
class PublishedModel:
    """Where a model is published.

    Where an entry names no revision and no checksums, nobody of this project has seen the files:
    the entry says where they are expected to be, `provenance` says so, and a download logs what it
    got, so that it can be named the next time.

    Attributes:
        name: what people call it.
        repo_id: repository on the Hugging Face hub, or a name of the same form if `url` is given.
        files: paths of the needed files inside the repository.
        page: where to read, and if need be accept, its terms.
        licence: of the weights, as the page stated it when this entry was written.
        revision: pinned commit, or None where it is not known: then the fetched commit is logged.
        sha256: known checksums by file.
        url: folder the files are downloaded from where the model is not on the hub.
    """

    name: str
    repo_id: str
    files: tuple[str, ...]
    page: str
    licence: str
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None

    @property
    def provenance(self) -> str:
        """What is known about the files, in one sentence."""
        pinned = f"revision {self.revision}" if self.revision else "revision not verified"
        missing = [name for name in self.files if name not in self.sha256]
        hashes = f"no checksum known for {', '.join(missing)}" if missing else "checksums known"
        remedy = "" if self.revision and not missing else "; pass revision and sha256 to pin them"
        return f"{self.name} from {self.page}: {pinned}, {hashes}{remedy}"


def fetch_model(
    model: PublishedModel,
    *,
    local: str | Path | None = None,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
) -> list[Path]:
    """Find or download the files of a published model.

    Args:
        model: which.
        local: folder that holds the files (or the one file); nothing is downloaded then. By default
            the folder $WM_GYM_MODELS/<repo_id>, if there is one.
        revision: commit to download, instead of the pinned one; only for models on the hub.
        sha256: expected checksums by file, in addition to the known ones, also of local files.

    Returns:
        One path per entry of `model.files`.

    Raises:
        CheckpointError: if a file is not there, cannot be downloaded or has another checksum, if
            `sha256` names a file that the model does not have, or a revision cannot be chosen.
    """
    if strangers := sorted(set(sha256 or ()) - set(model.files)):
        raise CheckpointError(
            f"sha256 names {strangers}, which {model.name} does not load, so they would never be "
            f"checked; its files are {list(model.files)}"
        )
    if local is None and (shelf := os.environ.get(MODELS_VARIABLE)):
        candidate = Path(shelf).expanduser() / model.repo_id
        local = candidate if candidate.exists() else None
    if local is None and model.url is not None and revision is not None:
        raise CheckpointError(
            f"revision {revision!r} cannot be chosen: {model.name} is not on the hub but at "
            f"{model.url}; pass sha256={{{model.files[0]!r}: …}} to pin it"
        )
    if local is not None:
        paths = [_find(model, Path(local).expanduser(), name) for name in model.files]
    else:
        paths = [_download(model, name, revision or model.revision) for name in model.files]
    for name, path in zip(model.files, paths, strict=True):
        expected = {**model.sha256, **(sha256 or {})}.get(name)
        if expected is not None and (found := file_sha256(path)) != expected.lower():
            raise CheckpointError(
                f"{path} ({model.name}) has SHA-256 {found}, expected {expected}: it is truncated, "
                f"altered or of another version. Delete it and get it again from {model.page}"
            )
    return paths


def ways_to_get(model: PublishedModel) -> str:
    """One sentence on how to get a model's files onto this machine."""
    return (
        f"Accept its terms at {model.page} (licence: {model.licence}) and log in with "
        f"`hf auth login`, or download {', '.join(model.files)} there and pass the folder as "
        f"local='/path/to/folder' (or as ${MODELS_VARIABLE}/{model.repo_id}). {model.provenance}"
    )


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_pickle(path: Path, name: str) -> Any:
    """Read a .pt, .pth or .ckpt file without running any code in it.

    Raises:
        CheckpointError: if it is no whole file, or holds anything beyond tensors and plain values.
    """
    import pickle

    try:
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} ({name}) does not exist") from error
    except pickle.UnpicklingError as error:
        if path.stat().st_size and "weights_only" in str(error).lower() and _is_pickle(path, error):
            # torch's own words are left out: they advise to read the file with its code
            asked = re.search(r"GLOBAL (\S+)", str(error))
            raise CheckpointError(
                f"{path} ({name}) is refused: it asks to run code or to build objects other than "
                f"tensors while it is read ({asked[1] if asked else 'in a form without a name'}). "
                "A file of weights needs neither; get it from its authors' page, or have it "
                "converted to safetensors"
            ) from error
        raise _not_whole(path, name, error) from error
    except (EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise _not_whole(path, name, error) from error


def load_safetensors(path: Path, name: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: if it is no whole safetensors file.
    """
    from safetensors import SafetensorError

    try:
        return load_tensors(path)
    except (SafetensorError, PackedFileError, OSError) as error:
        raise _not_whole(path, name, error) from error


def load_torchscript(
    path: Path, name: str, *, sha256: str | None = None, allow_torchscript: bool = False
) -> torch.jit.ScriptModule:
    """Open a TorchScript archive, which is a program, not only weights.

    Args:
        path: the .jit file.
        name: model's name, for errors.
        sha256: checksum of the archive that was looked at and is trusted.
        allow_torchscript: open it whatever its checksum.

    Raises:
        CheckpointError: if it may not be opened, or is no whole archive.
    """
    found = file_sha256(path) if path.exists() else "none: the file does not exist"
    if found != (sha256 or "").lower() and not allow_torchscript:
        why = "no checksum is known for it" if sha256 is None else f"expected SHA-256 {sha256}"
        raise CheckpointError(
            f"{path} ({name}) is a TorchScript archive: opening it runs the code inside, and {why} "
            f"(found {found}). If you trust this file, pass its checksum as sha256, or pass "
            "allow_torchscript=True"
        )
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise _not_whole(path, name, error) from error


def check_fit(network: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Check that a state dict has exactly a network's keys and shapes, and only finite values.

    Args:
        network: may be on the meta device.
        weights: state dict.
        source: named in errors.

    Raises:
        CheckpointError: naming the first keys that are missing, left over, misshapen, not finite
            or of another kind of number.
    """
    own = network.state_dict()
    misshapen = [
        f"{k} {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    of_another_type = [
        f"{k} {weights[k].dtype}"
        for k in own
        if k in weights and own[k].is_floating_point() and not weights[k].is_floating_point()
    ]
    infinite = [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    faults = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": misshapen,
        "that are no floating-point numbers": of_another_type,
        "with NaN or infinite values": infinite,
    }
    found = [f"{len(ks)} keys {what} ({', '.join(ks[:3])})" for what, ks in faults.items() if ks]
    if found:
        raise CheckpointError(f"{source} does not fit {type(network).__name__}: {'; '.join(found)}")


def load_strictly(network: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Load a state dict that passes `check_fit`.

    Raises:
        CheckpointError: if it does not.
    """
    check_fit(network, weights, source)
    network.load_state_dict(weights, strict=True)


def load_transformer(cls: Any, folder: Path, model: PublishedModel, dtype: torch.dtype) -> Any:
    """Load a transformers model from a folder, all of whose parameters must be found there.

    Raises:
        CheckpointError: if the files are no such model, or parameters are missing or not finite.
    """
    try:
        network, report = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder} does not hold {model.name} ({type(error).__name__}: {_reason(error)}); "
            f"get it again from {model.page}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} parameters of {model.name}, e.g. {missing[:3]}; "
            f"get it again from {model.page}"
        )
    if broken := [k for k, v in network.state_dict().items() if not v.isfinite().all()]:
        raise CheckpointError(f"{folder}: {broken[:3]} hold NaN or infinite values; get it again")
    return network.to(dtype)


def _find(model: PublishedModel, local: Path, name: str) -> Path:
    if local.is_file() and len(model.files) == 1:
        return local
    for candidate in (local / name, local / Path(name).name):
        if candidate.is_file():
            return candidate
    raise CheckpointError(
        f"{local} holds no {name}, which {model.name} needs. {ways_to_get(model)}"
    )


def _download(model: PublishedModel, name: str, revision: str | None) -> Path:
    try:
        if model.url is not None:
            return _download_url(model, name)
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(model.repo_id, name, revision=revision))
    except Exception as error:
        raise CheckpointError(
            f"could not fetch {name} of {model.name} ({type(error).__name__}: {_reason(error)}): "
            f"offline, or its terms are not accepted. {ways_to_get(model)}"
        ) from error
    if revision is None and "snapshots" in path.parts:
        commit = path.parts[path.parts.index("snapshots") + 1]
        logger.warning(
            "%s: no revision is pinned, fetched commit %s; pass revision=%r to get the same again",
            model.name,
            commit,
            commit,
        )
    return path


def _download_url(model: PublishedModel, name: str) -> Path:
    path = Path(torch.hub.get_dir()) / "wm_gym" / model.repo_id / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # writes beside, then moves into place
        torch.hub.download_url_to_file(f"{model.url}/{name}", str(path))
        if name not in model.sha256:
            logger.warning(
                "%s: no checksum is pinned for %s, fetched a file with SHA-256 %s; pass it as "
                "sha256 to be sure of getting the same again",
                model.name,
                name,
                file_sha256(path),
            )
    return path


def _is_pickle(path: Path, error: Exception) -> bool:
    """Whether a file that could not be read is a pickle or an archive of one, and no web page."""
    with path.open("rb") as file:
        start = file.read(1)
    binary = start == b"\x80" or zipfile.is_zipfile(path)
    return binary or "Unsupported operand" not in str(error)


def _other_kind(path: Path, error: Exception) -> str:
    """What a file is that was read as something else, and what to do; "" if nothing is known."""
    if "torchscript" in str(error).lower():
        return (
            "is a TorchScript archive, which is a program and not a file of weights; get the "
            "weights as .pt or .safetensors"
        )
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix != ".safetensors" and start[8:] == b"{":  # the header behind its length
        return "is a safetensors file by its beginning; rename it to end in .safetensors"
    if path.suffix == ".safetensors" and start.startswith(b"PK"):
        return "is in torch's format by its beginning; rename it to end in .pt"
    return ""


def _not_whole(path: Path, name: str, error: Exception) -> CheckpointError:
    size = path.stat().st_size if path.exists() else 0
    reason = "not in torch's format" if "weights_only" in str(error).lower() else _reason(error)
    if kind := _other_kind(path, error):
        return CheckpointError(f"{path} ({name}, {size} bytes) {kind}")
    return CheckpointError(
        f"{path} ({name}, {size} bytes) is no whole file of weights ({reason}): "
        "a download was cut short, or it is another kind of file; get it again"
    )


def _reason(error: Exception) -> str:
    """First line of an error, short enough to quote."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
