# Every command sets up everything it needs; a second run starts at once. The versions are those of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run side by side, each worker with a run of neighbours, so that what a module makes once is made once or twice;
# a worker holds about 1 GB. WORKERS=0 runs them in one process.
WORKERS ?= logical
PYTEST = $(BIN)/python -m pytest
SIDE_BY_SIDE = -n $(WORKERS) --maxprocesses 4 --dist worksteal
# Each worker, and each command that a test starts, would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE
OLD = echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1
INSTALL = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { $(OLD); } && $(PYTHON) scripts/install.py

.PHONY: analyze quick test test-latest test-oldest slow nightly browser bench lint types results gallery notebooks docs dist constraints clean core full

analyze: core
	$(BIN)/mlx-moebench analyze --plot results/scratch/load.png --output results/scratch/routing_stats.json

# The core alone, without torch, gradio and lm-eval: for every change.
quick:
	@$(INSTALL) $(VENV) quick
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow and not browser and not extra"

test: full
	$(PYTEST) $(SIDE_BY_SIDE)

# The newest of everything, and the oldest that pyproject.toml allows. The first may fail: docs/dependencies.md says
# what it showed.
test-latest:
	@$(INSTALL) .venv-latest full --latest
	.venv-latest/bin/python -m pytest $(SIDE_BY_SIDE)

test-oldest:
	@$(INSTALL) .venv-oldest full --oldest
	.venv-oldest/bin/python -m pytest $(SIDE_BY_SIDE)

slow: full
	$(PYTEST) $(SIDE_BY_SIDE) -m "slow and not nightly"

# Simulations of coverage, kills, and the held-out text of the embedded model: what rarely breaks, and takes long.
nightly: full
	$(PYTEST) $(SIDE_BY_SIDE) -m nightly

# Without a Chromium on the path it installs Debian's, which needs root; MOEBENCH_CHROMIUM names another.
browser: full
	@[ -n "$$MOEBENCH_CHROMIUM" ] || command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null \
	  || { apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } \
	  || { echo "The browser tests need Chromium: install it, or name one in MOEBENCH_CHROMIUM"; exit 1; }
	$(PYTEST) -m browser

# What everything costs, into results/benchmarks: 50 minutes on two cores that do nothing else. BENCH says what is run, as in
# make bench BENCH="--only peers page --moewatch FOLDER"; benchmarks/run.py --help.
bench: full
	$(BIN)/python benchmarks/run.py $(BENCH)

# Needs AllenAI's counts of OLMoE in MOEBENCH_SHARED_DATA (default ../shared/data); without them that part stays.
results: core
	$(BIN)/python scripts/make_results.py

# The pictures of docs/gallery.md and the README.
gallery: core
	$(BIN)/python scripts/make_gallery.py

# What the notebooks in docs/notebooks print.
notebooks: full
	$(BIN)/python scripts/make_notebooks.py

# The page's scripts are checked where Node is; .ci/run installs it where it may.
lint: full
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null; \
	then [ node_modules/.package-lock.json -nt package.json ] || npm install --silent && npm run --silent lint; \
	else echo "JavaScript is not checked: it takes Node 20 or newer, with npm"; fi

types: full
	$(BIN)/mypy

# The documentation as a site, in build/site; warnings are errors.
docs:
	@[ -x .venv-docs/bin/mkdocs ] || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/python -m pip install --quiet --constraint constraints.txt ".[docs]"; }
	.venv-docs/bin/mkdocs build --strict

# The sdist and, built from it, the wheel, in dist/.
dist: full
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m build --outdir dist

# constraints.txt, from what is newest today.
constraints: full
	$(BIN)/python scripts/make_constraints.py

core full:
	@$(INSTALL) $(VENV) $@

clean:
	rm -rf .venv .venv-latest .venv-oldest .venv-docs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache node_modules
