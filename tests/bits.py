#!/usr/bin/env python3
"""The same bits everywhere: builds test_bits.c with several compilers, flags and machines, runs it
(other machines under emulation) and asserts that all of them print the same digests.

A tool that is missing is "skipped: needs PACKAGE", with STRICT=1 a failure. The last line is
"N passed, N failed". A word as argument takes only the builds whose names contain it; the first one
that runs is what the others are compared with.
"""
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join("build", "bits")  # in ROOT
TIMEOUT = 300  # seconds for one build or run

STRICT_C = "-std=c99 -Wall -Wextra"
LOOSE_C = "-std=gnu11 -ffp-contract=fast -march=native"  # a compiler that may fuse what it likes
STATIC = "-std=c99 -O1 -static"  # the emulator then needs no libraries of the other machine

BUILDS = [  # command, emulator (None: do not run), Debian packages
    (f"gcc -O0 {STRICT_C}", "", "gcc"),
    (f"gcc -O3 {STRICT_C}", "", "gcc"),
    (f"gcc -O0 {LOOSE_C}", "", "gcc"),
    (f"gcc -O3 {LOOSE_C}", "", "gcc"),
    (f"clang -O0 {STRICT_C}", "", "clang"),
    (f"clang -O3 {STRICT_C}", "", "clang"),
    (f"clang -O0 {LOOSE_C}", "", "clang"),
    (f"clang -O3 {LOOSE_C}", "", "clang"),
    ("g++ -O1 -std=c++11 -Wall -Wextra -x c++", "", "g++"),
    (f"aarch64-linux-gnu-gcc {STATIC}", "qemu-aarch64",
     "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"),
    (f"s390x-linux-gnu-gcc {STATIC}", "qemu-s390x",
     "gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user"),
    (f"arm-linux-gnueabihf-gcc -mfpu=vfpv4 {STATIC}", "qemu-arm",
     "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user"),
    # without the fused instruction: emulated
    (f"arm-linux-gnueabihf-gcc -mfpu=vfpv3-d16 {STATIC}", "qemu-arm",
     "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user"),
    ("x86_64-w64-mingw32-gcc -O1 -std=c99 -Wall -Wextra", None, "gcc-mingw-w64-x86-64"),
]


def run(command):
    """What it prints, or raises SystemExit with that."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{' '.join(command)}: not done after {TIMEOUT} s") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{text}")
    return text


def build_and_run(number):
    """The lines to compare; [] where nothing runs; None where a tool is missing; else a string that
    says what went wrong."""
    command, emulator, _ = BUILDS[number]
    words = command.split()
    if not shutil.which(words[0]) or (emulator and not shutil.which(emulator)):
        return None
    program = os.path.join(BUILD, f"bits{number}")
    try:
        said = run(words + ["-I.", os.path.join("tests", "test_bits.c"), "-o", program, "-lm"])
        if said:
            return f"warnings:\n{said}"
        if emulator is None:
            return []
        text = run(([emulator] if emulator else []) + [os.path.join(ROOT, program)])
    except SystemExit as error:
        return str(error)
    if not re.search(r"\n[1-9]\d* passed, 0 failed\n$", text):
        return text
    return [line for line in text.splitlines() if line.startswith(("digest ", "memory "))]


def main():
    os.makedirs(os.path.join(ROOT, BUILD), exist_ok=True)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    numbers = [i for i, b in enumerate(BUILDS) if word in b[0]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(build_and_run, numbers))
    reference, passed, failed = None, 0, 0
    for number, lines in zip(numbers, results):
        command, emulator, package = BUILDS[number]
        name = f"{command}{', ' + emulator if emulator else ''}"
        if lines is None:
            print(f"skipped: needs {package} ({name})")
            failed += os.environ.get("STRICT") == "1"
        elif isinstance(lines, str):
            print(f"{name}: {lines}")
            failed += 1
        elif emulator is None:
            print(f"compiles  {name}")
            passed += 1
        elif not lines or (reference and lines != reference):
            different = [f"  {a}\n  here {b}" for a, b in zip(reference or [], lines) if a != b]
            print(f"differs   {name}")
            print("\n".join(different[:4]) or "  prints other lines")
            failed += 1
        else:
            if reference is None:
                print("\n".join(lines))
                reference = lines
            print(f"same      {name}")
            passed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
