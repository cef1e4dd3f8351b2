#!/bin/sh
# Everything that can be checked, tier by tier. A tier whose tool is missing says which Debian
# package has it and is skipped; with STRICT=1 that is a failure. The last line is "N passed, N
# failed".

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc} PYTHON=${PYTHON:-python3} STRICT=${STRICT:-}
FRAMEWORKS=${FRAMEWORKS:-$PYTHON} # the Python that has them
export CC PYTHON STRICT
mkdir -p build/check
log=build/check/log
total_passed=0 total_failed=0

# tier NAME COMMAND...: runs a command whose last line is "N passed, N failed".
tier() {
    title=$1
    shift
    start=$(date +%s)
    "$@" >$log 2>&1
    status=$?
    line=$(tail -n 1 $log | grep -E '^[0-9]+ passed, [0-9]+ failed$')
    p=${line%% *} f=${line#*, } f=${f%% *}
    if [ -z "$line" ] || { [ $status -ne 0 ] && [ "$f" -eq 0 ]; }; then
        p=0 f=1
    fi
    [ "$f" -eq 0 ] || cat $log
    grep -h '^skipped' $log | sort -u
    printf '%-44s %5d passed, %d failed  (%d s)\n' "$title" "$p" "$f" $(($(date +%s) - start))
    total_passed=$((total_passed + p)) total_failed=$((total_failed + f))
}

# needs TOOL PACKAGE: is TOOL there? If not, says so.
needs() {
    command -v "$1" >/dev/null 2>&1 && return 0
    echo "skipped: needs $2"
    [ "$STRICT" != 1 ] || total_failed=$((total_failed + 1))
    return 1
}

# build_and_run DIRECTORY COMPILER FLAGS: every C test built so, two at a time, and run.
build_and_run() {
    dir=build/check/$1
    mkdir -p "$dir"
    $2 $3 -DNN_IMPLEMENTATION -x c -c nn.h -o "$dir/nn.o" || return 1
    for source in tests/test_*.c; do
        name=${source#tests/}
        linked=
        ! grep -q NN_LINKED "$source" || linked="-DNN_LINKED $dir/nn.o"
        echo "$2 $3 -I. $linked $source -o $dir/${name%.c} -lm"
    done | xargs -P 2 -I COMMAND sh -c COMMAND || return 1
    sh tests/run.sh $(for source in tests/test_*.c; do
        name=${source#tests/}
        echo "$dir/${name%.c}"
    done)
}

# fuzz NAME: a fixed number of mutated inputs, under sanitizers.
fuzz() {
    gcc $sanitize -I. tests/fuzz/fuzz_$1.c -o build/check/fuzz_$1 && build/check/fuzz_$1
}

# The demo ends with an error under its accuracies.
demo() {
    make -s CC="$CC" demo && echo "1 passed, 0 failed"
}

sanitize="-std=c99 -g -O1 -fno-omit-frame-pointer"
sanitize="$sanitize -fsanitize=address,undefined -fno-sanitize-recover=all"

tier "C tests" make -s CC="$CC" test
tier "demo" demo
if needs gcc gcc; then
    tier "C tests, gcc, sanitizers" build_and_run gcc-san gcc "$sanitize"
    tier "hostile files and texts" fuzz load
    tier "words, hostile and random" fuzz tokenizer
fi
if needs clang "clang, libclang-rt-14-dev"; then
    tier "C tests, clang, sanitizers" build_and_run clang-san clang "$sanitize"
fi
if needs g++ g++; then
    tier "header and flags" sh tests/compile.sh
fi
if needs "$PYTHON" python3; then
    tier "README's programs" "$PYTHON" tests/readme.py
    tier "same bits everywhere" "$PYTHON" tests/bits.py
    tier "small targets" "$PYTHON" tools/size.py
    if "$PYTHON" -c 'import numpy, safetensors' 2>/dev/null; then
        tier "files against safetensors" "$PYTHON" tests/python/test_file.py
        tier "numpy reference" "$PYTHON" tests/golden/make_grads.py --check
        tier "converter" "$PYTHON" tests/python/test_nntool.py
    else
        needs python-numpy-and-safetensors "the packages of tests/requirements.txt"
    fi
fi
# converter NAME MODULES: its models through the converter, with a Python that has these modules.
converter() {
    if KERAS_BACKEND=torch "$FRAMEWORKS" -c "import $2" 2>/dev/null; then
        tier "converter, $1" "$FRAMEWORKS" tests/python/test_nntool_$1.py
    else
        needs "python-$1" "the packages of tests/requirements-frameworks.txt"
    fi
}

converter torch torch
converter onnx "onnx, onnxruntime"
converter keras "keras, torch, h5py"
converter tflite ai_edge_litert
echo "$total_passed passed, $total_failed failed"
[ $total_failed -eq 0 ]
