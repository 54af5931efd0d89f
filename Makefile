# One environment, .venv, made from pinned versions. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
PINS := $(VENV)/.pins
READY := $(VENV)/.ready
S3_TESTS := tests/infra tests/end_to_end tests/jobs
# One thread each: two processes that compute with two threads make each other many times slower. Three processes on two
# cores, because many tests wait: for a lease, a lost host, a store that does not answer.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=40 -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help pins setup demo check docs test test-s3 test-faults test-nights test-breadth test-cluster
.PHONY: bench bench-gradients bench-peers-setup bench-precision bench-estimators bench-pipeline bench-scale bench-rescore clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

setup: $(READY)  ## Make .venv: torch first, then everything else, at the pinned versions

pins: $(PINS)

# torch goes first and alone: its CPU and CUDA builds share a version, and pip's own settings (PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS) choose between them.
$(PINS): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "mad needs Python 3.11 to 3.13; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores, pip would use one; some files are no valid Python
	@touch $(PINS)

$(READY): $(PINS) pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $(READY)

demo: setup  ## Train a digit classifier with a backdoor and audit it
	$(BIN)/mad demo

check: setup  ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## Build the documentation into docs/_build/html, run its examples, and check its links; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going --fresh-env -q -b html docs docs/_build/html
	$(BIN)/python -m docs.links docs/_build/html

test: setup  ## Run the tests
	$(TESTS)

# In one shell, so that the store is stopped whatever happens.
test-s3: setup  ## Run the tests that need a real S3: Ceph's gateway, installed (as root, with apt-get) and started for them
	@tests/infra/real_s3.sh install
	@folder=$$(mktemp -d)/s3; trap 'tests/infra/real_s3.sh stop "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	settings=$$(tests/infra/real_s3.sh start "$$folder") && eval "$$settings" && $(TESTS) -m s3 $(S3_TESTS)

test-faults: setup  ## Run the tests that are left out of `make test` for their length: drivers killed at many moments, a store that fails, a lost node, a zoo on Ray
	MAD_FAULTS=1 $(TESTS) -m "faults and not s3 and not cluster"

test-nights: setup  ## Audit a zoo night after night, fifty models among it: models that come, change and fail, files that go, deadlines
	MAD_NIGHTS=1 $(TESTS) tests/end_to_end/test_nights.py tests/end_to_end/test_deadlines.py

test-breadth: setup  ## Train models of every kind with a trigger and without, and audit both from their configs
	MAD_BREADTH=1 $(TESTS) tests/breadth

test-cluster: setup  ## Run the tests that need a Ray cluster of three hosts: namespaces of this machine, so as root, with ip of iproute2; QUICK=1 leaves the longest out
	@[ "$$(id -u)" = 0 ] || { echo "make test-cluster makes network namespaces, for which it must be root" >&2; exit 1; }
	@for need in ip unshare nsenter; do command -v $$need >/dev/null || { echo "make test-cluster needs $$need, of iproute2 or util-linux: apt-get install iproute2 util-linux" >&2; exit 1; }; done
	MAD_TEST_CLUSTER=1 MAD_FAULTS=$(if $(QUICK),,1) $(BIN)/python -m pytest --durations=40 -m cluster tests/end_to_end/test_cluster.py

bench: bench-gradients bench-pipeline  ## Run the benchmarks that need nothing but this checkout

bench-gradients: setup  ## Measure: rows against a training step's speed and memory; ratios, side by side in one run
	$(if $(wildcard $(PEERS)/.ready),$(PEERS)/bin/python -m tests.benchmarks.gradients --peers dattri bergson,$(BIN)/python -m tests.benchmarks.gradients)

bench-peers-setup: $(PEERS)/.ready  ## Make .venv-peers, with other libraries that bench-gradients then compares with

$(PEERS)/.ready: tests/benchmarks/peers.txt requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(PEERS)/bin/python -m pip install --quiet -r requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps -r tests/benchmarks/peers.txt
	@$(PEERS)/bin/python -c 'import sys, torch; sys.exit(torch.__version__.split("+")[0] != sys.argv[1])' "$$(sed -n 's/^torch==//p' requirements.txt)" || { echo "a peer replaced torch" >&2; exit 1; }
	@touch $(PEERS)/.ready

bench-precision: setup  ## Measure: what the precision of the model and of rows at rest does to scores, on the models at ZOO
	$(if $(ZOO),,$(error name the folder that holds zoo/ and data/: make bench-precision ZOO=FOLDER))
	$(BIN)/python -m tests.benchmarks.precision $(ZOO)

bench-estimators: setup  ## Measure: what detects which backdoor, on the models at ZOO; resumes if CACHE names a folder
	$(if $(ZOO),,$(error name the folder that holds zoo/ and data/: make bench-estimators ZOO=FOLDER))
	$(BIN)/python -m tests.benchmarks.estimators $(ZOO) $(if $(CACHE),--cache $(CACHE))

bench-pipeline: setup  ## Measure: the gradients stage against the bare loop that it contains, serial and on Ray
	$(BIN)/python -m tests.benchmarks.pipeline

bench-scale: setup  ## Measure: cost up to IMAGES audited images (1,000,000), metadata of a billion; CACHE keeps the images
	$(if $(ZOO),,$(error name the folder that holds zoo/ and data/: make bench-scale ZOO=FOLDER))
	$(BIN)/python -m tests.benchmarks.scale $(ZOO) $(IMAGES) $(if $(CACHE),--cache $(CACHE))

bench-rescore: setup  ## Measure: curvature and scores again from ROWS stored rows (1,000,000), over what this machine allows
	$(BIN)/python -m tests.benchmarks.rescore $(ROWS)

clean:  ## Remove the environment and caches; audits stay
	rm -rf $(VENV) $(PEERS) build docs/_build docs/_generated *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
