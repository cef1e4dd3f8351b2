# make help lists what there is. Only a C compiler is needed for demo and test.

CC = cc
CFLAGS = -O2
# Most of the time of make test goes into compiling.
TEST_CFLAGS = -O1
JOBS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
PYTHON = python3
# One with the packages of tests/requirements-frameworks.txt, if that is another.
FRAMEWORKS = $(PYTHON)
STRICT =

WARN = -std=c99 -Wall -Wextra -Wshadow
TESTS = $(patsubst tests/%.c,build/%,$(sort $(wildcard tests/test_*.c)))
LINKED = $(patsubst tests/%.c,build/%,$(sort $(shell grep -l NN_LINKED tests/test_*.c)))
EXAMPLES = $(patsubst examples/%.c,build/%,$(sort $(wildcard examples/*.c)))

NNTOOL = $(PYTHON) tools/nntool.py
TORCH = $(PYTHON) tools/digits_torch.py

.PHONY: help demo demo-python test check bench size memory examples clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: build/digits ## a net from PyTorch learns two more digits, the way a device would
	build/digits

demo-python: build/digits ## the whole way: PyTorch, convert, tune in C, export, PyTorch again
	@mkdir -p build/demo
	$(TORCH) train build/demo/digits.pt
	$(NNTOOL) convert build/demo/digits.pt --graph examples/data/digits.rows -o build/demo/digits.nn
	build/digits --net build/demo/digits.nn --save build/demo/tuned.nn
	$(NNTOOL) export build/demo/tuned.nn --to pytorch --like build/demo/digits.pt \
		-o build/demo/tuned.pt
	$(TORCH) score build/demo/tuned.pt

test: ## everything that needs only a C compiler
	@$(MAKE) --no-print-directory -j$(JOBS) $(TESTS)
	@sh tests/run.sh $(TESTS)

check: ## everything; what a missing tool prevents is skipped, with STRICT=1 a failure
	@CC="$(CC)" PYTHON="$(PYTHON)" FRAMEWORKS="$(FRAMEWORKS)" STRICT="$(STRICT)" \
		sh tests/check.sh

bench: build/bench ## time of inference and training of W1 to W4, by kernels
	build/bench

size: ## flash, RAM, stack and instructions on a Cortex-M4F, and memory everywhere
	@STRICT="$(STRICT)" $(PYTHON) tools/size.py

memory: build/memory ## README's table of what models take, to the byte
	@build/memory --markdown

examples: $(EXAMPLES) ## build the examples

clean: ## remove what was built
	rm -rf build

# Tests of the interface alone share one implementation.
$(LINKED): build/%: tests/%.c tests/test.h nn.h build/nn.o
	$(CC) $(WARN) $(TEST_CFLAGS) -DNN_LINKED -I. $< build/nn.o -o $@ -lm

build/nn.o: nn.h | build
	$(CC) $(WARN) $(TEST_CFLAGS) -DNN_IMPLEMENTATION -x c -c $< -o $@

build/test_%: tests/test_%.c tests/test.h tests/firmware/models.h nn.h | build
	$(CC) $(WARN) $(TEST_CFLAGS) -I. $< -o $@ -lm

build/bench: tests/bench.c tests/firmware/models.h nn.h | build
	$(CC) -std=gnu99 -Wall -Wextra $(CFLAGS) -DBENCH_FLAGS='"$(CFLAGS)"' -I. $< -o $@

build/memory: tests/firmware/probe_memory.c tests/firmware/models.h nn.h | build
	$(CC) $(WARN) $(CFLAGS) $< -o $@

build/%: examples/%.c nn.h | build
	$(CC) $(WARN) $(CFLAGS) -I. $< -o $@

build:
	mkdir -p build
