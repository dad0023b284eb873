# make demo   the main job: three small language models, their table and report.html
# make test   the whole test suite
# make test-slow   what takes longer: kill -9 at random moments, every set-up on a pretended device, the site, the demo, the wheel
# make test-levels   the suite on every level of instructions that this machine has, on twins only and on two threads
# make test-lowest   the suite on the oldest versions that are supported, in a virtual environment of its own
# make mutants   how many small changes of the code the tests notice, in a sample; see tests/mutants.py
# make gpu-check   a table of full-size recipes on a GPU, in under five minutes; needs a torch with CUDA in the environment
# make docs   the site, offline and strict, into site/
# make lint   style and types
# make results RUNS=DIR   mean and spread over seeds of the runs in DIR, into docs/results.jsonl, the pages and the recipes
# Each makes the virtual environment when it is missing and installs only when something changed.

PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN = $(VENV)/bin
SOURCES = pyproject.toml constraints.txt $(wildcard setup.py) $(wildcard src/sparsernn/kernels/*.c src/sparsernn/kernels/*.h src/sparsernn/kernels/build.py)
# Tests compare bits and share the cores between workers: one thread each.
TEST_WORKERS ?= auto
RUNS ?= runs
# Pages with a table that is printed from results.
PAGES = $(shell grep -ls '<!-- results:' README.md docs/*.md)

.PHONY: demo test test-slow test-levels test-lowest gpu-check mutants lint docs results clean
demo: $(VENV)/.installed-report
	$(BIN)/python -m sparsernn demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --maxprocesses 4

test-slow: $(VENV)/.installed-dev $(VENV)/.installed-release
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --maxprocesses 4 -m slow

test-levels: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python tests/levels.py -q -n $(TEST_WORKERS) --maxprocesses 4

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(LOWEST)/bin/python -m pytest -q -n $(TEST_WORKERS) --maxprocesses 4

mutants: $(VENV)/.installed-dev $(VENV)/.installed-mutants
	$(BIN)/python tests/mutants.py map tests src/sparsernn
	$(BIN)/python tests/mutants.py sample
	$(BIN)/python tests/mutants.py run
	$(BIN)/python tests/mutants.py report

gpu-check: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu_check.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html"

results: $(VENV)/.installed-dev
	$(BIN)/python -m sparsernn results $(RUNS) --keep docs/results.jsonl $(addprefix --page ,$(PAGES)) --recipes

clean:
	rm -rf $(VENV) $(LOWEST) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "sparsernn needs Python 3.11 or newer; set PYTHON=, for example: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-report: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[report]"
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[report,dev]"
	@touch $@ $(VENV)/.installed-report

$(VENV)/.installed-docs $(VENV)/.installed-mutants $(VENV)/.installed-release: $(VENV)/.installed-%: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	@touch $@

$(LOWEST)/.installed: $(SOURCES) constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable ".[report,dev]"
	@touch $@
