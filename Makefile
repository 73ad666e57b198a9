# `make demo` runs a small campaign, `make test` passes the tests; both set up .venv first.
PYTHON    ?= python3
VENV      := .venv
BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES  := hpc agents results models kernels
DEMO_RUN  := runs/demo
LLM_RUN   := runs/demo-llm
CLUSTER   := /tmp/asiarch-dev-cluster
# two processes at a time of one thread each: with two each they wait for one another's most of the time
PYTEST    := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: install demo demo-llm demo-slurm test test-fast test-faults lint format typecheck clean

install: $(INSTALLED)

# the versions in constraints.txt are the ones that the tests ran with
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "asiarch-hpc needs Python 3.10 or newer: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/asiarch-hpc run campaigns/demo.yaml --run $(DEMO_RUN)

# the same campaign as jobs of a real Slurm on this machine
demo-slurm: install
	slurm/dev-cluster.sh start
	. $(CLUSTER)/env && sbatch --wait --time=1:00:00 slurm/campaign.sh campaigns/demo.yaml --run $(DEMO_RUN)-slurm \
	  --set executor=slurm --set search.in_flight=4
	$(BIN)/asiarch-hpc ranking --run $(DEMO_RUN)-slurm

# a real small LLM, served by vLLM on the CPU, with the grammar beside it as control; the first time makes vLLM's
# environment (3.5 GB)
demo-llm: install
	set -e; set -- $$(campaigns/llm-cpu/setup.sh smollm2); \
	$(BIN)/asiarch-hpc run campaigns/demo-llm.yaml --run $(LLM_RUN) --set llm.python=$$1 --set llm.model=$$2
	$(BIN)/asiarch-hpc status --run $(LLM_RUN)

# in the files' order, not by their number of tests: the long ones, of hpc, are not the last to begin
test: lint typecheck
	$(PYTEST) --no-loadscope-reorder -m "not faults"

test-fast: install
	$(PYTEST) -m "not slow"

# the whole fault matrix, most of it on a real Slurm; `make test` has all but its longest cases
test-faults: install
	$(PYTEST) tests/hpc/test_slurm_heads.py tests/hpc/test_slurm_faults.py \
	  tests/hpc/test_slurm_requests.py tests/hpc/test_campaign_script.py tests/hpc/test_campaign.py tests/agents/test_vllm.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# type checkers do not follow setup.cfg's package_dir: they see the packages through links
typecheck: install
	@mkdir -p build/types/asiarch
	@for package in $(PACKAGES); do ln -sfn ../../../$$package build/types/asiarch/$$package; done
	MYPYPATH=build/types $(BIN)/mypy --namespace-packages -p asiarch

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
