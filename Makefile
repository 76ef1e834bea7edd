# Every target installs what it misses, once.
#   make demo   the main job, on real packets        make test   all tests, with a real broker
#   make setup  .venv/bin/flowstream                 make lint   style, types, generated files
#   make bench  measurements, as ratios              make bpf    rebuild the kernel programs
#   make examples  stream engines, by their sums     make kernels   other kernels, in qemu
#   make image     the container image
#   make fleet  1,000 simulated agents, audited by Spark

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
INSTALL := tools/install-packages.sh
ENGINES := .cache/examples-venv
C_SOURCES := $(shell find bpf -name '*.[ch]')

RUN_PACKAGES := python3-venv libbpf1 python3-bpfcc ip=iproute2 ethtool=ethtool ping=iputils-ping
TEST_PACKAGES := $(RUN_PACKAGES) mvn=maven java=default-jre-headless gcc=gcc libc6-dev \
	tcpreplay=tcpreplay tshark=tshark kcat=kcat node=nodejs
LOCK_FORMAT := --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
.DEFAULT_GOAL := demo

.PHONY: setup demo test lint bench fleet bpf lock examples kernels image clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(INSTALL) $(RUN_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(SUDO) $(BIN)/flowstream demo $(ARGS)

test: setup
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@$(SUDO) $(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(SUDO) $(BIN)/python -m tools.generate --check
	$(BIN)/python -m tools.schema_files --check schemas

bench: setup
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@$(SUDO) $(BIN)/python -m bench $(ARGS)

fleet: setup
	@$(INSTALL) $(TEST_PACKAGES)
	@bench/fleet/run.sh $(ARGS)

bpf: setup
	$(SUDO) $(BIN)/python -m tools.generate
	$(BIN)/python -m tools.schema_files --write schemas

lock: setup
	$(BIN)/pip install -q pip-tools
	$(BIN)/pip-compile -q --extra dev --extra registry --extra readers $(LOCK_FORMAT) \
		-o constraints.txt pyproject.toml
	$(BIN)/pip-compile -q --extra registry --extra readers $(LOCK_FORMAT) -c constraints.txt \
		-o requirements.txt pyproject.toml

examples: setup
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	@$(ENGINES)/bin/pip install -q --disable-pip-version-check -r examples/requirements.txt
	@$(SUDO) $(BIN)/python -m pytest -o pythonpath=tests examples $(ARGS)

kernels: setup
	@$(SUDO) tests/kernels/run.sh

image:
	@$(SUDO) tests/image/run.sh

clean:
	$(SUDO) rm -rf --one-file-system .cache
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
