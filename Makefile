# Two commands do everything from nothing but Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := coreai,coreml,torchao,plot,dev
# torch comes first and alone: later packages then find it installed, and pull no other build of it.
TORCH := torch==2.13.0

# Every command that a test starts would compile the whole package again without its bytecode on disk.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup browser demo test test-slow test-matrix test-clients fuzz mutation lint bench zoo zoo-quick clean

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $(READY)

# Tests drive the page of `passctl dump --format html` in Chromium, and are skipped where there is none.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then \
	  echo "Chromium is installed"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; \
	else \
	  echo "no Chromium: install chromium and chromium-driver, or run this as root on Debian"; \
	fi

demo: $(READY)
	$(BIN)/python -m graphpress.tools.demo --out demo-output

# One test process and one thread for each core: more would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=15

test: $(READY)
	$(PYTEST) -m "not slow and not matrix"

test-slow: $(READY)
	$(PYTEST) -m slow

# Every way of compressing, on every backend and target that holds it.
test-matrix: $(READY)
	$(PYTEST) -m matrix --dist load

# The test files of coreai-opt's source distribution as clients, under the alias: downloads them to build/. Then
# ExecuTorch, where tools/clients/environment.sh made its environment, and the programs of a checkout of coreai-models,
# COREAI_MODELS=<checkout>, in the environments of the zoo. See docs/clients.md.
EXECUTORCH := .venv-executorch/bin/python

test-clients: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m graphpress.tools.maintenance.clients
	if test -x $(EXECUTORCH); then OMP_NUM_THREADS=1 $(EXECUTORCH) -m pytest -p no:cacheprovider --noconftest tests/graphpress/test_executorch.py; fi
	OMP_NUM_THREADS=1 $(BIN)/python -m graphpress.tools.clients

# Mutated files of every format: a fixed set of cases in a minute, or new ones with MINUTES=n. See docs/testing.md.
fuzz: $(READY)
	OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python -m tests.fuzzing $(if $(MINUTES),--minutes $(MINUTES))

# Whether the tests notice changes of the code: hours, and no part of any other target. See docs/testing.md.
mutation: $(READY)
	$(BIN)/python -m pip install --quiet "cosmic-ray>=8.3,<9"
	OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python -m graphpress.tools.maintenance.mutation $(MODULES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	bash tools/bench/peer_env.sh
	$(BIN)/python -m graphpress.tools.bench --json bench-results.json

ZOO := .venv-zoo/bin/python
ZOO_READY := .venv-zoo/.ready

$(ZOO_READY): tools/zoo/environment.sh pyproject.toml
	PYTHON=$(PYTHON) sh tools/zoo/environment.sh ours
	touch $(ZOO_READY)

# Every architecture beside the peer, hours on two cores: runs what the results in build/ lack, and writes docs/zoo.md.
zoo: $(ZOO_READY)
	test -x .venv-zoo-peer/bin/python || PYTHON=$(PYTHON) sh tools/zoo/environment.sh peer
	$(ZOO) -m graphpress.tools.zoo run --rerun changed --workers 2
	$(ZOO) -m graphpress.tools.zoo table

# Fifteen architectures that are known to work.
zoo-quick: $(ZOO_READY)
	$(ZOO) -m graphpress.tools.zoo quick

clean:
	rm -rf $(VENV) .venv-zoo .venv-zoo-peer .venv-executorch demo-output build *.egg-info
