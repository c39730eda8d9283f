# Two commands do everything: `make bench` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SOURCES := pyproject.toml $(wildcard shmbench/native/*.pyx shmbench/native/*.pxd shmbench/native/*.h)

.PHONY: bench test test-all bars lint types docs-figures history history-html clean

bench: $(STAMP)
	@mkdir -p results
	$(BIN)/shmbench run quick --output results/quick.json
	$(BIN)/shmbench report results/quick.json --output results/quick.html

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not bar" $(PYTEST_ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "not bar" $(PYTEST_ARGS)

# What the project promises, as ratios within one run: wants a quiet machine.
bars: $(STAMP)
	$(BIN)/python -m pytest -m bar -s $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy --strict shmbench

# The figures and tables of docs/policy.md, from one result file or several.
RESULT ?= results/policy.json
docs-figures: $(STAMP)
	$(BIN)/python -m shmbench.report.docs $(RESULT) docs/figures

# The last COMMITS commits, by asv, and a site of all that was measured: see benchmarks/README.md.
COMMITS ?= 5
MACHINE ?= $(shell uname -n)
WAIT    ?= 600
ASV     := $(BIN)/python -m asv
history: $(STAMP)
	$(BIN)/shmbench asv preflight --wait $(WAIT)
	$(BIN)/shmbench asv machine $(MACHINE)
	git rev-list --first-parent --max-count=$(COMMITS) HEAD | \
	    $(ASV) run HASHFILE:- --machine $(MACHINE) --record-samples --skip-existing-successful $(ASV_ARGS)

history-html: $(STAMP)
	$(BIN)/shmbench asv site

$(STAMP): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" "Cython>=3.1"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[report,docs,mpi,asv,dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info results
	find shmbench -name '*.so' -delete
	rm -f shmbench/native/*.c
