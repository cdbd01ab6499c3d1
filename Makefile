# `make` alone lists the targets.

TORCH ?= torch==2.13.0# make setup TORCH=torch takes the newest, with CUDA on Linux

TEST_PROCESSES ?= 2# each takes one core and up to 4 GB

venv := .venv
bin := $(venv)/bin
lock := requirements/dev.txt
install = $(bin)/pip install $(lock:%=-c %)
sources := pyproject.toml hatch_build.py extension/package.json extension/package-lock.json \
	$(shell find extension/src extension/chart extension/style extension/schema -type f)

# PyTorch and its own dependencies are left out: TORCH chooses them.
compile = echo torch | .venv-lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 \
	--excludes - --upgrade --no-annotate --custom-compile-command "make lock" --quiet

say_without_npm = command -v npm > /dev/null || \
	echo "npm was not found: the JupyterLab panel and the live chart are left out; install Node.js for them."

.PHONY: help setup demo test test-newest check lock lab notebooks docs bench faults proofs chromium

help:
	@echo "make setup       the development environment, in .venv"
	@echo "make demo        a small fine-tuning run; needs Python and pip only"
	@echo "make test        every test, the browser included"
	@echo "make test-newest every test with the newest packages, in .venv-newest"
	@echo "make check       format, lint and types of Python and TypeScript"
	@echo "make lock        renew the versions in requirements/"
	@echo "make lab         JupyterLab with the first notebook"
	@echo "make notebooks   run the notebooks in full and save them with their outputs"
	@echo "make docs        the pages that are made from the tables in the code"
	@echo "make bench       the benchmarks"
	@echo "make faults      kill -9 at N=50 random moments of runs, and count what survives"
	@echo "make proofs      each setting's test, which must fail without the setting's effect"

setup: $(venv)/.setup

demo: $(venv)/.demo
	$(bin)/nbft demo

test: setup chromium
	OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup \
		nbft tests/unit tests/e2e tests/notebooks tests/browser

test-newest:
	rm -rf .venv-newest
	$(MAKE) test venv=.venv-newest lock=

check: setup
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	cd extension && npm run check && npm test

lock:
	python3 -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --upgrade uv
	$(compile) --extra dev -o requirements/dev.txt
	$(compile) --extra lab --extra quant -c requirements/dev.txt -o requirements/workshop.txt

lab: setup
	$(bin)/jupyter lab notebooks/quickstart.ipynb

# Without metadata.widgets: GitHub does not show a notebook whose widget state is incomplete.
notebooks: setup
	$(bin)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb

docs: setup
	$(bin)/python -m nbft.interop.compatibility > docs/compatibility.md
	$(bin)/python -m nbft.config.reference > docs/reference.md

bench: setup
	$(bin)/python -m benchmarks

faults: setup
	$(bin)/python -m tests.faults $(N)

proofs: setup
	$(bin)/python -m tests.effects $(OF)

chromium:
	@command -v chromium > /dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && \
			apt-get install -y --no-install-recommends chromium fonts-dejavu-core fonts-liberation; } || \
		{ echo "The browser tests need Chromium: install chromium, fonts-dejavu-core and fonts-liberation."; exit 1; }

$(bin)/python:
	python3 -m venv $(venv)
	$(install) "$(TORCH)"

$(venv)/.setup: $(bin)/python $(sources) $(lock)
	@$(say_without_npm)
	$(install) -e ".[dev]"
	@touch $(venv)/.setup $(venv)/.demo

$(venv)/.demo: $(bin)/python $(sources) $(lock)
	@$(say_without_npm)
	$(install) -e .
	@touch $(venv)/.demo
