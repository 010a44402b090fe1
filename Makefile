# make help lists the targets. Everything generated lives in build/ (but for
# the extension itself, pyloop/_core.*.so), so `make clean` leaves a checkout.

ifndef PYTHON
PYTHON := $(shell scripts/pythons --first)
endif
ifeq ($(PYTHON),)
$(error pyloop: no Python >= 3.11 that runs; apt: python3, or make PYTHON=...)
endif
TAG := $(shell $(PYTHON) -c 'import sys, sysconfig as s; \
	print("%d.%d%s" % (*sys.version_info[:2], \
	"t" if s.get_config_var("Py_GIL_DISABLED") else ""))')
VENV ?= build/venv-$(TAG)
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
MINUTES ?= 1

SETUP = scripts/setup $(PYTHON) $(VENV)
BIN = $(VENV)/bin
# Paths from here: the recipes change directory for the sanitizers' copies.
ABS_BIN = $(if $(filter /%,$(BIN)),$(BIN),$(CURDIR)/$(BIN))
C_FILES = $(wildcard loop/*.[ch] include/*.h tests/c/*.[ch] \
	tests/capi/*.[ch] bench/*.[ch] examples/native_server/*.[ch])
PY_FILES = setup.py $(wildcard pyloop tests bench examples)

.PHONY: help run build test test-uring upstream bench lint format asan ubsan tsan fuzz \
	soak ctest stubtest pgo wheel sdist clean

help:
	@echo 'make run       serve examples/app.py on pyloop (HOST=, PORT=)'
	@echo 'make build     build the extension in place'
	@echo 'make test      run the tests (ARGS="-k name" goes to pytest)'
	@echo 'make test-uring  those of streams and servers by io_uring'
	@echo "make upstream  other projects' tests on pyloop (ARGS=cpython)"
	@echo 'make bench     compare loops (ARGS=--smoke for a quick pass)'
	@echo 'make ctest     C tests of ring, heap and inbox, under sanitizers'
	@echo 'make litmus    10^8 posts to a loop that sleeps and wakes (POSTS=)'
	@echo 'make asan      the tests under AddressSanitizer; ubsan likewise'
	@echo 'make fuzz      random programs under ASan (MINUTES=1)'
	@echo 'make soak      everything at once, nothing may grow (MINUTES=1)'
	@echo 'make tsan      C tests, and with TSAN_PYTHON= the thread tests'
	@echo 'make lint      check format and style; make format applies them'
	@echo 'make stubtest  check pyloop/*.pyi against the built module'
	@echo 'make pgo       build in place, optimised by a profile (gcc)'
	@echo 'make wheel     build a wheel of that in dist/; make sdist'
	@echo 'make clean     remove everything built'
	@echo 'PYTHON=$(PYTHON) ($(TAG)), VENV=$(VENV)'

# One build directory per interpreter; setup.py compiles what has changed.
BUILD_EXT = setup.py -q build_ext --inplace --build-temp build/temp-$(TAG)

# $(call prepare,REQUIREMENTS): packages, then the extension in place.
define prepare
@$(SETUP) $(1)
@$(BIN)/python $(BUILD_EXT)
endef

build:
	$(call prepare,)

run:
	$(call prepare,examples/requirements.txt)
	@echo 'pyloop: serving examples/app.py on http://$(HOST):$(PORT)/'
	exec $(BIN)/python -m uvicorn --app-dir examples app:app \
		--loop pyloop:new_event_loop --host $(HOST) --port $(PORT) $(ARGS)

test:
	$(call prepare,tests/requirements.txt)
	$(BIN)/pytest $(ARGS)

# What sends and receives, by io_uring, where there is one.
URING_TESTS = tests/test_connections.py tests/test_fuzz.py \
	tests/test_io_uring.py tests/test_sendfile.py tests/test_servers.py \
	tests/test_stream_transport.py tests/test_tls.py tests/servers \
	tests/capi/test_native_protocols.py tests/capi/test_native_server.py

test-uring:
	$(call prepare,tests/requirements.txt)
	@if $(BIN)/python -c \
		'import pyloop; pyloop.new_event_loop().io_uring = True' 2>&-; then \
		PYLOOP_IO_URING=1 PYLOOP_TEST_LOOPS=pyloop \
			$(BIN)/pytest $(URING_TESTS) $(ARGS); \
	else echo 'pyloop: no io_uring here'; fi

upstream:
	$(call prepare,tests/requirements.txt)
	$(BIN)/python -m tests.upstream $(ARGS)

# As the wheel is built: so are the other loops.
bench:
	@$(SETUP) bench/requirements.txt
	@scripts/pgo $(BIN)/python build/temp-$(TAG)
	$(BIN)/python -m bench $(ARGS)

stubtest:
	$(call prepare,scripts/requirements-lint.txt)
	$(BIN)/python -m mypy.stubtest pyloop \
		--mypy-config-file pyproject.toml --ignore-unused-allowlist \
		--allowlist scripts/stubtest-allowlist $(ARGS)

# A sanitizer builds and tests a copy of the tree, so that its objects and
# its extension never meet those of the ordinary build. asyncio's own turn is
# left out, and so are the leak tests, which would measure the sanitizer. (A
# free-threaded interpreter has no PYTHONMALLOC=malloc.) Standard error stays
# open: there the sanitizers report.
define checked_run
@$(SETUP) tests/requirements.txt
@mkdir -p build/$(1)-$(TAG)
@rm -rf build/$(1)-$(TAG)/[!b]* && tar -cf - --exclude='*.so' \
	--exclude=__pycache__ --exclude=./build --exclude=./.git . | \
	tar -xf - -C build/$(1)-$(TAG)
@cd build/$(1)-$(TAG) && PYLOOP_SANITIZE=$(1) $(ABS_BIN)/python $(BUILD_EXT)
cd build/$(1)-$(TAG) && env PYLOOP_SANITIZE=$(1) PYTHONPATH=$(CURDIR)/build/$(1)-$(TAG) \
	$(if $(findstring t,$(TAG)),,PYTHONMALLOC=malloc) $(2) $(ABS_BIN)/$(3)
endef

checked_tests = $(call checked_run,$(1),$(2),pytest \
	-m 'not packaging and not realserver_slow' -o timeout=120 $(3) \
	-k 'not asyncio and not piles_up and not nothing_grows' $(ARGS))

ASAN_ENV = LD_PRELOAD="$$($${CC:-gcc} -print-file-name=libasan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1

asan:
	$(call checked_tests,address,$(ASAN_ENV),\
		-p no:faulthandler --capture=sys)

ubsan:
	$(call checked_tests,undefined,UBSAN_OPTIONS=print_stacktrace=1,\
		--capture=sys)

# Random programs; a failure prints its seed (ARGS='--seed 123' repeats it).
fuzz:
	$(call checked_run,address,$(ASAN_ENV),python -X faulthandler \
		tests/fuzz.py --minutes $(MINUTES) $(ARGS))

# Everything at once for MINUTES; memory and descriptors have to stay flat.
soak:
	$(call prepare,tests/requirements.txt)
	$(BIN)/python tests/soak.py --minutes $(MINUTES) $(ARGS)

# ThreadSanitizer sees a data race only if the interpreter is built with it
# too (./configure --with-thread-sanitizer): TSAN_PYTHON names such a one.
# Rust's own library is not: it takes its channel for a race.
tsan: ctest-thread
ifneq ($(TSAN_PYTHON),)
	$(MAKE) do-tsan PYTHON='$(TSAN_PYTHON)' \
		VENV='build/venv-tsan-$(notdir $(TSAN_PYTHON))'
else
	@echo 'tsan: C tests only; TSAN_PYTHON=... also runs the Python tests'
endif

.PHONY: do-tsan
do-tsan: ARGS := $(or $(ARGS),tests/threads tests/test_threadsafe.py \
	tests/test_run_coroutine_threadsafe.py tests/capi \
	--ignore=tests/capi/test_native_server.py -m 'not slow' \
	--deselect=tests/capi/test_documentation.py::test_client_in_rust)
do-tsan: export TSAN_OPTIONS = report_bugs=0:exitcode=0
do-tsan:
	$(call checked_tests,thread,\
		PYLOOP_TEST_LOOPS=pyloop \
		TSAN_OPTIONS=exitcode=66:report_thread_leaks=0,--capture=sys)

# tests/c/test_*.c are programs of their own: no Python, no test framework.
C_TESTS = $(basename $(notdir $(wildcard tests/c/test_*.c)))
CTEST_FLAGS = -std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Wshadow -Wvla \
	-Wstrict-prototypes -Wno-unused-parameter -Werror -fno-strict-aliasing \
	-fno-omit-frame-pointer -Iloop -Iinclude -DPL_SANITIZE=1 -DPL_DEBUG=1

.PHONY: ctest-address,undefined ctest-thread
ctest: ctest-address,undefined ctest-thread
ctest-address,undefined ctest-thread: ctest-%:
	@$(SETUP)
	@mkdir -p 'build/ctest-$*'
	@set -e; for test in $(C_TESTS); do \
		binary="build/ctest-$*/$$test"; \
		$${CC:-cc} $(CTEST_FLAGS) -fsanitize=$* \
			$$(pkg-config --cflags libuv) tests/c/$$test.c \
			-o "$$binary" $$(pkg-config --libs libuv) -pthread; \
		"$$binary"; \
		echo "$$test: ok ($*)"; \
	done; \
	$${CC:-cc} $(CTEST_FLAGS) -fsanitize=$* $$(pkg-config --cflags libuv) \
		$(LITMUS) -o 'build/ctest-$*/litmus' \
		$$(pkg-config --libs libuv) -pthread; \
	'build/ctest-$*/litmus' 40000

# The post's whole way (inbox, poller, wake-up), POSTS times from 4 threads
# against a loop that falls asleep all the time.
POSTS ?= 100000000
LITMUS = tests/c/litmus.c loop/core.c loop/poller.c loop/uring.c loop/wakeup.c
.PHONY: litmus
litmus:
	@$(SETUP)
	@mkdir -p build/litmus
	@$${CC:-cc} $(filter-out -O1,$(CTEST_FLAGS)) -O2 \
		$$(pkg-config --cflags libuv) $(LITMUS) -o build/litmus/litmus \
		$$(pkg-config --libs libuv) -pthread
	build/litmus/litmus $(POSTS)

lint:
	@$(SETUP) scripts/requirements-lint.txt
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/ruff check $(PY_FILES)
	$(BIN)/ruff format --check $(PY_FILES)

format:
	@$(SETUP) scripts/requirements-lint.txt
	$(BIN)/clang-format -i $(C_FILES)
	$(BIN)/ruff check --fix $(PY_FILES)
	$(BIN)/ruff format $(PY_FILES)

pgo:
	@$(SETUP)
	@scripts/pgo $(BIN)/python build/temp-$(TAG)

wheel: pgo
	@mkdir -p dist
	@PYLOOP_PGO=use $(BIN)/python setup.py -q build_ext \
		--build-temp build/temp-$(TAG) bdist_wheel --dist-dir dist
	@ls -t dist/*.whl | head -1

sdist:
	@$(SETUP)
	@mkdir -p dist
	@$(BIN)/python -c 'from setuptools import build_meta; \
		print("dist/" + build_meta.build_sdist("dist"))' | tail -1

clean:
	rm -rf build dist *.egg-info pyloop/*.so
	find . -name __pycache__ -type d -not -path './.git/*' -prune \
		-exec rm -rf {} +
