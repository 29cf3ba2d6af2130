# `make` lists the targets. Everything that needs the environment makes it first, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
stage ?= 1
args ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint wheel format train release-weights notebook docs commands bench bench-history bench-data \
    bench-degradations bench-export bench-harmless bench-many bench-peers bench-serve soak fuzz constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## restore a real photograph and show the result
	$(BIN)/moceir demo -o demo

test: $(READY) ## all fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

format: $(READY) ## rewrite the code in the house's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(READY) ## one training stage: make train stage=1 args="data.root=FOLDER"
	$(BIN)/python -m moceir.cli.train stage=stage$(stage) $(args)

release-weights: $(READY) ## train the shipped weights, or continue to: make release-weights args="data.root=FOLDER"
	ls runs/release/*/network.safetensors > /dev/null 2>&1 || \
	    $(BIN)/python -m moceir.cli.train experiment=release resume=latest $(args)
	$(BIN)/python -m moceir.cli.train experiment=release_fine resume=latest $(args)

notebook: $(READY) ## run the notebooks and keep the figures that docs/ shows
	$(BIN)/python notebooks/render.py

docs: $(READY) ## the site of the documentation, into site/; a warning or a dead link ends it
	PYTHONPATH=. $(BIN)/properdocs build --strict

commands: $(READY) ## run every command that the README and docs/ show, on small data, and list them
	PYTHONPATH=.:tests OMP_NUM_THREADS=1 $(BIN)/python tests/docs/run_commands.py $(args)

bench: $(READY) ## speed and memory of restoring and training, also into benchmarks/history.jsonl
	$(BIN)/python benchmarks/speed.py $(args)

bench-history: $(READY) ## plot how the ratios of benchmarks/history.jsonl went
	$(BIN)/python benchmarks/history.py

bench-peers: $(READY) ## beside other denoisers: make bench-peers args="CBSD68 --sigma 25"
	$(BIN)/python benchmarks/peers.py $(args)

bench-harmless: $(READY) ## what weights do to flat colours, drawings, text, clean and grey pictures
	$(BIN)/python benchmarks/harmless.py $(args)

bench-degradations: $(READY) ## time, looks and noise of degradation=real
	$(BIN)/python benchmarks/degradations.py $(args)

bench-serve: $(READY) ## load on moceir serve: make bench-serve args="--large 200 --small 1000"
	$(BIN)/python benchmarks/serve.py $(args)

bench-many: $(READY) ## a thousand pictures by shards and by processes: make bench-many args="run --pictures 1000"
	$(BIN)/python benchmarks/many.py $(args)

bench-export: $(READY) ## the engine, ONNX Runtime and OpenVINO side by side
	$(BIN)/python benchmarks/export.py $(args)

bench-data: $(READY) ## speed and memory of reading training data
	$(BIN)/python benchmarks/data.py $(args)

soak: $(READY) ## an hour of restoring and of training that is killed: make soak args="--restores 5000 --kills 100"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py $(args)

fuzz: $(READY) ## thousands of broken files and settings for every reader, in minutes
	MOCEIR_FUZZ=3000 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/fuzz

constraints: $(READY) ## update the pin of every dependency
	$(BIN)/pip install --quiet uv
	echo '# Every version of a tested installation, for each Python and platform. Made by `make constraints`.' > $@.new
	echo 'torch==2.13.0' | $(BIN)/uv pip compile pyproject.toml - --all-extras --universal --python-version 3.11 \
	    --no-header --no-annotate --quiet >> $@.new
	mv $@.new $@.txt

clean: ## remove what the other targets made, but not runs/
	rm -rf $(VENV) demo dist site .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
