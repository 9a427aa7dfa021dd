# slurm-gsp. `make` says what there is; `make demo` and `make test` install what they need by themselves.
# PYTHON=/path/to/python3 chooses the interpreter that the environment in .venv is made with (3.11 or newer).

ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo /usr/bin/python3 || command -v python3)
endif

BIN := .venv/bin
INSTALLED := .venv/.installed
SHELL_FILES := healthcheck prolog epilog slurm-gsp-reboot slurm_gsp/hook/launch.sh \
	slurm_gsp/lab/dcgmi.sh slurm_gsp/lab/all_reduce_perf.sh

# What is needed, as "a file or command:the Debian package that brings it".
NEEDS := munged:munge slurmctld:slurm-wlm slurmd:slurm-wlm scontrol:slurm-wlm \
	/usr/include/stdio.h:libc6-dev gcc:gcc unshare:util-linux nsenter:util-linux \
	ldconfig:libc-bin dpkg-deb:dpkg chroot:coreutils /bin/kill:procps ssh-keygen:openssh-client shellcheck:shellcheck \
	gpg:gpg gpg-agent:gpg-agent \
	/usr/share/misc/pci.ids:pci.ids

.DEFAULT_GOAL := help
.PHONY: help setup tools demo lint test test-setup test-unit test-matrix bench clean

help:
	@echo 'make demo         start a Slurm of four virtual GPU nodes, break three, watch the hooks act (root)'
	@echo 'make test         lint, types and all tests, those on a real Slurm 22.05 and 24.11 in the lab included (root)'
	@echo 'make test-unit    the tests that need neither root nor Slurm'
	@echo 'make test-matrix  the lab tests on Slurm 22.05, 24.11 and 26.05 (root, network the first time)'
	@echo 'make bench        measure what a hook costs (root)'
	@echo 'make setup        only install what the others need: Debian packages, and Python packages in .venv'
	@echo 'make clean        remove .venv and what the tools left in this folder; Debian packages stay'

setup: tools $(INSTALLED)

# Says what is missing and why before it installs anything, and asks for an update of the lists only then.
tools:
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for need in $(NEEDS); do \
		what=$${need%:*}; \
		[ -e "$$what" ] || command -v "$$what" >/dev/null || missing="$$missing $${need##*:}"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	missing=$$(printf '%s\n' $$missing | sort -u | tr '\n' ' '); \
	echo "The lab and the tests need these Debian packages, which are not there: $$missing"; \
	if [ "$$(id -u)" != 0 ]; then echo "Run this as root: apt-get install $$missing"; exit 1; fi; \
	if ! command -v apt-get >/dev/null; then echo 'There is no apt-get: please install them by hand.'; exit 1; fi; \
	echo 'Installing them with apt-get. No slurm.conf is written: Slurm services that they bring stay idle.'; \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $$missing

# .venv is made once; afterwards pip runs only when pyproject.toml changed.
$(INSTALLED): pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
		[ -n "$(PYTHON)" ] || { echo 'There is no python3.'; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
			|| { echo '$(PYTHON) is older than Python 3.11: set PYTHON=/path/to/a/newer/one'; exit 1; }; \
		if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
			echo '$(PYTHON) cannot make environments: installing the Debian package python3-venv.'; \
			if [ "$$(id -u)" != 0 ]; then echo 'Run this as root: apt-get install python3-venv'; exit 1; fi; \
			apt-get -qq update; \
			DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends python3-venv; \
		fi; \
		echo 'Making a Python environment in .venv with $(PYTHON).'; \
		$(PYTHON) -m venv .venv; \
	fi; \
	if [ -e $@ ] || ! $(BIN)/python -c "$$CHECK_INSTALLED" 2>/dev/null; then \
		echo 'Installing slurm-gsp and its test tools into .venv with pip.'; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'; \
	fi; \
	touch $@

# An environment that was made by hand and lacks nothing is taken as it is, also without a network.
define CHECK_INSTALLED
import re, tomllib
from importlib.metadata import version
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for wanted in [*project["dependencies"], *project["optional-dependencies"]["test"], "slurm-gsp"]:
    version(re.match(r"[\w-]+", wanted)[0])
endef
export CHECK_INSTALLED

demo: setup
	@$(BIN)/slurm-gsp lab demo

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	shellcheck -x $(SHELL_FILES)

# Labs wait more than they work, so three workers share two cores; a file's labs stay with one of them.
PARALLEL := -n 3 --dist loadfile

test: test-setup
	SLURM_GSP_MATRIX=24.11 $(BIN)/pytest $(PARALLEL)

test-unit: $(INSTALLED)
	$(BIN)/pytest -m 'not lab' -n auto --dist loadfile

# Suites that are missing are fetched first, once (see docs/releases.md).
test-setup test-matrix: NEEDS += debootstrap:debootstrap \
	/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
test-setup: lint
test-matrix: setup
	SLURM_GSP_MATRIX=1 $(BIN)/pytest -m matrix

bench: setup
	$(BIN)/python bench/bench.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache build dist
	find slurm_gsp tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
