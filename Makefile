# make demo | test | long | test-openstack | neural | lint | lock | clean

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
PYTEST_ARGS ?=
BIN := .venv/bin

.PHONY: demo test long test-openstack neural lint lock clean runtime development

# The demo ends with make, however make ends.
demo: runtime
	@exec setpriv --pdeathsig TERM -- $(BIN)/python manage.py demo --host $(HOST) --port $(PORT)

test: development
	@exec $(BIN)/python -m pytest $(PYTEST_ARGS)

long: development
	@$(MAKE) -s neural || echo "Without PyTorch the tests of the neural engines are skipped." >&2
	@exec $(BIN)/python -m pytest -m long $(PYTEST_ARGS)

test-openstack: development
	@exec $(BIN)/python -m pytest -m openstack tests/openstack tests/contract $(PYTEST_ARGS)

# The extra of the neural engines. Where pip was told of a folder or an index of its own, that has
# PyTorch's CPU build; elsewhere uv knows the place.
OWN_WHEELS := $(PIP_FIND_LINKS)$(PIP_EXTRA_INDEX_URL)
neural: development
	@$(BIN)/$(if $(OWN_WHEELS),python -m pip install -q,uv pip install -q --torch-backend cpu) \
		-r requirements-neural.txt

lint: development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Exact pins with hashes, for every platform and Python the project runs on.
lock: development
	$(BIN)/uv pip compile -q --no-header --universal --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	$(BIN)/uv pip compile -q --no-header --universal --generate-hashes --python-version 3.11 requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile -q --no-header --universal --generate-hashes --python-version 3.11 requirements-node.in -o requirements-node.txt
	$(BIN)/uv pip compile -q --no-header --universal --generate-hashes --python-version 3.11 requirements-benchmarks.in -o requirements-benchmarks.txt
	$(BIN)/uv pip compile -q --no-header --universal --python-version 3.11 \
		$(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS) --no-emit-find-links,--torch-backend cpu) \
		requirements-neural.in -o requirements-neural.txt

clean:
	rm -rf .venv node_modules .foredesk .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

runtime:
	@$(call install,requirements.txt)

development:
	@$(call install,requirements-dev.txt)

define install
command -v $(PYTHON) >/dev/null || { echo "Python is missing. On Debian and Ubuntu: apt install python3 python3-venv" >&2; exit 1; }; \
exec $(PYTHON) deploy/install.py $(1)
endef
