# `make run` and `make test` are all that a fresh machine with Python 3.11+ needs; both install into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Written only when the installation is complete, and out of date when what is installed would change.
STAMP := $(VENV)/.installed
ADAPTERS ?= ace_lora,brain_adapter
PACKAGES := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Where pyright, editors and the like find medgraft.adapters and so on: an editable installation finds them by a hook that
# only a running Python knows. Made anew each time, since it takes no time.
LINKS := $(VENV)/links/medgraft

.PHONY: install links run test browser slurm docs board clean

install: $(STAMP) links

links: $(STAMP)
	@rm -rf $(LINKS) && mkdir -p $(LINKS)
	@ln -s $(CURDIR)/src/medgraft/* $(CURDIR)/adapters $(CURDIR)/encoders $(CURDIR)/benchmarks $(LINKS)/

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit("medgraft needs Python 3.11 or newer, this is %d.%d; set PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PACKAGES) install --upgrade 'pip>=25.1'
	$(PACKAGES) install --editable . --group dev
	@touch $(STAMP)

run: $(STAMP)
	$(BIN)/python -m benchmarks.run --adapters $(ADAPTERS) $(ARGS)

# Where PYTHONDONTWRITEBYTECODE is set, the hundreds of processes that tests start would each compile the modules anew.
test: $(STAMP) links browser slurm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m compileall -q src adapters encoders benchmarks
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

# The tests of the pages drive a real Chromium. It comes from the system, not from PyPI; where it is missing and this
# shell may install it, it is installed, and where not, the tests say that it is missing.
browser:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium) >/dev/null \
		|| echo "Chromium could not be installed by apt-get; the tests of the pages will fail" >&2; \
	else echo "Chromium is missing; the tests of the pages need it: sudo apt-get install chromium" >&2; fi

# The tests of the launcher `slurm` start a real Slurm on this machine; it comes from the system too.
slurm:
	@if command -v slurmctld >/dev/null && command -v munged >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge) >/dev/null \
		|| echo "Slurm could not be installed by apt-get; the tests of the launcher slurm will not run" >&2; \
	else echo "Slurm is missing; the tests of its launcher need it: sudo apt-get install slurm-wlm munge" >&2; fi

# The site of docs/, in site/; nothing is fetched, and a broken link is an error.
docs: $(STAMP) links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(ARGS)

# Runs the phantom sweep and writes docs/leaderboard.md; the command stands in benchmarks/audit/phantom_board.py.
board: $(STAMP)
	$(BIN)/python -m benchmarks.audit.phantom_board $(ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info
