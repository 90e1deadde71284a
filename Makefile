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
# Interprets the GPU's kernels on the CPU. Torch's builds for CUDA bring their own; later ones than this interpret wrongly.
TRITON ?= triton==3.6.0
TESTS ?= tests
# Processes that run them, a file at a time (the tests of one file share what is dear to make); empty: this one alone.
WORKERS ?=

# What the browser's and the microphone's tests drive. Root on Debian gets them installed by `make test`; elsewhere
# those tests are skipped, and say so.
DEBS := chromium pulseaudio libportaudio2 libasound2-plugins tmux fonts-dejavu-core

# Of `make soak`: how long, and at what share of the streams that the daemon says fit.
MINUTES ?= 10
LOAD ?= 0.8

.PHONY: help setup demo test tools lint bench soak gpu-check gpu-pack size

help:
	@echo "make setup   a virtual environment in $(VENV); its bin/streamer works"
	@echo "make demo    daemon, bundled recording, partials and timed finals, and the address of a page that shows them"
	@echo "make test    the whole suite (installs torch and the test tools first; TORCH_INDEX=URL says whence)"
	@echo "make tools   Debian packages of the browser's and the microphone's tests (test does it)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   concurrent real-time streams against a daemon; table in docs/benchmarks/"
	@echo "make soak    ten minutes of streams that come and go (MINUTES=60 LOAD=0.8): is memory flat, do delays stay"
	@echo "make gpu-check   on a machine with a GPU and its own torch: is the GPU backend right, how fast is it (docs/gpu.md)"
	@echo "make gpu-pack    what to bring to such a machine if it has no network"
	@echo "make size    files by length"

setup: $(VENV)/.core

$(VENV)/.core: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.core
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --editable ".[dev]"
	$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) install $(TRITON) || echo "no triton: its tests are skipped"
	@touch $@

demo: setup
	@$(BIN)/streamer demo

test: $(VENV)/.dev tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(WORKERS),-n $(WORKERS) --dist loadfile) $(TESTS)

tools:
	@if dpkg -s $(DEBS) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(DEBS)"; \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
			-o DPkg::Lock::Timeout=600 $(DEBS) >/dev/null; } \
		|| echo "could not install $(DEBS): tests that need them are skipped"; \
	else echo "$(DEBS): not all installed; tests that need them are skipped"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/streamer bench load --out docs/benchmarks

# Recordings are joined to streams of half a minute; a few break, and finals are asked for in their pauses.
soak: setup
	$(BIN)/streamer bench soak --minutes $(MINUTES) --load $(LOAD) --latency 80 --join 30 --finalize 5 \
		--disconnects 0.05 --manifest tests/recordings/speech.jsonl --out docs/benchmarks

# Runs with the machine's own Python, whose torch has CUDA; what is brought along is taken only where it is missing.
# PARTS="parity speed-0.6b-80" runs these, again; without it what was finished before is left alone. RUNG=unrolled does
# without WHILE nodes, for a driver on which they hang.
gpu-check:
	@$(PYTHON) -m streamer.gpu_check.provide
	@PYTHONPATH="$(CURDIR)/.gpu/site:$(CURDIR)/.gpu/tensorrt-rtx:$(CURDIR)" \
		$(PYTHON) -m streamer bench gpu $(foreach part,$(PARTS),--part $(part)) $(if $(RUNG),--rung $(RUNG))

gpu-pack: setup
	@$(BIN)/python -m streamer.gpu_check.pack dist/gpu-check.tar.gz

size:
	@git ls-files '*.py' | xargs wc -l | sort -n | tail -40
