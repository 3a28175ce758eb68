# make setup | demo | test | real | lint | bench | fuzz | faults | claims | reproduce-twice | release-check | compatibility | notebooks | docs |
# clean | help. Each sets up .venv first when it is missing or out of date.

PYTHON ?= python3
PIP_VERSION := 26.3
BIN := .venv/bin
STAMP := .venv/.stamp
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
# First, so that neither of the two processes is left with one of them at the end.
SLOW_TESTS := tests/test_notebooks.py tests/studies tests/tuning
# Succeeds for a Python that is recent enough and can make environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: setup demo test real lint bench fuzz faults claims reproduce-twice release-check compatibility notebooks docs clean help

help:
	@echo "make setup      .venv and nothing else: 'source .venv/bin/activate' puts mechsteer on the path"
	@echo "make demo       reproduce the T5 study on the bundled model, into results/t5-dola"
	@echo "make test       lint, types, tests and notebooks"
	@echo "make real       a real model (SmolLM2, fetched: 93 MB): diagnosis, comparison and tuning of one instruction"
	@echo "make lint       ruff and pyright alone"
	@echo "make bench      measure speed, into benchmarks/results (BENCH='--only speed --rounds 1' for a part)"
	@echo "make fuzz       read 100,000 bad files of every kind (COUNT=1000 for fewer)"
	@echo "make faults     kill long work 250 times and look at what the next run makes of it (COUNT=30 for fewer)"
	@echo "make claims     every number of the README beside what is measured now (FULL=1 for the long ones too)"
	@echo "make reproduce-twice  every study twice from scratch, and what is identical (STUDY=t5-dola for one)"
	@echo "make release-check    wheel and sdist, installed outside of here and used"
	@echo "make compatibility    the tests with the lowest and the newest versions that are allowed (END=lowest for one)"
	@echo "make notebooks  run the notebooks again and keep their new outputs"
	@echo "make docs       build the documentation site, into site/"
	@echo "make clean      remove .venv, caches, builds and results"
	@echo
	@echo "The first one sets up .venv. It needs Python 3.11 or later; choose one with PYTHON=/path/to/python3."

setup: $(STAMP)

demo: $(STAMP)
	@$(BIN)/mechsteer reproduce t5-dola --out results/t5-dola

test: lint
	@echo "Tests$(if $(NOTEBOOKS), and notebooks)"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations 15 $(if $(NOTEBOOKS),--nbmake $(firstword $(NOTEBOOKS))) $(SLOW_TESTS) tests

lint: $(STAMP)
	@echo "Lint and types"
	@failed=0; \
	$(BIN)/ruff check --quiet . || failed=1; \
	$(BIN)/ruff format --check --quiet . || { echo "Not formatted as it should be. Run: $(BIN)/ruff format ."; failed=1; }; \
	$(BIN)/pyright || failed=1; \
	exit $$failed

# A diagnosis, a comparison and a tuned result for one instruction: the notebook, whose tables go to results/real.
real: $(STAMP)
	@model=$$($(BIN)/python -m benchmarks.real_model .real) && \
	MECHSTEER_MODEL="../$$model" $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute \
		--ExecutePreprocessor.timeout=1200 --inplace notebooks/08_your_own_model.ipynb && \
	echo "The notebook notebooks/08_your_own_model.ipynb has the outputs; tables and pages are in results/real."

bench: $(STAMP)
	@$(BIN)/python benchmarks/run_all.py $(BENCH)

fuzz: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --count $(or $(COUNT),100000)

faults: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --count $(or $(COUNT),250)

claims: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.claims $(if $(FULL),--full) $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)")

reproduce-twice: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reproduce_twice $(STUDY) $(if $(SIZES),--sizes $(SIZES))

release-check: $(STAMP)
	@$(BIN)/python -m benchmarks.release

compatibility: $(STAMP)
	@$(BIN)/python -m benchmarks.compatibility $(END)

notebooks: $(STAMP)
	@for notebook in $(NOTEBOOKS); do \
		echo "Running $$notebook"; \
		$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace "$$notebook" || exit 1; \
	done

docs: $(STAMP)
	@$(BIN)/python docs/build.py site

clean:
	@rm -rf .venv dist build results site .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stale .venv is updated in place; a broken one, or one made by too old a Python, is made anew.
$(STAMP): pyproject.toml constraints.txt
	@if $(BIN)/python -c "import pip; $(USABLE)" 2>/dev/null; then \
		echo "Updating .venv"; \
	else \
		for python in $(PYTHON) python3.11 python3.12 python3.13 ""; do \
			if [ -n "$$python" ] && "$$python" -c "$(USABLE)" 2>/dev/null; then break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "No usable Python found: mechsteer needs 3.11 or later, with the modules venv and ensurepip." >&2; \
			echo "Tried $(PYTHON), python3.11, python3.12, python3.13. Install one (Debian, Ubuntu: also python3-venv), or: make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "Setting up .venv with $$("$$python" --version) (once: 2.8 GB, 3 to 8 minutes in which nothing is printed)"; \
		rm -rf .venv && "$$python" -m venv .venv || exit 1; \
	fi; \
	$(BIN)/python -m pip install -qq --no-input "pip==$(PIP_VERSION)" && \
	$(BIN)/python -m pip install -qq --no-input --constraint constraints.txt --editable . --group dev || \
	{ echo "Setting up .venv failed (see above). The same command goes on from here; make clean begins anew." >&2; exit 1; }
	@touch $@
	@echo ".venv is ready"
