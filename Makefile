# Variables pass through: make bench SUITE=dense JOBS=2 DATA=/data RESULTS=results SEEDS=0,1,2
PYTHON ?= python3
SUITE ?= tour
RESULTS ?= results
JOBS ?=
DATA ?=
SEEDS ?=
PROFILE ?=
METHODS ?=
DATASETS ?=
WANDB ?= disabled
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS_AT_ONCE ?= $(shell nproc 2>/dev/null || echo 2)
RUN := $(BIN)/paragone run
FLAGS := --results $(RESULTS) --wandb $(WANDB) \
	$(if $(JOBS),--jobs $(JOBS)) $(if $(DATA),--data-root $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) \
	$(if $(PROFILE),--profile $(PROFILE)) $(if $(METHODS),--methods $(METHODS)) \
	$(if $(DATASETS),--datasets $(DATASETS)) $(ARGS)

.PHONY: help setup bench test lint smoke leaderboards perf clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo
	@echo "Variables: SUITE JOBS DATA RESULTS SEEDS PROFILE METHODS DATASETS WANDB (see README.md)"

setup: $(READY)  ## make .venv and install what constraints.txt pins

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

bench: $(READY)  ## run a suite (default: tour) and print its leaderboards; reruns nothing that has a result
	$(RUN) $(SUITE) $(FLAGS)

smoke: $(READY)  ## every method and baseline for a few steps
	$(RUN) smoke $(FLAGS)

test: $(READY)  ## run the tests in parallel, one torch thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TESTS_AT_ONCE) --dist worksteal $(ARGS)

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

leaderboards: $(READY)  ## rebuild leaderboards/ from the committed results
	$(BIN)/paragone leaderboard --results leaderboards/results --out leaderboards
	$(BIN)/paragone claims --results leaderboards/results --out leaderboards

perf: $(READY)  ## speed as ratios against named baselines, measured in this run
	OMP_NUM_THREADS=1 $(BIN)/python -m perf

clean:  ## remove the environment and caches; results stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
