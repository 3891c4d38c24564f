# `make run` starts the cloud, `make test` proves it. `make help` lists the rest.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard protos/thecloud/v1/*.proto)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)

.PHONY: help run test bench gen lint lock images engines libvirt ovn clean
help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

run: $(VENV)/run ## install what is missing, and start everything: REST on 127.0.0.1:8080, gRPC on 127.0.0.1:50051
	@exec $(BIN)/thecloud up --engines

test: $(VENV)/dev engines engines-for-tests images-for-tests ## lint, then every test; a missing engine fails when CI is set
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(PYTEST)

bench: $(VENV)/bench engines images-for-tests ## print one JSON line for each figure
	@$(BIN)/python -m bench

gen: $(VENV)/dev ## generated/ from protos/
	rm -rf generated/thecloud generated/buf && mkdir -p generated/thecloud/v1
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=../generated --pyi_out=../generated \
	  --grpc_python_out=../generated buf/validate/validate.proto $(PROTOS:protos/%=%)
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I. --include_source_info \
	  --descriptor_set_out=../generated/thecloud/v1/descriptors.binpb $(PROTOS:protos/%=%)
	rm -f generated/buf/validate/validate_pb2_grpc.py generated/thecloud/v1/{options,errors}_pb2_grpc.py

lint: $(VENV)/dev ## ruff, mypy --strict, buf lint, buf breaking against the last commit that has protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	@past=$$(git rev-list -n 1 HEAD~1 -- protos 2>/dev/null); if [ -n "$$past" ]; then \
	  echo $(BIN)/buf breaking --against .git#ref=$$past; $(BIN)/buf breaking --against ".git#ref=$$past"; fi

lock: $(VENV)/dev ## pin the dependencies anew
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --extra postgres -c requirements.lock pyproject.toml -o requirements-postgres.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --extra ovn -c requirements.lock pyproject.toml -o requirements-ovn.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --extra libvirt -c requirements.lock pyproject.toml -o requirements-libvirt.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --extra s3 -c requirements.lock pyproject.toml -o requirements-s3.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --extra dev --extra bench -c requirements-dev.lock pyproject.toml -o requirements-bench.lock

engines: $(VENV)/run ## install and start the machine's engines, where this user may
	@$(BIN)/thecloud doctor --fix || [ -z "$$CI" ]

libvirt: $(VENV)/run ## what virtual machines need; then THECLOUD_COMPUTE=docker,libvirt make run
	@$(BIN)/thecloud doctor --fix libvirt
	@$(MAKE) --no-print-directory $(VENV)/libvirt

ovn: $(VENV)/ovn ## the library that the network driver ovn needs

images: engines ## build from Debian's packages busybox, debian, nginx, python, node … into the engine, and a tiny guest
	@$(BIN)/thecloud images build all guest

.PHONY: images-for-tests
images-for-tests: engines
	@! docker version >/dev/null 2>&1 || $(BIN)/thecloud images build busybox nginx

# Debian's packages would start daemons, which tests run themselves.
OVN := openvswitch-switch ovn-central ovn-host
CEPH := ceph-mon ceph-osd ceph-common radosgw
CLIENTS := restic
.PHONY: engines-for-tests
engines-for-tests: engines
	@[ -n "$$CI" ] || exit 0; PATH=$$PATH:/usr/sbin; missing=; \
	type -P ovs-vswitchd ovn-northd ovn-controller >/dev/null || missing+=" $(OVN)"; \
	type -P ceph-mon ceph-osd ceph rbd radosgw >/dev/null || missing+=" $(CEPH)"; \
	type -P restic >/dev/null || missing+=" $(CLIENTS)"; \
	[ -n "$$missing" ] || exit 0; echo "installing$$missing"; policy=/usr/sbin/policy-rc.d; \
	[ -e $$policy ] || { made=1; printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy >/dev/null; $(SUDO) chmod +x $$policy; }; \
	$(SUDO) apt-get -qq update; \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get -qq install -y --no-install-recommends $$missing >/dev/null; status=$$?; \
	[ -z "$$made" ] || $(SUDO) rm $$policy; exit $$status

clean: ## remove the virtual environment and caches; data stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Each stamp is newer than the lock it was installed from.
$(VENV)/run: requirements.lock pyproject.toml
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { rm -rf $(VENV); echo "installing python3-venv"; $(SUDO) apt-get -qq update; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get -qq install -y python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); }
	@echo "installing dependencies"; $(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@if [ "$$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then \
	  $(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-postgres.lock; fi
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps -e . && touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	@$(BIN)/thecloud doctor --fix libvirt >/dev/null || true # libvirt-python is built from source
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock && touch $@

$(VENV)/libvirt $(VENV)/ovn: $(VENV)/%: $(VENV)/run requirements-%.lock
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-$*.lock && touch $@

$(VENV)/bench: $(VENV)/dev requirements-bench.lock
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-bench.lock && touch $@
