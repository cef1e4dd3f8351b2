#!/bin/sh
# Builds nn.h with every compiler, standard and configuration macro, runs what it built, and looks
# at the text of the header itself.
#
#     sh tests/compile.sh [PATTERN]     only jobs whose name matches the (grep) pattern
#
# Every job is a small shell script in build/compile, run in a folder of its own, two at a time. A
# missing tool skips its jobs; with STRICT=1 that is a failure. The last line is "N passed, N
# failed".

cd "$(dirname "$0")/.." || exit 1
ROOT=$PWD T=$PWD/tests/compile
WARN="-Werror -Wall -Wextra -pedantic -Wshadow -Wconversion -Wsign-conversion -Wundef -Wcast-qual
    -Wdouble-promotion -Wvla -Wwrite-strings"
WARN_C="$WARN -Wstrict-prototypes -Wmissing-prototypes"
LC_ALL=C
export ROOT T WARN WARN_C LC_ALL
dir=$PWD/build/compile pattern=${1:-.} jobs=0 skipped=0
rm -rf "$dir"
mkdir -p "$dir"

# job NAME COMMAND: queues a script; it passes when it ends with status 0.
job() {
    printf '%s\n' "$1" | grep -q -e "$pattern" || return 0
    jobs=$((jobs + 1))
    folder=$dir/$(printf %03d $jobs)
    mkdir "$folder"
    printf '# %s\ncd "%s" || exit 1\n%s\n' "$1" "$folder" "$2" >"$folder/job"
}

# needs TOOL PACKAGE: is TOOL there? If not, says so.
needs() {
    command -v "$1" >/dev/null 2>&1 && return 0
    echo "skipped: needs $2"
    [ "${STRICT:-}" != 1 ] || skipped=$((skipped + 1))
    return 1
}

# dialects CC CXX RUN: everything.c in three standards of C and three of C++; RUN starts a program.
dialects() {
    for std in c99 c11 c17; do
        job "$1 -std=$std" \
            "$1 -std=$std -O2 \$WARN_C -I\"\$ROOT\" \"\$T/everything.c\" -o all && $3"
    done
    for std in c++11 c++17 c++20; do
        job "$2 -std=$std" \
            "$2 -x c++ -std=$std -O2 \$WARN -I\"\$ROOT\" \"\$T/everything.c\" -o all && $3"
    done
}

# configuration MACRO...: everything.c with these macros; a single one in C++ too.
configuration() {
    defines=
    for macro; do defines="$defines '-D$macro'"; done
    job "gcc $*" \
        "gcc -std=c99 $defines \$WARN_C -I\"\$ROOT\" \"\$T/everything.c\" -o all && ./all"
    [ $# -gt 1 ] || job "g++ $*" \
        "g++ -x c++ -std=c++11 $defines \$WARN -I\"\$ROOT\" \"\$T/everything.c\" -o all && ./all"
}

# symbols NAME FLAGS FILTER: what nm lists of the header's object and the filter lets through is
# wrong.
symbols() {
    job "symbols: $1" "
        gcc -std=c99 -O1 -fno-pie $2 -DNN_IMPLEMENTATION -x c -c \"\$ROOT/nn.h\" -o nn.o
        nm nn.o >list || exit 1
        test \$(wc -l <list) -gt 10 || exit 1
        ! $3"
}

# ---- dialects ----

needs gcc gcc && needs g++ g++ && dialects gcc g++ ./all
needs clang clang && dialects clang clang++ ./all
if needs x86_64-w64-mingw32-g++ "gcc-mingw-w64-x86-64, g++-mingw-w64-x86-64"; then
    dialects x86_64-w64-mingw32-gcc x86_64-w64-mingw32-g++ true
fi

job "rows in C99 and C++20" '
    gcc -std=c99 $WARN_C -DNN_IMPLEMENTATION -x c -c "$ROOT/nn.h" -o nn.o
    gcc -std=c99 $WARN_C -I"$ROOT" "$T/rows.c" nn.o -o c && ./c || exit 1
    g++ -x c++ -std=c++20 $WARN -Wno-missing-field-initializers -I"$ROOT" -c "$T/rows.c" &&
        g++ rows.o nn.o -o cpp && ./cpp'
needs clang clang && job "rows in C99 and C++20, clang" '
    clang -std=c99 $WARN_C -DNN_IMPLEMENTATION -x c -c "$ROOT/nn.h" -o nn.o
    clang -std=c99 $WARN_C -I"$ROOT" "$T/rows.c" nn.o -o c && ./c || exit 1
    clang++ -x c++ -std=c++20 $WARN -Wno-missing-field-initializers -I"$ROOT" -c "$T/rows.c" &&
        clang++ rows.o nn.o -o cpp && ./cpp'

# ---- configurations ----

configuration NN_STATIC
configuration NN_NO_TRAIN
configuration NN_NO_STDIO
configuration NN_NO_MALLOC
configuration NN_NO_LIBC
configuration NN_NO_STRINGS
configuration NN_NO_SIMD
configuration NN_FAST_MULADD
configuration NN_NO_SIMD NN_FAST_MULADD
configuration NN_NO_STDIO NN_NO_MALLOC
configuration NN_NO_STDIO NN_NO_STRINGS
configuration NN_NO_TRAIN NN_NO_STDIO NN_NO_MALLOC
configuration NN_NO_LIBC NN_NO_TRAIN
configuration NN_NO_LIBC NN_NO_STRINGS
configuration NN_NO_LIBC NN_NO_STRINGS NN_NO_TRAIN
configuration NN_NO_LIBC NN_NO_STRINGS NN_NO_TRAIN NN_NO_SIMD NN_STATIC
configuration 'NN_MALLOC(n)=malloc((n)+0)' 'NN_FREE(p)=free(p)'
configuration 'NN_MEMCPY(a,b,n)=memmove(a,b,n)' 'NN_MEMSET(p,v,n)=memset(p,v,n)'
configuration 'NN_SYNC(f)=fflush(f)' 'NN_TERMINAL()=0' 'NN_RENAME(a,b)=rename(a,b)'
configuration 'NN_OPS=NN_INPUT,NN_DENSE,NN_ACTIVATION,NN_EMBEDDING,NN_LSTM,NN_GRU'

for compiler in 'gcc -std=c99' 'clang -std=c99' 'g++ -std=c++11'; do
    for macros in '' '-DNN_NO_LIBC -DNN_NO_STRINGS -DNN_NO_TRAIN'; do
        job "$compiler NN_NO_PLANNER $macros" "
            case '$compiler' in *++*) lang=c++ warn=\$WARN ;; *) lang=c warn=\$WARN_C ;; esac
            $compiler \$warn -O1 -DNN_NO_PLANNER $macros -DNN_IMPLEMENTATION -x \$lang \
                -c \"\$ROOT/nn.h\" -o nn.o && nm nn.o >list && grep -q ' T nn_open' list &&
            ! grep -E ' nn__?(plan_all|build|build_text|load|memory|clone)$' list"
    done
done

symbols "only nn_ is public" "" "grep -E ' [ABCDGRSTVW] ' list | grep -v ' nn_'"
symbols "no variables" "" "grep -E ' [BbCDdGgSs] ' list"
symbols "NN_NO_STDIO" -DNN_NO_STDIO "grep -E ' U .*(printf|put|open|close|read|write|std|tty)' list"
symbols "NN_NO_MALLOC" -DNN_NO_MALLOC "grep -E ' U .*(alloc|free)' list"
symbols "NN_NO_LIBC" "-DNN_NO_LIBC -ffreestanding" \
    "grep ' U ' list | grep -v -E ' (memcpy|memset|__cpu_model|__cpu_indicator_init)\$'"

job "symbols: NN_STATIC" '
    gcc -std=c99 -DNN_STATIC -I"$ROOT" -c "$T/everything.c" -o all.o && nm all.o >list &&
    test $(wc -l <list) -gt 100 && ! grep -E " [ABCDGRSTVW] " list | grep -v " main$"'

job "no macros but NN" '
    grep -o "^#include <[a-z0-9]*\.h>" "$ROOT/nn.h" | sort -u | grep -v "<io.h>" >base.c
    { cat base.c; echo "#include \"nn.h\""; } >all.c
    gcc -std=c99 -dM -E base.c | sort >base
    gcc -std=c99 -dM -E -DNN_IMPLEMENTATION -I"$ROOT" all.c | sort >all
    test $(comm -13 base all | wc -l) -gt 50 || exit 1
    ! comm -13 base all | grep -v -E "^#define (NN_|NNDEF )"'

# ---- several files, several copies, another name ----

job "declared twice, implemented elsewhere, an op of its own" '
    gcc -std=c99 $WARN_C -I"$ROOT" "$T/parts.c" "$T/parts_nn.c" "$T/parts_op.c" -o parts && ./parts'
job "three private copies" '
    gcc -std=c99 $WARN_C -DCOPY=copy_c -I"$ROOT" -c "$T/copy.c" -o c.o &&
    gcc -std=c99 $WARN_C -DCOPY=copy_plain -DNN_NO_SIMD -I"$ROOT" -c "$T/copy.c" -o plain.o &&
    g++ -x c++ -std=c++11 $WARN -DCOPY=copy_cpp -I"$ROOT" -c "$T/copy.c" -o cpp.o &&
    gcc -std=c99 $WARN_C "$T/copies.c" c.o plain.o cpp.o -o copies && ./copies'
job "NN_HEADER" '
    mkdir -p include/deep && cp "$ROOT/nn.h" include/deep/neural.h &&
    gcc -std=c99 $WARN_C "-DNN_HEADER=\"deep/neural.h\"" -Iinclude "$T/renamed.c" -o renamed &&
    ./renamed'

# ---- fast-math ----

for flag in -ffast-math -Ofast -ffinite-math-only -freciprocal-math -funsafe-math-optimizations; do
    job "gcc $flag is refused" "
        gcc $flag -std=c99 -DNN_IMPLEMENTATION -x c -fsyntax-only \"\$ROOT/nn.h\" 2>said && exit 1
        grep '#error .nn.h: -ffast-math' said"
done
if needs clang clang; then
    job "clang -ffast-math is refused" '
        clang -ffast-math -std=c99 -DNN_IMPLEMENTATION -x c -fsyntax-only "$ROOT/nn.h" 2>said &&
            exit 1
        grep "nn.h: -ffast-math" said'
    for flag in "-fassociative-math -fno-signed-zeros -fno-trapping-math" -freciprocal-math; do
        job "clang $flag is seen at run time" "
            clang $flag -std=c99 -O2 -I\"\$ROOT\" \"\$T/fastmath.c\" -o fastmath && ./fastmath"
    done
fi

# ---- examples: the command on top of each, with warnings ----

for file in examples/*.c; do
    job "$file" '
        file='"$file"'
        ln -s "$ROOT/nn.h" "$ROOT/examples" .
        command=$(sed -n "s/^ *\(cc -O2 -o .* examples\/.*\)/\1/p" "$file" | head -n 1)
        test -n "$command" || exit 1
        case $file in
        */digits.c | */text.c) command=${command%%&&*} ;; # make demo runs one, the other needs data
        */w3_*)                                # a folder of black images, all of class 0
            mkdir FOLDER && head -c $((3073 * 32)) /dev/zero >FOLDER/data_batch_1.bin &&
            cp FOLDER/data_batch_1.bin FOLDER/test_batch.bin ;;
        esac
        cc() { gcc -std=c99 -Wall -Wextra -Werror "$@"; }
        eval "$command" || exit 1
        command -v clang >/dev/null || exit 0
        clang -std=c99 -Wall -Wextra -Werror -I. "$file" -o clang'
done

# ---- valgrind ----

needs valgrind valgrind && job valgrind '
    gcc -g -O1 -std=c99 -I"$ROOT" "$T/everything.c" -o all &&
    valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=all ./all'

# ---- the text ----

for what in functions conditionals; do
    job "nn.h: $what" 'awk -v check='$what' -f "$T/style.awk" "$ROOT/nn.h"'
done
job "nn.h: lines" 'awk -v check=lines -f "$T/style.awk" "$ROOT/nn.h"'
job "other files: lines" '
    cd "$ROOT" || exit 1
    find examples/ tests/ tools/ -name "*.[ch]" -o -name "*.sh" -o -name "*.py" -o -name "*.awk" |
        xargs awk -v check=lines -f "$T/style.awk"'
job "everything.c calls every public function" '
    awk "/^ +Part 3:/ { exit } /^NNDEF / && match(\$0, /nn_[a-z_]+\(/) {
        print substr(\$0, RSTART, RLENGTH - 1) }" "$ROOT/nn.h" >names
    test $(wc -l <names) -ge 40 || exit 1
    while read -r name; do
        grep -q "[^a-z_]$name[(,]" "$T/everything.c" || { echo "not called: $name"; exit 1; }
    done <names'
job "floats are written exactly" '
    gcc -fpreprocessed -dD -E -P "$ROOT/nn.h" 2>/dev/null | sed "s/\"[^\"]*\"//g" |
        grep -oE "(^|[^A-Za-z0-9_.])[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?f" | grep -oE "[0-9].*f" |
        sort -u >literals
    test $(wc -l <literals) -gt 20 || exit 1
    {
        echo "#include <stdio.h>"
        echo "int main(void) { int bad = 0;"
        sed "s/\(.*\)f/    if ((double)\1f != \1) bad = puts(\"\1f is not a float\");/" literals
        echo "return bad != 0; }"
    } >exact.c
    gcc -std=c99 exact.c -o exact && ./exact'

# ---- run them ----

find "$dir" -name job | sort | xargs -P 2 -I FILE sh -c 'sh FILE >FILE.log 2>&1 && : >FILE.ok'
passed=0 failed=$skipped
for file in "$dir"/*/job; do
    [ -f "$file" ] || continue
    if [ -f "$file.ok" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$(sed -n '1s/^# //p' "$file")"
        head -n 20 "$file.log" | sed 's/^/    /'
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
