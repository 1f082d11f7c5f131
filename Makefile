# Motet. Each target works alone on a fresh clone; the first one sets up .venv from requirements.lock (about 2 GB).
#
#   make demo    a nightly run on the demo corpus, then one prediction; RECIPE=expressive: speech synthesis
#   make test    the tests (minutes); `make test-all` adds the slow ones
#   make docs    the documentation, into build/docs/index.html
#
# PYTHON=/path/to/python3.12 picks the interpreter; PIP_INDEX_URL and the like work as pip has them.

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.set-up
SAY := turn on the light in the kitchen
RECIPE := assistant

.PHONY: help setup demo demo-assistant demo-expressive test test-all lint docs bench up clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -7
	@echo "targets: setup demo test test-all lint docs bench up clean"

setup: $(STAMP)

# Does nothing if the stamp is newer than its prerequisites.
$(STAMP): requirements.lock pyproject.toml
	@python=$$(for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    "$$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$candidate"; break; }; \
	  done); \
	if [ -z "$$python" ]; then \
	  echo "make setup: found no Python 3.11 or later with venv, looked for: $(PYTHON) python3 python3.14 … python3.11." >&2; \
	  echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	echo "setting up .venv with $$("$$python" --version); this downloads about 1 GB the first time"; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup demo-$(RECIPE)

demo-assistant:
	@$(BIN)/motet nightly assistant
	@$(BIN)/motet say "$(SAY)" --espeak f3 -o motet-root/demo.wav
	@$(BIN)/motet predict motet-root/demo.wav --model assistant

# The judge models are trained first, unless they exist.
demo-expressive:
	@$(BIN)/motet nightly assistant
	@$(BIN)/motet nightly judge
	@$(BIN)/motet nightly expressive
	@$(BIN)/motet say "$(SAY)" --model expressive --emotion excited -o motet-root/said.wav
	@$(BIN)/motet predict motet-root/said.wav --model assistant

test: setup
	@$(BIN)/python -m pytest -q

test-all: setup
	@$(BIN)/python -m pytest -q -m "slow or not slow"

# Strict: a broken link, a missing anchor or an unlisted page fails.
docs: setup
	@$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs build/docs

lint: setup docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m tests.lint.task_names
	@$(BIN)/lint-imports --no-logo

bench: setup
	@missed=0; for bench in tests/bench/*_bench.py; do echo "== $$bench"; $(BIN)/python "$$bench" || missed=1; done; exit $$missed

up: setup
	@$(BIN)/motet up

# Keeps motet-root/, which holds data, models and reports; delete it by hand.
clean:
	rm -rf .venv .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './motet-root/*' -prune -exec rm -rf {} +
