# make train   set everything up and train the default recipe
# make test    set everything up and run the tests
# make test-quick   those of pure logic, under a minute
# make test-long    more combinations, launchers, lost hosts and scripts: hours (Linux, root). Those with real SLURM, sshd
#                   and S3 are skipped unless scripts/install_parts.sh, or you, have installed these
# make lint    ruff, mypy, the arrows between packages, and plain English
# make docs    the documents as a site, in build/site; `make docs-serve` shows it on 127.0.0.1

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread for each process that tests, and its bytecode kept, since hundreds of processes start.
FAST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.PHONY: train test test-quick test-long lint format docs docs-serve clean

train: $(READY)
	$(BIN)/ffpipe train $(ARGS)

# Three test processes on two cores, each file in one of them, since tests wait for some of their time.
test: $(READY)
	$(FAST) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-quick: $(READY)
	$(FAST) $(BIN)/python -m pytest -q -m quick -n 2 $(ARGS)

test-long: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,cluster]'
	$(BIN)/python -m pytest -m long $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/plain_english.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:8000

# torch comes first and by its exact version: asked for as a range, pip may take a build with a GPU
# toolkit of several gigabytes. Bytecode is made of what is imported, when it is: of all, it takes a minute.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ffpipe needs Python 3.11 to 3.14, this is " + sys.version.split()[0] + ": set PYTHON") if not (3, 11) <= sys.version_info < (3, 15) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
