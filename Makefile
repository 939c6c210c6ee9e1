# Every target builds its own environment in .venv; PYTHON names the interpreter to build it with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Fashion-MNIST; without it benchmarks make up images.
FASHION_MNIST ?= /usr/share/datasets/fashion-mnist

# Extra that `make bench` installs: bench-peers adds the libraries to compare with.
BENCH ?= bench

.PHONY: bench clean counts demo docs fuzz lint oldest package test

demo: $(VENV)/installed-plot
	$(BIN)/python examples/save_figures.py examples/plot_digits_pipeline.py demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --cov --cov-report=term -n auto --dist loadscope

# FUZZ takes the options of the script, such as FUZZ="--cases 1000 --seed 7".
fuzz: $(VENV)/installed-test
	$(BIN)/python tests/fuzz/run.py $(FUZZ)

# Renew what tests/test_counts.py compares with.
counts: $(VENV)/installed-test
	$(BIN)/python tests/counts.py --renew

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check_search.py docs/_build/html

# The files that are published, in dist/.
package: $(VENV)/installed-package $(VENV)/installed-test
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_package.py $(TAG)

# The tests with the oldest versions that pyproject.toml allows, whose warnings are no errors. pandas
# before 3 takes text that begins with a null character for empty text.
oldest:
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet packaging
	$(VENV)-oldest/bin/python .ci/oldest.py > $(VENV)-oldest/oldest.txt
	$(VENV)-oldest/bin/python -m pip install --quiet -c $(VENV)-oldest/oldest.txt -e '.[test]'
	$(VENV)-oldest/bin/python -m pytest -o filterwarnings=default -W ignore \
		--deselect tests/test_table.py::test_drawn_values_come_back_exactly tests

bench: $(VENV)/installed-$(BENCH)
	$(BIN)/python benchmarks/training.py $(addprefix --data ,$(wildcard $(FASHION_MNIST)))
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/large.py --gigabytes 0.25
	$(BIN)/python benchmarks/parallel.py
	$(BIN)/python benchmarks/pca.py --quick
	$(BIN)/python benchmarks/gpu.py

# One stamp for each extra that a target needs, renewed when the dependencies change.
$(VENV)/installed-%: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skae needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache demo docs/_build docs/api/generated docs/gallery
