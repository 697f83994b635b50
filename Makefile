# Needs Python 3.11 or newer with its headers, git, make and g++ (hnswlib is compiled on installation).
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
ONLY ?=
SCALE ?= 1
MINUTES ?=

.PHONY: help setup demo serve test test-client lint lint-proto lint-mypy lint-pyright contract format bench bench-peers torture scores train-base train-glyph train-cells train-garments train-faces audit sbom clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.stamp  ## install everything into .venv

demo: setup  ## do the main job on real photographs (PHOTOS=DIR: on your own)
	$(BIN)/python clients/python/examples/demo $(if $(PHOTOS),--photos "$(PHOTOS)") --out demo-output

serve: setup  ## run the server (LISTEN=HOST:PORT, DATA_DIR=DIR)
	$(BIN)/twinsight serve --listen $(LISTEN) --data-dir $(DATA_DIR) --log-format console

test: setup  ## run the tests, a file at a time on each core
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-client: .venv-client/.stamp  ## run the client's tests on the base install, without JAX
	.venv-client/bin/pytest -m client tests/clients

lint: setup lint-proto  ## style, types and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) --jobs=2 --output-sync lint-mypy lint-pyright

lint-mypy: setup
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks clients/python/examples/demo
	$(BIN)/mypy clients/python/examples/videos

lint-pyright: setup
	$(BIN)/pyright

lint-proto: setup
	mkdir -p .buf/googleapis/google/rpc
	cp $$($(BIN)/python -c "import google.rpc.status_pb2 as m; print(m.__file__.replace('_pb2.py', '.proto'))") .buf/googleapis/google/rpc/
	$(BIN)/buf lint --path proto/twinsight

contract: setup  ## copy the contract, and what it imports, to contract/ for other languages' generators
	rm -rf contract && mkdir -p contract/google/rpc && cp -r proto/twinsight contract/
	cp $$($(BIN)/python -c "import google.rpc as m; print(*(f'{f}/{n}.proto' for f in m.__path__ for n in ('status', 'error_details')))") contract/google/rpc/

format: setup  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup  ## measure (ONLY="embed search"), and write benchmarks/results, tables and plots; all takes 25 minutes
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

bench-peers: setup  ## measure beside other servers, each installed apart (gigabytes); writes benchmarks/results/peers.json
	$(BIN)/python -m benchmarks.peers

torture: setup  ## try to break the promises of docs/reliability.md, for some hours (SCALE=0.05, MINUTES=45, ONLY=kill,power-cut)
	$(BIN)/python -m benchmarks.torture --scale $(SCALE) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only $(ONLY))

scores: setup  ## measure the shipped models on held-out data (DATA=DIR, ONLY="base glyph"), and write the README's table
	$(BIN)/python -m benchmarks.scores --data $(DATA) $(if $(ONLY),--only $(ONLY))

train-base: setup  ## train the shipped model `base` anew (DATA=DIR, RESUME=--resume to go on); writes training/base
	$(BIN)/python -m twinsight_core.training.base --data $(DATA) --out training $(RESUME)

train-glyph: setup  ## train the shipped model `glyph` anew (DATA=DIR, RESUME=--resume); writes training/glyph
	$(BIN)/twinsight train siamese --data $(DATA)/omniglot_background.zip --out training/glyph --start none \
		--frozen-blocks 0 --backbone glyphs --augmentation glyphs --size 64 --flatten --groups 2 --turns --classes 64 \
		--dimension 128 --temperature 0.05 --steps 13000 --learning-rate 2e-3 $(RESUME) --licence MIT \
		--description "$(GLYPH_DESCRIPTION)" --training-data "$(GLYPH_DATA)"

train-cells: setup  ## train the shipped model `cells` anew; writes training/cells
	$(BIN)/twinsight train rcnn --data $(DATA)/bccd_trainval.zip --out training/cells --skip-bad \
		--augmentation no-upright --steps 900 $(RESUME) --licence MIT \
		--description "$(CELLS_DESCRIPTION)" --training-data "$(CELLS_DATA)"

train-garments: setup  ## train the shipped model `garments` anew; writes training/garments
	$(BIN)/twinsight import --architecture mobilenet_v1 --weights $(DATA)/weights/mobilenet_v1_075_224.safetensors \
		--out training/mobilenet --licence Apache-2.0
	$(BIN)/twinsight train cnn --data $(DATA)/clothing_train.zip --out training/garments --start training/mobilenet --batch-size 32 --frozen-blocks 6 \
		--steps 500 $(RESUME) --licence Apache-2.0 \
		--description "$(GARMENTS_DESCRIPTION)" --training-data "$(GARMENTS_DATA)"

train-faces: setup  ## train an embedding of faces for `make scores`; writes training/faces
	$(BIN)/python -m benchmarks.faces --data $(DATA)

GLYPH_DESCRIPTION := One-shot recognition of hand-drawn characters: whether two drawings are of one character, also of \
alphabets never seen. Dark strokes on a light ground, one character filling the picture. It knows nothing of photographs, \
of print, or of words.
GLYPH_DATA := The 30 background alphabets of Omniglot (Lake et al. 2015, MIT licence); three of them held out to choose the \
weights by and three for the scores. The calibration is fitted on pairs of all six; its error rates are of each of the latter \
three by a fit on the other five. Trained in 3 minutes on one NVIDIA H200, in bfloat16.
CELLS_DESCRIPTION := Red and white blood cells and platelets in stained smears under a light microscope, the worked example \
of a detector trained on few pictures. No medical device: it was measured on pictures of one laboratory, and crowded or \
overlapping red cells are its usual mistakes.
CELLS_DATA := BCCD (MIT licence): the official training list, a tenth of it held out to choose the weights by; the scores \
are on the official validation list. The backbone started as that of the model base. Trained in 8 minutes on 2 CPU cores.
GARMENTS_DESCRIPTION := Ten kinds of clothes in product photos, the worked example of automatic classification. One garment \
fills the picture; it has no class for anything else, and longsleeve, shirt, t-shirt and outwear are its usual confusions.
GARMENTS_DATA := A product-photo set of clothes (CC0), 3,068 pictures of 10 classes; a fifth held out for the scores and a \
tenth to choose the weights by. The backbone started as MobileNetV1 0.75 of Keras Applications (Apache-2.0), trained on \
ImageNet: not as that of base, which saw some of these pictures. Trained in 5 minutes on 2 CPU cores.

audit: setup  ## look for insecure code, and ask the advisories' database (over the network) for what is known of dependencies
	$(UV) tool run bandit --quiet --recursive --configfile pyproject.toml core server clients/python/twinsight_client proto/hatch_build.py
	$(UV) audit --locked

sbom: setup  ## write sbom.cdx.json: what a server with OpenVINO consists of, as CycloneDX
	$(UV) export --quiet --locked --no-dev --extra server --extra openvino --format cyclonedx1.5 \
		--preview-features sbom-export --output-file sbom.cdx.json >/dev/null

clean:  ## remove what the other targets made
	rm -rf .venv .venv-client .uv .buf proto/gen demo-output contract

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet "uv>=0.9"

PROTO_SOURCES := proto/hatch_build.py $(wildcard proto/twinsight/v1/*.proto)

.venv/.stamp: pyproject.toml uv.lock $(PROTO_SOURCES) | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --locked --extra train --extra openvino --python $(PYTHON)
	touch $@

.venv-client/.stamp: pyproject.toml uv.lock $(PROTO_SOURCES) | $(filter .uv/bin/uv,$(UV))
	UV_PROJECT_ENVIRONMENT=.venv-client $(UV) sync --locked --no-default-groups --group test --python $(PYTHON)
	touch $@
