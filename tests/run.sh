#!/bin/sh
# Runs test programs and adds up their last lines, "N passed, N failed".
#     sh tests/run.sh build/test_a build/test_b ...
# A program that ends otherwise, or with a status that its line does not explain, is one failure.

passed=0 failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for program; do
    $program >"$log" 2>&1
    status=$?
    line=$(tail -n 1 "$log" | grep -E '^[0-9]+ passed, [0-9]+ failed$')
    p=${line%% *} f=${line#*, } f=${f%% *}
    if [ -z "$line" ] || { [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; }; then
        p=0 f=1 line="ended with status $status"
    fi
    [ "$f" -eq 0 ] || cat "$log"
    grep '^skipped' "$log"
    printf '%-32s %s\n' "$program" "$line"
    passed=$((passed + p)) failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
