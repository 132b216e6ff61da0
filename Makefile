# Everything from a fresh clone needs only python3 (3.11 or newer, with venv) and make.
SHELL := /bin/bash
PY := .venv/bin/python
UV := .venv/bin/uv
LOCK := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
# Compiled once, not at every start, whatever the caller's shell says.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(PY)

.PHONY: help setup run test check fix lock sim soak bench
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: .venv/run.stamp  ## the environment in .venv/, with what the program needs

run: setup  ## the demo: simulator, sample shop, worker (ARGS="--once" ends when it is done)
	.venv/bin/refundry demo $(ARGS)

test: check  ## all checks, then all tests (ARGS=… goes to pytest)
	$(PY) -m pytest -n 4 --dist worksteal $(ARGS)

check: .venv/dev.stamp  ## format, lint, types, imports, dependencies
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/deptry src

fix: .venv/dev.stamp  ## format, and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lock: .venv/dev.stamp  ## compile requirements/*.in to hash-pinned *.txt
	$(LOCK) -o requirements/run.txt requirements/run.in
	$(LOCK) -o requirements/dev.txt requirements/dev.in

sim: .venv/dev.stamp  ## simulations: one seed again (SEED=8841), or many (SEEDS=500)
	$(PY) -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

soak: .venv/dev.stamp  ## the long runs: kills, stops, clock jumps, faults, storms, seeds (ARGS="kills --seed 7")
	$(PY) -m tests.soak $(ARGS)

bench: .venv/dev.stamp  ## measure (ARGS=engine), figures go to bench/results/
	$(PY) -m bench $(ARGS)

.venv/uv.stamp:
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	touch $@

.venv/run.stamp: .venv/uv.stamp requirements/run.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

.venv/dev.stamp: .venv/run.stamp requirements/dev.txt
	$(INSTALL) --require-hashes -r requirements/dev.txt
	touch $@
