"""The folder of episodes of a comparison: what its records depend on, and the time they took."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_gym.evaluation.report import write_json
from wm_gym.policies.base import POLICY_FILE
from wm_gym.policies.named import policy_file, short_name
from wm_gym.run_settings import check_run_settings, plain_settings, read_run_settings

if TYPE_CHECKING:
    from wm_gym.evaluation.compare_real.policies import NamedPolicy

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class PolicySource:
    """A policy that records depend on.

    Attributes:
        source: its folder or `module:Class`.
        file: what it is, `policy.json` or the module's source.
    """

    source: str
    file: Path

    @classmethod
    def of(cls, name: str) -> PolicySource:
        """The policy of a name, see `wm_gym.policies.named`."""
        return cls(name, policy_file(name))


def policy_bytes(file: Path) -> bytes:
    """What a policy's records depend on: a file's content, of a policy.json without its metrics."""
    content = file.read_bytes()
    if file.name != POLICY_FILE:
        return content
    described = json.loads(content)
    if described.pop("metrics", None) is None:
        return content
    return (json.dumps(described, indent=1) + "\n").encode()  # as save_policy wrote it


def claim_folder(
    folder: Path, settings: dict[str, Any], policies: Sequence[NamedPolicy | PolicySource]
) -> None:
    """Write what the records in a folder depend on, or compare it with what stands there.

    Args:
        folder: of the records.
        settings: JSON values, which must be those of the run that the folder holds.
        policies: they may be added to, and those that are there must be the same.

    Raises:
        RunSettingsError: if the folder holds a run with other settings or policies, naming them.
    """
    hashes = {
        entry.source: hashlib.sha256(policy_bytes(entry.file)).hexdigest() for entry in policies
    }
    path = folder / SETTINGS_FILE
    stored = read_run_settings(path)
    kept: dict[str, str] = {}
    if stored is not None:
        kept = stored.pop("policy_files", {})
        # policies may be added to a run, and those it has must be the same; records are filed
        # under short names, which differ within one call only
        named = {short_name(name): name for name in hashes}
        there: dict[str, Any] = dict(stored)
        now = dict(settings)
        for name, known in kept.items():
            label = f"the policy {name}"
            other = name if name in hashes else named.get(short_name(name), name)
            if other != name:
                label += f", filed under the same name as {other}"
            there[label], now[label] = known, hashes.get(other, known)
        check_run_settings(folder, there, now)
    write_json(path, plain_settings(settings) | {"policy_files": kept | hashes})


class Clock:
    """Seconds spent on episodes, kept in a file so that a resumed run reports its whole time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = (
            json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
        )

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._before += time.monotonic() - self._began
        write_json(self._path, {"seconds": self._before})

    def total(self) -> float:
        """Seconds so far, earlier runs included."""
        return self._before
