# make help lists what there is. Only a C compiler is needed for demo and test.

CC = cc
CFLAGS = -O2
# Most of the time of make test goes into compiling.
TEST_CFLAGS = -O1
JOBS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
PYTHON = python3
STRICT =

WARN = -std=c99 -Wall -Wextra -Wshadow
TESTS = $(patsubst tests/%.c,build/%,$(sort $(wildcard tests/test_*.c)))
EXAMPLES = $(patsubst examples/%.c,build/%,$(sort $(wildcard examples/*.c)))

.PHONY: help demo test check bench size memory examples clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: build/digits ## learn real digits, then two new ones on top, the way a device would
	build/digits examples/data/digits.bin

test: ## everything that needs only a C compiler
	@$(MAKE) --no-print-directory -j$(JOBS) $(TESTS)
	@sh tests/run.sh $(TESTS)

check: ## everything; what a missing tool prevents is skipped, with STRICT=1 a failure
	@CC="$(CC)" PYTHON="$(PYTHON)" STRICT="$(STRICT)" sh tests/check.sh

bench: build/bench ## time of inference and training of W1 to W4, by kernels
	build/bench

size: ## flash, RAM, stack and instructions on a Cortex-M4F, and memory everywhere
	@STRICT="$(STRICT)" $(PYTHON) tools/size.py

memory: build/memory ## README's table of what models take, to the byte
	@build/memory --markdown

examples: $(EXAMPLES) ## build the examples

clean: ## remove what was built
	rm -rf build

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
