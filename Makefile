# PKS: everything a clone needs. `make run` and `make test` set up by themselves; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# More arguments: make run ARGS="--shards 2", make test ARGS="-k ring -x", make bench BENCHES=slot ARGS=--json
ARGS ?=
BENCHES ?= hotpath ring slot kernel depth replay correct journal book recover startup postgres nats timeseries edges websocket grpc rest
# Another Python than the one found: make setup PYTHON=/opt/python3.12/bin/python3
PYTHON ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1
export PYTHON

# Shell functions of the recipes below. Debian splits `venv` from Python, and a version of pyenv may be there in name only.
define FUNCTIONS
say() { echo "make: $$*" >&2; }
is_root() { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; }
apt_install() {
    say "installing $$* with apt-get"
    apt-get update -qq > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@" > /dev/null
}
fits() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null; }
has_venv() { "$$1" -c 'import ensurepip, venv' 2> /dev/null; }
version_of() { "$$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
candidates() {
    if [ -n "$$PYTHON" ]; then echo "$$PYTHON"; return; fi
    echo python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3
}
find_python() {
    local name
    for name in $$(candidates); do if fits "$$name" && has_venv "$$name"; then command -v "$$name"; return; fi; done
    return 1
}
find_bare_python() {
    local name
    for name in $$(candidates); do if fits "$$name"; then command -v "$$name"; return; fi; done
    return 1
}
get_python() {
    find_python && return
    local bare
    if bare=$$(find_bare_python); then
        is_root && apt_install "python$$(version_of "$$bare")-venv" python3-venv && find_python && return
        say "$$bare has no venv: install python$$(version_of "$$bare")-venv (apt-get install python3-venv) and call make again"
        return 1
    fi
    is_root && [ -z "$$PYTHON" ] && apt_install python3 python3-venv && find_python && return
    say "Python 3.11 to 3.14 is needed$${PYTHON:+, and $$PYTHON is not that}: install python3 and python3-venv, or give PYTHON=/path/to/python3"
    return 1
}
has_compiler() { command -v gcc > /dev/null && echo '#include <stdio.h>' | gcc -E -x c - > /dev/null 2>&1; }
get_compiler() { has_compiler || { is_root && apt_install gcc libc6-dev && has_compiler; }; }
# posix_ipc has no wheel for Python 3.14: there it is built.
get_headers() {
    local include
    include=$$("$$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$$include/Python.h" ] || { is_root && apt_install "python$$(version_of "$$1")-dev" && [ -f "$$include/Python.h" ]; }
}
endef

.PHONY: help setup jar toolchain run check test race crash boundscheck bench header proto lock clean

help:
	@cat <<'END'
	make setup        the virtual environment in .venv, from requirements.lock, and QuestDB's jar into the cache
	make jar          QuestDB's jar again, where it could not be had
	make run          set up, then the system with the demo desk (pks run --demo)
	make check        lint, format, types, import contracts
	make test         set up, check, then every test that is quick
	make race         real processes on rings and slots, the long form
	make crash        kills and power cuts, the long form
	make boundscheck  the tests with numba's bounds checks
	make bench        the benchmarks, one JSON each
	make header       include/pks.h, the C header of the layouts
	make proto        the Python code of the .proto files
	make lock         requirements.lock from requirements.in and requirements-dev.in
	make clean        remove what was built, not the data
	END

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(FUNCTIONS)
	if ! { [ -x $(BIN)/python ] && fits $(BIN)/python && $(BIN)/python -m pip --version > /dev/null 2>&1; }; then
	    python=$$(get_python)
	    say "setting up $(VENV) with $$python (Python $$(version_of "$$python"))"
	    rm -rf $(VENV)
	    "$$python" -m venv $(VENV)
	fi
	if [ "$$(version_of $(BIN)/python)" = 3.14 ] && ! { get_compiler && get_headers $(BIN)/python; }; then
	    say "with Python 3.14 posix_ipc is built: install gcc and python3.14-dev, or give PYTHON= of 3.11, 3.12 or 3.13"
	    exit 1
	fi
	say "installing the packages of requirements.lock"
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pks.servers.jar > /dev/null || say "'make jar' tries again"
	touch $(STAMP)

jar: $(STAMP)
	@$(BIN)/python -m pks.servers.jar

toolchain:
	@$(FUNCTIONS)
	get_compiler || say "no C compiler (apt-get install gcc libc6-dev): the tests of the C example are skipped"

run: $(STAMP)
	@exec $(BIN)/pks run --demo $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/import-linter

# the gate repeats one seed, so that what passed passes again; PKS_TEST_SEED=... and the long modes try others
test: toolchain check
	@PKS_TEST_SEED=$${PKS_TEST_SEED:-1} $(BIN)/python -m pytest -m "not long" $(ARGS)

race: $(STAMP) toolchain
	@$(BIN)/python -m pytest tests/race -m "long or not long" --timeout 3600 $(ARGS)

crash: $(STAMP) toolchain
	@$(BIN)/python -m pytest tests/crash -m "long or not long" --timeout 14400 $(ARGS)

boundscheck: $(STAMP) toolchain
	@NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -m "not long" --timeout 300 $(ARGS)

bench: $(STAMP) toolchain
	@for name in $(BENCHES); do $(BIN)/pks bench "$$name" $(ARGS); done

header: $(STAMP)
	@mkdir -p include
	$(BIN)/pks shm header > include/pks.h.tmp
	mv include/pks.h.tmp include/pks.h

proto: $(STAMP)
	@$(BIN)/python -m grpc_tools.protoc -I pks/proto --python_out=pks/proto --pyi_out=pks/proto pks/proto/pks/v1/*.proto

lock: $(STAMP)
	@$(BIN)/uv pip compile requirements.in requirements-dev.in --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --quiet -o requirements.lock
	! grep -n '://' requirements.lock

clean:
	@rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis include/*.tmp
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
