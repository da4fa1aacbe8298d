"""Make `.types/wm_gym`, one folder of links that shows the package as it is installed.

`envs/`, `policies/` and `assets/` stand at the top of the repository and are mapped to
`wm_gym.envs`, `wm_gym.policies` and `wm_gym.assets` by setuptools. Type checkers and import-linter
do not read that mapping; they read this folder.

    python scripts/link_types.py
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def link_types(root: Path = ROOT) -> Path:
    """Write the links anew.

    Args:
        root: the repository.

    Returns:
        The folder that belongs on PYTHONPATH.
    """
    mapping = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["package-dir"]
    package = root / ".types" / "wm_gym"
    shutil.rmtree(package.parent, ignore_errors=True)
    package.mkdir(parents=True)
    for source in sorted((root / "wm_gym").iterdir()):
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    for name, folder in mapping.items():
        if "." in name:
            (package / name.partition(".")[2]).symlink_to(root / folder)
    return package.parent


if __name__ == "__main__":
    print(link_types())
