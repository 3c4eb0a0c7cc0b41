# Every target makes what it needs: the only things to have beforehand are Python 3.10+, git and make (tests: gcc and apt too).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPEC ?= examples/laptop.yaml

.PHONY: demo serve test test-gpu slurm-up slurm-down docs screens screenshots check referees clean

# `up SPEC -- COMMAND` runs the command once the router is open, then stops everything.
demo: $(VENV)/.reference ## two context workers, one generation worker, a router, and questions answered
	@$(BIN)/disagg-launch model pull smollm2-135m
	@$(BIN)/disagg-launch up $(SPEC) -- $(BIN)/disagg-launch client -c $(SPEC) -p examples/prompts.json -e chat --max-tokens 48 -o /dev/null

serve: $(VENV)/.reference ## the same, and stays up until Ctrl-C
	@$(BIN)/disagg-launch model pull smollm2-135m
	@$(BIN)/disagg-launch up $(SPEC)

test: $(VENV)/.dev ## everything that CI runs; where it may (root and apt-get) with a real Slurm, Open MPI and etcd
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(BIN)/python slurm/testcluster/cluster.py install >&2; fi
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

test-gpu: $(VENV)/.dev ## what needs two real GPUs and a PyTorch in .venv; says so where they are not
	@$(BIN)/python -m pytest tests/e2e/runtime/test_real_gpus.py

docs: $(VENV)/.dev ## what is generated from the code; tests hold these files to it
	$(BIN)/disagg-launch schema > examples/topology.schema.json
	$(BIN)/disagg-launch schema --markdown > docs/topology.md
	$(BIN)/disagg-launch lint --table > docs/lint.md
	$(BIN)/disagg-launch explain --table > docs/causes.md

screens: $(VENV)/.dev ## what docs/watching.md shows of terminals, taken from real runs
	$(BIN)/python docs/screens.py

slurm-up: ## a real Slurm cluster on this machine: eval "$$(python3 slurm/testcluster/cluster.py env)" to use it
	@$(PYTHON) slurm/testcluster/cluster.py install >&2
	@$(PYTHON) slurm/testcluster/cluster.py up

slurm-down:
	@$(PYTHON) slurm/testcluster/cluster.py down

check: $(VENV)/.dev ## style, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin -q --no-tips -t=3.9- --violations launcher/disagg_launch/runtime launcher/disagg_launch/plan.py launcher/disagg_launch/launch.py launcher/disagg_launch/errors.py

screenshots: $(VENV)/.dev ## what docs/page.md shows of the page at /ui, taken from real runs with a real Chromium
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(BIN)/python slurm/testcluster/cluster.py install >&2; fi
	$(BIN)/python docs/screenshots.py

# bench-placement, bench-startup, bench-bootstrap, ...: ratios measured side by side in one run; not part of the tests
bench-%: $(VENV)/.dev
	$(BIN)/python bench/$*/run.py

SOAK_S ?= 600
soak: $(VENV)/.dev ## the router under two hundred streams at a time while workers are killed and stopped, for SOAK_S seconds
	SOAK_S=$(SOAK_S) $(BIN)/python -m pytest -q --force-reruns 0 --timeout $$(( $(SOAK_S) + 300 )) tests/e2e/router/test_router_chaos.py

referees: $(VENV)/.dev ## 2,000 random layouts before Open MPI's mapper, MPICH's ranks and our own readers
	$(BIN)/python bench/placement/referees.py

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
