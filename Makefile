# make setup | demo | test | test-all | check | docs | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup demo test test-all check docs clean
.DEFAULT_GOAL := help
help:
	@echo "make setup     a virtual environment in .venv with everything (minutes, several GB)"
	@echo "make demo      the whole loop on real smart-watch recordings, ends with an HTML report"
	@echo "make test      the tests (make test-all: the slow ones too)"
	@echo "make check     format, lint, types     make docs   the commands in the docs, run"
	@echo "make clean     removes .venv, runs/ and build output; not ~/.cache/mien"

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Mien needs Python 3.11 or newer; set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -e '.[gguf,deepspeed,quantise,align,studio,explain,clip,film,benchmarks,dev]'
	touch $@

setup: $(STAMP)
	-$(BIN)/mien assets fetch watch

demo: setup
	$(BIN)/mien demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-all: setup
	$(BIN)/mien assets fetch smollm2-135m dinov2-s minilm resemblyzer
	$(BIN)/python -m pytest -m "not gpu" --hypothesis-profile=default

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: setup
	$(BIN)/python -m pytest -m "" tests/recipes/test_docs.py

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
