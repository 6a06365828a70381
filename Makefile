# Needs python3 (3.11 or newer) and make. `make help` lists what there is.

PYTHON ?= python3
TORCH ?=
BIN := .venv/bin
OWN_UV := .uv/bin/uv
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(OWN_UV))

.PHONY: study test soak browser lab reference requirements clean help
.DEFAULT_GOAL := help

study: .venv/.ready ## run the embedded study and make its pages
	$(BIN)/study run picto
	$(BIN)/study site picto

test: .venv/.ready ## lint, check types and run the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

soak: .venv/.ready ## run the long tests, half an hour or more
	$(BIN)/pytest -m soak

browser: .venv/.ready ## test the widgets in Chromium or Chrome
	$(UV) pip install --python $(BIN)/python --editable ".[browser]"
	$(BIN)/pytest -m soak tests/test_explore_browser.py

# An uploaded photograph is one message, of which the server takes 10 MB otherwise.
lab: .venv/.ready ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root) \
		--ServerApp.tornado_settings='{"websocket_max_message_size": 100000000}'

# A run that was stopped goes on where it was.
reference: .venv/.ready ## run the study that is committed, and write what is drawn from it
	$(BIN)/study run picto_full --outputs .cache/reference
	$(BIN)/python tools/estimators.py .cache/reference/picto_full
	rm -rf .cache/reference/picto_full/predictions outputs/reference
	mkdir -p outputs
	mv .cache/reference outputs/reference
	$(BIN)/python tools/lean.py outputs/reference
	$(BIN)/python tools/front.py

# torch asks for its CUDA libraries itself, and only where it can use them.
requirements: | $(filter $(OWN_UV),$(UV)) ## pin what pyproject.toml names
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev \
		--no-header --no-annotate --output-file requirements.txt pyproject.toml
	grep -vE '^(nvidia|cuda|triton)' requirements.txt > requirements.tmp
	mv requirements.tmp requirements.txt

clean: ## remove the environment and the caches, not the outputs
	rm -rf .venv .uv .cache .ruff_cache

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 22
	@echo
	@echo "  TORCH=cpu at the first call, as in make study TORCH=cpu, spares the CUDA"
	@echo "  libraries on Linux (4 GB); PYTHON=python3.13 chooses the interpreter."

# The environment is whole once the stamp is there; a broken start begins again.
# Where Python may not keep bytecode, every start would compile torch's once more.
.venv/.ready: requirements.txt pyproject.toml | $(filter $(OWN_UV),$(UV))
	@$(require_python)
	rm -rf .venv
	$(UV) venv --quiet --python "$$(command -v $(PYTHON))" .venv
	$(UV) pip install --python $(BIN)/python --requirement requirements.txt --editable . \
		$(if $(TORCH),--torch-backend $(TORCH)) \
		$(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
	@touch $@

# --target works where the system's Python is "externally managed", too.
$(OWN_UV):
	@$(require_python)
	@echo "fetching uv into .uv"
	@PIP_USER=0 $(PYTHON) -m pip install --quiet --upgrade --target .uv uv \
		|| { $(PYTHON) -m venv --clear .uv && .uv/bin/pip install --quiet uv; } \
		|| { echo "Cannot fetch uv: install pip for $(PYTHON) or uv itself" \
			"(https://docs.astral.sh/uv) and call make again." >&2; exit 1; }

require_python = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "$(PYTHON) is missing or older than 3.11: install a newer one and name it," \
		"as in make PYTHON=python3.13" >&2; exit 1; }
