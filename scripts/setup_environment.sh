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

echo "Setting up $folder with $("$python" --version) (about two minutes and 2 GB)…"
"$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
touch "$folder/.installed"
