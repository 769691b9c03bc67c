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

# What gives programs a screen where there is none.
SCREEN ?=

# Else tests that start Python would have all our modules compiled again each time.
unexport PYTHONDONTWRITEBYTECODE

# Tests in five processes, two at a time for two cores: what reads exported graphs and builds engines, which takes most
# time; beside it what starts servers, browsers and clusters, then whatever is not named, then what tracks; last what is
# short, the certificates, so that both cores have something to do to the end. What a process has taken it keeps to its
# end, so that fewer would take more than 3 GB together.
TESTS_OF_CERTIFICATES := $(addprefix tests/runtime/backends/test_certificate_,hostile.py mutations.py)
TESTS_OF_GRAPHS := $(addprefix tests/,runtime/backends runtime/measure runtime/commands/test_build.py \
	runtime/commands/test_segment_single.py export benchmarks)
TESTS_OF_SERVERS := $(addprefix tests/,runtime/serve runtime/cohort)
TESTS_OF_TRACKING := $(addprefix tests/,runtime/predictors runtime/steps runtime/memory)

# Two at a time; whatever fails, the others are run.
IN_PAIRS := --jobs=2 --keep-going --no-print-directory
TESTS := test-of-graphs test-of-servers test-of-the-rest test-of-tracking test-of-certificates

.PHONY: bench check test $(TESTS) test-viewers lint gpu-check clean

bench: $(VENV)/.runtime  ## set up the runtime, then measure it on the embedded model
	$(RUN) -m runtime.bench

test: $(VENV)/.test  ## set up everything, then run all tests
	$(MAKE) $(IN_PAIRS) $(TESTS)

check: $(VENV)/.test  ## tests and lint, as .ci/run has them: lint where a core would be idle at the end
	$(MAKE) $(IN_PAIRS) $(TESTS) lint

test-of-graphs: $(VENV)/.test
	$(RUN) -m pytest -q $(TESTS_OF_GRAPHS) $(addprefix --ignore=,$(TESTS_OF_CERTIFICATES))

test-of-servers: $(VENV)/.test
	$(RUN) -m pytest -q $(TESTS_OF_SERVERS)

test-of-tracking: $(VENV)/.test
	$(RUN) -m pytest -q $(TESTS_OF_TRACKING)

test-of-certificates: $(VENV)/.test
	$(RUN) -m pytest -q $(TESTS_OF_CERTIFICATES)

test-of-the-rest: $(VENV)/.test
	$(RUN) -m pytest -q tests $(addprefix --ignore=,$(TESTS_OF_GRAPHS) $(TESTS_OF_SERVERS) $(TESTS_OF_TRACKING))

# An environment of its own: 1.5 GB, of which nothing else is needed here. Without a screen, say
# make test-viewers SCREEN="xvfb-run --auto-servernum" (Debian: xvfb, libgl1, libegl1, libxcb-cursor0, libxkbcommon-x11-0).
test-viewers: $(VENV)-viewers/.done  ## napari's plugin against the server, and dcmqi, as 3D Slicer has it
	$(SCREEN) $(VENV)-viewers/bin/python -m pytest -q -rs -W ignore tests/runtime/serve/test_napari.py tests/runtime/io/test_dcmqi.py

$(VENV)-viewers/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-viewers
	$(VENV)-viewers/bin/python -m pip install --quiet --editable ".[$(DEVICE),serve,dicom-seg]" pytest hypothesis \
		pycurl "napari[pyqt6]" napari-nninteractive dcmqi
	touch $@

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

# The largest of what tests need, while the runtime's packages come: unpacking them takes a core half a minute.
$(VENV)/.large: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --no-compile --no-deps torch openvino ray pyarrow playwright
	touch $@

# The official package is a test oracle: without its CUDA extension, and without torchvision, which it and timm need only
# for what is not tested here. EfficientTAM's and EdgeTAM's are called sam2 too, and lie
# in folders of their own. Modules are compiled when they are first imported: most of PyTorch's never are, and pip takes
# a minute for all of them.
$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(MAKE) --jobs=2 --no-print-directory $(VENV)/.runtime $(VENV)/.large
	$(PIP) --no-compile setuptools wheel --editable ".[$(DEVICE),export,test]"
	SAM2_BUILD_CUDA=0 $(PIP) --no-compile --no-deps --no-build-isolation sam2 timm
	$(PIP) --no-deps --upgrade --target $(VENV)/oracles/efficient-track-anything efficient-track-anything
	$(PIP) --no-deps --upgrade --target $(VENV)/oracles/edgetam-dimos edgetam-dimos
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-viewers out build *.egg-info
