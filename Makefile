# make course | test | test-all | lab | notebooks | student | instructor | slides | site | lm-eval.  Without make: see the README.
PYTHON ?= python3
BIN := .venv/bin
# Said by Python itself; the oldest one can read these.
VERSION := import sys; print(sys.version_info[:2])
NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or sys.exit("The course needs Python 3.11 or newer, and \
$(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.12 ..." % sys.version_info[:2])

.PHONY: course test test-all lab notebooks student instructor slides site lm-eval clean

course: .venv/ready
	$(BIN)/python -m sawyer_utils course $(if $(filter-out 0,$(FRESH)),--fresh) $(if $(filter-out 0,$(EXTRA)),--extra) $(if $(DATA),--data "$(DATA)")

test: .venv/ready
	$(BIN)/python -m sawyer_utils test

# And the extras, killed trainings, the student's edition, a pretended GPU, and Colab's packages.
test-all: .venv/ready
	$(BIN)/python -m sawyer_utils test --all

lab: .venv/ready
	$(BIN)/python -m sawyer_utils lab

notebooks: .venv/ready
	$(BIN)/python -m sawyer_utils notebooks $(if $(filter-out 0,$(EXTRA)),--extra)

student instructor slides: .venv/ready
	$(BIN)/python -m sawyer_utils $@

# The committed notebooks and the documents as a static site; its packages are no part of .venv.
site: build/site-env/ready
	rm -rf build/site
	build/site-env/bin/sphinx-build -qEW --keep-going -d build/site-env/doctrees -c docs . build/site
	@echo build/site/index.html

build/site-env/ready: constraints/site.txt
	@$(PYTHON) -c '$(NEW_ENOUGH)'
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

# An environment of another Python, or half of one, is made anew.
.venv/ready: requirements.txt constraints/tested.txt pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	@[ "$$($(BIN)/python -c '$(VERSION)' 2>&1)" = "$$($(PYTHON) -c '$(VERSION)')" ] || rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt -c constraints/tested.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/python -m sawyer_utils fetch
	touch $@

# Not runs: the trainings, the votes and what was handed in.
clean:
	rm -rf build
