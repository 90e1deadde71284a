# The table of contents. `make setup && make demo` needs no torch; `make test` installs it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Where torch comes from. Empty: the default index, whose build for Linux brings gigabytes of CUDA packages along;
# TORCH_INDEX=https://download.pytorch.org/whl/cpu has the CPU build, which is all that the suite needs.
TORCH_INDEX ?=
# The version the suite was run with.
TORCH ?= torch==2.13.0
TESTS ?= tests

.PHONY: help setup demo test lint bench size

help:
	@echo "make setup   a virtual environment in $(VENV); its bin/streamer works"
	@echo "make demo    daemon, bundled recording, partials and timed finals"
	@echo "make test    the whole suite (installs torch and the test tools first; TORCH_INDEX=URL says whence)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   concurrent real-time streams against a daemon; table in docs/benchmarks/"
	@echo "make size    files by length"

setup: $(VENV)/.core

$(VENV)/.core: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.core
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --editable ".[dev]"
	@touch $@

demo: setup
	@$(BIN)/streamer demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/streamer bench load --out docs/benchmarks

size:
	@git ls-files '*.py' | xargs wc -l | sort -n | tail -40
