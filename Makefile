# `make demo` and `make test` each make .venv and install into it by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed-bench

.PHONY: help install demo test check catalog bench-resnet bench-resnets bench-minilm bench-kills bench-lottery bench-dynamic bench-gpt bench-movement bench-movement-digits bench-removal \
	bench-cut-resnet56 bench-cut-minilm bench-cut-latency bench-accuracy-drop bench-blocks bench-gpu \
	bench-select bench-criteria bench-load chaos format clean

help: ## Print this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

install: $(STAMP) ## Make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev,demo]"
	@touch $(STAMP)

demo: $(STAMP) ## Train, serve, prune and report on real data (half a minute after installation)
	$(BIN)/python -m benchmarks.demo

test: $(STAMP) ## Run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

SEED ?= 1
ROUNDS ?= 60
MODE ?= scaled
JOBS ?= light
chaos: $(STAMP) ## Hurt the real processes by a seeded schedule, then judge: SEED=n ROUNDS=m MODE=scaled|embedded JOBS=light|real
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --seed $(SEED) --rounds $(ROUNDS) --mode $(MODE) --jobs $(JOBS)

check: $(STAMP) ## Lint, types, architecture, fresh catalog
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m worker.catalog --check

catalog: $(STAMP) ## Write app/core/catalog.json from what is registered
	$(BIN)/python -m worker.catalog

$(BENCH_STAMP): $(STAMP)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev,demo,bench]"
	@touch $(BENCH_STAMP)

bench-criteria: $(BENCH_STAMP) ## Compare all criteria on two real networks; SECATEUR_BENCH_DATA names the data
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.criteria

bench-kills: $(STAMP) ## Kill one job at twenty random moments: the same bytes come out (five minutes)
	$(BIN)/python -m benchmarks.kills

bench-select: $(STAMP) ## Exact selection against torch.nn.utils.prune: time, memory, growth to a billion weights
	$(BIN)/python -m benchmarks.select

bench-resnets: $(STAMP) ## ResNet-20 and ResNet-56 at 70 and 90 %, with dense controls (two hours)
	$(BIN)/python -m benchmarks.resnets

bench-minilm: $(BENCH_STAMP) ## MiniLM-L6 on SST-2: 50 %, 70 % and 2:4 by magnitude, with dense controls (two hours)
	$(BIN)/python -m benchmarks.minilm_training

bench-movement: $(BENCH_STAMP) ## Movement against magnitude from a pretrained encoder (an hour and a half)
	$(BIN)/python -m benchmarks.movement

bench-movement-digits: $(STAMP) ## Movement against magnitude by how long there is to prune, on small networks (five minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.movement_digits

bench-lottery: $(STAMP) ## Winning tickets against their controls (SECATEUR_FASHION_MNIST names its folder; hours)
	$(BIN)/python -m benchmarks.lottery

bench-dynamic: $(STAMP) ## RigL and SET against a static random mask (an hour and a half)
	$(BIN)/python -m benchmarks.dynamic

bench-removal: $(BENCH_STAMP) ## Half of every group cut out of 18 networks: the same outputs as masked
	$(BIN)/python -m benchmarks.removal

bench-load: $(STAMP) ## Latencies of the API and of claims with 100, 1,000 and 10,000 jobs queued on Postgres (minutes)
	$(BIN)/python -m benchmarks.load

bench-cut-resnet56: $(BENCH_STAMP) ## ResNet-56 with 2.57 times fewer products, beside torch-pruning (an hour)
	$(BIN)/python -m benchmarks.cut_resnet56

bench-cut-minilm: $(BENCH_STAMP) ## Half of MiniLM-L6's heads and FFN neurons cut out, trained, reloaded (half an hour)
	$(BIN)/python -m benchmarks.cut_minilm

bench-cut-latency: $(BENCH_STAMP) ## Half of the products of five networks cut out: what torch and onnxruntime save (ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.cut_latency

bench-accuracy-drop: $(BENCH_STAMP) ## The smallest ResNet-20 and MiniLM-L6 that lose at most a point (an hour)
	$(BIN)/python -m benchmarks.accuracy_drop

bench-blocks: $(BENCH_STAMP) ## Layers of MiniLM-L6 left out by each importance, beside all choices there are (half an hour)
	$(BIN)/python -m benchmarks.blocks

bench-gpt: $(BENCH_STAMP) ## A small GPT-2 at 50 %: perplexity by wanda, sparsegpt, magnitude (ten minutes)
	$(BIN)/python -m benchmarks.gpt

bench-gpu: $(STAMP) ## Jobs on a GPU, its memory after a cancel, the library beside the CPU (needs a GPU; five minutes)
	$(BIN)/python -m benchmarks.gpu

bench-resnet: $(STAMP) ## ResNet-20 on CIFAR-10 over HTTP (SECATEUR_BENCH_DATA names the folder; 15 minutes)
	$(BIN)/python -m benchmarks.resnet

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what was built or measured here
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis demo-output bench-output
