# Thin names for what README.md spells out. Each sets itself up; all it needs is Python 3.11 or newer, pip and make.

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test check fix bench prove docs lock data clean

# The environment is complete when the stamp is newer than what decides its content.
.venv/.ready: requirements-dev.txt pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r requirements-dev.txt
	$(BIN)/pip install -q --no-deps -e .
	touch $@

demo: .venv/.ready ## research and trade the bundled sample, about a minute
	$(BIN)/algo-royale demo

test: .venv/.ready ## the test suite
	$(BIN)/python -m pytest -q -n $(WORKERS)

check: .venv/.ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/.ready ## bring the style in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.ready ## measurements against the peers named in docs
	set -e; for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script; done

prove: .venv/.ready ## the long proofs in full size
	$(BIN)/python -m pytest -q -m prove --prove -n $(WORKERS)

docs: .venv/.ready ## docs/cli.md from the commands themselves
	$(BIN)/python tools/make_cli_docs.py

lock: ## pin the development dependencies again (needs uv)
	tools/lock.sh

data: .venv/.ready ## the shipped prices and sessions from their sources
	$(BIN)/python tools/make_bundled.py
	$(BIN)/python tools/make_sessions.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
