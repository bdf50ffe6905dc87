# Thin faces of `python -m benchmark` and `python -m analysis`. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
PAIR ?= wrn40_2-wrn16_2
RUNS ?= runs

# quoted: a shell would take the brackets for a pattern of file names
list = $(if $(2),'$(1)=[$(2)]')
BENCH = $(call list,pair,$(PAIR)) $(call list,methods,$(METHODS)) $(call list,seeds,$(SEEDS)) \
	$(if $(PROFILE),profile=$(PROFILE)) $(if $(DATASET),dataset=$(DATASET)) $(if $(DATA),data=$(DATA)) $(if $(JOBS),jobs=$(JOBS)) 'runs=$(RUNS)' $(ARGS)
CHOSEN = 'runs=$(RUNS)' $(if $(filter-out default file,$(origin PAIR)),$(call list,pair,$(PAIR))) \
	$(call list,method,$(METHODS)) $(if $(PROFILE),profile=$(PROFILE)) $(if $(DATASET),dataset=$(DATASET)) $(ARGS)

# a misspelt variable would be passed over in silence
KNOWN = PYTHON BIN PAIR PAIRS METHODS METHOD GRID SEEDS PROFILE DATASET DATA RUNS JOBS TRIALS ARGS
$(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $(v))),\
	$(if $(filter $(v),$(KNOWN)),,$(error unknown variable $(v); known: $(KNOWN)))))

# and so would one that none of the goals takes
OF_METHOD = ablate tune
OF_GRID = ablate
OF_TRIALS = tune
OF_SEEDS = bench plan ablate tune
OF_JOBS = $(OF_SEEDS)
OF_DATA = $(OF_SEEDS)
OF_PROFILE = $(OF_SEEDS) table plots structure report help
OF_DATASET = $(OF_SEEDS) table plots structure report
$(foreach v,METHOD GRID TRIALS SEEDS JOBS DATA PROFILE DATASET,$(if $(filter command line,$(origin $(v))),\
	$(if $(filter $(OF_$(v)),$(MAKECMDGOALS)),,$(error $(v) is taken by $(OF_$(v)) alone$(if $(filter METHOD,$(v)),; give METHODS)))))

.PHONY: bench plan ablate tune speed methods table plots structure report scale types docs test sync clean help
.DEFAULT_GOAL := help

bench: $(BIN)/installed ## train what is missing and print the table: PAIR= METHODS= SEEDS= PROFILE=quick|short|paper DATASET= DATA= RUNS= JOBS= ARGS=
	@$(BIN)/python -m benchmark bench $(BENCH)

plan: $(BIN)/installed ## say what bench would do, with the same variables
	@$(BIN)/python -m benchmark plan $(BENCH)

ablate: $(BIN)/installed ## vary a method's options and compare on the validation split: METHOD=clkd GRID= and bench's variables
	@$(BIN)/python -m benchmark ablate $(if $(METHOD),method=$(METHOD)) $(if $(GRID),grid=$(GRID)) $(BENCH)

tune: METHODS = $(METHOD)
tune: $(BIN)/installed ## choose a method's weights on the validation split: METHOD= TRIALS=20 and bench's variables
	@$(BIN)/python -m benchmark tune $(if $(TRIALS),trials=$(TRIALS)) $(BENCH)

speed: $(BIN)/installed ## time a step of every method against the student alone and the field's usual loop: PAIR= METHODS= ARGS=
	@$(BIN)/python -m benchmark speed $(call list,pair,$(PAIR)) $(call list,methods,$(METHODS)) 'runs=$(RUNS)' $(ARGS)

methods: $(BIN)/installed ## all methods with their papers, default options and costs
	@$(BIN)/python -m benchmark methods

table: $(BIN)/installed ## tables of all finished runs, or of those chosen by PAIR= METHODS= PROFILE= DATASET= RUNS=
	@$(BIN)/python -m analysis table $(CHOSEN)

plots: $(BIN)/installed ## learning curves and class-correlation heat maps, chosen likewise
	@$(BIN)/python -m analysis plots $(CHOSEN)

structure: $(BIN)/installed ## how well the teacher's knowledge of the classes was passed on, chosen likewise
	@$(BIN)/python -m analysis structure $(CHOSEN)

report: $(BIN)/installed ## one HTML page of all of it, reports/report.html, and its tables and figures for a paper, chosen likewise
	@$(BIN)/python -m analysis report $(CHOSEN)

scale: $(BIN)/installed ## time the tables of 10,000 run folders
	@$(BIN)/python -m analysis scale

types: $(BIN)/installed ## check the types of benchmark, methods and analysis
	@$(BIN)/basedpyright --level error --pythonpath $(BIN)/python

docs: $(BIN)/installed ## build the documentation in site/, to be opened from disk: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: types ## lint, types and all tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

sync: $(BIN)/installed ## upload the W&B runs that were made offline
	@test -d '$(RUNS)/wandb' || { echo "error: no W&B runs in $(RUNS)/wandb" >&2; exit 2; }
	@cd '$(RUNS)' && $(abspath $(BIN))/wandb sync --yes

clean: ## remove the virtual environment, caches and reports; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache reports site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list; PAIRS=1 lists the teacher-student pairs instead
ifdef PAIRS
	@$(MAKE) --no-print-directory $(BIN)/installed
	@$(BIN)/python -m benchmark pairs profile=$(or $(PROFILE),paper)
else
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
endif

$(BIN)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=<path>")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,docs]'
	@touch $@
