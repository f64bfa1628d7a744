# Two commands matter: `make run` (the main job) and `make test`. Both install what they need into .venv.

VENV := .venv
BIN := $(VENV)/bin
# megatron-core's wheels ship megatron.training only for Python >= 3.12
PYTHON ?= $(shell for p in python3.12 $$HOME/.pyenv/versions/3.12*/bin/python python3 python3.13; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { command -v "$$p"; break; }; done)
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run install install-all check site format test test-fast test-all golden docs constraints clean

help: ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: install ## resolve, prove and train in miniature the layout of Llama 3 405B on 16,384 GPUs
	$(BIN)/meshwright rehearse recipe=llama3_405b stage=gpus_16384

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "meshwright needs Python 3.12 or newer; name one with make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[megatron]'
	touch $@

install-all: $(VENV)/.installed-all ## every backend and the developers' tools
$(VENV)/.installed-all: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $@

check: install-all ## ruff, mypy, the floors of the house, and the documentation as a site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls tests
	$(MAKE) site

format: install-all ## ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install-all ## everything but the long forms (under 12 minutes on 2 cores)
	$(PYTEST) -m 'not slow'

test-all: install-all ## with the long forms
	$(PYTEST)

golden: install-all ## regenerate tests/golden and the generated documents
	$(PYTEST) tests/test_golden.py --regenerate
	$(MAKE) docs

docs: install-all ## regenerate the tables and the picture in docs/
	$(BIN)/python -m meshwright.documents
	$(BIN)/meshwright report llama3_405b stage=gpus_16384 format=svg chart=memory out=docs/pictures/llama3_405b_memory.svg

site: install-all ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

constraints: install-all ## pin what is installed now
	{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools | sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
