# Everything runs in .venv, which is rebuilt when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
SWEEP ?= latest
JOBS ?= 2
PORT ?= 5000
.DEFAULT_GOAL := help
.PHONY: help setup demo verify run sweep compare ui server test test-long test-faults test-pairs bench docs lint clean

help: ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  %-11s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Make or refresh .venv with everything that is needed

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## The article's experiment in both frameworks, compared (ARGS="overrides")
	$(BIN)/python -m pipeline -m backend=torch,tensorflow experiment=article sweep.rerun=true parity.show=all $(ARGS)

verify: $(STAMP) ## Two models that are not ours, judged (PAIR=port.py ARGS="overrides")
	$(BIN)/python -m pipeline experiment=verify model.path=$(PAIR) $(ARGS)

run: $(STAMP) ## One tracked run (ARGS="experiment=article_fit seed=1")
	$(BIN)/python -m pipeline $(ARGS)

sweep: $(STAMP) ## A multirun (ARGS="backend=torch,tensorflow optimizer.lr=1e-3,1e-2")
	$(BIN)/python -m pipeline -m $(ARGS)

compare: $(STAMP) ## Compare what a sweep recorded (SWEEP=latest or its id), training nothing
	$(BIN)/python -m pipeline 'stages=[compare]' compare.sweep=$(SWEEP) $(ARGS)

ui: $(STAMP) ## Open the MLflow UI on what was recorded (PORT=5000)
	@echo "MLflow UI on http://127.0.0.1:$(PORT) (Ctrl-C ends it)"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db --host 127.0.0.1 --port $(PORT) $(ARGS)

server: $(STAMP) ## A tracking server on loopback, artifacts served (PORT=5000)
	@echo "Tracking server on http://127.0.0.1:$(PORT): tracking.uri=http://127.0.0.1:$(PORT) (Ctrl-C ends it)"
	$(BIN)/python -c "from pipeline.tracking.store import prepare_store; prepare_store('sqlite:///outputs/mlflow.db')"
	$(BIN)/mlflow server --backend-store-uri sqlite:///outputs/mlflow.db --artifacts-destination outputs/artifacts --host 127.0.0.1 --port $(PORT) --workers 2 $(ARGS)

test: $(STAMP) ## The tests, in JOBS=2 processes; of long products a sample (test-long: all)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-long: $(STAMP) ## All that make test takes a sample of: right pairs, rules, faults, compiled steps (an hour)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m long $(ARGS)

test-faults: $(STAMP) ## Killed processes, servers that go away, a full disk, Ray, MLflow in a browser (minutes)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "slow and not long" tests/faults tests/sweeps tests/test_resume_command.py $(ARGS)

test-pairs: $(STAMP) ## Pairs of other projects (transformers in both frameworks), minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m third tests/pairs $(ARGS)

bench: $(STAMP) ## Measure speed: tracked against bare loop, eager against compiled, start-up
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-columns=median,min,rounds -s $(ARGS)

docs: $(STAMP) ## Write what docs/ takes from the source, and run the example of docs/parity.md
	$(BIN)/python docs/pairs.py
	$(BIN)/python docs/loops.py
	$(BIN)/python docs/api.py
	$(BIN)/python docs/tour.py
	$(BIN)/python docs/parity.py

lint: $(STAMP) ## Style, types and the layers of the house
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean: ## Remove .venv and caches; outputs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
