# Two commands a newcomer needs: `make demo` and `make test`. Everything else is for people at work on layerstore.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# One more than two processors have: tests wait for disks, mirrors and daemons as well.
PYTEST_WORKERS ?= 3

FUZZ_SECONDS ?= 120
DIFFERENTIAL_ARCHIVES ?= 50000

.PHONY: help demo test conformance crash-nightly crash-release hostile fuzz differential lint format lock bench bench-quick setup
.PHONY: setup-system setup-test-system setup-bench-system protos clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup-system $(VENV)/.ready ## Build real images, mount forty root file systems, print the savings
	$(BIN)/python Dockerfile-examples/demo.py $(DEMO_ARGS)

# worksteal: neighbours stay on one worker, so the Debian base that several need is waited for once.
test: setup-test-system $(VENV)/.ready ## Set everything up and run the tests
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

crash-nightly: CAMPAIGN := nightly
crash-nightly: crash-campaign ## The fault campaign of docs/reliability.md, at most an hour

crash-release: CAMPAIGN := release
crash-release: crash-campaign ## All of it; stopped and started again, it goes on where it was

# The table is printed whatever the tests say, and their verdict is the exit code.
.PHONY: crash-campaign
crash-campaign: setup-test-system $(VENV)/.ready
	@mkdir -p .cache/campaign && rm -f .cache/campaign/$(CAMPAIGN).jsonl
	LAYERSTORE_CAMPAIGN=$(CAMPAIGN) $(BIN)/pytest tests/crash -n $(PYTEST_WORKERS) --dist worksteal \
	  --timeout 86400 --durations 5 $(PYTEST_ARGS); verdict=$$?; \
	  LAYERSTORE_CAMPAIGN=$(CAMPAIGN) $(BIN)/python -m tests.crash.rig.campaign; exit $$verdict

hostile: setup-test-system $(VENV)/.ready ## Run the whole corpus of hostile input, full-size bombs included
	$(BIN)/python -m tests.security.corpus --long

fuzz: $(VENV)/.ready ## Fuzz every parser for FUZZ_SECONDS each; atheris guides it where it is installed
	$(BIN)/python -m tests.security.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

conformance: setup-test-system $(VENV)/.ready ## Run all recorded builds, and the whole Dockerfile conformance kit (LAYERSTORE_CONFORMANCE names its folder)
	LAYERSTORE_CONFORMANCE_WHOLE=1 $(BIN)/pytest -s tests/conformance/test_dockerfile_kit.py tests/conformance/test_dockerfiles.py $(PYTEST_ARGS)

differential: setup-test-system $(VENV)/.ready ## Compare our reading of generated archives with GNU tar's
	$(BIN)/python -m tests.security.differential $(DIFFERENTIAL_ARCHIVES)

lint: $(VENV)/.ready ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.ready ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup-bench-system $(VENV)/.ready ## Run all benchmarks beside the peers and write docs/performance.md, 90 minutes (BENCH_ARGS="--only views")
	$(BIN)/python -m tests.bench.suite $(BENCH_ARGS)

bench-quick: setup-bench-system $(VENV)/.ready ## The same with fewer benchmarks and rounds, ten minutes
	$(BIN)/python -m tests.bench.suite --quick $(BENCH_ARGS)

setup: setup-system $(VENV)/.ready ## Install what layerstore needs to run

setup-system:
	@.ci/system-packages run

setup-bench-system:
	@.ci/system-packages bench

setup-test-system:
	@.ci/system-packages test

# The stamp's name is fixed, its age says whether the lock changed since.
$(VENV)/.ready: requirements.lock pyproject.toml
	@.ci/system-packages venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --config-settings editable_mode=compat --editable .
	touch $@

lock: ## Pin the newest versions that pyproject.toml allows
	$(PYTHON) -m venv .cache/lock-venv
	.cache/lock-venv/bin/pip install --quiet pip-tools
	.cache/lock-venv/bin/pip-compile --quiet --upgrade --generate-hashes --extra dev --extra containerd --extra cluster --extra go --extra plots --strip-extras \
	  --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --output-file requirements.lock pyproject.toml

protos: ## Generate the modules of containerd's API from layerstore/snapshotter/api/*.proto
	$(PYTHON) -m venv .cache/protos-venv
	.cache/protos-venv/bin/pip install --quiet 'grpcio-tools<1.86'
	.cache/protos-venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. layerstore/snapshotter/api/*.proto

clean: ## Remove the virtual environment, caches and the demo's store
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
