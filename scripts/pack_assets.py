"""Compress the weights that the repository carries: `python scripts/pack_assets.py [FOLDER ...]`.

Run it after a recipe has put a model or policy into assets/. Plain files work as well; packed ones
keep the clone small. Cards stay as they are: their hashes are those of the plain content.
"""

import sys
from pathlib import Path

from wm_gym.packed_files import pack

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT / "assets", ROOT / "tests" / "parity" / "data")

if __name__ == "__main__":
    for folder in [Path(name) for name in sys.argv[1:]] or FOLDERS:
        for path in sorted(folder.rglob("*.safetensors")):
            before = path.stat().st_size
            print(f"{path}: {before} -> {pack(path).stat().st_size} bytes")
