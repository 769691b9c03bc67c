# Everything happens in a local virtual environment; nothing but Python 3.11 needs to be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Which ONNX Runtime: cpu, or gpu on a CUDA machine (make bench DEVICE=gpu). There may be only one.
DEVICE ?= cpu

# Packages that a CUDA machine has already, torch among them, are used as they are: it may have no network.
PYTHON_GPU ?= python3
GPU_CHECK ?=

.PHONY: bench test lint gpu-check clean

bench: $(VENV)/.runtime  ## set up the runtime, then measure it on the embedded model
	$(RUN) -m runtime.bench

test: $(VENV)/.test  ## set up everything, then run all tests
	$(RUN) -m pytest -q

lint: $(VENV)/.test  ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

gpu-check:  ## on a CUDA machine: test, measure and certify what needs one, such as GPU_CHECK="--minutes 30"
	$(PYTHON_GPU) -m benchmarks gpu-check $(GPU_CHECK)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[$(DEVICE)]"
	touch $@

# The official package is a test oracle: without its CUDA extension, and without torchvision, which it needs only for
# what is not tested here.
$(VENV)/.test: $(VENV)/.runtime
	$(PIP) setuptools wheel
	$(PIP) --editable ".[$(DEVICE),export,test]"
	SAM2_BUILD_CUDA=0 $(PIP) --no-deps --no-build-isolation sam2
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
