# Two commands set everything up: `make demo` and `make test`. Each makes .venv and fills it.
# `make demo URL=s3://bucket/run` demonstrates on a bucket, `make demo-s3` on a server that it starts.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
URL ?= demo-run
SERVER_s3 := moto
SERVER_gcs := gcs

.PHONY: demo demo-s3 demo-gcs test test-ci test-all test-azure check docs bench show-devices show-processes show-kills show-scale dist clean

# What a bucket needs is installed for the URL of one.
, := ,
DEMO := demo$(if $(filter s3://%,$(URL)),$(,)s3)$(if $(filter gs://%,$(URL)),$(,)gcs)$(if $(filter abfs://%,$(URL)),$(,)azure)

demo: $(VENV)/$(DEMO).ok
	$(BIN)/python -m ckptstore.demo $(URL)

demo-s3 demo-gcs: demo-%: $(VENV)/test.ok
	$(BIN)/python -m tests.support.servers $(SERVER_$*) $(BIN)/python -m ckptstore.demo --picture demo-$*.png

# Between two edits: no servers and no processes, but for one test of each kind.
QUICK := not whole and not ci and (smoke or not (bucket or process))

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile few -m "$(QUICK)"

# What CI runs: `make test`, the site, then the tests that are left, with the tools that mount disks.
test-ci: test docs $(VENV)/mounts.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not whole and (drawn or not ($(QUICK)))"

test-all: check $(VENV)/mounts.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests of mounts need these packages of Debian or Ubuntu, and /dev/fuse. They are installed once.
MOUNTS := bindfs dosfstools exfat-fuse exfatprogs fuse3 fusefat mergerfs openssh-sftp-server rclone sshfs
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
$(VENV)/mounts.stamp: $(VENV)/test.ok
	@test -c /dev/fuse || { echo "The tests of mounts need /dev/fuse: load the kernel module fuse, or give the container that device." >&2; exit 1; }
	@dpkg -s $(MOUNTS) >/dev/null 2>&1 || { command -v apt-get >/dev/null && { [ -z "$(SUDO)" ] || command -v sudo >/dev/null; } && \
	$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(MOUNTS); } || \
	{ echo "The tests of mounts need these packages, which only root can install: $(MOUNTS)" >&2; exit 1; }
	touch $@

test-azure: $(VENV)/test.ok
	npm install --prefix $(VENV)/azurite --silent --no-fund --no-audit azurite
	PATH="$(CURDIR)/$(VENV)/azurite/node_modules/.bin:$$PATH" $(BIN)/python -m pytest tests/unit/storage/test_storage_fsspec.py

# The site, strictly: a warning is an error.
docs: $(VENV)/docs.ok
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "open docs/_build/index.html"

check: $(VENV)/test.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

show-devices: $(VENV)/test.ok
	$(BIN)/python benchmarks/devices.py

show-processes show-kills: show-%: $(VENV)/test.ok
	$(BIN)/python benchmarks/processes.py $*

show-scale: $(VENV)/test.ok
	$(BIN)/python benchmarks/scale.py

bench: $(VENV)/bench.ok
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/exactness.py
	$(BIN)/python benchmarks/bitflips.py
	$(BIN)/python benchmarks/imports.py

# The sdist is what git tracks. It builds itself and the wheel again, elsewhere, to the same bytes.
# The wheel does what a user does first, in a venv that has nothing else.
dist: $(VENV)/dist.ok
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	mkdir dist/again
	tar -xzf dist/ckptstore-*.tar.gz -C dist/again --strip-components 1
	git ls-files | sort > dist/tracked
	(cd dist/again && find . -type f ! -name PKG-INFO | cut -c 3- | sort) | diff dist/tracked -
	$(BIN)/python -m build --no-isolation dist/again
	cd dist && for file in ckptstore-*; do cmp $$file again/dist/$$file || exit 1; done
	$(BIN)/python -m venv dist/venv
	dist/venv/bin/python -m pip install --quiet --disable-pip-version-check dist/ckptstore-*.whl
	dist/venv/bin/python -I tests/quickstart.py
	rm -rf dist/again dist/tracked dist/venv
	ls -l dist

$(VENV)/%.ok: pyproject.toml
	@echo "Installing ckptstore[$*] into $(VENV). It takes some minutes, once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) dist docs/_build demo-run demo*.png .pytest_cache .mypy_cache .ruff_cache .hypothesis
