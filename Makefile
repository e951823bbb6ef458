# Every target sets up first what it needs: a fresh machine has python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv
SUITE ?= all
WORKERS ?= 4

.PHONY: setup demo test lint bench chaos lock clean

setup: $(VENV)/.ready

$(UV):
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

$(VENV)/.ready: $(UV) pyproject.toml requirements/dev.txt
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q src
	@touch $@

demo: setup
	$(BIN)/bleen demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup tests

bench: setup
	@$(BIN)/python -m tests.bench.run $(SUITE)

chaos: setup
	$(BIN)/python -m tests.chaos.run

lock: $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml --extra nginx -o requirements/runtime.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml --extra nginx --group dev -o requirements/dev.txt

clean:
	rm -rf $(VENV) .tools
