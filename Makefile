# augpipe: the everyday commands. `make` alone lists them.
#
# Needs make and a Python from 3.11 to 3.13 with its venv module; all else is installed into
# $(VENV), which may be set on the command line or in the environment.

VENV ?= .venv
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_ALBUMENTATIONS_UPDATE := 1

# make splits names at spaces: targets use an escaped path, recipes a quoted one.
empty :=
space := $(empty) $(empty)
installed := $(subst $(space),\ ,$(VENV))/.installed
installed_dev := $(subst $(space),\ ,$(VENV))/.installed-dev
python := "$(VENV)/bin/python"
augpipe := $(if $(findstring $(space),$(VENV)),"$(VENV)/bin/augpipe",$(VENV)/bin/augpipe)

# Exit status 0 for an interpreter that can carry augpipe.
fits := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: help demo test fuzz lint bench parity clean

help:
	@echo "make demo    install augpipe and expand samples/garments with configs/quickstart.yaml"
	@echo "make test    run the tests             (make test ARGS='-k rotate' for some of them)"
	@echo "make fuzz    mutants of every input, many more than the tests have (an hour; ARGS=--help)"
	@echo "make lint    ruff check, ruff format --check, mypy"
	@echo "make bench   measure against the peers: docs/benchmarks.md (20 minutes; ARGS=--quick: 2)"
	@echo "make parity  measure the backends against the reference, op by op: docs/parity.md"
	@echo "make clean   remove .venv, caches, builds and what the demo wrote"
	@echo
	@echo "PYTHON=... chooses the interpreter (3.11 to 3.13), VENV=... the environment's folder."

demo: $(installed)
	$(augpipe) expand configs/quickstart.yaml samples/garments runs/garments --copies 4
	$(augpipe) preview configs/quickstart.yaml samples/garments -o runs/garments.png
	@echo
	@echo 'Look at    runs/garments.png    originals and their variants, op by op'
	@echo '           runs/garments/       the expanded dataset and its manifest'
	@echo 'Type next  $(augpipe) explain configs/quickstart.yaml'
	@echo '           $(augpipe) verify runs/garments'
	@echo '           $(augpipe) --help'

test: $(installed_dev)
	$(python) -m pytest -n 2 --dist loadgroup $(ARGS)

fuzz: $(installed_dev)
	$(python) -m tests.safety.fuzz $(ARGS)

lint: $(installed_dev)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

bench: $(installed)
	@$(python) -m pip install -q -e ".[bench]"
	$(python) -m benchmarks.loading $(ARGS)
	$(python) benchmarks/startup.py
	$(python) benchmarks/overhead.py
	$(python) benchmarks/decoding.py
	$(python) benchmarks/fusion.py
	$(python) benchmarks/batched.py

parity: $(installed_dev)
	$(python) -m tests.parity.report

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf runs/garments runs/garments.png
	find augpipe tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A stamp is written only after a success, so a failed or interrupted install is tried again.
$(installed): pyproject.toml
	@if [ -e "$(VENV)/bin/python" ] || [ -h "$(VENV)/bin/python" ]; then \
	    "$(VENV)/bin/python" -c 'import pip; $(fits)' 2>/dev/null || { \
	        echo "make: the environment $(VENV) is broken or not on Python 3.11-3.13: remove it and run make again" >&2; \
	        exit 1; \
	    }; \
	else \
	    found=; \
	    for candidate in "$${PYTHON:-}" python3.13 python3.12 python3.11 python3; do \
	        if [ -n "$$candidate" ] && "$$candidate" -c '$(fits)' >/dev/null 2>&1; then \
	            found=$$candidate; break; \
	        fi; \
	        if [ -n "$${PYTHON:-}" ] && [ "$$candidate" = "$${PYTHON:-}" ]; then \
	            echo "make: PYTHON=$$candidate is not a Python 3.11-3.13 with venv; looking further" >&2; \
	        fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "make: no Python 3.11, 3.12 or 3.13 with its venv module was found." >&2; \
	        echo "make: install one (Debian and Ubuntu: python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "making $(VENV) with $$("$$found" --version)"; \
	    "$$found" -m venv "$(VENV)" || { rm -f "$(VENV)/bin/python"; exit 1; }; \
	fi
	@echo "installing augpipe and PyTorch into $(VENV): about 3 minutes and 6 GB the first time"
	@$(python) -m pip install -q -e . || { echo "make: the installation failed; pip says why above" >&2; exit 1; }
	@touch "$(VENV)/.installed"

$(installed_dev): $(installed)
	@echo "installing the test and lint tools into $(VENV)"
	@$(python) -m pip install -q -e ".[dev]" || { echo "make: the installation failed; pip says why above" >&2; exit 1; }
	@touch "$(VENV)/.installed-dev"
