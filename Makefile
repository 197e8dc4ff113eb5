# Set-up and checks, each from a fresh clone on a machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
# Nothing here loads a model from the network.
export HF_HUB_OFFLINE := 1

.PHONY: demo web test test-wheel test-quantus test-harnesses test-ray test-quantized test-leaderboard test-versions test-gpu lint tutorials check-tutorials docs benchmark benchmark-gpu pictures clean

demo: $(VENV)/embedded
	$(BIN)/captum-globenc explain "The plot is thin, but the acting is simply wonderful."

# In a browser, on this machine alone.
web: $(VENV)/test
	$(BIN)/captum-globenc demo

# One process for each core; tests that look at a page come last and alone, because they wait for a browser. They are
# left out where there is no chromium (status 5: no tests); PYTEST_ARGUMENTS=--require-browser insists.
test: $(VENV)/test lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not browser" $(PYTEST_ARGUMENTS)
	$(BIN)/python -m pytest -m browser $(PYTEST_ARGUMENTS) || [ $$? = 5 ]

# What is published: built, looked through, installed where nothing else is, and run away from the sources.
test-wheel:
	rm -rf build dist
	$(PYTHON) -m venv dist/tools
	dist/tools/bin/pip install --quiet build twine
	dist/tools/bin/python -m build --outdir dist .
	dist/tools/bin/twine check --strict dist/*.tar.gz dist/*.whl
	$(PYTHON) -m venv dist/empty
	dist/empty/bin/pip install --quiet --no-compile --constraint constraints.txt "$$(ls dist/*.whl)[embedded]"
	cd dist && empty/bin/python -I ../scripts/check_installed.py
	cd dist && empty/bin/captum-globenc explain "A wonderful film."

# On its own, because Quantus brings OpenCV and scikit-image along.
test-quantus: $(VENV)/test
	$(PIP) --editable '.[quantus]'
	$(BIN)/python -m pytest -m quantus tests/test_quantus.py

# On its own, because interpreto brings bitsandbytes and nnsight along; what needs ferret runs where that is.
test-harnesses: $(VENV)/test
	$(PIP) --editable '.[interpreto]'
	$(BIN)/python -m pytest -m harnesses tests/test_harnesses.py

# On its own, because Ray is large.
test-ray: $(VENV)/test
	$(PIP) --editable '.[ray]'
	$(BIN)/python -m pytest -m ray tests/datasets/test_ray.py

# On its own and last, because torchao makes every import of transformers slow and loud.
test-quantized: $(VENV)/test
	$(PIP) --editable '.[quantized]'
	$(BIN)/python -m pytest -m quantized tests/recording/test_quantized.py

# The script of the leaderboard to its end, in a folder of its own, on a few texts with models that are hardly trained.
test-leaderboard: $(VENV)/test
	rm -rf build/leaderboard-quick
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/leaderboard.py --quick

# On a GPU; DEVICE=cpu runs a selection without one, as the whole suite does.
DEVICE ?= cuda
test-gpu: $(VENV)/test
	$(BIN)/python -m pytest tests/gpu --device $(DEVICE)

# The corners of the versions that pyproject.toml takes, each in an environment of its own: "make test-versions CORNERS=oldest".
test-versions:
	$(PYTHON) scripts/versions.py $(CORNERS)

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Executes the notebooks in place; check-tutorials leaves them, and fails where saved outputs are out of date.
tutorials: $(VENV)/docs
	$(BIN)/python scripts/tutorials.py

check-tutorials: $(VENV)/docs
	$(BIN)/python scripts/tutorials.py --check

docs: $(VENV)/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

benchmark: $(VENV)/embedded
	$(BIN)/python benchmarks/cost.py

# On a GPU, in at most 6 minutes; "make benchmark-gpu DEVICE=cpu GPU_ARGUMENTS=--quick" runs the script without one.
benchmark-gpu: $(VENV)/embedded
	$(BIN)/python benchmarks/gpu.py --device $(DEVICE) $(GPU_ARGUMENTS)

# Chromium has to be there, for the picture of the web demo.
pictures: $(VENV)/test
	$(BIN)/python scripts/pictures.py docs

$(VENV)/embedded: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[embedded]'
	touch $@

# rxnmapper: the tests read its weights; it pins old versions of what it depends on.
$(VENV)/test: $(VENV)/embedded
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps rxnmapper==0.4.3
	touch $@

$(VENV)/docs: $(VENV)/embedded
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) docs/_build docs/tutorials docs/command-line.md docs/jupyter_execute
