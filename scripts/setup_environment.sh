#!/usr/bin/env bash
# Make a virtual environment with wm_gym and its development tools, pinned by constraints.txt.
# usage: scripts/setup_environment.sh FOLDER      (what `make` calls; PYTHON=... chooses the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv}

new_enough() { command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
  if new_enough "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "wm_gym needs Python 3.11 or newer; on Debian or Ubuntu: sudo apt-get install python3 python3-venv" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "$python cannot make virtual environments; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2
  exit 1
fi

echo "Setting up $folder with $("$python" --version) (a few minutes and about 2 GB)…"
"$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"

# Without an NVIDIA GPU torch for the CPU is enough: a fraction of the size, and no triton. Whoever has told pip
# where to look (by variable or file) is not interfered with.
if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
  no_gpu=1
  configured=$("$folder/bin/python" -m pip config list 2>/dev/null || true)  # no pipe: grep -q would break it
  if ! grep -Eq 'index-url|find-links|no-index' <<<"$configured"; then
    cpu_wheels=https://download.pytorch.org/whl/cpu
    if "$folder/bin/python" - "$cpu_wheels/torch/" 2>/dev/null <<'PROBE'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5).close()
PROBE
    then
      export PIP_EXTRA_INDEX_URL=$cpu_wheels
    else
      echo "$cpu_wheels cannot be reached: torch comes with CUDA, some gigabytes more. To avoid that, put a CPU" >&2
      echo "wheel of torch into a folder and set PIP_FIND_LINKS to it." >&2
    fi
  fi
fi
"$folder/bin/python" -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
if [ -n "${no_gpu:-}" ] && "$folder/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
  echo "note: this is torch built for CUDA, on a machine without an NVIDIA GPU. Everything runs on the CPU; should an" >&2
  echo "import of triton fail, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu and repeat: make clean setup" >&2
fi
touch "$folder/.installed"
