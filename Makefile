# Needs Python 3.10 or later with venv, and git. `make PYTHON=python3.12 test` picks another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help venv demo test conformance lint pytest sanitize aarch64 format benchmarks bench codecs clean crash fuzz soak

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## make .venv with the package and the pinned versions of all it needs

$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard deltackpt/codec/kernels/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'error: $(PYTHON) is missing or older than Python 3.10.' >&2; \
	  echo 'Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; \
	  exit 1; \
	}
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[test]' -c constraints.txt --build-constraint constraints.txt
	@touch $@

demo: venv ## train a small GPT, keep every step, restore and resume: the package at work
	$(BIN)/python -m benchmarks.demo

test: lint pytest ## run all checks: lint, then the tests

lint: venv ## ruff, mypy and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

JOBS ?= auto

pytest: venv ## run the tests alone, on all cores (JOBS=)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

conformance: venv ## run PyTorch's own tests of DCP against our storage: make conformance TESTS=folder/of/copies
	@test -n "$(TESTS)" || { echo 'name the folder of copies: make conformance TESTS=/path/to/checkpoint' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet expecttest -c constraints.txt
	$(BIN)/python -m tests.conformance $(TESTS)

KERNELS := deltackpt/codec/kernels
CC_SANITIZE := -g -O2 -std=c11 -Wall -Wextra -ffp-contract=off -fno-math-errno -fsanitize=address,undefined -fno-sanitize-recover=all

sanitize: ## fuzz the C kernels under address and undefined-behaviour sanitizers
	@mkdir -p build
	$(CC) $(CC_SANITIZE) -I$(KERNELS) $(KERNELS)/*.c tests/kernels/fuzz.c -o build/fuzz-kernels -lm
	build/fuzz-kernels $(BLOCKS)

aarch64: ## compare the C kernels on aarch64, under qemu-user, with this machine's
	@PYTHON="$$([ -x $(BIN)/python ] && echo $(BIN)/python || echo $(PYTHON))" CC="$(CC)" tests/kernels/aarch64.sh

format: venv ## format the code and sort its imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

SIZE ?= quick

benchmarks: venv ## measure everything beside its peers and write docs/benchmarks.md: some minutes, or an hour (SIZE=full)
	$(BIN)/python -m pip install --quiet -e '.[bench]' -c constraints.txt --build-constraint constraints.txt
	$(BIN)/python -m benchmarks.all --$(SIZE)

bench: venv ## measure what manifests and indexes cost
	$(BIN)/python -m benchmarks.metadata

codecs: venv ## sizes and speeds of the codec and its peers on a real training run
	$(BIN)/python -m pip install --quiet -e '.[bench]' -c constraints.txt --build-constraint constraints.txt
	$(BIN)/python -m benchmarks.codecs

KILLS ?= 3500
FLIPS ?= 100000
INPUTS ?= 10000000
SAVES ?= 2000
STRESS ?= 600

crash: venv ## kill savers and collectors 3,500 times (KILLS=), flip 100,000 bits (FLIPS=)
	$(BIN)/python -m tests.reliability.kills --kills $(KILLS)
	$(BIN)/python -m tests.reliability.bitrot --flips $(FLIPS)

fuzz: venv ## feed every parser 10 million hostile inputs (INPUTS=)
	$(BIN)/python -m tests.reliability.fuzz --inputs $(INPUTS)

soak: venv ## save a 50 MB state 2,000 times (SAVES=), pruned as it goes; then many processes at once for 10 minutes
	$(BIN)/python -m tests.reliability.soak --saves $(SAVES)
	$(BIN)/python -m tests.reliability.stress --seconds $(STRESS)

clean: ## delete .venv, caches and build outputs
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find benchmarks deltackpt tests -name __pycache__ -type d -prune -exec rm -rf {} +
