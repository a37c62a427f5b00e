# make course | test | test-all | lab | notebooks | student | instructor | slides | site | lm-eval.  Without make: see the README.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: course test test-all lab notebooks student instructor slides site lm-eval clean

course: .venv/ready
	$(BIN)/python -m sawyer_utils course $(if $(FRESH),--fresh) $(if $(EXTRA),--extra) $(if $(DATA),--data "$(DATA)")

test: .venv/ready
	$(BIN)/python -m sawyer_utils test

# And the extras, killed trainings, the student's edition, a pretended GPU, and Colab's packages.
test-all: .venv/ready
	$(BIN)/python -m sawyer_utils test --all

lab: .venv/ready
	$(BIN)/python -m sawyer_utils lab

notebooks: .venv/ready
	$(BIN)/python -m sawyer_utils notebooks $(if $(EXTRA),--extra)

student instructor slides: .venv/ready
	$(BIN)/python -m sawyer_utils $@

# The committed notebooks and the documents as a static site; its packages are no part of .venv.
site: build/site-env/ready
	rm -rf build/site
	build/site-env/bin/sphinx-build -qEW --keep-going -d build/site-env/doctrees -c docs . build/site
	@echo build/site/index.html

build/site-env/ready: constraints/site.txt
	rm -rf build/site-env
	$(PYTHON) -m venv build/site-env
	build/site-env/bin/pip install --quiet -r constraints/site.txt
	touch $@

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
