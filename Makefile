# Everything here also works without make: each target is one command.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help demo test quick test-windows check fix soak bench docs dist clean

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## See it work: jobs, three workers, retries, the DLQ (nothing to install, nothing left behind)
	@$(PYTHON) -m queuectl demo

test: ## Run the whole suite in a virtual environment of its own; ARGS="-k retry" picks tests
	@$(PYTHON) tools/test.py $(ARGS)

quick: ## Run the suite without the slow tests
	@$(PYTHON) tools/test.py -m "not slow" $(ARGS)

test-windows: ## Run the suite on Windows's own Pythons under Wine, which is installed if apt is there
	@$(PYTHON) tools/test_windows.py $(ARGS)

check: ## Format, lint, types, what Windows and 3.8 lack, layers, docs; ARGS=types runs one of them
	@$(PYTHON) tools/check.py $(ARGS)

fix: ## Format, lint and regenerate what a program can mend
	@$(PYTHON) tools/check.py --fix format lint docs

soak: ## Kill and pause everybody for half an hour while jobs run; ARGS="--minutes 240 --seed 7"
	@$(PYTHON) tools/soak.py $(ARGS)

bench: ## Measure beside xargs, other queues, bare interpreters and bare SQLite; ARGS="drain --rounds 3" measures less
	@$(PYTHON) -m bench $(ARGS)

docs: ## Write the generated reference pages anew
	@$(PYTHON) tools/reference.py

dist: ## Build wheel, source archive and queuectl.pyz into dist/, twice, compare and try them
	@$(PYTHON) tools/dist.py

clean: ## Remove what was built, measured and cached
	@rm -rf .venv-test dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov
