# Set-up and checks, each from a fresh clone on a machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Nothing here loads a model from the network.
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-quantus lint benchmark picture clean

demo: $(STAMP)
	$(BIN)/captum-globenc explain "The plot is thin, but the acting is simply wonderful."

test: $(STAMP) lint
	$(BIN)/python -m pytest

# On its own, because Quantus brings OpenCV and scikit-image along.
test-quantus: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[quantus]"
	$(BIN)/python -m pytest -m quantus tests/test_quantus.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(STAMP)
	$(BIN)/python benchmarks/cost.py

picture: $(STAMP)
	$(BIN)/python scripts/picture.py docs/explain.svg

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test]'
	# Its weights are tested, and it pins old versions of what it depends on.
	$(BIN)/pip install --quiet --no-deps rxnmapper==0.4.3
	touch $@

clean:
	rm -rf $(VENV)
