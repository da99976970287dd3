# Two commands matter: `make book` renders the site, `make test` proves it. A bare `make` lists all.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
SITE   := _build/html
JOBS   ?= 2

# One thread per process: two lessons share two cores, and results do not depend on the machine.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0
unexport PYTHONPATH

PIP := $(PY) -m pip install --quiet --progress-bar off
OFFLINE := echo "make: pip could not install. Is the network up? The packages are those in requirements.lock."

# Where CI is set, a stale lesson is reported and never executed: what is shown must be committed.
IN_CI := $(filter-out 0 false False no,$(CI))

# $(call timed,NAME,COMMAND) says how many seconds the command took, and ends as it ended.
timed = @began=$$(date +%s); $(2); ended=$$?; echo "make: $(1): $$(($$(date +%s) - began)) s"; exit $$ended
NBVAL := LABS_CLAIMS= TQDM_DISABLE=1 $(PY) -m pytest -q --nbval-lax --nbval-current-env lessons

STALE := echo "make: expected fresh outputs; run make lessons, and commit the notebooks with their records" >&2

.PHONY: help book pdf test fresh lab lessons bench mutants gpu alone idle elsewhere times load lock clean
.DEFAULT_GOAL := help

help:  ## list what make can do
	@echo "Computer Vision, Debugged"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; choose one with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) tools/preflight.py .
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: venv failed; on Debian: apt install python3-venv"; exit 1; }

# What rendering needs: pinned by the lock file, and no PyTorch, because committed outputs are shown.
$(VENV)/.book: requirements.lock pyproject.toml | $(PY)
	@echo "installing what rendering needs"
	@$(PY) -m tools.extras book > $(VENV)/book.txt
	$(call timed,install,$(PIP) -c requirements.lock -r $(VENV)/book.txt || { $(OFFLINE); false; })
	@touch $@

# What printing needs beside that.
$(VENV)/.pdf: $(VENV)/.book
	@$(PY) -m tools.extras pdf > $(VENV)/pdf.txt
	$(call timed,install,$(PIP) -c requirements.lock -r $(VENV)/pdf.txt || { $(OFFLINE); false; })
	@touch $@

# Everything: to run lessons and to check them.
$(VENV)/.all: requirements.lock pyproject.toml | $(PY)
	@$(PYTHON) tools/preflight.py .
	@echo "installing everything (PyTorch with CUDA is about 3 GB)"
	$(call timed,install,$(PIP) -r requirements.lock || { $(OFFLINE); false; })
	@$(PIP) --no-deps --no-build-isolation --editable . || { $(OFFLINE); exit 1; }
	@touch $@ $(VENV)/.book $(VENV)/.pdf

book: $(VENV)/.book  ## render the site to _build/html (a warning fails)
	@$(PY) -m tools.execute --check || $(if $(IN_CI),{ $(STALE); exit 1; },{ $(MAKE) --no-print-directory lessons && $(PY) -m tools.execute --check; })
	@$(PY) -m tools.build_site
	@echo "the book is in $(SITE)/index.html; serve it with: $(PY) -m http.server -d $(SITE)"

pdf: $(VENV)/.pdf  ## print the site to _build/book.pdf, with Chromium (LESSON=name for one lesson)
	@$(PY) -c "from tools import build_site; raise SystemExit(not build_site.is_fresh())" || $(MAKE) --no-print-directory book
	@$(PY) -m tools.build_pdf $(LESSON)

test: $(VENV)/.all  ## check everything: style, types, tests, and every lesson executed
	$(call timed,style,$(BIN)/ruff check . && $(BIN)/ruff format --check .)
	$(call timed,types,$(BIN)/mypy)
	$(call timed,tests,$(PY) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20 tests)
	$(call timed,lessons,$(NBVAL) --nbval-cell-timeout 600 -n $(JOBS) --dist loadfile --durations 20)

fresh: $(VENV)/.book  ## name the lessons whose outputs are stale; execute nothing
	@$(PY) -m tools.execute --check || { $(STALE); exit 1; }

lab: $(VENV)/.all  ## open the lessons in JupyterLab (ALL=1 lists their .py too)
	@$(PY) -m tools.start_page
	@$(PY) -m tools.lab_citations
	@$(PY) -m jupyter trust lessons/*/*.ipynb >/dev/null  # or its figures stay hidden until it is run
	@LABS_CLAIMS=warn $(PY) -m jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/lessons/start.md --LabApp.app_settings_dir=tools/jupyterlab --LabApp.extra_labextensions_path=_build/labextensions $(if $(ALL),,--config=tools/jupyterlab/one_entry.json)

lessons: $(VENV)/.all  ## execute the lessons that are stale (LESSON=name for one, FORCE=1: fresh ones too)
	@$(PY) -m tools.execute $(LESSON) $(if $(FORCE),--force) --jobs $(JOBS)
	@$(PY) -m tools.colab

bench: $(VENV)/.all  ## measure speed, as ratios within one run
	@TQDM_DISABLE=1 $(PY) -m tools.bench

gpu: $(VENV)/.all  ## check what only a GPU shows, and every lesson with its larger budget there
	@$(PY) -m labs doctor
	$(call timed,tests,$(PY) -m pytest -q -m gpu --durations 20 tests)
	$(call timed,lessons,$(NBVAL) --nbval-cell-timeout 1800 --durations 50 --junitxml nbval.xml)

alone:  ## check labs alone, with any Python and PyTorch (PY=python JOBS=auto)
	$(call timed,tests,$(PY) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20 -m "not browser" --ignore tests/test_lessons.py --ignore tests/tools tests)

idle: $(VENV)/.all  ## plant large faults and see which claims stay green (IDLE="'learning off' --table")
	@$(PY) -m tools.idle $(IDLE) --jobs $(JOBS)

elsewhere: $(VENV)/.all  ## see which claims fail on other processors and seeds (ELSEWHERE="avx2 --table")
	@$(PY) -m tools.elsewhere $(ELSEWHERE) --jobs $(JOBS)

times: $(VENV)/.book  ## print what the last execution of each lesson measured, as a table
	@$(PY) -m tools.timings

mutants: $(VENV)/.all  ## plant small faults and see which the tests catch (MUTANTS="--number 40 --seed 1")
	@$(PY) -m tools.mutants $(MUTANTS)

lock: $(VENV)/.book  ## rewrite requirements.lock and environment.yml from pyproject.toml
	@mkdir -p .cache
	@$(PIP) --dry-run --ignore-installed --report .cache/report.json '.[book,lessons,dev]'
	@$(PY) -m tools.lock < .cache/report.json > requirements.lock.part
	@mv requirements.lock.part requirements.lock
	@$(PY) -m tools.environment > environment.yml.part
	@mv environment.yml.part environment.yml
	@$(PY) -m tools.environment --binder > .binder/requirements.txt.part
	@mv .binder/requirements.txt.part .binder/requirements.txt

clean:  ## remove what was built (not the lessons' outputs)
	rm -rf _build build $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache *.egg-info

load: $(VENV)/.all  ## run the tests that wait for processes again and again, on busy cores
	@$(PY) -m tools.load
