# asiarch-hpc: `make demo` runs a small campaign, `make test` passes the tests. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PACKAGES := hpc agents results models kernels

.PHONY: install demo test test-fast lint typecheck format clean
