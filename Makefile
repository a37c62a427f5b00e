# make course | test | lab | notebooks.  Without make: see the README.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: course test lab notebooks clean

course: .venv/ready
	$(BIN)/python -m sawyer_utils course $(if $(FRESH),--fresh)

test: .venv/ready
	$(BIN)/python -m sawyer_utils test

lab: .venv/ready
	$(BIN)/python -m sawyer_utils lab

notebooks: .venv/ready
	$(BIN)/python -m sawyer_utils notebooks

.venv/ready: requirements.txt constraints/tested.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt -c constraints/tested.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf build runs
