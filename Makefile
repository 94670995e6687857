# Every target sets up what it needs: a fresh clone, python3 (3.11 or later), make and PyPI are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := install
.PHONY: install demo test lint format up bench docs clean

install: $(READY)

# Stamped on what decides its content, so an unchanged environment costs nothing and a changed pin is picked up.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Pixeltoll needs Python 3.11 or later, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@echo 'Setting up $(VENV) (a few minutes the first time) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq --constraint constraints.txt --editable '.[worker,embedded,flower,reports,otel,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/pixeltoll demo --output demo-output

# A process for each core, each with servers of its own; a file stays whole, so what it shares is made once. The files
# that take longest come first by name. More than eight processes would wait for each other's disks.
test: $(READY)
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

up: $(READY)
	@$(BIN)/pixeltoll up

bench: $(READY)
	@$(BIN)/python -m bench

# The variable keeps the theme from telling of a successor at every build.
docs: $(READY)
	@$(BIN)/python -m tools.reference
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'The documentation is in build/site/index.html'

clean:
	rm -rf $(VENV) build dist htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
