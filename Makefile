# Everything a newcomer needs: `make launch` and `make test` set up what they need, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: launch test test-slow test-docker check format bench clean help

help:
	@echo "make launch       install into .venv and run forty agents on a ring, live on screen"
	@echo "make test         install into .venv and run the quick tests"
	@echo "make check        lint, type-check, quick tests"
	@echo "make test-slow    the heavy ones: networks killed, frozen, compared; 200 agents; the wheel; every documented command"
	@echo "make test-docker  real containers in an engine of the tests' own, as root"
	@echo "make bench        measure this machine and print the tables of docs/benchmarks.md"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "difnet needs Python 3.11 or later; $$($(PYTHON) --version) is $(PYTHON). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 3; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

launch: $(INSTALLED)
	$(BIN)/difnet launch --topology ring40

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not docker"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not docker"

test-docker: $(INSTALLED)
	$(BIN)/python -m pytest -m docker -rs

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not docker"

format: $(INSTALLED)
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/difnet bench

clean:
	rm -rf .venv build dist *.egg-info
