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

.PHONY: help setup demo test test-newest test-trackers check lock lab notebooks docs bench faults fuzz proofs chromium

help:
	@echo "make setup       the development environment, in .venv"
	@echo "make demo        a small fine-tuning run; needs Python and pip only"
	@echo "make test        every test, the browser included"
	@echo "make test-newest every test with the newest packages, in .venv-newest"
	@echo "make test-trackers  the trackers, also those that are not in .venv; in .venv-trackers"
	@echo "make check       format, lint and types of Python and TypeScript"
	@echo "make lock        renew the versions in requirements/"
	@echo "make lab         JupyterLab with the first notebook"
	@echo "make notebooks   run the notebooks in full and save them with their outputs"
	@echo "make docs        the pages that are made from the tables in the code"
	@echo "make bench       the benchmarks"
	@echo "make fuzz        N=1000 wrong configs, files and commands, and what is said of them"
	@echo "make faults      harm N=60 runs at random moments (kill -9, full disk, …), and count what survives;"
	@echo "                 PROCESSES=2 harms runs that two processes train, WITH=\"distributed.fsdp=full_shard\""
	@echo "                 runs with other settings"
	@echo "make proofs      each setting's test, which must fail without the setting's effect"

setup: $(venv)/.setup

demo: $(venv)/.demo
	$(bin)/nbft demo

# The longest groups first, so that no process is left with one while the others have nothing to do.
test: setup chromium
	OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadscope \
		--no-loadscope-reorder tests/browser tests/notebooks tests/e2e tests/unit nbft

test-newest:
	rm -rf .venv-newest
	$(MAKE) test venv=.venv-newest lock=

# Comet, MLflow and Phoenix bring a hundred packages, so they are not part of the environment. With its
# versions pip would take an MLflow of 2022, because newer ones want an older pyarrow.
test-trackers:
	$(MAKE) setup venv=.venv-trackers
	.venv-trackers/bin/pip install comet-ml "mlflow>=3" arize-phoenix-otel
	OMP_NUM_THREADS=1 .venv-trackers/bin/python -m pytest \
		tests/unit/test_tracking.py tests/unit/training/test_trackers.py tests/e2e/test_trackers.py

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
	$(bin)/python -m nbft.plan.machines > docs/hardware.md

bench: setup
	$(bin)/python -m benchmarks

fuzz: setup
	$(bin)/python -m tests.fuzz $(N)

faults: setup
	$(bin)/python -m tests.faults $(N) --processes $(or $(PROCESSES),1) --with $(WITH)

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
