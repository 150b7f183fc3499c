# Two commands do everything: `make train` and `make test`. Each sets up .venv if needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint docs clean

train: .venv/ready  ## train cifar-resnet20 on CIFAR-10 to the paper's error; resume if it was stopped
	$(BIN)/resnets train cifar10-fast --resume

test: .venv/ready  ## run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: .venv/ready  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/ready  ## the documentation as a site, in build/site
	$(BIN)/zensical build --strict

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("resnets needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv: about two minutes, most of it PyTorch's download ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

clean:
	rm -rf .venv build *.egg-info
