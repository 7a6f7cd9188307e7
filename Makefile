# make benchmark and make test need python3 (3.11 or later), make and git; each sets up .venv where that is not done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the other supported release of SpikingJelly: only itself, in front of the installed one, so that there is one torch
OLD_SPIKINGJELLY := $(CURDIR)/$(VENV)/spikingjelly-0.0.0.0.14
READY := $(VENV)/.ready

# Two processes with one thread each, on two cores, beat one process with two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Nothing in these depends on SpikingJelly, so one release is enough for them.
ONCE := $(foreach name,augmentation checkpoints gpu_script loaders report rows settings,--ignore=tests/test_$(name).py)
BOTH_RELEASES = $(PYTEST) $(1) && PYTHONPATH=$(OLD_SPIKINGJELLY) $(PYTEST) $(1) $(ONCE)

.PHONY: help setup benchmark test test-slow test-gpu lint clean

help:
	@echo "make benchmark   compare encoders on handwritten digits (under five minutes); results in runs/digits"
	@echo "make test        test with both supported SpikingJelly releases (under ten minutes)"
	@echo "make test-slow   test what takes longer: full-length runs, real kills, compilation"
	@echo "make test-gpu    test what needs a GPU, with the python3 and the PyTorch that are there (no .venv)"
	@echo "make lint        check style"
	@echo "make clean       remove .venv"

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than 3.11; name another one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[benchmark,train,test]'
	rm -rf $(OLD_SPIKINGJELLY)
	$(BIN)/python -m pip install --no-deps --target $(OLD_SPIKINGJELLY) spikingjelly==0.0.0.0.14
	touch $@

benchmark: $(READY)
	$(BIN)/python benchmarks/run_cifar.py --dataset digits --seeds 0 1 --output runs/digits

test: $(READY)
	$(call BOTH_RELEASES,-m "not slow")

test-slow: $(READY)
	$(call BOTH_RELEASES,-m slow)

test-gpu:
	@$(PYTHON) -c 'import torch' 2>/dev/null || \
	    { echo "$(PYTHON) cannot import PyTorch; name another one: make PYTHON=... test-gpu"; exit 1; }
	@$(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	    { echo "make test-gpu needs a GPU, and PyTorch finds none; python -m gac_sj env says more."; exit 1; }
	PYTHONPATH=$(CURDIR):$$PYTHONPATH $(PYTHON) -m pytest -m gpu $$(grep -l 'mark\.gpu' tests/test_*.py)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)
