# Needs python3.11 or newer with pip, and make. Everything else goes into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PACKAGES := verifier solvers properties training examples
# test processes, with one torch thread in each: set it to the number of cores
WORKERS ?= 2
FUZZ_MINUTES ?= 10
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# which versions are installed: those of the lock, within the ranges of pyproject.toml
VERSIONS ?= -c requirements.lock
# what `lock` and `test-latest` ask for of torch: its next version is gigabytes, and is taken when somebody means to
TORCH ?= $(shell grep '^torch==' requirements.lock)

.DEFAULT_GOAL := help
.PHONY: help demo test tests test-device test-latest test-slow fuzz mutate bench bench-device docs lint types format lock clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## */\1|/' | \
	  while IFS='|' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

demo: $(VENV)/demo.stamp  ## certify scikit-learn's digits with the shipped network; the picture goes to out/
	$(BIN)/python -m verifier.demo --out out

test: lint types tests test-device  ## lint, type check, and every test that is not slow

tests: $(VENV)/test.stamp  ## every test that is not slow; one file: make tests TESTS=tests/solvers
	$(ONE_THREAD) $(PYTEST) -n $(WORKERS) $(TESTS)

test-device: $(VENV)/test.stamp  ## the tests on a CUDA device: a real one where there is one, else one that is pretended
	PYTHONPATH=tests $(ONE_THREAD) $(PYTEST) -p device.plugin -n $(WORKERS) -rs tests/device

test-latest:  ## the tests against the newest versions that pyproject.toml allows (of torch: TORCH=...)
	rm -rf $(VENV)-latest
	$(MAKE) tests VENV=$(VENV)-latest VERSIONS='$(TORCH)'

test-slow: $(VENV)/test.stamp  ## the tests that take minutes
	$(ONE_THREAD) $(PYTEST) -m slow -n $(WORKERS)
	PYTHONPATH=tests $(ONE_THREAD) $(PYTEST) -p device.plugin -m slow -n $(WORKERS) tests/device

fuzz: $(VENV)/test.stamp  ## random problems against members of their sets; FUZZ_MINUTES=10 on all cores
	PYTHONPATH=tests $(ONE_THREAD) $(BIN)/python -m fuzz.run --minutes $(FUZZ_MINUTES)

mutate: $(VENV)/test.stamp  ## change the certificate checker in every small way: a test must fail each time
	PYTHONPATH=tests $(ONE_THREAD) $(BIN)/python -m mutation.mutate --jobs $(WORKERS) $(MUTATE)

bench: $(VENV)/test.stamp  ## measure the verifier; see docs/performance.md
	$(BIN)/python benchmarks/dual_vs_auto_lirpa.py --onnx $(NET) --data $(DATA) $(if $(PEER),--peer-python $(PEER)) $(BENCH)

bench-device: $(VENV)/test.stamp  ## ten minutes of a CUDA device: tests and figures to device.json; NETS=DIR DATA=DIR
	$(BIN)/python benchmarks/device_session.py $(if $(NETS),--nets $(NETS)) $(if $(DATA),--data $(DATA)) $(BENCH)

docs: $(VENV)/docs.stamp  ## build the documentation and its reference into site/; fails on a warning
	$(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/test.stamp  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp  ## type check
	$(BIN)/mypy $(PACKAGES)

format: $(VENV)/test.stamp  ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write requirements.lock: the newest versions that pyproject.toml allows (of torch: TORCH=...)
	rm -rf $(VENV)-lock
	$(MAKE) $(VENV)-lock/test.stamp VENV=$(VENV)-lock VERSIONS='$(TORCH)'
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable > $(VENV)-lock/frozen
	{ sed -n '/^#/p' requirements.lock; sed -E 's/\+.*//' $(VENV)-lock/frozen; } > $(VENV)-lock/written
	mv $(VENV)-lock/written requirements.lock
	rm -rf $(VENV)-lock

clean:  ## remove everything that these targets made
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lock out site build dist .pytest_cache .ruff_cache .mypy_cache *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(VENV)

# one stamp per extra: made again when a dependency may have changed
$(VENV)/%.stamp: pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install $(VERSIONS) --editable '.[$*]'
	touch $@
