# Every target works from a bare clone: the environment is made on first use, and what Python compiles of it is kept.
export PYTHONDONTWRITEBYTECODE =
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CODE = benchmarks docs medmerge_hf recipes tests
DOCS = "mkdocs<2" "mkdocs-material<10" "mkdocstrings[python]<2" ruff

.PHONY: bench demo docs quality style test test-slow

$(VENV)/.dev: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile --upgrade pip
	$(BIN)/python -m pip install -q --no-compile -e ".[dev]"
	touch $@

.venv-demo/.installed: setup.cfg
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install -q --no-compile --upgrade pip
	.venv-demo/bin/python -m pip install -q --no-compile .
	touch $@

demo: .venv-demo/.installed
	.venv-demo/bin/python recipes/demo.py

quality: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(VENV)/.dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal --durations=10

.venv-docs/.installed: setup.cfg
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q --no-compile $(DOCS)
	touch $@

docs: .venv-docs/.installed
	$(PYTHON) docs/pages.py build/docs
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build -q
	$(PYTHON) docs/links.py build/site

test-slow: $(VENV)/.dev
	$(BIN)/pytest -q -m slow

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/breakdown.py
	$(BIN)/python benchmarks/throughput.py
