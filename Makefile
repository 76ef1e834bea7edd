# make                  lists the targets; each installs its missing prerequisites once.
# make TARGET ARGS="…"  passes arguments on: demo, test, faults, soak, fuzz, bench, fleet,
#                       examples, machines.

PYTHON ?= /usr/bin/python3
VENV := .venv
# Processes that run tests side by side, each in a network namespace of its own: most wait.
WORKERS ?= 3
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
INSTALL := tools/install-packages.sh
ENGINES := .cache/examples-venv
FLINK := .cache/flink-venv
NODE := .cache/node
LOWEST := .cache/lower-bounds
C_SOURCES := $(shell find bpf examples -name '*.[ch]')

RUN_PACKAGES := python3-venv libbpf1 libpcap0.8 libseccomp2 python3-bpfcc ip=iproute2 \
	ethtool=ethtool ping=iputils-ping
TEST_PACKAGES := $(RUN_PACKAGES) mvn=maven java=default-jre-headless gcc=gcc libc6-dev \
	tcpdump=tcpdump tcpreplay=tcpreplay tshark=tshark kcat=kcat node=nodejs jq=jq sysctl=procps openssl=openssl \
	systemd-analyze=systemd \
	man=man-db zsh=zsh fish=fish chromium=chromium
# Without broker, kernel or root: half a minute on any interpreter.
UNIT_TESTS := $(patsubst %,tests/test_%.py,architecture binary_formats biflow biflow_handshakes \
	community_id config config_source encode extras imports installation kafka_properties \
	link_types log metrics overlaps partition past pipeline profiles records reference registry \
	report_sums retries schemas selection sink_kafka_lanes sink_stdout spool spool_damage spool_drain spool_live \
	spool_model spool_pace spool_runs waiting wording)
COMPILE := PYTHONWARNINGS=ignore $(BIN)/pip-compile -q --no-build-isolation --generate-hashes \
	--allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
PIP_INSTALL := bin/pip install -q --disable-pip-version-check
.DEFAULT_GOAL := help

.PHONY: help setup demo test faults soak lint pythons lower-bounds fuzz docs bench fleet generate lock \
	examples man release wheel deb test-deb pictures kernels machines image newcomer clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.installed ## install .venv/bin/flowstream with the locked dependencies

$(VENV)/.installed: pyproject.toml requirements-dev.txt
	@$(INSTALL) $(RUN_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r requirements-dev.txt
	@PYTHONWARNINGS=ignore $(VENV)/$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## send real packets through the agent, audit the records
	@$(SUDO) $(BIN)/flowstream demo $(ARGS)

test: setup ## run all tests, with a real kernel and a real broker (root)
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@tests/prometheus/fetch.sh
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r tests/goflow2/requirements.txt
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r requirements-release.txt
	@# The tests themselves reach no network.
	@for module in goflow2 compose; do GOTOOLCHAIN=local GOFLAGS=-modcacherw \
		GOPATH=$(CURDIR)/.cache/go/path $(BIN)/go -C tests/$$module mod download || exit; done
	@$(SUDO) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

faults: setup ## let brokers, networks and disks fail in many ways (root)
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@$(SUDO) $(BIN)/python -m pytest -m '' tests/faults $(ARGS)

soak: setup ## long runs: ARGS=kills, restarts, steady, outage or interfaces, each with --help (root)
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@$(SUDO) env PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

lint: setup ## check style, types and generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(SUDO) $(BIN)/python -m tools.generate --check
	$(BIN)/python -m tools.schema_files --check schemas
	$(BIN)/python -m tools.reference --check

pythons: setup ## run the unit tests on the other Python versions of this machine
	@tools/pythons.sh $(BIN)/python $(UNIT_TESTS)

lower-bounds: setup ## run the unit tests with the lowest versions that pyproject.toml permits
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(BIN)/python -m tools.lower_bounds >$(LOWEST)/constraints.txt
	@$(LOWEST)/$(PIP_INSTALL) -c $(LOWEST)/constraints.txt \
		-e '.[agent,dev,readers,report]'
	@$(LOWEST)/bin/python -m pytest -q -p no:cacheprovider $(UNIT_TESTS)

fuzz: $(VENV)/.fuzzer ## fuzz everything that is read from outside
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

$(VENV)/.fuzzer: $(VENV)/.installed requirements-fuzz.txt
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r requirements-fuzz.txt
	@touch $@

docs: $(VENV)/.docs ## build the documents as a site, in build/docs
	@tools/fetch-mermaid.sh
	@rm -rf build/docs
	@$(BIN)/python -m sphinx -q -n -W --keep-going -d build/doctrees docs build/docs
	@$(BIN)/python -m tools.check_site build/docs

$(VENV)/.docs: $(VENV)/.installed requirements-docs.txt
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r requirements-docs.txt
	@touch $@

bench: setup ## measure throughput and cost, as ratios
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@$(SUDO) $(BIN)/python -m bench $(ARGS)

fleet: setup ## simulate 1,000 agents, audited by Spark
	@$(INSTALL) $(TEST_PACKAGES)
	@bench/fleet/run.sh $(ARGS)

generate: setup ## rebuild kernel objects, layouts, schema files and reference pages
	$(SUDO) $(BIN)/python -m tools.generate
	$(BIN)/python -m tools.schema_files --write schemas
	$(BIN)/python -m tools.reference

lock: setup ## write requirements*.txt anew from pyproject.toml
	$(COMPILE) --extra agent --extra anonymise --extra dev --extra parquet --extra readers \
		--extra report --extra top -o requirements-dev.txt pyproject.toml
	$(COMPILE) --extra fuzz -c requirements-dev.txt -o requirements-fuzz.txt pyproject.toml
	$(COMPILE) --extra docs -c requirements-dev.txt -o requirements-docs.txt pyproject.toml
	$(COMPILE) --extra release -c requirements-dev.txt -o requirements-release.txt pyproject.toml
	$(COMPILE) --extra agent --extra readers -c requirements-dev.txt -o requirements.txt \
		pyproject.toml
	$(COMPILE) --extra agent --extra anonymise --extra readers --extra report --extra top \
		-c requirements-dev.txt -o requirements-deb.txt pyproject.toml
	$(COMPILE) --build-deps-for wheel --only-build-deps -c requirements-dev.txt \
		-o requirements-build.txt pyproject.toml
	$(COMPILE) -o examples/requirements.txt examples/requirements.in
	$(COMPILE) -o examples/flink/requirements.txt examples/flink/requirements.in
	$(COMPILE) -o tests/goflow2/requirements.txt tests/goflow2/requirements.in

examples: setup ## run the examples on their stream engines
	@$(INSTALL) $(TEST_PACKAGES) rustc=rustc tsc=node-typescript npm=npm \
		javac=default-jdk-headless
	@tests/broker/fetch.sh
	@examples/fetch.sh
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r tests/goflow2/requirements.txt
	@mkdir -p $(NODE) && cp examples/node/*.json $(NODE)
	@npm ci --prefix $(NODE) --no-audit --no-fund --silent
	@test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	@$(ENGINES)/$(PIP_INSTALL) --require-hashes -r requirements-build.txt
	@$(ENGINES)/$(PIP_INSTALL) --require-hashes --no-build-isolation -r examples/requirements.txt
	@test -x $(FLINK)/bin/python || $(PYTHON) -m venv $(FLINK)
	@$(FLINK)/$(PIP_INSTALL) --require-hashes -r requirements-build.txt
	@$(FLINK)/$(PIP_INSTALL) --require-hashes --no-build-isolation \
		-r examples/flink/requirements.txt
	@$(SUDO) $(BIN)/python -m pytest -o pythonpath=tests examples $(ARGS)

man: setup ## write manual pages and completions into build/man and build/completions
	$(BIN)/python -m tools.man_pages build/man
	$(BIN)/python -m tools.completions build/completions

release: setup ## build the release into build/release: wheel, sources, deb, SBOM, digests
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r requirements-release.txt
	@$(BIN)/python -m tools.release --deb build/release

wheel: setup ## run the agent from its wheel on each Python of this machine (root)
	@$(INSTALL) $(RUN_PACKAGES) sysctl=procps
	@$(VENV)/$(PIP_INSTALL) --require-hashes -r requirements-release.txt
	@$(SUDO) tests/wheel/run.sh $(BIN)/python

deb: release ## copy the Debian package of the release into build/deb
	@mkdir -p build/deb && cp build/release/*.deb build/deb

test-deb: deb ## build it again, the same; install, run, upgrade and remove it under systemd (root)
	@cp build/release/*.whl build && $(BIN)/python -m tools.deb build/*.whl build/deb-again
	@cmp build/deb/*.deb build/deb-again/*.deb
	@$(SUDO) tests/deb/run.sh build/deb/*.deb

pictures: setup ## draw the pictures of the dashboards, after make examples (root)
	@$(INSTALL) $(TEST_PACKAGES)
	@tests/broker/fetch.sh
	@tests/prometheus/fetch.sh
	@$(SUDO) env PYTHONPATH=tests $(BIN)/python -m pictures docs/pictures

kernels: setup ## run the kernel programs on other kernels, in qemu
	@$(SUDO) tests/kernels/run.sh

machines: setup ## run the agent on other machines, in qemu: ARGS=arm64 or s390x
	@$(SUDO) tests/machines/run.sh $(ARGS)

image: ## build and test the container image: ARGS=arm64, for arm64 (Linux 6.7)
	@$(SUDO) tests/image/$(or $(ARGS),run).sh

newcomer: ## run make demo and make test in a fresh Debian 12, below /root
	@$(SUDO) tests/newcomer/run.sh $(ARGS)

clean: ## remove everything that make and the tests wrote
	$(SUDO) rm -rf --one-file-system .cache build
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
