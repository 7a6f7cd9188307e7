# The targets need python3 (3.11 or later), make and git; each sets up .venv first where that is not done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the other supported release of SpikingJelly: only itself, in front of the installed one, so that there is one torch
OLD_SPIKINGJELLY := $(CURDIR)/$(VENV)/spikingjelly-0.0.0.0.14
READY := $(VENV)/.ready
# the lower bounds of setup.cfg, the older SpikingJelly among them, and the newer one in front of it for some tests
FLOOR := .venv-floor
NEW_SPIKINGJELLY := $(CURDIR)/$(FLOOR)/spikingjelly-2.0.0
# what builds and checks a release
RELEASE := .venv-release

# runs of the benchmark side by side, on a machine with one core one by one
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(2, os.cpu_count()))')
# Two processes with one thread each, on two cores, beat one process with two threads; neighbours share fixtures.
PROCESSES := 2
PYTEST_WITH = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(PROCESSES) --dist worksteal
PYTEST = $(call PYTEST_WITH,$(VENV))
BOTH_RELEASES = $(PYTEST) -m "$(1)" && PYTHONPATH=$(OLD_SPIKINGJELLY) $(PYTEST) --once -m "not one_release and ($(1))"

# of the tutorials, executed
NOTEBOOKS := $(patsubst experiments/tutorials/%.py,build/notebooks/%.ipynb,$(wildcard experiments/tutorials/*.py))

.PHONY: help setup benchmark test test-fast test-slow test-floor test-attack test-gpu test-install dist lint docs notebooks clean

help:
	@echo "make setup       install into .venv what the targets below need; each of them does so by itself"
	@echo "make benchmark   compare encoders on handwritten digits (a few minutes); results in runs/digits"
	@echo "make test-fast   while working: the quick tests of every area with one SpikingJelly release"
	@echo "make test        all but the slow tests with both supported SpikingJelly releases (with the older one,"
	@echo "                 most of them with the first of their parameters)"
	@echo "make test-slow   test what takes longer: full-length runs, real kills, compilation, installation"
	@echo "make test-floor  the quick tests, with one of their parameters each, with the oldest supported releases of everything,"
	@echo "                 in .venv-floor (Python 3.11 or 3.12)"
	@echo "make test-attack a hundred kills, forty double starts, two hundred damaged files of each sort"
	@echo "make test-gpu    test what needs a GPU, with the installed python3 and PyTorch (no .venv)"
	@echo "make lint        check style (ruff), types (mypy), and the files that GitHub reads"
	@echo "make docs        build the documentation in build/docs, without a network"
	@echo "make notebooks   run the tutorials (two minutes each); make docs then shows their outputs"
	@echo "make dist        build the wheel and the source distribution into dist, and check them"
	@echo "make test-install  install both with the newest and the oldest supported releases of everything, and run the"
	@echo "                 benchmark in a new clone (downloads several gigabytes)"
	@echo "make clean       remove dist, build and what the other targets installed"

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than 3.11; name another one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[benchmark,train,test,lint,docs,cupy13]'
	rm -rf $(OLD_SPIKINGJELLY)
	$(BIN)/python -m pip install --no-deps --target $(OLD_SPIKINGJELLY) spikingjelly==0.0.0.0.14
	touch $@

benchmark: $(READY)
	$(BIN)/python benchmarks/run_cifar.py --dataset digits --seeds 0 1 --jobs $(JOBS) --output runs/digits

test: $(READY)
	$(call BOTH_RELEASES,not slow)

test-fast: $(READY)
	$(PYTEST) -m "not slow and not medium"

# slow tests wait for a quarter of their time
test-slow: PROCESSES := 3
test-slow: $(READY)
	$(call BOTH_RELEASES,slow)

$(FLOOR)/.ready: setup.cfg pyproject.toml constraints-floor.txt Makefile
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --constraint constraints-floor.txt --editable '.[benchmark,train,test]'
	rm -rf $(NEW_SPIKINGJELLY)
	$(FLOOR)/bin/python -m pip install --no-deps --target $(NEW_SPIKINGJELLY) spikingjelly==2.0.0 loguru==0.7.3
	touch $@

test-floor: $(FLOOR)/.ready
	$(call PYTEST_WITH,$(FLOOR)) --once -m "floor or (not slow and not medium)"
	PYTHONPATH=$(NEW_SPIKINGJELLY) $(call PYTEST_WITH,$(FLOOR)) -m floor $$(grep -l 'mark\.floor' tests/test_*.py)

test-attack: $(READY)
	GAC_SJ_ATTACKS=100 $(PYTEST) tests/test_attack_*.py

test-gpu:
	@$(PYTHON) -c 'import torch' 2>/dev/null || \
	    { echo "$(PYTHON) cannot import PyTorch; name another one: make PYTHON=... test-gpu"; exit 1; }
	@$(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	    { echo "make test-gpu needs a GPU, and PyTorch finds none; python -m gac_sj env says more."; exit 1; }
	PYTHONPATH=$(CURDIR):$$PYTHONPATH $(PYTHON) -m pytest -m gpu $$(grep -l 'mark\.gpu' tests/test_*.py)

$(RELEASE)/.ready: constraints.txt Makefile
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --constraint constraints.txt build twine
	touch $@

dist: $(RELEASE)/.ready
	rm -rf dist
	$(RELEASE)/bin/python -m build
	$(RELEASE)/bin/twine check --strict dist/*

test-install: dist
	PYTHON=$(PYTHON) tests/install.sh

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open build/docs/index.html"

notebooks: $(NOTEBOOKS)

build/notebooks/%.ipynb: experiments/tutorials/%.py $(READY)
	mkdir -p $(@D)
	$(BIN)/jupytext --quiet --to ipynb --execute --set-kernel python3 --run-path $(@D) --output $@ $<

clean:
	rm -rf $(VENV) $(FLOOR) $(RELEASE) build dist
