# `make demo` and `make test` set up everything first; see tools/setup.sh. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
RUN := .venv/bin/python
SETUP := .venv/.setup-done
RACERS := statsmodels mixedlm mixedlm-rs lme-python gpboost

.PHONY: help demo test lint docs bench race race-many clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

$(SETUP): pyproject.toml setup.py tools/setup.sh
	@PYTHON="$(PYTHON)" tools/setup.sh

demo: $(SETUP) ## fit InstEval, sleepstudy and Pastes; plot the lecturers
	@$(RUN) examples/demo.py

test: $(SETUP) ## run the tests in parallel (ARGS="-k name" for some of them)
	@$(RUN) -m pytest -n auto --maxprocesses=4 $(ARGS)

lint: $(SETUP) ## ruff and mypy
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

docs: $(SETUP) ## the documentation as a site, in site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: $(SETUP) ## the benchmarks, quickly, in this environment
	@$(RUN) -m pip install -q -e '.[bench]'
	@$(RUN) -m asv machine --yes
	@$(RUN) -m asv run --python=same --quick

race: $(SETUP) ## the race beside other software, hours (ARGS="--scale 0.01" for a minute or two); fills in README
	@for name in $(RACERS); do $(RUN) -m pip install -q --only-binary :all: $$name || echo "$$name: no wheel, it does not take part"; done
	@$(RUN) -m benchmarks.race $(if $(ARGS),$(ARGS),--write)

race-many: $(SETUP) ## many responses and scans beside lme4 (ARGS="--responses 2000 --voxels 0 --animals 0" for a minute); fills in docs
	@$(RUN) -m benchmarks.many $(if $(ARGS),$(ARGS),--write)

clean: ## remove the virtual environment and everything built
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .asv
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
