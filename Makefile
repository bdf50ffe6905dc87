# Shortcuts for `kd-benchmark`, which takes the same commands. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
KD = $(BIN)/kd-benchmark
RUNS ?= runs

# quoted, since brackets are a file name pattern in a shell
list = $(if $(2),'$(1)=[$(2)]')
TRAINING = $(call list,pair,$(PAIR)) $(call list,methods,$(METHODS)) $(call list,seeds,$(SEEDS)) \
	$(if $(PROFILE),profile=$(PROFILE)) $(if $(DATASET),dataset=$(DATASET)) $(if $(DATA),data=$(DATA)) $(if $(JOBS),jobs=$(JOBS)) 'runs=$(RUNS)' \
	$(if $(NAME),selection=$(NAME)) $(ARGS)
SELECTION = 'runs=$(RUNS)' $(call list,pair,$(PAIR)) \
	$(call list,method,$(METHODS)) $(if $(PROFILE),profile=$(PROFILE)) $(if $(DATASET),dataset=$(DATASET)) \
	$(if $(WHERE),'where=$(WHERE)') $(if $(NAME),selection=$(NAME)) $(ARGS)

# make ignores a misspelled variable silently
VARIABLES = PYTHON BIN PAIR PAIRS METHODS METHOD GRID SEEDS PROFILE DATASET DATA RUNS JOBS TRIALS PROBE LIST PAIRWISE WHERE NAME FROM TO ARGS
$(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $(v))),\
	$(if $(filter $(v),$(VARIABLES)),,$(error unknown variable $(v); known: $(VARIABLES)))))

# and quotes would end the shell's
quote := '
$(foreach v,$(filter-out ARGS PYTHON,$(VARIABLES)),$(if $(findstring $(quote),$(value $(v))),$(error $(v) holds a quote ('): give a value without)))

# and one that none of the goals uses
OF_METHOD = ablate tune
OF_GRID = ablate
OF_TRIALS = tune
OF_PROBE = plan
OF_LIST = plan
OF_PAIRWISE = table
OF_GRIDS = bench plan ablate tune
OF_SEEDS = $(OF_GRIDS) export transfer
OF_JOBS = $(OF_GRIDS) transfer
OF_DATA = $(OF_GRIDS) transfer
OF_FROM = transfer
OF_TO = transfer
OF_TABLES = table plots structure report
OF_PROFILE = $(OF_SEEDS) $(OF_TABLES) drop help
OF_DATASET = $(OF_SEEDS) $(OF_TABLES) drop
OF_WHERE = $(OF_TABLES) drop
OF_NAME = bench $(OF_TABLES)
$(foreach v,METHOD GRID TRIALS PROBE LIST PAIRWISE SEEDS JOBS DATA PROFILE DATASET WHERE NAME FROM TO,$(if $(filter command line,$(origin $(v))),\
	$(if $(filter $(OF_$(v)),$(MAKECMDGOALS)),,$(error $(v) is a variable of $(OF_$(v)) only$(if $(filter METHOD,$(v)),; give METHODS)))))

.PHONY: bench plan ablate tune speed methods table plots structure report export transfer drop restore scale simulate types docs test fuzz chaos sync \
	clean help
.DEFAULT_GOAL := help

bench: $(BIN)/installed ## train the missing runs and print the table: PAIR= METHODS= SEEDS= PROFILE=quick|short|paper DATASET= DATA= RUNS= JOBS= ARGS=
	@$(KD) bench $(TRAINING)

plan: $(BIN)/installed ## print what bench would do, with hours and GB of each pair: bench's variables, LIST=1 every run, PROBE=1 time a few steps
	@$(KD) plan $(if $(PROBE),probe=true) $(if $(LIST),list=true) $(TRAINING)

ablate: $(BIN)/installed ## vary a method's options and compare on the validation split: METHOD=clkd GRID= and bench's variables
	@$(KD) ablate $(if $(METHOD),method=$(METHOD)) $(if $(GRID),grid=$(GRID)) $(TRAINING)

tune: METHODS = $(METHOD)
tune: $(BIN)/installed ## choose a method's weights on the validation split: METHOD= TRIALS=20 and bench's variables
	@$(KD) tune $(if $(TRIALS),trials=$(TRIALS)) $(TRAINING)

speed: $(BIN)/installed ## time a step of every method, the student alone and the reference loop: PAIR= METHODS= ARGS=
	@$(KD) speed $(call list,pair,$(PAIR)) $(call list,methods,$(METHODS)) 'runs=$(RUNS)' $(ARGS)

methods: $(BIN)/installed ## all methods with their papers, default options and costs
	@$(KD) methods

table: $(BIN)/installed ## tables of all finished runs, or of those selected by PAIR= METHODS= PROFILE= DATASET= RUNS= WHERE=recipe.epochs=240; NAME= names their files, PAIRWISE=1 compares every two rows, too
	@$(KD) table $(SELECTION) $(if $(PAIRWISE),pairwise=$(PAIRWISE))

plots: $(BIN)/installed ## gains, learning curves and class correlations, of the same selection
	@$(KD) plots $(SELECTION)

structure: $(BIN)/installed ## fidelity of students to their teacher, of the same selection
	@$(KD) structure $(SELECTION)

report: $(BIN)/installed ## all of it as one HTML page, reports/report.html, with tables and figures for a paper, of the same selection
	@$(KD) report $(SELECTION)

drop: $(BIN)/installed ## move the runs selected by PAIR= METHODS= PROFILE= DATASET= WHERE= to a trash folder in RUNS
	@$(KD) drop $(filter-out selection=%,$(SELECTION))

restore: $(BIN)/installed ## move all dropped runs back
	@$(KD) restore 'runs=$(RUNS)'

scale: $(BIN)/installed ## time the tables of 10,000 run folders
	@$(KD) scale

simulate: $(BIN)/installed ## false marks and power of the tests of significance, on simulated runs: ARGS=
	@$(KD) simulate $(ARGS)

types: $(BIN)/installed ## check the types of benchmark, methods and analysis
	@$(BIN)/basedpyright --level error --pythonpath $(BIN)/python

docs: $(BIN)/installed ## build the documentation in site/, to be opened from disk: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: types ## lint, types and all tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

fuzz: $(BIN)/installed ## give the commands damaged input and check how they refuse it: ARGS="--cases 600 --kind data --first 0"
	@$(BIN)/python -m tests.fuzz $(ARGS)

chaos: $(BIN)/installed ## kill commands at random file events, repeat them, and compare with uninterrupted ones: ARGS="--kills 100 --seed 0"
	@$(BIN)/python -m tests.chaos $(ARGS)

export: $(BIN)/installed ## write finished students as safetensors and ONNX with a model card: PAIR= METHODS= SEEDS= PROFILE= DATASET= RUNS= or ARGS="run=<run folder>"
	@$(KD) export 'runs=$(RUNS)' $(if $(filter-out default file,$(origin PAIR)),$(call list,pair,$(PAIR))) \
		$(call list,method,$(METHODS)) $(call list,seeds,$(SEEDS)) $(if $(PROFILE),profile=$(PROFILE)) \
		$(if $(DATASET),dataset=$(DATASET)) $(ARGS)

transfer: $(BIN)/installed ## linear probe of finished students on other data sets, then a table: FROM=runs TO=stl10,tinyimagenet PAIR= METHODS= SEEDS= PROFILE= DATASET= DATA= JOBS= ARGS=
	@$(KD) transfer 'from=$(or $(FROM),$(RUNS))' $(call list,to,$(TO)) $(if $(DATA),data=$(DATA)) $(if $(JOBS),jobs=$(JOBS)) \
		$(if $(filter-out default file,$(origin PAIR)),$(call list,pair,$(PAIR))) \
		$(call list,method,$(METHODS)) $(call list,seeds,$(SEEDS)) $(if $(PROFILE),profile=$(PROFILE)) \
		$(if $(DATASET),dataset=$(DATASET)) $(ARGS)

sync: $(BIN)/installed ## record the runs whose tracking failed, and upload the W&B runs that were recorded offline
	@$(KD) sync 'runs=$(RUNS)'

clean: ## remove the virtual environment, caches and reports; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache reports site build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list; PAIRS=1 lists the teacher-student pairs instead
ifdef PAIRS
	@$(MAKE) --no-print-directory $(BIN)/installed
	@$(KD) pairs profile=$(or $(PROFILE),paper)
else
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
endif

$(BIN)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=<path>")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,docs]'
	@touch $@
