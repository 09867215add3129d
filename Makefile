# Everything a contributor or CI runs. Only `setup` touches the network, and `bench` once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check -qq
NATIVE := CMakeLists.txt $(shell find native -name '*.cpp' -o -name '*.hpp')

.DEFAULT_GOAL := help
.PHONY: help setup setup-system setup-vm demo test check check-native sanitize fuzz bench docs \
	gpu-check vm-test clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.installed  ## make the environment in .venv; instant when nothing changed
	@:

$(PY):
	@echo "setup: making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# torch first and alone: it decides which build (CPU or GPU) all else follows.
$(VENV)/.tools: constraints.txt | $(PY)
	@echo "setup: installing torch and the build tools"
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja
	@touch $@

$(VENV)/.installed: $(VENV)/.tools pyproject.toml $(NATIVE)
	@echo "setup: building and installing hatchway (editable)"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench,demo,dev]'
	@touch $@

setup-system:  ## install what apt must provide (as root): a compiler, Python's headers, git, QEMU's and NBD's tools
	@PYTHON=$(PYTHON) tools/setup_system.sh

setup-vm:  ## provide what vm-test boots: QEMU's emulator (as root), and Debian's packages in .cache/vm
	@tools/setup_vm.sh

demo: setup  ## Hatchway beside stock torch, on this machine
	@trap : INT; $(PY) -m hatchway.cli demo || [ $$? -eq 130 ]

# Lightning, Accelerate and others that the tests run in; the demo does without them.
$(VENV)/.frameworks: $(VENV)/.installed constraints.txt
	@echo "test: installing the frameworks that the loader is tested in"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[frameworks]'
	@touch $@

test: setup $(VENV)/.frameworks  ## every test that this machine can run
	@$(PY) -m pytest -q

check: setup check-native docs  ## format, lint, types, stubs, layers, architecture, links
	@echo "check: format and lint"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@echo "check: types"
	@$(BIN)/mypy
	@echo "check: stubs of native modules"
	@$(PY) tools/stubs.py --check
	@echo "check: layers and architecture"
	@$(BIN)/lint-imports --no-cache >$(VENV)/lint-imports.txt || { cat $(VENV)/lint-imports.txt; exit 1; }
	@$(PY) -m pytest -q tests/arch

check-native: setup
	@echo "check: native code without a warning"
	@$(BIN)/cmake -S . -B build/strict -G Ninja --log-level=WARNING \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_BUILD_TYPE=Release \
		-DPython_EXECUTABLE=$(CURDIR)/$(PY) -DHATCHWAY_STRICT=ON
	@$(BIN)/cmake --build build/strict -- --quiet

sanitize: $(PY)  ## native code of disks and checkpoints under sanitizers: what fuzzing found, and threads; about a minute
	@$(PY) tools/sanitize.py replay

FUZZ_SECONDS ?= 30

fuzz: $(PY)  ## look for what breaks it, FUZZ_SECONDS (30) a program; with coverage if there is clang
	@$(PY) tools/sanitize.py fuzz --seconds $(FUZZ_SECONDS)

# The peers of the benchmark are no part of the set-up. Without them it says what is missing.
$(VENV)/.peers: $(VENV)/.installed constraints.txt
	@echo "bench: installing the peers"
	@if $(PIP) install -c constraints.txt --no-build-isolation -e '.[peers]'; then touch $@; \
	else echo "bench: the peers could not all be installed; going on"; fi

bench: setup $(VENV)/.peers  ## measure Hatchway beside its peers; a table, and JSON in out/bench.json
	@$(PY) -m benchmarks --json out/bench.json

docs: setup  ## every link and every `make` command in the documents is real
	@echo "docs: links and commands"
	@$(PY) tools/check_docs.py

gpu-check: setup  ## what needs a GPU, and the overlap of copies with compute; says so without one
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then $(PY) -m pytest -q -m gpu; \
	else echo "gpu-check: torch sees no GPU here, so nothing was checked"; fi

vm-test: setup  ## RocksDB in an emulated guest over a chain of 500, ours beside stock QEMU
	@$(PY) -m benchmarks.disk.initramfs
	@$(PY) -m pytest -q tests/real/test_guests.py
	@$(PY) -m benchmarks.disk.vm --mib 128 --seconds 3 --repeats 2 --json out/vm.json

clean:  ## remove builds and caches; keeps .venv
	@rm -rf build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests tools benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
