#!/usr/bin/env python3
"""Builds and runs the programs that README.md and nn.h's manual show.

    python3 tests/readme.py [README]

Every ```c block of README.md that has a main is a program. What it may take stands right before it:

    <!-- program: NAME, at most 28 lines, 10 names, with -DNN_NO_LIBC -->

Lines are those that are not blank; names are those of the library, nn_... and NN_...; with: flags
of the compiler. Lines are required, the rest is not. The programs run in the order of the file and
in one folder, so that one finds what another saved; each must end with status 0 and, when a ```text
block follows it, print that. Between them, ```sh blocks right behind <!-- command --> are run.

The quickstart of the manual is built as C99 and, in its text form, as C++11; it must learn XOR.

The last line is "N passed, N failed". A missing compiler skips; with STRICT=1 that is a failure.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ["train", "fine-tune", "firmware"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
BLOCK = re.compile(r"(?:<!--([^\n]*)-->\n+)?^```(\w*)\n(.*?)^```$", re.M | re.S)
LIMITS = re.compile(r"program: ([\w-]+), at most (\d+) lines(?:, (\d+) names)?(?:, with (\S.*))?")

QUICKSTART = """
#define NN_IMPLEMENTATION
#include "nn.h"

int main(void) {
    static const float x[4][2] = { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 } }, y[4] = { 0, 1, 1, 0 };
    float out[4];
%s
    return !(out[0] < 0.25f && out[1] > 0.75f && out[2] > 0.75f && out[3] < 0.25f);
}
"""
OPTIONS = """
    nn_opts o = nn_opts();
    o.batch = 4;
    o.train = "*";
    o.loss = NN_BCE;
    o.optimizer = NN_ADAM;
    o.lr = 0.05f;
    nn_model m;
"""

passed = failed = 0


def check(what, ok, detail=""):
    """Counts, and says what is wrong."""
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {what}")
        if detail:
            print("    " + detail.strip().replace("\n", "\n    "))
    return ok


def needs(tool, package):
    """Is the tool there? If not, says so."""
    global failed
    if shutil.which(tool):
        return True
    print(f"skipped: needs {package}")
    failed += os.environ.get("STRICT") == "1"
    return False


def run(what, command, folder):
    """Runs a command that must succeed; what it printed, or None."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        check(what, False, "takes longer than two minutes")
        return None
    said = f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout if check(what, done.returncode == 0, said) else None


def build_and_run(name, source, folder, compiler, suffix=".c"):
    """What the program printed, or None."""
    (folder / (name + suffix)).write_text(source)
    command = [*compiler, *WARNINGS, f"-I{ROOT}", name + suffix, "-o", name]
    if run(f"{name} builds", command, folder) is None:
        return None
    return run(f"{name} runs", [str(folder / name)], folder)


def check_readme(path, folder):
    found = []
    blocks = list(BLOCK.finditer(path.read_text()))
    for number, block in enumerate(blocks):
        comment, language, code = (block[1] or "").strip(), block[2], block[3]
        if language == "sh" and comment == "command":
            run(f"the command {code.splitlines()[0]} ...", ["sh", "-ec", code], folder)
        if language != "c" or not re.search(r"\bint main\b", code):
            continue
        limits = LIMITS.fullmatch(comment)
        if not check("a program's limits stand right before it", limits, code):
            continue
        name, lines, names, flags = limits.groups()
        found.append(name)
        count = sum(1 for line in code.splitlines() if line.strip())
        check(f"{name} has at most {lines} lines", count <= int(lines), f"{count} lines")
        if names:
            used = sorted(set(re.findall(r"\b(?:nn|NN)_\w+", code)))
            check(f"{name} has at most {names} names", len(used) <= int(names), " ".join(used))
        printed = build_and_run(name, code, folder, ["gcc", "-std=c99", *(flags or "").split()])
        follower = blocks[number + 1] if number + 1 < len(blocks) else None
        if printed is not None and follower and follower[2] == "text":
            check(f"{name} prints what is shown", printed == follower[3], printed)
    check(f"{path.name} shows {', '.join(EXPECTED)}", found == EXPECTED, f"found {found}")
    table = re.search(r"<!-- table: make memory -->\n((?:\|.*\n)+)", path.read_text())
    source = ROOT / "tests" / "firmware" / "probe_memory.c"
    build = ["gcc", str(source), "-o", "memory"]
    if run("the memory table's program builds", build, folder) is not None:
        printed = run("it runs", [str(folder / "memory"), "--markdown"], folder)
        check("the memory table is what make memory prints", table and printed and
              table[1].strip() == printed.strip(), printed or "")


def check_quickstart(folder):
    manual = (ROOT / "nn.h").read_text()
    part = re.search(r">>quickstart -.*?\n(.*?)>>manual -", manual, re.S)
    code = re.findall(r"(?:^ {7,}\S.*\n)+", part[1], re.M) if part else []
    if not check("the quickstart is a program and its text form", len(code) == 2, f"{code}"):
        return
    program, text = code
    after = re.search(r"nn_build\(.*\n", program)
    if not check("the quickstart builds a model", after):
        return
    build_and_run("quickstart", QUICKSTART % program, folder, ["gcc", "-std=c99"])
    if needs("g++", "g++"):
        text_form = OPTIONS + text + program[after.end():]
        source = QUICKSTART % text_form
        build_and_run("quickstart-text", source, folder, ["g++", "-std=c++11"], ".cc")


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "README.md"
    if needs("gcc", "gcc"):
        with tempfile.TemporaryDirectory() as folder:
            if check(f"{path.name} exists", path.exists()):
                check_readme(path, Path(folder))
            check_quickstart(Path(folder))
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
