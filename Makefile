# Two commands do everything, set-up included: `make run` and `make test`.
HOST ?= 127.0.0.1
PORT ?= 7860
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint check browser clean
.DEFAULT_GOAL := run

run: $(STAMP)  ## start the studio
	@$(BIN)/python app.py --host $(HOST) --port $(PORT)

test: $(STAMP) browser lint  ## lint, types, import contract, every test
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One virtual environment for both; made again when a requirement changes.
$(STAMP): requirements.txt requirements-dev.txt
	@echo "Setting up $(VENV) (about 6 GB with PyTorch's CUDA libraries; a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Debian's chromium where it is, or can be installed; else Playwright's own.
browser: $(STAMP)
	@if command -v chromium >/dev/null; then echo "Browser for the tests: $$(command -v chromium)"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Debian's chromium for the browser tests"; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "Installing Playwright's chromium for the browser tests"; \
		$(BIN)/python -m playwright install chromium; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
