# Everything happens in .venv, made from PYTHON; nothing outside this folder is touched.
# Windows has no make: CONTRIBUTING.md gives the same steps as plain commands.

PYTHON ?= python3
JOBS ?= 3
ARGS ?=

VENV := .venv
NEWEST := .venv-newest
DOCS := .venv-docs
DIST := .venv-dist
MUTATION := .mutation
BIN := $(VENV)/bin
# The versions that everything is installed in, the tools that build the package too; empty: the newest there are.
CONSTRAINTS := constraints.txt
PIP = env PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS) \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-newest test-dist browser check docs dist bench mutants constraints clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.dev ## make .venv with everything that development needs

demo: $(VENV)/.core ## make small models in ./demo and measure them (installs no torch)
	$(BIN)/netweight demo

test: $(VENV)/.dev ## run the tests; ARGS="tests/cli -k name" picks some, JOBS=4 runs four at a time
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-newest: ## run the tests with the newest release of every dependency, in an environment of their own
	rm -rf $(NEWEST)
	$(MAKE) test VENV=$(NEWEST) CONSTRAINTS=

test-dist: dist ## test what `make dist` made, in empty environments and without the repository (a minute or two)
	env NETWEIGHT_DIST=dist $(DIST)/bin/python -m pytest --noconftest tests/test_dist.py $(ARGS)

browser: $(VENV)/.dev ## get what the tests of pages in a browser need; where that cannot be had, they are skipped
	@command -v chromium >/dev/null || (timeout 300 apt-get update -qq && timeout 300 apt-get install -y -qq chromium) >/dev/null 2>&1 \
		|| echo "no Chromium, and it cannot be installed: tests of pages in a browser will be skipped"
	@$(PIP) --editable '.[browser]' || echo "no playwright: tests of pages in a browser will be skipped"

check: $(VENV)/.dev ## lint, formatting, types, and the floors of docs/architecture.md
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS)/.made ## build the documents as a site in build/site; a link that leads nowhere is an error
	$(DOCS)/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --conf-dir docs . build/site
	@echo build/site/index.html

dist: $(DIST)/.made $(VENV)/.core ## build the sdist, and from it the wheel, into dist: with the loops of this system's usual processors
	rm -rf dist
	$(BIN)/python tools/prebuild.py
	$(DIST)/bin/python -m build --no-isolation --outdir dist .

bench: $(VENV)/.dev ## measure speed and memory; ARGS="--cold" passes options on
	$(BIN)/python benchmarks/run.py --shapes 1b $(ARGS)
	benchmarks/weightwatcher/setup.sh
	$(BIN)/python benchmarks/scan.py
	benchmarks/mergekit/setup.sh
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/embeddings.py

# cosmic-ray and what it needs lie apart: nothing else here uses them.
mutants: $(VENV)/.dev ## change the program in small ways, and see whether its tests notice (hours); ARGS="--package run --sample 50"
	$(PIP) --upgrade --target $(MUTATION) cosmic-ray
	env PYTHONPATH=$(MUTATION) $(BIN)/python benchmarks/mutants.py --report mutants.md $(ARGS)

# What is above the line in constraints.txt is chosen by hand and stays; below it is what pip installs beside that.
constraints: ## renew constraints.txt: the newest release of every package of the development environment
	rm -rf $(NEWEST)
	sed '/^# ----/q' constraints.txt > constraints.new
	$(MAKE) setup VENV=$(NEWEST) CONSTRAINTS=constraints.new
	env PIP_CONSTRAINT=constraints.new $(NEWEST)/bin/python -m pip install --quiet hatchling editables
	$(NEWEST)/bin/python -m pip freeze --exclude-editable | grep -v '^torch==' | sed 's/+.*//' >> constraints.new
	mv constraints.new constraints.txt

clean: ## remove .venv, the demo, and what tools leave behind; benchmarks/data is kept
	rm -rf $(VENV) $(NEWEST) $(DOCS) $(DIST) $(MUTATION) mutants.md demo build dist src/netweight/kernels/cpu/prebuilt .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# Half an environment would be taken for a whole one by the next run: it is removed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: $(PYTHON) makes no virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }

# The stamps are the memory of what was installed from which state of the two files.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing netweight into $(VENV)'
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing netweight and its development tools into $(VENV)'
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.core $@

$(DOCS)/.made: docs/requirements.txt
	rm -rf $(DOCS)
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --requirement docs/requirements.txt
	@touch $@

# hatchling is the pinned one, so that the same files make the same wheel.
$(DIST)/.made: constraints.txt
	rm -rf $(DIST)
	@$(PYTHON) -m venv $(DIST)
	@$(DIST)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt build hatchling pytest
	@touch $@
