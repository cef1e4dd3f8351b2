# style.awk - looks at the text of C files; prints what is wrong and then exits with 1
#
#     awk -v check=CHECK -f style.awk FILE...
#
#     lines         over 100 columns, not printable ASCII, a tab, a space at the end, work left over
#     functions     in front of the kernels: none over 120 lines
#     conditionals  in front of the kernels: no #if inside the body of a function
#
# A function begins at the last line in column 1 before "{" ends a line, and ends with "}" in
# column 1.

function wrong(line, text) {
    print FILENAME ":" line ": " text
    errors++
}

FNR == 1 { kernels = inside = start = 0 }
/^ +Part 4: kernels/ { kernels = 1 }

check == "lines" {
    seen++
    if (length($0) > 100) wrong(FNR, length($0) " columns")
    if (/[^ -~]/) wrong(FNR, "a tab, or not ASCII")
    if (/ $/) wrong(FNR, "a space at the end")
    if (/TO[D]O|FIX[M]E/) wrong(FNR, "left over: " $0)
    next
}

kernels { next }
/^[A-Za-z_]/ && !inside { start = FNR }
/\) \{$/ && !inside && start { inside = 1 }
inside && check == "conditionals" && /^ *# *(if|el|endif)/ { wrong(FNR, $0) }
inside && /^\}/ {
    seen++
    if (check == "functions" && FNR - start + 1 > 120) wrong(start, FNR - start + 1 " lines")
    inside = start = 0
}

END {
    if (!seen) wrong(0, "nothing to check")
    exit errors > 0
}
