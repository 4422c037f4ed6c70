# Every target makes what it needs by itself, in $(VENV), with nothing but Python, pip, venv and make.
# Another Python: make test PY=python3.13 VENV=.venv-3.13
PY ?= python3
VENV ?= .venv
BENCH ?=
PYTEST ?=
comma := ,
BIN := $(VENV)/bin
# Each stamp says that one set of extras is installed; `dev` contains `test` contains `demo`.
DEMO := $(VENV)/.has-demo
TEST := $(VENV)/.has-test
DEV := $(VENV)/.has-dev

.PHONY: help setup demo test check bench docs clean
help:
	@echo "make demo   every I/O model side by side, then a first real job (about 20 s after set-up)"
	@echo "make test   run the tests"
	@echo "make check  linters, formatter, types, import order"
	@echo "make bench  cost per item, beside other libraries"
	@echo "make docs   the documentation, into build/docs"
	@echo "make setup  all that the others need for development, into $(VENV)"

setup: $(DEV)

demo: $(DEMO)
	@$(BIN)/overlapped demo

test: $(TEST)
	@$(BIN)/python -m pytest $(PYTEST)

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: $(VENV)/.has-bench
	@$(BIN)/python benchmarks/overhead.py $(BENCH)

docs: $(VENV)/.has-docs
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) build

# Installs one set of extras ($1) and prints nothing but what went wrong; a line before it says what is going on.
install = echo "installing overlapped[$1] into $(VENV) ..." >&2 && $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$1]'

$(VENV)/bin/python:
	@python=$$(sh scripts/python.sh "$(PY)") && "$$python" -m venv $(VENV)

$(DEMO): pyproject.toml | $(VENV)/bin/python
	@$(call install,compare)
	@touch $@

$(TEST): pyproject.toml | $(VENV)/bin/python
	@$(call install,test)
	@touch $(DEMO) $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	@$(call install,dev)
	@touch $(DEMO) $(TEST) $@

$(VENV)/.has-%: pyproject.toml | $(VENV)/bin/python
	@$(call install,$*)
	@touch $@
