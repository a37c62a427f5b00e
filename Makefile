# make course | test | test-all | lab | notebooks | student | instructor | slides | lm-eval.  Without make: see the README.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: course test test-all lab notebooks student instructor slides lm-eval clean

course: .venv/ready
	$(BIN)/python -m sawyer_utils course $(if $(FRESH),--fresh) $(if $(EXTRA),--extra) $(if $(DATA),--data "$(DATA)")

test: .venv/ready
	$(BIN)/python -m sawyer_utils test

# And the notebooks on a pretended GPU, and as Colab would run them.
test-all: .venv/ready
	$(BIN)/python -m sawyer_utils test --all

lab: .venv/ready
	$(BIN)/python -m sawyer_utils lab

notebooks: .venv/ready
	$(BIN)/python -m sawyer_utils notebooks $(if $(EXTRA),--extra)

student instructor slides: .venv/ready
	$(BIN)/python -m sawyer_utils $@

# What tests/test_lm_eval.py compares with. Nothing else needs it.
lm-eval: build/lm-eval/ready

build/lm-eval/ready: constraints/lm-eval.txt .venv/ready
	rm -rf build/lm-eval
	$(BIN)/pip install --quiet --no-deps --target build/lm-eval -r constraints/lm-eval.txt
	touch $@

.venv/ready: requirements.txt constraints/tested.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt -c constraints/tested.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf build runs
