# The commands a person types. `make demo` and `make test` need Python 3.11+ and nothing else.
SHELL := /bin/bash
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet --require-hashes

.PHONY: help install install-dev demo drill up test lint bench lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found on the PATH." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (on Debian: apt install python3-venv)." >&2; exit 1; }

# A stamp per lock file: installing again costs nothing when nothing changed.
$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the lock file names …" >&2
	@$(INSTALL) -r requirements.lock >&2
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable . >&2
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "Installing what the tests need …" >&2
	@$(INSTALL) -r requirements-dev.lock >&2
	@touch $@

install: $(VENV)/.installed  ## the environment, with the command at .venv/bin/notifier
install-dev: $(VENV)/.installed-dev

demo: install  ## a made-up incident from file to report on this machine (ARGS="--once --json")
	@$(BIN)/notifier demo $(ARGS)

drill: install  ## every way sending can fail, done for real and judged (ARGS="--json --rounds 5")
	@$(BIN)/notifier drill $(ARGS)

up: install  ## one machine, real settings, data kept in var/
	@$(BIN)/notifier up $(ARGS)

test: install-dev  ## all tests (ARGS is handed to pytest)
	@bash tests/need_chromium.sh
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n 3 --dist worksteal)

lint: install-dev  ## ruff and mypy, as CI runs them
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: install-dev  ## measured claims
	@$(BIN)/python -m bench $(ARGS)

lock: install-dev  ## renew both lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra build --extra rehearsal pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra build --extra rehearsal --extra otel --extra dev pyproject.toml \
		-c requirements.lock -o requirements-dev.lock

clean:  ## remove the environment and caches; data in var/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
