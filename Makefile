# Set-up and checks, each from a fresh clone on a machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Nothing here loads a model from the network.
export HF_HUB_OFFLINE := 1

.PHONY: demo test lint benchmark picture clean

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

picture: $(STAMP)
	$(BIN)/python scripts/picture.py docs/explain.svg

# rxnmapper: the tests read its weights; it pins old versions of what it depends on.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test]'
	$(BIN)/pip install --quiet --no-deps rxnmapper==0.4.3
	touch $@

clean:
	rm -rf $(VENV)
