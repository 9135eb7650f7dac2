# Everything for working on Penstock, from a fresh checkout: needs python3 >= 3.11 and make, nothing else.
# Writes only inside the checkout (and pip's own cache).

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# How many tests run at once; each file's run in their order. 0: all in one process, as a debugger needs it.
JOBS   ?= 2

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

py := $(VENV)/bin/python
# What the checkers read; rooms that are not built yet are left out.
code := $(wildcard src tests bench examples docs/*.py)
minors := 3.11 3.12 3.13

.PHONY: help
help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "  %-15s %s\n", $$1, $$2}'
	@echo "  PYTHON=python3.12 picks the interpreter, ARGS='-k context -x' goes to pytest, JOBS=0 runs one test at a time."

# --- environments ---------------------------------------------------------------------------------------------------

# A stamp says which lock the folder was filled from and for which PYTHON: another PYTHON has another stamp.
stamp := $(VENV)/.filled-for$(subst /,-,-$(PYTHON))
run_stamp := $(stamp).run
dev_stamp := $(stamp).dev

$(run_stamp): requirements/run.txt pyproject.toml tools/install.sh
	@sh tools/install.sh "$(PYTHON)" "$(VENV)" requirements/run.txt
	@touch $@

$(dev_stamp): requirements/dev.txt pyproject.toml tools/install.sh
	@sh tools/install.sh "$(PYTHON)" "$(VENV)" requirements/dev.txt
	@touch $@ $(run_stamp)

# The demo runs in whatever is there already: the dev lock holds everything of the run lock.
.PHONY: demo
demo: $(run_stamp) ## see it work: installs what it needs, then tells the story in under 40 s
	@$(py) examples/demo.py

.PHONY: fleet
fleet: $(dev_stamp) postgres ## orders over HTTP, PostgreSQL, three worker services, one of them lost; under 30 s
	@PYTHONPATH=src $(py) -m examples.fleet $(ARGS)

.PHONY: venv
venv: $(dev_stamp) ## make or update the development environment and do nothing else

# --- tests ----------------------------------------------------------------------------------------------------------

# Those on PostgreSQL start one for themselves, if it is installed: as root, with apt-get, this installs it.
.PHONY: postgres
postgres:
	@sh tools/postgres.sh

.PHONY: test
test: $(dev_stamp) postgres ## run the tests
	@$(py) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: test-all
test-all: ## run the tests on each CPython 3.11, 3.12, 3.13 found on PATH or under pyenv
	@sh tools/test_all.sh "$(MAKE)" $(minors)

.PHONY: stress
stress: $(dev_stamp) postgres ## shake the races for at most two minutes
	@PENSTOCK_STRESS=full $(py) -m pytest -m stress $(ARGS)

.PHONY: chaos
chaos: $(dev_stamp) postgres ## kill and stop worker processes, and a server, at random under 70,000 jobs; some ten minutes
	@$(py) -m pytest -m chaos -s $(ARGS)

.PHONY: cover
cover: $(dev_stamp) postgres ## run the tests and fail under 95 % branch coverage
	@rm -f .coverage .coverage.*
	@$(py) -m coverage run -m pytest -n $(JOBS) --dist loadfile $(ARGS)
	@find . -maxdepth 1 -name '.coverage.*' -size 0 -delete # of processes that were killed as they began
	@$(py) -m coverage combine -q
	@$(py) -m coverage report

# --- checks ---------------------------------------------------------------------------------------------------------

.PHONY: check lint types layers
check: lint types layers ## lint, format, types, layers; `make -k check` goes on after the first that fails

lint: $(dev_stamp)
	@$(VENV)/bin/ruff check $(code)
	@$(VENV)/bin/ruff format --check $(code)

types: $(dev_stamp)
	@$(VENV)/bin/mypy $(code)
	@sh tools/pyright.sh "$(VENV)"

layers: $(dev_stamp)
	@$(VENV)/bin/lint-imports --no-cache

.PHONY: format
format: $(dev_stamp) ## rewrite the code in the house style
	@$(VENV)/bin/ruff check --fix-only --quiet $(code)
	@$(VENV)/bin/ruff format $(code)

.PHONY: bench
bench: $(dev_stamp) postgres ## measure against the peers; compare only numbers of one run
	@$(py) bench/threads.py $(ARGS)
	@$(py) bench/processes.py $(ARGS)
	@$(py) bench/asyncio_.py $(ARGS)
	@$(py) bench/durable.py $(ARGS)
	@$(py) bench/postgres.py $(ARGS)

.PHONY: docs
docs: $(dev_stamp) ## rewrite the reference from the docstrings
	@$(py) docs/make_reference.py

# --- housekeeping ---------------------------------------------------------------------------------------------------

uv := $(VENV)-lock/bin/uv

$(uv):
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install --quiet uv

.PHONY: lock
lock: $(uv) ## remake the locks in requirements/ from pyproject.toml, with the newest versions
	@UV=$(uv) sh tools/lock.sh

.PHONY: clean
clean: ## remove everything that make or the tools have made
	@rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache \
	    .import_linter_cache .hypothesis src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
