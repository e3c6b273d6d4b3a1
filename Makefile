# Everything a fresh machine needs is Python 3.11 or newer, pip and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test model torture check lint types docs clean

demo: .venv/installed
	$(BIN)/scattervae demo

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

# The model that comes with the package, and its card: under 20 minutes on two quiet cores. FIELD is a file of the card's
# field stars; without one they are fetched from the archive.
model: .venv/installed
	$(BIN)/python -m studies.shipped_model model_of_package $(FIELD)

# Everything that breaks on purpose, in one table; docs/measurements/reliability.md says what and how long: over an hour.
torture: .venv/installed
	$(BIN)/python -m torture

check: lint types docs test

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --fresh-env docs docs/_build

# The lock names every version; the package itself is installed editable on top of it.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv demo docs/_build
