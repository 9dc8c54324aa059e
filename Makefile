# Both README commands set up everything they need in .venv; a second run starts at once.
PYTHON ?= python3
VENV ?= .venv
# On Linux this version installs as a CPU build where one is offered; the tests compare with transformers on it.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
EXTRA := $(if $(filter Darwin,$(shell uname -s)),,[cpu])

.PHONY: analyze test slow browser lint types results gallery ci clean

analyze: $(VENV)/.core
	$(BIN)/mlx-moebench analyze --plot results/scratch/load.png --output results/scratch/routing_stats.json

test: $(VENV)/.dev
	$(BIN)/python -m pytest

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# Without a Chromium on the path it installs Debian's, which needs root; MOEBENCH_CHROMIUM names another.
browser: $(VENV)/.dev
	@[ -n "$$MOEBENCH_CHROMIUM" ] || command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null \
	  || { apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } \
	  || { echo "The browser tests need Chromium: install it, or name one in MOEBENCH_CHROMIUM"; exit 1; }
	$(BIN)/python -m pytest -m browser

# Needs AllenAI's counts of OLMoE in MOEBENCH_SHARED_DATA (default ../shared/data); without them that part stays.
results: $(VENV)/.core
	$(BIN)/python scripts/make_results.py

# The pictures of docs/gallery.md and the README.
gallery: $(VENV)/.core
	$(BIN)/python scripts/make_gallery.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The environment is current while pyproject.toml is older than its stamp.
$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".$(EXTRA)"
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
