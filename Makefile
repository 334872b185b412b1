# make demo   train, label, assign, test on generated videos, then predict a file (about a quarter of an hour on 2 cores)
# make test   the suite for a machine without a GPU                   make test-all   all that this machine can run
# make lint   style and names                                          make clean      remove .venv and output

PYTHON ?= python3
BIN := .venv/bin
OUT ?= output/demo
DATA ?= output/demo_data
CFG := configs/demo/timesformer_tiny_5x3.yaml

# glibc gives large freed blocks back to the system at once; training asks for the same ones again at every step.
# Kept, a step of the demo takes about a quarter less time. Other C libraries ignore these.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296

.PHONY: demo test test-all lint install clean

# The marker is written last: a broken installation is done again, a finished one is left alone.
.venv/installed: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "error: Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

install: .venv/installed

demo: .venv/installed
	$(BIN)/python tools/make_demo_data.py $(DATA)
	$(KEEP_MEMORY) $(BIN)/python tools/train_net.py --cfg $(CFG) output_dir=$(OUT) data.root=$(DATA) resume=auto
	$(BIN)/python tools/predict.py $(DATA)/videos/test/00000.mp4 --checkpoint $(OUT)/recognizer.pt

test: .venv/installed
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow and not gpu"

test-all: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv output
