# What a newcomer needs: `make serve`, `make test`. Every target makes the environment that it runs in.
PYTHON ?= python3
SERVE_VENV ?= .venv
DEV_VENV ?= .venv-dev
GPU_VENV ?= .venv-gpu
TRAIN_VENV ?= .venv-train
TOOLS_VENV ?= .venv-tools
ATHERIS_VENV ?= .venv-atheris
TORCH ?= 2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
NVIDIA_INDEX ?= https://pypi.nvidia.com
PIP_INSTALL := python -m pip install -q --disable-pip-version-check
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard service/imaging/*.[ch])

# One process per core, each with one thread for its matrix products. Bytecode is kept, also where the shell says
# otherwise: tests start hundreds of processes, which would all compile what they import.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(DEV_VENV)/bin/python -m pytest -n auto --dist worksteal
# Tests that start no application, no training, no export and no browser, in half a minute.
FAST_TESTS := $(addprefix tests/service/,answers client inference model_directory) tests/trainer/datasets tests/test_docs.py

.DEFAULT_GOAL := help
.PHONY: help serve check test test-slow test-deployment lint format types sanitize lock bench train-env clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

serve: $(SERVE_VENV)/.installed  ## serve the bundled model on 127.0.0.1:8000; options in ARGS="--port 8001"
	@exec $(SERVE_VENV)/bin/ecenet-serve $(ARGS)

test: $(DEV_VENV)/.installed  ## the whole default suite; options in ARGS="-k batcher"
	$(PYTEST) $(ARGS)

# Rules, types and tests run beside each other; the output of each stays in one piece.
check: $(DEV_VENV)/.installed  ## what one wants before a commit, in a minute: lint, types, and the tests that start nothing
	@$(MAKE) --no-print-directory --output-sync=target -j3 lint types test-fast

.PHONY: test-fast
test-fast: $(DEV_VENV)/.installed
	$(PYTEST) -q $(FAST_TESTS) $(ARGS)

test-slow: $(DEV_VENV)/.installed  ## gates of a release: whole splits, whole networks, a documented path from end to end
	$(PYTEST) -m 'slow and not deployment' $(ARGS)

test-deployment: $(DEV_VENV)/.installed  ## real load balancers, Prometheus and replicas under load (Debian packages: see .ci/run)
	$(DEV_VENV)/bin/python -m pytest -m 'deployment and not slow' $(ARGS)

.PHONY: test-training-image
test-training-image: $(DEV_VENV)/.installed  ## the image for training, built and run by two processes; minutes, and 10 GB of disk
	$(DEV_VENV)/bin/python -m pytest -m 'deployment and slow' $(ARGS)

# A warning of a package that only machines with a GPU have is no failure there.
.PHONY: gpu-test
gpu-test: $(GPU_VENV)/.installed  ## the tests of the GPU that is here, with TensorRT, CUDA and PyTorch for it; takes up to an hour
	REQUIRE_GPU=1 $(GPU_VENV)/bin/python -m pytest -W default tests/gpu $(ARGS)

lint: $(DEV_VENV)/.installed  ## ruff: rules and format; import-linter: who may import whom
	$(DEV_VENV)/bin/ruff check .
	$(DEV_VENV)/bin/ruff format --check .
	$(DEV_VENV)/bin/lint-imports

format: $(DEV_VENV)/.installed  ## ruff: mend what can be mended
	$(DEV_VENV)/bin/ruff check --fix .
	$(DEV_VENV)/bin/ruff format .

types: $(DEV_VENV)/.installed  ## mypy, strict
	$(DEV_VENV)/bin/mypy

# ASan, UBSan and the compiler's warnings, with Debian's gcc alone. Allocations go through the test, which lets them fail.
sanitize:  ## the C code under sanitizers, on random shapes; another seed in ARGS=2
	@mkdir -p build
	$(CC) -std=c11 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra -Wconversion -Werror \
	  -fsanitize=address,undefined,float-divide-by-zero,float-cast-overflow -fno-sanitize-recover=all \
	  -Wl,--wrap=malloc,--wrap=calloc -o build/sanitize $(wildcard service/imaging/*.c) tests/service/imaging/sanitize.c -lm
	build/sanitize $(ARGS)

lock: $(DEV_VENV)/.installed  ## the images' dependencies, resolved anew under constraints.txt, with hashes
	docker/lock $(DEV_VENV)/bin/uv

bench: $(DEV_VENV)/.installed  ## the speed of label maps and of the service
	$(DEV_VENV)/bin/python benchmarks/label_map.py
	@$(DEV_VENV)/bin/ecenet-serve --port 8766 --log-level warning & server=$$!; trap "kill $$server" EXIT; \
	until curl -fs localhost:8766/readyz >/dev/null; do kill -0 $$server && sleep 0.2 || exit 1; done; \
	$(DEV_VENV)/bin/python benchmarks/serving.py --url http://127.0.0.1:8766 --image models/example/street.jpg
	$(DEV_VENV)/bin/python -m benchmarks.feed

.PHONY: fuzz attack soak chaos
fuzz: $(DEV_VENV)/.installed  ## mutated files against decoders and parsers; ARGS="--mutants 200000 --seed 1"
	$(DEV_VENV)/bin/python -m benchmarks.reliability.fuzz $(ARGS)

.PHONY: atheris
atheris: $(ATHERIS_VENV)/.installed  ## coverage-guided fuzzing of scans and parsers; ARGS="-max_total_time=600 -seed=1"
	$(ATHERIS_VENV)/bin/python -m benchmarks.reliability.atheris_parsers $(ARGS)

attack: $(DEV_VENV)/.installed  ## every known attack on a service, with a normal client beside it
	$(DEV_VENV)/bin/python -m benchmarks.reliability.attack $(ARGS)

soak: $(DEV_VENV)/.installed  ## good, bad, slow and leaving clients; ARGS="--requests 100000 --seed 1"
	$(DEV_VENV)/bin/python -m benchmarks.reliability.soak $(ARGS)

chaos: $(DEV_VENV)/.installed  ## faults of processes, disk, clock, log, signals and limits; ARGS="--faults 100 --seed 1"
	$(DEV_VENV)/bin/python -m benchmarks.reliability.chaos $(ARGS)

.PHONY: coverage mutation
coverage: $(DEV_VENV)/.installed  ## branch coverage of service/ by its tests, in all of their processes
	$(DEV_VENV)/bin/$(PIP_INSTALL) coverage==7.17.5
	OMP_NUM_THREADS=1 $(DEV_VENV)/bin/python -m coverage run -m pytest -q tests/service tests/e2e $(ARGS)
	$(DEV_VENV)/bin/python -m coverage combine -q && $(DEV_VENV)/bin/python -m coverage report --fail-under 95

mutation: $(DEV_VENV)/.installed  ## mutants of admission, batcher, seam, scans and codec against their tests; hours; by name in ARGS="*admission*"
	$(DEV_VENV)/bin/$(PIP_INSTALL) mutmut==3.8.1
	OMP_NUM_THREADS=1 $(DEV_VENV)/bin/mutmut run $(ARGS) && $(DEV_VENV)/bin/mutmut results

.PHONY: sbom audit
sbom: $(TOOLS_VENV)/.installed  ## bills of material of the images, CycloneDX, in build/sbom
	docker/sbom $(TOOLS_VENV)/bin build/sbom

audit: $(TOOLS_VENV)/.installed  ## known weaknesses of the images' packages; a stored database: ARGS="--database all.zip"
	PATH=$(abspath $(TOOLS_VENV)/bin):$$PATH $(TOOLS_VENV)/bin/python docker/audit_locks.py $(ARGS)

train-env: $(TRAIN_VENV)/.installed  ## an environment to train and export in, with PyTorch's CPU build: 1.6 GB

clean:  ## remove the environments and what was built
	rm -rf $(SERVE_VENV) $(DEV_VENV) $(GPU_VENV) $(TRAIN_VENV) $(TOOLS_VENV) $(ATHERIS_VENV) build dist *.egg-info service/imaging/_native.so

define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12"; exit 1; }
@$(PYTHON) -m venv $(1) || { echo "the venv module is needed: apt install python3-venv"; exit 1; }
endef

# Small: Python compiles only what it imports, and OpenVINO keeps no plugins for Intel's GPUs and NPUs; 50 MB each.
$(SERVE_VENV)/.installed: $(SOURCES)
	$(call make_venv,$(SERVE_VENV))
	$(SERVE_VENV)/bin/$(PIP_INSTALL) --no-compile -c constraints.txt -e '.[cpu]'
	@find $(SERVE_VENV) -name 'libopenvino_intel_[gn]pu_plugin.so' -delete
	@touch $@

$(TRAIN_VENV)/.installed: $(SOURCES)
	$(call make_venv,$(TRAIN_VENV))
	$(TRAIN_VENV)/bin/$(PIP_INSTALL) 'torch==$(TORCH)+cpu' 2>/dev/null \
	  || $(TRAIN_VENV)/bin/$(PIP_INSTALL) --index-url $(TORCH_INDEX) torch==$(TORCH) torchvision
	$(TRAIN_VENV)/bin/$(PIP_INSTALL) -c constraints.txt -e '.[export,cpu]'
	@touch $@

$(ATHERIS_VENV)/.installed: $(SOURCES)
	$(call make_venv,$(ATHERIS_VENV))
	$(ATHERIS_VENV)/bin/$(PIP_INSTALL) -c constraints.txt atheris==3.0.0 -e .
	@touch $@

$(TOOLS_VENV)/.installed: docker/requirements.tools.lock
	$(call make_venv,$(TOOLS_VENV))
	$(TOOLS_VENV)/bin/$(PIP_INSTALL) --require-hashes -r $<
	@touch $@

# PyTorch's CPU build: a wheel at hand, else the project's own index. torchvision comes along for timm.
$(DEV_VENV)/.installed: $(SOURCES)
	$(call make_venv,$(DEV_VENV))
	$(DEV_VENV)/bin/$(PIP_INSTALL) 'torch==$(TORCH)+cpu' 2>/dev/null \
	  || $(DEV_VENV)/bin/$(PIP_INSTALL) --index-url $(TORCH_INDEX) torch==$(TORCH) torchvision
	$(DEV_VENV)/bin/$(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

# PyTorch of PyPI brings CUDA. TensorRT's libraries are on NVIDIA's index.
$(GPU_VENV)/.installed: $(SOURCES) tests/gpu/packages.py
	$(call make_venv,$(GPU_VENV))
	$(PYTHON) tests/gpu/packages.py $$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader) > $(GPU_VENV)/packages.txt
	$(GPU_VENV)/bin/$(PIP_INSTALL) --extra-index-url $(NVIDIA_INDEX) -c constraints.txt -r $(GPU_VENV)/packages.txt
	@touch $@
