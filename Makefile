# The two commands a newcomer needs are `make demo` and `make test`; both make the environment first.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
BIN := $(VENV)/bin
REAL := $(if $(wildcard ../shared/data),--data ../shared/data)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check docs recipes bench clean

# SERVE=--no-serve ends without the gallery, as it does where nobody sits at a terminal.
demo: $(VENV)/.ready-demo  ## the whole loop on pictures, then the gallery; or the report on real ratings with DATA=path
	$(BIN)/tastemaker $(if $(DATA),report "$(DATA)",demo $(SERVE)) --seed $(SEED) --out report.html

# One torch thread a worker: two workers of two threads on two cores took twice as long.
test: $(VENV)/.ready-all  ## the whole test suite, README and docs snippets included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.ready-all  ## lint, formatting, types, the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready-all  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

recipes: $(VENV)/.ready-all  ## every published table, quickly
	$(BIN)/python -m recipes.piki --quick $(REAL)
	$(BIN)/python -m recipes.feedback_loop --quick $(REAL)
	$(BIN)/python -m recipes.injection --quick --parts synthetic
	$(if $(REAL),$(BIN)/python -m recipes.gemrec --quick $(REAL))
	$(BIN)/python -m recipes.cocktail --quick

bench:  ## side by side with peers, in an environment of their own
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet -r bench/requirements.txt -e '.[report]'
	$(VENV)-bench/bin/python -m bench.factors --quick
	$(VENV)-bench/bin/python -m bench.evaluation --quick

clean:
	rm -rf $(VENV) $(VENV)-bench site demo report.html .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[report,serve]'
	touch $@

$(VENV)/.ready-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[all]'
	touch $@ $(VENV)/.ready-demo
