# The list of commands. Each sets up what it needs: a fresh machine needs Python 3.11 or newer, make and git.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most tests wait for processes, so one more than the cores of a small machine.
JOBS ?= 3
READY := $(VENV)/.ready

.PHONY: help demo up test check format bench soak lock clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml .ci/venv
	@.ci/venv $(PYTHON) $(VENV)
	@touch $@

demo: $(READY) ## play the main job on a stand-in forge, no account needed; KEEP=1 leaves it running
	@$(BIN)/forgepool demo $(if $(KEEP),--keep)

up: $(READY) ## run the engine against your own forge, as forgepool.toml says
	@$(BIN)/forgepool up

test: $(READY) ## run the whole test suite; JOBS=1 one after the other, ARGS="-k word" a part of it
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(READY) ## ruff, formatting, mypy --strict, import direction
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## put the code into form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## measure selection (up to 100,000 instances and a million finished tasks), the answer to a delivery, the cost of workers
	@$(BIN)/python -m tests.bench.bench_selection $(ARGS)
	@$(BIN)/python -m tests.bench.bench_door
	@$(BIN)/python -m tests.bench.bench_fleet

soak: $(READY) ## the whole kill matrix, then the long form of the property and storm tests
	@$(BIN)/forgepool chaos --long
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
	  --ignore=tests/chaos/test_kill_matrix.py $(ARGS)

lock: $(READY) ## resolve the newest versions that pyproject.toml allows
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --group dev --extra postgres --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet -o requirements.lock

clean: ## remove everything that was made here
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
