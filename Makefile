# Two commands set everything up: `make demo` and `make test`. Each makes .venv and fills it.
# `make demo URL=s3://bucket/run` demonstrates on a bucket, `make demo-s3` on a server that it starts.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
URL ?= demo-run
SERVER_s3 := moto
SERVER_gcs := gcs

.PHONY: demo demo-s3 demo-gcs test test-all test-azure check bench clean

# What a bucket needs is installed for the URL of one.
, := ,
DEMO := demo$(if $(filter s3://%,$(URL)),$(,)s3)$(if $(filter gs://%,$(URL)),$(,)gcs)$(if $(filter abfs://%,$(URL)),$(,)azure)

demo: $(VENV)/$(DEMO).ok
	$(BIN)/python -m ckptstore.demo $(URL)

demo-s3 demo-gcs: demo-%: $(VENV)/test.ok
	$(BIN)/python -m tests.support.servers $(SERVER_$*) $(BIN)/python -m ckptstore.demo --picture demo-$*.png

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not whole"

test-all: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-azure: $(VENV)/test.ok
	npm install --prefix $(VENV)/azurite --silent --no-fund --no-audit azurite
	PATH="$(CURDIR)/$(VENV)/azurite/node_modules/.bin:$$PATH" $(BIN)/python -m pytest tests/unit/storage/test_storage_generic.py

check: $(VENV)/test.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench.ok
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/exactness.py
	$(BIN)/python benchmarks/bitflips.py
	$(BIN)/python benchmarks/imports.py

$(VENV)/%.ok: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) demo-run demo*.png .pytest_cache .mypy_cache .ruff_cache .hypothesis
