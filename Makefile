# Every target makes what it needs: the only things to have beforehand are Python 3.10+, git and make (tests: gcc and apt too).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPEC ?= examples/laptop.yaml

.PHONY: demo serve test check clean

# `up SPEC -- COMMAND` runs the command once the router is open, then stops everything.
demo: $(VENV)/.reference ## two context workers, one generation worker, a router, and questions answered
	@$(BIN)/disagg-launch model pull smollm2-135m
	@$(BIN)/disagg-launch up $(SPEC) -- $(BIN)/disagg-launch client -c $(SPEC) -p examples/prompts.json -e chat --max-tokens 48 -o /dev/null

serve: $(VENV)/.reference ## the same, and stays up until Ctrl-C
	@$(BIN)/disagg-launch model pull smollm2-135m
	@$(BIN)/disagg-launch up $(SPEC)

test: $(VENV)/.dev ## everything that CI runs
	@$(BIN)/python -m pytest

check: $(VENV)/.dev ## style, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin -q --no-tips -t=3.9- --violations launcher/disagg_launch/runtime launcher/disagg_launch/plan.py launcher/disagg_launch/launch.py launcher/disagg_launch/errors.py

clean:
	rm -rf $(VENV) .mpi build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.reference: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[reference]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[reference,dev]'
	@touch $@ $(VENV)/.reference
