# `make demo`, `make test` and `make check` do all the set-up they need: nothing but Python >= 3.11 has
# to be there. The virtual environment is made once, and again when what it is made from changes.

VENV ?= .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python -m
# a process a core, each with one thread (tests/conftest.py); a file's tests share its fixtures
PARALLEL ?= --numprocesses auto --dist loadfile

.PHONY: help setup demo test test-fast gpu-smoke check format types clean

help:
	@echo "make demo       watch a robot push blocks inside a learned world model (writes ./outputs)"
	@echo "make test       all tests; make test-fast leaves out those that take minutes"
	@echo "make gpu-smoke  the checks that need a GPU: equality with the CPU, bf16, compile, memory"
	@echo "make check      lint, formatting, types, layering, spelling, dependencies"
	@echo "make format     format and fix what can be fixed"
	@echo "make setup      only the virtual environment, $(VENV)"

$(INSTALLED): pyproject.toml constraints.txt scripts/setup_environment.sh
	@scripts/setup_environment.sh $(VENV)

setup: $(INSTALLED)

demo: $(INSTALLED)
	@$(VENV)/bin/wm-gym demo

test: $(INSTALLED)
	$(RUN) pytest $(PARALLEL)

test-fast: $(INSTALLED)
	$(RUN) pytest $(PARALLEL) -m "not slow"

gpu-smoke: $(INSTALLED)
	@$(VENV)/bin/python benchmarks/gpu_smoke.py --json outputs/gpu_smoke.json

types: $(INSTALLED)
	@$(VENV)/bin/python scripts/link_types.py

check: types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright --pythonpath $(VENV)/bin/python
	cd .types && $(abspath $(VENV))/bin/lint-imports --config ../pyproject.toml
	$(VENV)/bin/codespell .
	$(RUN) pip check

format: $(INSTALLED)
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

clean:
	rm -rf $(VENV) .types build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
