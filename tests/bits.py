#!/usr/bin/env python3
"""The same bits everywhere: builds test_bits.c, and firmware/bits.c for microcontrollers, with
several compilers, flags and machines, runs them (other machines under emulation) and asserts that
all builds of a program print the same digests.

A tool that is missing is "skipped: needs PACKAGE", with STRICT=1 a failure. The last line is
"N passed, N failed". A word as argument takes only the builds whose names contain it; of a program,
the first one that runs is what the others are compared with.
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
LOOSE_C = "-std=gnu11 -ffp-contract=fast"  # a compiler that may fuse what it likes
NATIVE = f"{LOOSE_C} -march=native"
# Without the stamps that a compiler offers, what stands around the kernels takes other paths, too.
PLAIN = "-DNN_NO_SIMD"
STATIC = "-static"  # the emulator then needs no libraries of the other machine
ONCE = f"-DWAYS=0 {STATIC}"  # what other ways there are, a faster build has shown
AARCH64 = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
S390X = "gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user"
ARM = "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user"

# command, emulator (None: do not run), Debian packages; slow ones first, so that none is left alone
HOSTED = [
    (f"gcc -O0 {STRICT_C}", "", "gcc"),
    # without the fused instruction: emulated in integers
    (f"arm-linux-gnueabihf-gcc -mfpu=vfpv3-d16 -O2 {STRICT_C} {ONCE}", "qemu-arm", ARM),
    (f"aarch64-linux-gnu-gcc -O1 {STRICT_C} {STATIC}", "qemu-aarch64", AARCH64),
    (f"clang --target=aarch64-linux-gnu -O3 {LOOSE_C} {ONCE}", "qemu-aarch64", "clang " + AARCH64),
    (f"aarch64-linux-gnu-gcc -O3 {LOOSE_C} {PLAIN} {ONCE}", "qemu-aarch64", AARCH64),
    (f"s390x-linux-gnu-gcc -O1 {STRICT_C} {ONCE}", "qemu-s390x", S390X),
    (f"clang --target=s390x-linux-gnu -O2 {STRICT_C} {ONCE}", "qemu-s390x", "clang " + S390X),
    (f"arm-linux-gnueabihf-gcc -mfpu=vfpv4 -O2 {STRICT_C} {ONCE}", "qemu-arm", ARM),
    (f"gcc -O3 {STRICT_C}", "", "gcc"),
    (f"gcc -O0 {NATIVE}", "", "gcc"),
    (f"gcc -O3 {NATIVE}", "", "gcc"),
    (f"gcc -O2 {STRICT_C} {PLAIN}", "", "gcc"),
    (f"gcc -O3 {NATIVE} {PLAIN}", "", "gcc"),
    (f"clang -O0 {STRICT_C}", "", "clang"),
    (f"clang -O3 {STRICT_C}", "", "clang"),
    (f"clang -O0 {NATIVE}", "", "clang"),
    (f"clang -O3 {NATIVE}", "", "clang"),
    (f"clang -O3 {NATIVE} {PLAIN}", "", "clang"),
    ("g++ -O1 -std=c++11 -Wall -Wextra -x c++", "", "g++"),
    ("clang++ -O2 -std=gnu++17 -Wall -Wextra -x c++", "", "clang"),
    ("x86_64-w64-mingw32-gcc -O1 -std=c99 -Wall -Wextra", None, "gcc-mingw-w64-x86-64"),
]

M4F = "-mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard"
M0 = "-mcpu=cortex-m0 -mfloat-abi=soft"
GCC_M = "arm-none-eabi-gcc -mthumb -ffunction-sections"
# -fshort-enums: as gcc does for this target, whose libraries the linker compares
CLANG_M = "clang --target=arm-none-eabi -mthumb -ffunction-sections -fshort-enums"
CORTEX = "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
QEMU_M = "qemu-system-arm -nographic -monitor none -serial null " \
         "-semihosting-config enable=on,target=native"
BARE = [
    (f"gcc -O1 {STRICT_C}", "", "gcc"),
    (f"gcc -O3 {NATIVE} {PLAIN}", "", "gcc"),
    (f"{GCC_M} {M4F} -Os {STRICT_C}", f"{QEMU_M} -M mps2-an386 -kernel", CORTEX),
    (f"{GCC_M} {M4F} -O3 {LOOSE_C}", f"{QEMU_M} -M mps2-an386 -kernel", CORTEX),
    (f"{GCC_M} {M4F} -O0 {STRICT_C}", f"{QEMU_M} -M mps2-an386 -kernel", CORTEX),
    (f"{CLANG_M} {M4F} -Os {STRICT_C}", f"{QEMU_M} -M mps2-an386 -kernel", "clang " + CORTEX),
    (f"{GCC_M} {M0} -Os {STRICT_C}", f"{QEMU_M} -M microbit -kernel", CORTEX),
    (f"{CLANG_M} {M0} -O2 {LOOSE_C}", f"{QEMU_M} -M microbit -kernel", "clang " + CORTEX),
]


def run(command):
    """What it prints, or raises SystemExit with that."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{' '.join(command)}: not done after {TIMEOUT} s") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{text}")
    return text


def test(name):
    return os.path.join("tests", name)


def hosted_build(command, _, program):
    return run(command.split() + ["-I.", test("test_bits.c"), "-o", program, "-lm"])


def hosted_lines(text):
    if not re.search(r"\n[1-9]\d* passed, 0 failed\n$", text):
        raise SystemExit(text)
    return [line for line in text.splitlines()
            if line.startswith(("kernels: ", "digest ", "memory "))]


def bare_build(command, emulator, program):
    """Everything is linked by gcc, which finds its libraries."""
    bare, objects, said = emulator != "", [], ""
    for source in ["bits.c", "rt_cm.c" if bare else "rt_host.c"]:
        objects.append(f"{program}_{source}.o")
        said += run(command.split() + ["-c", test(f"firmware/{source}"), "-o", objects[-1]])
    link = ["gcc"]
    if bare:
        cpu = [word for word in command.split() if word.startswith("-m")]
        ram = 16 if "microbit" in emulator else 128
        link = ["arm-none-eabi-gcc", *cpu, "-nostartfiles", "--specs=nano.specs",
                "-Wl,--gc-sections,-z,noexecstack", f"-Wl,--defsym=rt_ram={ram}K",
                "-T", test("firmware/cm.ld")]
    return said + run(link + objects + ["-o", program])


def bare_lines(text):
    if "\nsubnormals 0\n" not in text:
        raise SystemExit(text)
    return [""] + text.splitlines()


def has_tools(command, emulator, packages):
    tools = [command.split()[0]] + (emulator.split()[:1] if emulator else [])
    tools += [p[4:] + "-gcc" for p in packages.split() if p.startswith("gcc-") and "-linux" in p]
    if "libnewlib" in packages:
        tools.append("arm-none-eabi-gcc")
    if not all(shutil.which(tool) for tool in tools):
        return False
    nano = ["arm-none-eabi-gcc", "--specs=nano.specs", "-E", "-xc", os.devnull]
    return "libnewlib" not in packages or subprocess.run(nano, stdout=subprocess.DEVNULL,
                                                         stderr=subprocess.DEVNULL).returncode == 0


def build_and_run(job):
    """The kernels that ran, and the lines to compare; [] where nothing runs; None where a tool is
    missing; else a string that says what went wrong."""
    program, build, lines_of, (command, emulator, packages) = job
    if not has_tools(command, emulator, packages):
        return None
    try:
        said = build(command, emulator, program)
        if said:
            return f"warnings:\n{said}"
        if emulator is None:
            return []
        return lines_of(run(emulator.split() + [os.path.join(ROOT, program)]))
    except SystemExit as error:
        return str(error)


def compare(jobs, results):
    """Prints a line for each build of a program; returns how many passed and failed."""
    reference, passed, failed = None, 0, 0
    for (_, _, _, (command, emulator, packages)), lines in zip(jobs, results):
        name = command + (f", {emulator.split()[0]}" if emulator else "")
        if lines is None:
            print(f"skipped: needs {packages} ({name})")
            failed += os.environ.get("STRICT") == "1"
        elif isinstance(lines, str):
            print(f"{name}: {lines}")
            failed += 1
        elif emulator is None:
            print(f"compiles  {name}")
            passed += 1
        elif len(lines) < 2 or (reference and lines[1:] != reference):
            different = [f"  {a}\n  here {b}" for a, b in zip(reference or [], lines[1:]) if a != b]
            print(f"differs   {name}")
            print("\n".join(different[:4]) or "  prints other lines")
            failed += 1
        else:
            if reference is None:
                reference = lines[1:]
                print("\n".join(reference))
            print("same      " + name + (f", {lines[0]}" if lines[0] else ""))
            passed += 1
    return passed, failed


def main():
    os.makedirs(os.path.join(ROOT, BUILD), exist_ok=True)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    jobs = []
    for kind, build, lines_of, builds in [("hosted", hosted_build, hosted_lines, HOSTED),
                                          ("bare", bare_build, bare_lines, BARE)]:
        jobs.append([(os.path.join(BUILD, f"{kind}{i}"), build, lines_of, b)
                     for i, b in enumerate(builds) if word in b[0]])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(build_and_run, jobs[0] + jobs[1]))
    counts = [compare(jobs[0], results[:len(jobs[0])]), compare(jobs[1], results[len(jobs[0]):])]
    passed, failed = (sum(both) for both in zip(*counts))
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
