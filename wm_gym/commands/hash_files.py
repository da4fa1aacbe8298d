"""`wm-gym hash-files`: verify a checkpoint folder, and note hashes that its card lacks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from wm_gym.checkpoints import CheckpointError, open_any, resolve_checkpoint, save_card


@dataclass(frozen=True)
class HashFilesConfig:
    """Compare every file of a checkpoint folder with its card, and add the hashes of new ones.

    Cards written before data files had hashes need it once. A file that differs from its card is
    refused, never written over: get it again, or make it again with the command that makes it.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Checkpoint folder, the one that holds card.json."""


def hash_files(config: HashFilesConfig) -> dict[str, str]:
    """Run `wm-gym hash-files`.

    Returns:
        The data files' hashes, as they now stand on the card.

    Raises:
        CheckpointError: if a file is missing or differs from its card; the card is as it was.
    """
    opened = open_any(resolve_checkpoint(config.checkpoint, None))
    spec = opened.spec
    stated = spec.weights_sha256 | spec.data_sha256
    faults = []
    for filename in stated:
        try:
            opened.read(filename)
        except CheckpointError as error:
            faults.append(str(error))
    if faults:
        raise CheckpointError("; ".join(faults))
    added = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(opened.folder.glob("*.npz"))
        if path.name not in stated
    }
    hashes = {**spec.data_sha256, **added}
    if added:
        save_card(opened.folder, replace(spec, data_sha256=hashes))
    print(f"{opened.folder}: {len(stated)} files are as the card says")
    for filename, found in added.items():
        print(f"added {filename} {found}")
    return hashes
