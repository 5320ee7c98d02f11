# The README's commands. Each makes .venv with the locked versions first; what that takes is in the README.
# The newest Python on this machine that there are packages for, since newer ones get newer versions of JAX. Each is
# started, since a name on the path may start nothing, as those of pyenv.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, venv' 2>/dev/null && echo $$python && exit; done; echo python3)

# Processes that test: one more than cores, since some tests wait for processes of their own.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(5, (os.cpu_count() or 1) + 1))')

.PHONY: demo test test-oldest lint types docs lock audit

demo: .venv/installed
	.venv/bin/python experiments/digits_demo.py

test: .venv/installed
	.venv/bin/python -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder

# The same with the oldest versions that setup.cfg allows, in a .venv of their own. For other Pythons than the newest:
# remove .venv, then make test PYTHON=python3.11.
test-oldest: .venv/uv
	.venv/bin/python -m venv .venv-oldest
	.venv/bin/uv pip compile --quiet --resolution lowest-direct --no-header --no-annotate setup.cfg -o .venv-oldest/versions.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-oldest/versions.txt beartype hypothesis pytest-xdist 'setuptools>=77'
	.venv-oldest/bin/python -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed
	.venv/bin/python -m mypy

# The site, into site/; `.venv/bin/python -m mkdocs serve` shows it while you write.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet

.venv/installed: requirements.lock setup.cfg setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sdclr_jax needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv/uv: .venv/installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

# One set of versions for all Pythons and systems, from the ranges in setup.cfg, each with the hashes of its files: pip
# takes no other file of that name. `make lock` after changing the ranges.
lock: .venv/uv
	.venv/bin/uv pip compile --universal --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 --extra test --extra docs setup.cfg -o requirements.lock

# Known vulnerabilities of these versions, as PyPI lists them; an error too where it cannot be asked.
audit: .venv/uv
	.venv/bin/uv tool run pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock
