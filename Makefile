# Users need `make demo`, `make env` and `make profiles`; the other targets are for developers.
SHELL := /bin/bash -o pipefail
VENV := .venv
PYTHON := $(VENV)/bin/python
SNAKEMAKE := $(VENV)/bin/snakemake
HISTOMAKE := $(VENV)/bin/histomake
CORES ?= 2
# uv is taken from the machine, or installed into .tools.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)

.PHONY: env envs lock docs demo report test test-examples test-machine test-shared fuzz lint bench cluster-test gpu-test store-test profiles view viewer radhical shell clean sbom advisories

# ImageNet weights that the default configuration starts from, converted once from an installed package.
LITE0 := encoders/efficientnet-lite0/model.json

env: $(VENV)/lock.sha256 $(LITE0)

$(LITE0): | $(VENV)/lock.sha256
	$(HISTOMAKE) encoder $(@D)

.tools/bin/uv: envs/uv.txt
	python3 -m venv .tools
	.tools/bin/pip install --quiet --require-hashes --only-binary :all: -r envs/uv.txt

# The library is installed in place: a change of its code needs no new installation.
$(VENV)/lock.sha256: requirements.txt pyproject.toml .python-version | $(filter .tools/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(PYTHON) --require-hashes requirements.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(PYTHON) --editable .
	sha256sum requirements.txt > $@

# After a change of pyproject.toml: resolve again, with hashes.
lock: | $(filter .tools/bin/uv,$(UV))
	$(UV) pip compile --quiet pyproject.toml --group dev --python-version 3.12 --generate-hashes \
		--no-header --output-file requirements.txt
	$(MAKE) env envs

envs: env
	$(PYTHON) envs/generate.py

docs: env
	$(HISTOMAKE) document

demo: env
	$(PYTHON) -m tests.demo demo
	$(SNAKEMAKE) --cores $(CORES) --resources gpu=1 --configfile config/demo/config.yaml
	@$(MAKE) --no-print-directory report CONFIG=config/demo/config.yaml RESULTS=results/demo

# The report is written again only when the catalog, the last thing a run makes, is newer.
CONFIG ?= config/config.yaml
RESULTS ?= results
report: env
	@if [ ! $(RESULTS)/report.html -nt $(RESULTS)/catalog.duckdb ]; then \
		$(SNAKEMAKE) --quiet --configfile $(CONFIG) --report $(RESULTS)/report.html; fi
	@echo "report: $(RESULTS)/report.html"

# Composes the slides, runs the cascade, prints what was measured against the bars.
radhical: env
	$(PYTHON) -m tests.demo.nuclei demo/nuclei
	$(SNAKEMAKE) --cores $(CORES) --configfile config/examples/nuclei.yaml -- radhical
	@$(SNAKEMAKE) --quiet all --configfile config/examples/nuclei.yaml --report results/nuclei/report.html -- radhical
	@cat results/nuclei/radhical/*/table.txt
	@echo "report: results/nuclei/report.html"

# What the plain `make test` leaves out has targets of its own, so that nothing is skipped.
LEFT_OUT ?= examples or machine or shared
# Processes that share the files of tests among them; the tests of one file share what they build.
WORKERS ?= 2
PYTEST := $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile

test: env
	$(PYTEST) -m "not ($(LEFT_OUT))"

# The software bill of materials of the lock, CycloneDX.
sbom: env
	mkdir -p build
	$(PYTHON) envs/sbom.py build/sbom.cdx.json
	@echo "build/sbom.cdx.json"

# Known vulnerabilities of the locked packages. pip-audit asks a service, so without a network a database is needed.
advisories: env
	@if [ -z "$(DATABASE)" ]; then \
		echo "make advisories DATABASE=all.zip: give the advisories of PyPI in the OSV format as a zip archive." >&2; \
		echo "With a network, 'pip-audit --require-hashes -r requirements.txt' asks the service of PyPI instead." >&2; \
		exit 2; fi
	$(PYTHON) envs/advisories.py "$(DATABASE)"

test-machine: env viewer
	$(PYTHON) -m pytest -m machine

test-shared: env
	$(PYTHON) -m pytest -m shared

test-examples: env
	$(PYTEST) tests/workflow -m examples

# Changes single bytes of slides of every format, FLIPS per format, and counts what each change led to. Compares plan=new
# with plan=all in random HISTORIES of a cohort.
FLIPS ?= 2000
HISTORIES ?= 240
fuzz: env
	HISTOMAKE_FLIPS=$(FLIPS) $(PYTHON) -m pytest --timeout=0 -s tests/unit/test_slide_fuzz.py tests/unit/test_annotation_fuzz.py tests/unit/test_model_fuzz.py
	folder=$$(mktemp -d) && $(PYTHON) -m tests.histories $$folder --histories $(HISTORIES); failed=$$?; rm -r $$folder; exit $$failed

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/snakefmt --check Snakefile rules
	$(SNAKEMAKE) --lint

# The peers go into the project's environment without their own dependencies: nothing locked changes.
bench: env
	$(UV) pip install --quiet --python $(PYTHON) --no-deps -r tests/bench/requirements.txt
	$(PYTHON) -m tests.bench $(BENCH)

gpu-test: env
	$(PYTHON) -m pytest tests/gpu -s

# Like the peers of `make bench`, plugin and server go into the project's environment, until `make env` renews it.
store-test: env
	$(UV) pip install --quiet --python $(PYTHON) -r tests/object_store/requirements.txt
	$(PYTHON) -m pytest tests/object_store

cluster-test: env
	tests/cluster/run $(TESTS)

profiles:
	@folder="$${XDG_CONFIG_HOME:-$$HOME/.config}/snakemake"; mkdir -p "$$folder"; \
	for profile in profiles/slurm profiles/lsf profiles/pbs; do \
		name="$$(basename $$profile)"; \
		if [ -e "$$folder/$$name" ] && [ ! -L "$$folder/$$name" ]; then \
			echo "$$folder/$$name exists and is no link: move it away first" >&2; exit 1; fi; \
		ln -sfn "$(CURDIR)/$$profile" "$$folder/$$name"; \
		echo "snakemake --profile $$name uses $(CURDIR)/$$profile"; done

# The viewer's only JavaScript library, fetched from npm and checked against its digest.
OPENSEADRAGON := scripts/histomake/viewer/vendor/openseadragon.min.js
$(OPENSEADRAGON):
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent openseadragon@6.1.1 && \
		echo "b4ab2942f33b90e0448e4d20fc5ed14cee049f1f3ae49d70afd4b05e9a2f92d0  openseadragon-6.1.1.tgz" | sha256sum --check --quiet && \
		tar -xzf openseadragon-6.1.1.tgz --strip-components=3 package/build/openseadragon/openseadragon.min.js && \
		rm openseadragon-6.1.1.tgz && touch openseadragon.min.js

viewer: $(OPENSEADRAGON)

view: env viewer
	$(HISTOMAKE) view $(RESULTS)

shell: env
	@$(HISTOMAKE) shell --results $(RESULTS) "$(or $(SQL),SHOW TABLES)"

clean:
	rm -rf demo results/demo .pytest_cache .ruff_cache .hypothesis
