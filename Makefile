# Everything here does its own set-up; the second time that takes no time.

VENV ?= .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made-from-lock
RUN_PACKAGES := openssh-server openssh-client sudo python3-minimal cron
TEST_PACKAGES := $(RUN_PACKAGES) postgresql pgbouncer busybox-static dropbear-bin debootstrap strace gdb tcsh patch openssl putty-tools mount e2fsprogs softhsm2 chromium mandoc groff-base systemd
# One more than there are cores, six at most: servers boot, deadlines pass and trees are built without any of ours at work.
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 5 ? cores + 1 : 6)))

# Hundreds of short-lived Pythons are started here: compiled once, they take half the time.
unexport PYTHONDONTWRITEBYTECODE

TREES := host bullseye trixie

.PHONY: demo test check bench fleet faults causes fuzz rotation formats restarts rollouts workers passwords doors clean venv lock packages test-packages fleet-images dist deb image installs samples

demo: packages $(MADE)
	$(BIN)/kps demo $(ARGS)

# On a fresh machine the trees of the servers are built while the tests that need none run; the others wait for them.
test: test-packages $(MADE)
	@$(BIN)/python -m controller.demo.trees $(TREES) >/dev/null & \
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS); status=$$?; wait; exit $$status

check: $(MADE)
	@[ -z "$$CI" ] || command -v shellcheck >/dev/null || scripts/need shellcheck
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --no-tips -t=3.6- --violations kpsagent
	$(BIN)/python -m tests.check.imports
	$(BIN)/python -m tests.check.docs
	@if command -v shellcheck >/dev/null; then shellcheck -s sh kpsagent/shell/*.sh packaging/lay packaging/deb packaging/debian/kps packaging/debian/p*; else echo 'no shellcheck: apt-get install shellcheck'; fi

# What builds is an environment of its own: a fifth of what tests want.
build/env/.made: packaging/build.lock packaging/runtime.lock
	rm -rf build/env
	scripts/make-venv build/env packaging/build.lock packaging/runtime.lock
	touch $@

dist: build/env/.made
	rm -rf dist
	build/env/bin/python scripts/make-dist dist

# For the release of Debian that this machine is.
deb: dist
	@scripts/need python3
	PIP_PYTHON=build/env/bin/python packaging/deb dist dist/kps_fleet-*.whl

# ARGS: more for docker build, such as --build-arg BASE=...
image: dist
	@command -v docker >/dev/null || scripts/need docker.io
	docker build -f docker/Dockerfile -t kps:latest $(ARGS) .

bench: packages $(MADE)
	@scripts/need python3
	$(BIN)/python -m benchmarks $(ARGS)

# Drills: each prints a table, ends with one line of figures, and fails where a goal is missed. ARGS=--sample for a few minutes of each.
fleet faults causes fuzz rotation formats restarts rollouts workers passwords doors installs: test-packages $(MADE)
	@case $@ in fleet|doors) scripts/need docker.io debootstrap ;; esac
	@[ $@ != installs ] || scripts/need docker.io docker-compose debootstrap python3 python3-venv
	$(BIN)/python -m tests.drills.$@ $(ARGS)

# What CI runs of the drills. Two at a time, as each waits for sshd and for deadlines most of its time; what one needs is installed before.
SAMPLES := fleet causes fuzz rotation
samples: test-packages $(MADE)
	@scripts/need docker.io debootstrap
	$(MAKE) --jobs=2 --output-sync=target $(SAMPLES:%=sample-%)
	$(MAKE) faults ARGS="--sample --only kills errors power"

sample-%:
	$(MAKE) $* ARGS=--sample

clean:
	rm -rf $(VENV) build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(MADE)

$(MADE): requirements.lock pyproject.toml
	scripts/make-venv $(VENV)
	touch $@

# The lock names no package index: whoever installs chooses one, and the hashes hold everywhere.
lock:
	printf 'setuptools>=77\n' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
		--no-emit-index-url --no-header --upgrade --output-file requirements.lock pyproject.toml -
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra hsm --extra aws --extra postgresql \
		--no-emit-index-url --no-header --upgrade --constraint requirements.lock --output-file packaging/runtime.lock pyproject.toml
	printf 'setuptools>=77\n' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --upgrade --constraint requirements.lock --output-file packaging/build.lock -

packages:
	@scripts/need $(RUN_PACKAGES)

test-packages:
	@scripts/need $(TEST_PACKAGES)

# The root file systems of the fleet's servers; tests and demo build what they need by themselves.
fleet-images: test-packages $(MADE)
	$(BIN)/python -m controller.demo.trees
