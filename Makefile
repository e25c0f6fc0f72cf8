# Every target sets itself up: a bare Python >= 3.11 and make are all that is needed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench faults soak fuzz parsers mutants docs lock clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the virtual environment from the lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"psharelora needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "psharelora needs Python's venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "==> making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "==> installing the locked dependencies (about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
	@echo "==> ready"

demo: $(STAMP) ## database, API and worker with the demo data, until Ctrl-C
	@$(BIN)/psharelora demo

test: check ## the whole test suite against a real PostgreSQL that it starts itself
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || echo "==> no Chromium found: the console's browser tests will be skipped (on Debian: apt install chromium)"
	@echo "==> tests"
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

check: $(STAMP) ## formatting, lint, types, import contracts
	@echo "==> ruff format, ruff, mypy, import-linter"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP) ## format and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## the benchmarks that the documents quote
	@$(BIN)/psharelora evaluate app/cli/data/contracts
	@$(BIN)/python benchmarks/calibration.py
	@$(BIN)/python benchmarks/questions.py app/cli/data/contracts
	@$(BIN)/python benchmarks/policy.py
	@$(BIN)/python benchmarks/refit.py
	@$(BIN)/python benchmarks/fold_in.py

faults: $(STAMP) ## break everything under load, five to twenty times each (half an hour); writes docs/faults.md
	@$(BIN)/python benchmarks/faults.py --page docs/faults.md

soak: $(STAMP) ## ten minutes of everything at once: what grows, leaks or fails; writes docs/soak.md
	@$(BIN)/python benchmarks/soak.py --page docs/soak.md

fuzz: $(STAMP) ## 10,000 requests that the contract allows and forbids (a quarter of an hour); writes docs/fuzzing.md
	@$(BIN)/python benchmarks/fuzz.py --page docs/fuzzing.md

HARDENED = $(VENV)/.hardened

$(HARDENED): $(STAMP) benchmarks/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.lock
	@touch $(HARDENED)

parsers: $(HARDENED) ## feed what reads bytes with whatever leads into new branches (five minutes)
	@$(BIN)/python benchmarks/fuzz_parsers.py --seconds 60

mutants: $(HARDENED) ## do the tests notice wrong programs: 500 mutants at random (an hour or two; goes on where it was); writes docs/mutants.md
	@$(BIN)/python benchmarks/mutants.py --count 500 --seed 1 --page docs/mutants.md

docs: $(STAMP) ## the documentation site, in build/site
	@$(BIN)/python -m mkdocs build --strict
	@echo "==> open build/site/index.html"

COMPILE = $(VENV)/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --quiet

lock: $(STAMP) ## compile the locks anew: versions and hashes, no registry's address
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	@$(COMPILE) --extra dev --output-file requirements.lock
	@$(COMPILE) --extra server --extra tracing --constraint requirements.lock --output-file docker/requirements.lock
	@$(COMPILE) --extra hardening --constraint requirements.lock --output-file benchmarks/requirements.lock

clean: ## remove the environment and caches; the data directory stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache
