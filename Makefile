# Commands for developers; CI runs the same commands.
VENV := .venv
# The newest installed Python: with Python 3.13, the gateway is 10% faster in round trips than with 3.11.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11; do $$p -c '' 2>/dev/null && echo $$p && break; done || echo python3)
BIN := $(VENV)/bin
# .ci/run replaces pip by uv.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --only-binary atheris

.PHONY: help image examples example-sidecar example-shared example-sockets example-labels example-legacy example-nfs example-swarm example-vpn setup demo test check bench contract fairness fuzz fuzz-native lint-native valgrind coverage-native sanitize chaos soak failover paths restarts abort-budget mounts profile format clean

help:  ## list all commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/installed  ## create the virtual environment with all dependencies

$(VENV)/created: tools/packages.sh
	@tools/packages.sh venv $(PYTHON)
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml hatch_build.py $(wildcard gateway/_dataplane/*.[ch])
	$(INSTALL) --editable '.[dev]'
	@touch $@

demo: setup  ## run a small site on loopback, with the gateway in front of it (ARGS=--once exits when done)
	@tools/packages.sh demo
	@[ "$$(id -u)" -eq 0 ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
		$(INSTALL) --editable '.[demo]'
	@$(BIN)/gateway demo $(ARGS)

test: setup  ## run all tests, on real servers
	@tools/packages.sh test
	$(BIN)/pytest $(ARGS)

check: setup  ## check format, lint, types and layers, and run the unit tests
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports --no-logo
	@# More processes than processors: some tests wait most of the time. mypy uses the rest of the processors' time.
	$(BIN)/mypy & types=$$!; \
	status=0; $(BIN)/pytest -q --numprocesses 5 --dist worksteal tests/unit || status=$$?; \
	wait $$types && exit $$status

bench: setup  ## compare with ssh -L and HAProxy, and write bench/results.md (minutes; ARGS="--rounds 1 --only bulk")
	@tools/packages.sh bench
	$(INSTALL) --editable '.[bench]'
	$(BIN)/python bench/run.py --out bench/results.md $(ARGS)

fairness: setup  ## measure how clients share a slow network, compared with ssh -L (minutes; ARGS="--seconds 20 --rate 2e6")
	@tools/packages.sh test
	$(BIN)/python bench/fair_share.py $(ARGS)

chaos: setup  ## inject random faults into a site under load for ten minutes (ARGS="--seconds 60 --seed 1 --only kill")
	@tools/packages.sh test
	$(BIN)/python -m tests.soak.chaos $(ARGS)

soak: setup  ## load SSH over slow, long and lossy paths, and check invariants (ARGS="--seconds 600 --seed 1 --clients 1000")
	@tools/packages.sh test
	$(BIN)/python -m tests.soak.soak $(ARGS)

contract: setup  ## run every relay through thousands of random event sequences (EXAMPLES=2000)
	@tools/packages.sh test
	CONTRACT_EXAMPLES=$(or $(EXAMPLES),2000) $(BIN)/pytest tests/integration/test_relay_contract.py $(ARGS)

sanitize: setup  ## run the tests of the native engine with Address-, UndefinedBehavior- and ThreadSanitizer (EXAMPLES=200)
	$(BIN)/python hatch_build.py --sanitize-threads
	status=0; \
	LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" TSAN_OPTIONS="report_signal_unsafe=0 exitcode=66" \
	CONTRACT_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/pytest -q -k "engine or dataplane" tests/unit/_dataplane tests/unit/relay tests/unit/ssh \
		tests/integration/test_relay_contract.py $(ARGS) || status=$$?; \
	$(BIN)/python hatch_build.py --sanitize; \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc CONTRACT_EXAMPLES=$(or $(EXAMPLES),200) \
	$(BIN)/pytest -q -k "engine or dataplane or ssh_receive" tests/unit/_dataplane tests/unit/relay tests/unit/ssh tests/unit/test_fuzz.py \
		tests/integration/test_relay_contract.py $(ARGS) || status=$$?; \
	$(BIN)/python hatch_build.py; exit $$status

$(VENV)/fuzz-installed: $(VENV)/installed
	$(INSTALL) --editable '.[fuzz]'
	@touch $@

fuzz: $(VENV)/fuzz-installed  ## fuzz the SSH receive path and the parsers (ARGS="--seconds 600 --target ssh_receive", or --ci)
	$(BIN)/python -m tests.fuzz.run $(ARGS)

fuzz-native: setup  ## fuzz the native engine with libFuzzer (ARGS="-runs=10000000", --distil, or the file of an input)
	@tools/packages.sh native
	$(BIN)/python -m tests.fuzz.native.run $(ARGS)

lint-native: setup  ## check the native engine with GCC's static analyzer and clang-tidy
	@tools/packages.sh native
	$(BIN)/python -m tools.lint_native

# These tests cannot succeed with valgrind. The first two lower the limit of file descriptors. Valgrind enforces this limit
# itself: it accepts a connection, closes the connection, and then reports EMFILE. The third test starts a child process
# that preloads a library. Child processes of valgrind do not preload this library.
NOT_WITH_VALGRIND := --deselect tests/unit/_dataplane/test__dataplane.py::test_a_listener_stops_without_descriptors_or_connections \
	--deselect tests/unit/_dataplane/test_dials.py::test_a_listener_stops_without_descriptors \
	--deselect tests/unit/_dataplane/test__dataplane.py::test_an_arrival_while_the_counters_of_a_socket_are_read_is_not_a_reset

valgrind: setup  ## run the unit tests of the native engine with valgrind
	@tools/packages.sh native
	$(BIN)/python hatch_build.py --debug
	status=0; \
	PYTHONMALLOC=malloc valgrind --quiet --error-exitcode=66 --leak-check=full --errors-for-leak-kinds=definite,possible \
	--show-leak-kinds=definite,possible --suppressions=tests/valgrind.supp \
	$(BIN)/python -m pytest -q tests/unit/_dataplane $(ARGS) \
	$(NOT_WITH_VALGRIND) || status=$$?; \
	$(BIN)/python hatch_build.py; exit $$status

coverage-native: setup  ## measure which lines of the native engine its unit tests and the saved inputs of the fuzzers run
	$(BIN)/python -m tools.native_coverage $(ARGS)

failover: setup  ## kill the database that clients use, repeatedly (ARGS="--count 30")
	@tools/packages.sh test
	$(BIN)/python -m tests.soak.failover $(ARGS)

paths: setup  ## kill, stop and cut off one of two bastions, repeatedly (ARGS="--count 50 --only kill")
	@tools/packages.sh test
	$(BIN)/python -m tests.soak.paths $(ARGS)

restarts: setup  ## restart one of two gateways behind HAProxy, repeatedly (ARGS="--count 100")
	@tools/packages.sh test
	@tools/packages.sh bench
	$(BIN)/python -m tests.soak.restarts $(ARGS)

abort-budget: setup  ## probe a MySQL server that blocks an address after ten aborted handshakes (ARGS="--count 10000"; as root)
	@tools/packages.sh test
	$(BIN)/python -m tests.soak.abort_budget $(ARGS)

mounts: setup  ## stop the tunnel under a kernel NFS mount, and mount before it is up (ARGS="--outages 40 --races 20"; as root)
	@tools/packages.sh test
	$(BIN)/python -m tests.soak.mounts $(ARGS)

image:  ## build the container image (ARGS="--target vpn", or "--build-arg BASE=…")
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} docker build -t gateway $(ARGS) .

examples: example-sidecar example-shared example-sockets example-labels example-legacy example-nfs example-swarm example-vpn  ## start each example in configs/compose, and query it

example-sidecar example-shared example-sockets example-labels example-legacy example-nfs example-swarm example-vpn: setup
	@tools/packages.sh test
	CI=1 $(BIN)/pytest tests/integration/test_image.py -k "$(@:example-%=%) or image_is" $(ARGS)

profile: setup  ## profile the gateway under load (ARGS="pp 5": up, down, pp or conn, and seconds)
	$(BIN)/python bench/profile_load.py $(ARGS)

format: setup  ## format the code and apply automatic fixes
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

clean:  ## remove what the other commands created
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
