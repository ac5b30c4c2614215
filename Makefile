# Needs Python 3.11 or newer, git and make. Everything else goes into .venv.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= runs/quickstart
JSON ?= benchmarks/results/gpu-check.json

# One thread a test process; as many processes as there are processors.
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
TESTS ?=
EXTRAS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart demo test extras check-install lint docs format bench gpu-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# With --resume, a second call goes on from where the first was stopped, or shows its result again.
quickstart: $(READY) ## train on handwritten digits, print the result and draw it
	$(BIN)/hrt-mm train vision/digits run.dir=$(RUN) --resume
	$(BIN)/hrt-mm diagnose $(RUN)

demo: $(READY) ## train a model of symbols and their names in under 10 minutes, then search them on a page
	$(BIN)/python -c 'import emoji, starlette, uvicorn' 2>/dev/null || $(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[demo]'
	$(BIN)/python -m demos.glyphs

test: $(READY) ## run the tests; TESTS="-k word" chooses some, HRT_MM_DATA=... adds those on real data
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) $(TESTS)

extras: $(READY) ## install all extras, so that no test but those of GPUs and real data is skipped
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[ci]'

check-install: ## install into empty environments, without extras and with each, and train there; EXTRAS="core vision" chooses
	$(PYTHON) .ci/check_install.py $(EXTRAS)

lint: $(READY) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY) ## build the site of the documentation into build/site; a warning is an error
	$(BIN)/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(READY) ## format, and mend what lint can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## the benchmarks, small sizes
	$(BIN)/python -m benchmarks.encoder_scaling --quick
	$(BIN)/python -m benchmarks.overhead --quick

gpu-check: $(READY) ## the checks that need a GPU; JSON=FILE chooses where the result goes
	$(BIN)/python -m benchmarks.gpu_check --json $(JSON)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[dev]'
	touch $@

clean: ## remove what tests and builds leave behind; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
