# Needs Python 3.11 or newer, git, make and g++ (hnswlib is compiled on installation).
# `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin

LISTEN ?= 127.0.0.1:50051
DATA_DIR ?= ./data
PHOTOS ?=
DATA ?= data-sets
RESUME ?=

.PHONY: help setup demo serve test test-client lint lint-proto format bench train-base clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.stamp  ## install everything into .venv

demo: setup  ## do the main job on real photographs (PHOTOS=DIR: on your own)
	$(BIN)/python clients/python/examples/demo $(if $(PHOTOS),--photos "$(PHOTOS)") --out demo-output

serve: setup  ## run the server (LISTEN=HOST:PORT, DATA_DIR=DIR)
	$(BIN)/twinsight serve --listen $(LISTEN) --data-dir $(DATA_DIR) --log-format console

test: setup  ## run the tests
	$(BIN)/pytest

test-client: .venv-client/.stamp  ## run the client's tests on the base install, without JAX
	.venv-client/bin/pytest -m client tests/clients

lint: setup lint-proto  ## style, types and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks clients/python/examples/demo
	$(BIN)/pyright

lint-proto: setup
	mkdir -p .buf/googleapis/google/rpc
	cp $$($(BIN)/python -c "import google.rpc.status_pb2 as m; print(m.__file__.replace('_pb2.py', '.proto'))") .buf/googleapis/google/rpc/
	$(BIN)/buf lint --path proto/twinsight

format: setup  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup  ## measure, and write benchmarks/results and the README's tables
	$(BIN)/python -m benchmarks

train-base: setup  ## train the shipped model `base` anew (DATA=DIR, RESUME=--resume to go on); writes training/base
	$(BIN)/python -m twinsight_core.training.base --data $(DATA) --out training $(RESUME)

clean:  ## remove what the other targets made
	rm -rf .venv .venv-client .uv .buf proto/gen demo-output

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet "uv>=0.9"

PROTO_SOURCES := proto/hatch_build.py $(wildcard proto/twinsight/v1/*.proto)

.venv/.stamp: pyproject.toml uv.lock $(PROTO_SOURCES) | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --locked --extra train --extra onnx --python $(PYTHON)
	touch $@

.venv-client/.stamp: pyproject.toml uv.lock $(PROTO_SOURCES) | $(filter .uv/bin/uv,$(UV))
	UV_PROJECT_ENVIRONMENT=.venv-client $(UV) sync --locked --no-default-groups --group test --python $(PYTHON)
	touch $@
