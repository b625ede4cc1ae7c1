# make demo   from a bare clone to demo/index.html: trains on digits and shows what came of it
# make check   format, lint, types, import rule, fast tests: minutes
# make test    all tests but those of make soak: half an hour on two cores of a server, or an hour
# make soak    what takes long: many kills, long lists, wrong formulas (make mutants alone)
# make site    the documentation, into site/, with a model that runs in the browser (from npm: onnxruntime-web)
# make bench   speed beside other libraries, into benchmarks/results
# make dist    what is uploaded to PyPI, into dist/: make dist REPOSITORY=https://github.com/OWNER/overtone
# make clean   removes what the others made

PYTHON ?= python3
BIN := .venv/bin
BEGAN := $(shell date +%s)

TESTS ?= not soak
# A process for each core, each with one thread; the tests of a file stay together.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test check soak mutants bench site dist clean

demo: .venv/installed
	BEGAN=$(BEGAN) $(BIN)/python examples/demo.py

test: .venv/developing .venv/fid/installed
	$(PYTEST) -m '$(TESTS)'

soak: .venv/developing .venv/fid/installed mutants
	$(PYTEST) -m soak

mutants: .venv/developing
	$(BIN)/python tests/mutants.py

check: .venv/developing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -d site
	$(PYTEST)

site: .venv/developing
	OVERTONE_LIVE=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -d site

bench: .venv/developing
	$(BIN)/overtone bench --out benchmarks/results

dist:
	@test -n "$(REPOSITORY)" || { echo "Say the project's address: make dist REPOSITORY=https://github.com/OWNER/overtone"; exit 1; }
	$(PYTHON) -m venv .venv/dist && .venv/dist/bin/pip install -q build twine
	.venv/dist/bin/python .ci/release.py $(REPOSITORY) --out dist

clean:
	rm -rf .venv demo site build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Overtone needs Python 3.11 or later: make demo PYTHON=python3.12, say"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/developing: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# torch-fidelity, and the torchvision it wants, beside the environment: no torchvision matches a CPU
# build of torch, and one that does not match breaks what looks for it. So does transformers, which
# diffusers imports where it finds it. tests/beside.py knows how to use them.
.venv/fid/installed: .venv/developing
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt --no-deps --upgrade \
	  --target .venv/fid torch-fidelity torchvision transformers tokenizers
	touch $@
