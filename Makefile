# Short verbs for people; CI calls the same ones.
VENV := .venv
# The newest there is: 3.13 makes a tenth more round trips than 3.11.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11; do $$p -c '' 2>/dev/null && echo $$p && break; done || echo python3)
BIN := $(VENV)/bin

.PHONY: help image examples example-sidecar example-shared example-sockets example-labels example-nfs example-swarm setup demo test check bench contract fairness fuzz chaos soak failover restarts patience mounts profile format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/installed  ## a virtual environment with everything in it

$(VENV)/installed: pyproject.toml tools/packages.sh
	@tools/packages.sh venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## a whole small site on loopback, and the gateway in front of it (ARGS=--once ends by itself)
	@tools/packages.sh demo
	@[ "$$(id -u)" -eq 0 ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
		$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@$(BIN)/gateway demo $(ARGS)

test: setup  ## all tests, on real servers
	@tools/packages.sh test
	$(BIN)/pytest $(ARGS)

check: setup  ## lint, types, layers, unit tests
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q --numprocesses auto tests/unit

bench: setup  ## the gateway beside ssh -L and HAProxy, into bench/results.md (minutes; ARGS="--rounds 1 --only bulk")
	@tools/packages.sh bench
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python bench/run.py --out bench/results.md $(ARGS)

fairness: setup  ## who gets how much of a slow uplink, beside ssh -L (minutes; ARGS="--seconds 20 --rate 2e6")
	@tools/packages.sh test
	$(BIN)/python bench/fair_share.py $(ARGS)

chaos: setup  ## break a real site in random order under load for ten minutes (ARGS="--seconds 60 --seed 1 --only kill")
	@tools/packages.sh test
	$(BIN)/python -m tests.chaos.run $(ARGS)

soak: setup  ## load SSH over slow, long and lossy paths, with invariants (ARGS="--seconds 600 --seed 1 --clients 1000")
	@tools/packages.sh test
	$(BIN)/python -m tests.chaos.soak $(ARGS)

contract: setup  ## every relay through thousands of connections whose ends do anything in any order (EXAMPLES=2000)
	@tools/packages.sh test
	CONTRACT_EXAMPLES=$(or $(EXAMPLES),2000) $(BIN)/pytest tests/rig/test_relay_contract.py $(ARGS)

fuzz: setup  ## fuzz the SSH receive path and the parsers (ARGS="--seconds 600 --target ssh_receive", or --ci)
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary atheris --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run $(ARGS)

failover: setup  ## kill the database that clients are on, again and again (ARGS="--count 30")
	@tools/packages.sh test
	$(BIN)/python -m tests.chaos.failover $(ARGS)

restarts: setup  ## restart one of two gateways behind HAProxy, again and again (ARGS="--count 100")
	@tools/packages.sh test
	@tools/packages.sh bench
	$(BIN)/python -m tests.chaos.restarts $(ARGS)

patience: setup  ## probe a MySQL that refuses whoever breaks off ten handshakes (ARGS="--count 10000"; as root)
	@tools/packages.sh test
	$(BIN)/python -m tests.chaos.patience $(ARGS)

mounts: setup  ## stop the tunnel under a kernel's NFS mount, and mount before it exists (ARGS="--outages 40 --races 20"; as root)
	@tools/packages.sh test
	$(BIN)/python -m tests.chaos.mounts $(ARGS)

image:  ## the container image (ARGS="--target vpn", or "--build-arg BASE=…")
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} docker build -t gateway $(ARGS) .

examples: example-sidecar example-shared example-sockets example-labels example-nfs example-swarm  ## each of configs/compose, started and asked

example-sidecar example-shared example-sockets example-labels example-nfs example-swarm: setup
	@tools/packages.sh test
	CI=1 $(BIN)/pytest tests/rig/test_image.py -k "$(@:example-%=%) or image_is" $(ARGS)

profile: setup  ## where the gateway's time goes under a load (ARGS="pp 5": up, down, pp or conn, and seconds)
	$(BIN)/python bench/profile_load.py $(ARGS)

format: setup  ## format the code and mend what can be mended
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

clean:  ## remove what the other verbs made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
