# Needs make and Python 3.11 or newer; another interpreter: make PYTHON=python3.12 install

.POSIX:

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed
ARGS =

.PHONY: help install train test check bench docs docs-serve dist newcomer clean

help:
	@echo "make install   .venv with everything that development needs"
	@echo "make train     train PPO on CartPole-v1, evaluate it and plot its returns, in runs/"
	@echo "make test      all tests (make test ARGS='-k gae' for some)"
	@echo "make check     format, lint, types, import arrows, and the size table"
	@echo "make bench     against other libraries (ARGS='--only NAME --repeat 3')"
	@echo "make docs      the documentation, into site/ (make docs-serve: to look at, on this machine)"
	@echo "make dist      a wheel and a source archive, into dist/"
	@echo "make newcomer  install that wheel into a fresh environment, and follow Getting started there"
	@echo "make clean     remove what make made, except runs/"

install: $(STAMP)

# pip takes the build's own setuptools from the constraints too: its older releases read
# PIP_CONSTRAINT for that, its newer ones PIP_BUILD_CONSTRAINT.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Shoal needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 install")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): this takes some minutes the first time"
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

train: install
	@set -e; out=runs/cartpole-ppo-$$(date +%Y%m%d-%H%M%S); \
	$(BIN)/shoal train CartPole-v1 --system ppo --stop-return 475 --out "$$out"; \
	$(BIN)/shoal evaluate "$$out"; \
	$(BIN)/shoal plot "$$out" -o "$$out/returns.png"; \
	echo "The run is in $$out, its returns are drawn in $$out/returns.png"

# One process per core; with one, pytest itself (ARGS=-n0 too). tests/conftest.py says which tests
# stay together. Small arrays: a second BLAS thread would only compete with the other processes.
test: install
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest \
		-n logical --maxprocesses=8 --dist loadscope --no-loadscope-reorder $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py
	@$(BIN)/python -m tools.check

bench: install
	$(BIN)/python benchmarks/run.py $(ARGS)

# Pages that are written from code and results are in docs/ already: python -m tools.pages.
# Not --quiet: it hides warnings from --strict, which then passes dead links.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

dist: install
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m build --outdir dist .

newcomer: dist
	$(BIN)/python -m tools.newcomer

clean:
	rm -rf $(VENV) .bench-venv build dist site shoal.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
