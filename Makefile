# Set-up and checks, each from a fresh clone on a machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export HF_HUB_OFFLINE := 1
# transformers probes for TensorFlow and the like at import; nothing here needs the network.

.PHONY: demo test lint benchmark clean

demo: $(STAMP)
	$(BIN)/captum-globenc explain "The plot is thin, but the acting is simply wonderful."

test: $(STAMP) lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(STAMP)
	$(BIN)/python benchmarks/cost.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test]'
	touch $@

clean:
	rm -rf $(VENV)
