# Two commands do all the set-up: `make demo` and `make test`. Python >= 3.11, pip and make are all they need.
PYTHON ?= python3
VENV   ?= .venv
SEED   ?= 0
BIN    := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test lint setup mlflow clean

demo: $(VENV)/.demo  ## the whole pipeline on rendered data: preprocess, train HDF and HKAFER, evaluate, predict
	$(BIN)/python -m jobs.demo seed=$(SEED)

test: $(VENV)/.test lint  ## ruff and all tests
	$(BIN)/python -m pytest -q

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: $(VENV)/.test  ## the virtual environment alone

mlflow: $(VENV)/.demo  ## MLflow's pages for the demo's runs on http://127.0.0.1:5000
	$(BIN)/python -m jobs.mlflow dir=runs/demo

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## remove what the demo made; the virtual environment stays
	rm -rf runs/demo
