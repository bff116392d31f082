# make demo | test | docs | experiment, and longer suites: fuzz | kill-test | interpreter | cluster | ptx | long-videos |
# detectors | adaptation | masks | exports | serve-test | release. Each makes .venv first, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

WORDS  := kernels istvt dataloading bench tests docs integrations README.md SECURITY.md Makefile setup.py

.PHONY: install demo test fuzz kill-test interpreter cluster ptx long-videos detectors adaptation masks exports serve-test release experiment docs lint clean

install: $(VENV)/.installed

# On a CPU-only machine torch's own index or a local wheel gives the CPU build; the pins are in setup.py alone.
$(VENV)/.installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[all]'
	touch $@

demo: install
	$(BIN)/istvt demo --output runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=10

# Commands stopped at 100 random moments, and what they write after they went on: half an hour of two cores.
kill-test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 3600 -m exhaustive tests/kill

# Every kernel test of tests/gpu in Triton's interpreter: two minutes of two cores.
interpreter: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m 'exhaustive or not exhaustive' tests/kernels/test_in_the_interpreter.py

# The commands on a Ray cluster of two nodes, with crops and an evaluation: a minute of one core.
cluster: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 1200 -m 'exhaustive or not exhaustive' tests/dataloading/engines

# All shapes of `bench execute` and the executor's full tests: an hour of one core.
ptx: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 3600 -m 'exhaustive or not exhaustive' tests/bench/ptx

# Half an hour of 1080p, searched for faces: some minutes of two cores.
long-videos: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s --timeout 3600 -m exhaustive tests/dataloading/faces

# Thousands of damaged inputs through the commands: a quarter of an hour of two cores. It goes on where it was stopped.
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/long_run.py --inputs 2100 --workers 2 --write SECURITY.md

# The small preset of every architecture learns the synthetic set, one after another: half an hour of one idle core.
detectors: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s --timeout 3600 -m exhaustive tests/istvt/model/baselines

# A detector of `blend` learns `flicker` from few videos and keeps what it knows: some minutes of one idle core.
adaptation: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s --timeout 3600 -m exhaustive tests/bench/test_adaptation_experiment.py

# Predicted masks of drawn forgeries beside masks that need no network: some ten minutes of one idle core.
masks: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s --timeout 3600 -m exhaustive tests/bench/test_masks_experiment.py

# Every architecture and every variant of ISTVT as torch.export program and as ONNX: some minutes of one core.
exports: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 1200 -m exhaustive tests/istvt/inference/test_export.py

# Wheel and sdist in dist/, and the wheel tried in an environment of its own without this folder: a minute or two.
release: install
	rm -rf dist
	OMP_NUM_THREADS=1 ISTVT_DIST=dist $(BIN)/python -m pytest -s --timeout 1200 -m exhaustive tests/test_release.py

# The service under 50 uploads at once and hundreds of requests made from its description: some minutes of one core.
# ISTVT_SCREENSHOTS=runs/demo makes the pictures in docs/images anew.
serve-test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s --timeout 3600 -m 'exhaustive or not exhaustive' tests/istvt/cli/service

experiment: install
	$(BIN)/python -m bench experiment --output runs/experiment --documents docs --readme README.md
	$(BIN)/python -m bench detectors --output runs/detectors --documents docs --readme README.md
	$(BIN)/python -m bench adaptation --output runs/adaptation --documents docs
	$(BIN)/python -m bench masks --output runs/masks --document docs/masks.md

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell -D - -D docs/words.txt $(WORDS)

# The documentation site, offline, into runs/site.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:
	rm -rf $(VENV) runs dist
