#!/usr/bin/env python3
"""make size: what nn.h costs on a small target.

Builds the probes of tests/firmware for Cortex-M4F and for the host, runs the former under QEMU,
checks that both print the same outputs, losses and block sizes bit for bit, and prints flash by
section of nn.h, RAM, stack and instructions. Then checks that nn_memory's table is the same on
every machine that there is a compiler and an emulator for. A missing tool is "skipped: needs
PACKAGE", with STRICT=1 a failure.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIRMWARE = os.path.join(ROOT, "tests", "firmware")
BUILD = os.path.join(ROOT, "build", "size")
CC = os.environ.get("CC", "cc")
ARM = "arm-none-eabi-"

C99 = ["-std=c99", "-Wall", "-Wextra", "-pedantic"]
LINK = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections",
        "-T", os.path.join(FIRMWARE, "cm.ld")]
CPUS = {  # compiler's flags, QEMU's machine, KiB of RAM
    "M4F": (["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"], "mps2-an386", 128),
    "M3": (["-mcpu=cortex-m3", "-mfloat-abi=soft"], "mps2-an385", 128),
    "M0": (["-mcpu=cortex-m0", "-mfloat-abi=soft"], "microbit", 16),
}
MACHINES = [  # name, compiler's prefix, user-mode emulator
    ("32-bit ARM", "arm-linux-gnueabihf", "qemu-arm"),
    ("aarch64", "aarch64-linux-gnu", "qemu-aarch64"),
    ("s390x, big-endian", "s390x-linux-gnu", "qemu-s390x"),
]

# name, probe, source of the model, what trains, fuse_update, how it is built
ROWS, FILE, PLAN = 0, 1, 2  # probe.h's PROBE_SOURCE
BOTH = [("M4F", "-Os"), ("M4F", "-O2")]
SMALL = [("M3", "-Os"), ("M0", "-Os")]
PROGRAMS = [
    ("W1 inference, const plan", "w1", PLAN, None, 0, BOTH + SMALL),
    ("W1 inference, rows", "w1", ROWS, None, 0, BOTH + SMALL),
    ("W1 inference, file", "w1", FILE, None, 0, BOTH[:1]),
    ("W1 SGD fused, rows", "w1", ROWS, "*", 1, BOTH + SMALL),
    ("W1 SGD buffered, rows", "w1", ROWS, "*", 0, BOTH),
    ("W3 inference, rows", "w3", ROWS, None, 0, BOTH),
    ("W3 inference, file", "w3", FILE, None, 0, BOTH[:1]),
    ("W3 SGD on the head, rows", "w3", ROWS, "dense2", 0, BOTH[:1]),
]
OPS = {"w1": "NN_INPUT,NN_DENSE",
       "w3": "NN_INPUT,NN_CONV2D,NN_MAXPOOL2D,NN_FLATTEN,NN_DENSE"}

# Where code belongs, by the >>anchor of nn.h under which its line stands. An op's part of planning
# is told by its name, because it stands with the op.
GROUPS = [
    ("kernels", "math dispatch vector transcendental gemm elementwise updates stamps"),
    ("ops", "ops losses optim"),
    ("run", "platform util random run debug"),
    ("planner", "fields rows plan data"),
    ("text", "text"),
    ("file", "file"),
    ("fit", "fit"),
]
PLANNER_NAME = re.compile(r"^nn__\w+_(shape|plan)$")
DOUBLE = re.compile(r"__aeabi_(d(add|sub|rsub|mul|div|cmp|2)|(f|i|ui|l|ul)2d)")
OTHERS = ["rows table", "C library", "strings, gaps"]

passed, failed, skipped = [], [], []


def check(ok, text):
    (passed if ok else failed).append(text)
    if not ok:
        print("FAILED: " + text)


def skip(what, package):
    skipped.append(what)
    print(f"{what}: skipped: needs {package}")


def has(tool, what, package):
    if shutil.which(tool):
        return True
    skip(what, package)
    return False


def path(name):
    return os.path.join(BUILD, name)


def source(name):
    return os.path.join(FIRMWARE, name)


def run(command, **options):
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=300, **options)
    if done.returncode != 0:
        sys.stdout.write(done.stdout.decode())
        raise SystemExit(f"exit status {done.returncode}: {' '.join(command)}")
    return done.stdout


def quiet(command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          timeout=60).returncode


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|---" + "|--:" * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(f"{c:,}" if isinstance(c, int) else str(c) for c in row) + " |")
    print()


# --- building and running -------------------------------------------------------------------------

def make_data(probe):
    """Writes a probe's model file, and its weights in row order, with a source of both for the
    assembler; returns their sizes as flags."""
    image = run([path("make_model"), probe])
    length = int.from_bytes(image[:8], "little")
    header = json.loads(image[8:8 + length])
    names = [n for n in header if n != "__metadata__"]
    weights = b""
    # Convolutions stand before dense rows in these models, so that rows sort by name.
    for name in sorted(names, key=lambda n: (n.split(".")[0], n.endswith("bias"))):
        begin, end = header[name]["data_offsets"]
        weights += image[8 + length + begin:8 + length + end]
    with open(path(probe + "_data.s"), "w") as f:
        for name, content in (("weights", weights), ("file", image)):
            with open(path(f"{probe}_{name}"), "wb") as blob:
                blob.write(content)
            f.write(f".section .rodata.{name},\"a\"\n.balign 64\n.global probe_{name}\n"
                    f".type probe_{name}, %object\n.size probe_{name}, {len(content)}\n"
                    f'probe_{name}: .incbin "{path(probe + "_" + name)}"\n')
    return [f"-DPROBE_WEIGHTS_BYTES={len(weights)}", f"-DPROBE_FILE_BYTES={len(image)}"]


def compiler(cpu):
    if cpu == "host":
        return [CC] + C99
    return [ARM + "gcc"] + C99 + CPUS[cpu][0] + [
        "-mthumb", "-ffunction-sections", "-fdata-sections"]


def library(cpu, level, probe, model, train):
    """(object, command) of the library for a program. One serves many where only what nobody asks
    for makes the difference; for the flash that is told, it is the program's own."""
    flags = ["-g", level, "-DNN_NO_LIBC"]
    if (cpu, level) != BOTH[0]:
        probe, model, train, flags[0] = "w3", ROWS, True, "-g0"
    planned = "_planned" if model == PLAN else ""
    output = path(f"nn_{cpu}{level}_{probe}{'_train' if train else ''}{planned}.o")
    if not train:
        flags.append("-DNN_NO_TRAIN")
    if planned:
        flags.append("-DNN_NO_PLANNER")
    return output, compiler(cpu) + flags + ["-DNN_OPS=" + OPS[probe], "-c", source("library.c"),
                                            "-o", output]


def compile_libraries():
    """Compiles each that is needed, and one for the host that has malloc to plan in."""
    wanted = [library(cpu, level, probe, model, train)
              for _, probe, model, train, _, builds in PROGRAMS
              for cpu, level in builds + [("host", "-O0")]]
    wanted.append((path("nn_malloc.o"), compiler("host") + [
        "-O0", "-c", source("library.c"), "-o", path("nn_malloc.o")]))
    commands = dict(wanted)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands.values()))


def link(cpu, output, flags, sources):
    if cpu == "host":
        run(compiler(cpu) + flags + sources
            + [source("rt_host.c"), "-Wl,-z,noexecstack", "-o", output])
    else:
        ram = f"-Wl,--defsym=rt_ram={CPUS[cpu][2]}K"
        run(compiler(cpu) + ["-g"] + flags + LINK + [ram] + sources
            + [source("rt_cm.c"), "-o", output])


def results(text):
    return dict(line.split(" ", 1) for line in text.decode().splitlines() if " " in line)


def qemu(cpu):
    return ["qemu-system-arm", "-M", CPUS[cpu][1], "-nographic", "-monitor", "none", "-serial",
            "null", "-semihosting-config", "enable=on,target=native"]


def find_plugin(empty):
    """Builds the instruction counter for the plugin interface of this QEMU; None: it has none."""
    for api in range(1, 6):
        plugin = path("insn.so")
        run([CC, "-O2", "-shared", "-fPIC", f"-DINSN_API={api}", source("insn.c"), "-o", plugin])
        if quiet(qemu("M4F") + ["-plugin", plugin, "-kernel", empty]) == 0:
            return plugin
    return None


def emulate(cpu, elf, plugin):
    """What the image prints, and the instructions between each pair of marks."""
    command, log = qemu(cpu) + ["-kernel", elf], elf + ".counts"
    if plugin:
        mark = next(s for s in symbols(elf) if s[0] == "rt_mark")[1]
        command += ["-plugin", f"{plugin},mark={mark:#x}", "-d", "plugin", "-D", log]
    printed = results(run(command, stderr=subprocess.STDOUT))  # semihosting writes there
    if not plugin:
        return printed, []
    with open(log) as f:
        counts = [int(line) for line in f]
    # Odd entries lie inside a pair; the first pair is empty: what marking costs.
    return printed, [n - counts[1] for n in counts[3::2]]


# --- flash by section of nn.h ---------------------------------------------------------------------

def symbols(elf):
    """(name, address, size, type, file, line) of everything with an address."""
    found = {}
    for line in run([ARM + "nm", "-S", "-l", "--defined-only", elf]).decode().splitlines():
        m = re.match(r"^(\w{8}) (\w{8} )?(\w) (\S+)(?:\t(.*):(\d+))?$", line)
        if m:
            # One of several names of a place, with its size if any has one.
            key = (int(m[1], 16) & ~1, bool(m[2]))
            found.setdefault(key, (m[4], int(m[1], 16), int(m[2] or "0", 16), m[3],
                                   os.path.basename(m[5] or ""), int(m[6] or "0")))
    # Entry points into the middle of a function are symbols too: none reaches into the next.
    order = sorted((s for s in found.values() if s[2]), key=lambda s: s[1] & ~1)
    clipped = [s[:2] + (min(s[2], (after[1] & ~1) - (s[1] & ~1)),) + s[3:]
               for s, after in zip(order, order[1:])]
    return clipped + order[-1:] + [s for s in found.values() if not s[2]]


def line_table(elf):
    """{address of a function: [(address, file, line)...]} from the debug information."""
    runs, rows = {}, []
    for line in run([ARM + "objdump", "--dwarf=decodedline", elf]).decode().splitlines():
        m = re.match(r"^(\S+)\s+(\d+|-)\s+(0x[0-9a-f]+|0)\b", line)
        if not m:
            continue
        if m[2] == "-":
            runs[rows[0][0] if rows else 0] = rows
            rows = []
        else:
            rows.append((int(m[3], 16), m[1], int(m[2])))
    runs.pop(0, None)  # functions that the linker dropped
    return runs


def anchors():
    """The lines of nn.h at which its sections begin: [(line, anchor)...]."""
    with open(os.path.join(ROOT, "nn.h")) as f:
        return [(i, m[1]) for i, text in enumerate(f, 1)
                if (m := re.match(r"^/\* >>(\w+)", text))]


def group_of(file, line, name, sections):
    if file != "nn.h":
        return None
    if PLANNER_NAME.match(name):
        return "planner"
    anchor = [a for at, a in sections if at <= line][-1:]
    for group, members in GROUPS:
        if anchor and anchor[0] in members.split():
            return group
    raise SystemExit(f"tools/size.py: no group for {name}, nn.h:{line}")


def flash_bytes(elf):
    sizes = run([ARM + "size", "-A", elf]).decode()
    return sum(int(n) for n in re.findall(r"^\.(?:text|data)\s+(\d+)", sizes, re.M))


def ram_of_library(elf):
    """Names of what nn.h and the C library keep in RAM outside the model and its block."""
    return [name for name, _, size, kind, file, _ in symbols(elf)
            if kind in "bBdDC" and size and file != "rt_cm.c" and not file.startswith("probe")]


def flash_by_group(elf, empty):
    """Flash beyond the empty image, without model data and probe: bytes in all, and by group."""
    sections, lines = anchors(), line_table(elf)
    shares = {name: 0 for name in [g for g, _ in GROUPS] + OTHERS}
    total = flash_bytes(elf) - flash_bytes(empty)
    for name, address, size, kind, file, line in symbols(elf):
        if kind not in "tTrRdDW" or size == 0 or file == "rt_cm.c":
            continue
        if file.startswith("probe") or name in ("probe_weights", "probe_file"):
            total -= size
        elif file == "models.h":
            shares["rows table"] += size
        elif kind in "tTW" and address in lines:
            # Inlined code counts where it was written. A name tells more than a line only for the
            # function's own section.
            rows = lines[address] + [(address + size, "", 0)]
            for (at, row_file, row_line), (end, _, _) in zip(rows, rows[1:]):
                if row_file.startswith("probe"):
                    total -= end - at
                else:
                    shares[group_of(row_file, row_line, name, sections) or "C library"] += end - at
        else:
            shares[group_of(file, line, name, sections) or "C library"] += size
    shares["strings, gaps"] = total - sum(shares.values())
    return total, shares


# --- the two reports ------------------------------------------------------------------------------

def measure(program, data, plugin):
    """Runs a program on the host, and as PROGRAMS says on Cortex-M, where it must print the same.
    Returns {(cpu, level): (image, printed, instructions)} and the block where malloc plans."""
    name, probe, model, train, fuse, builds = program
    sources = [source(f"probe_{probe}.c"), path(f"{probe}_data.s")]
    flags = data[probe] + ["-I" + BUILD]
    if train:
        flags += [f'-DPROBE_TRAIN="{train}"', f"-DPROBE_FUSE={fuse}"]
    stem = path(re.sub(r"\W+", "_", name))
    # A const plan must give on Cortex-M what the rows give on the host.
    on_host = flags + [f"-DPROBE_SOURCE={ROWS if model == PLAN else model}"]
    link("host", stem, on_host, sources + [library("host", "-O0", probe, ROWS, train)[0]])
    host = results(run([stem]))
    link("host", stem, on_host, sources + [path("nn_malloc.o")])
    least = int(results(run([stem]))["block"])
    flags.append(f"-DPROBE_SOURCE={model}")
    if model == PLAN:
        del host["block"]
    else:  # the target's block has exactly the bytes that the plan on the host asked for
        flags.append(f"-DPROBE_MEMORY={host['block']}")
    measured = {}
    for cpu, level in builds:
        elf = f"{stem}_{cpu}{level}.elf"
        link(cpu, elf, flags + [level], sources + [library(cpu, level, probe, model, train)[0]])
        printed, counts = emulate(cpu, elf, plugin)
        for key in ("block", "output", "loss", "trained-output"):
            if key in host:
                check(printed.get(key) == host[key], f"{name}, {cpu} {level}: {key} is "
                      f"{printed.get(key)}, on the host {host[key]}")
        check(not ram_of_library(elf), f"{name}, {cpu} {level}: in RAM beside the block: "
              f"{ram_of_library(elf)}")
        slow = [s[0] for s in symbols(elf) if DOUBLE.match(s[0])]
        check(not slow, f"{name}, {cpu} {level}: double arithmetic: {slow}")
        measured[cpu, level] = elf, printed, counts
    return measured, least


def firmware():
    what = "Cortex-M"
    if not has(ARM + "gcc", what, "gcc-arm-none-eabi"):
        return
    if quiet([ARM + "gcc", "--specs=nano.specs", "-E", "-include", "string.h", "-xc", os.devnull]):
        return skip(what, "libnewlib-arm-none-eabi")
    if not has("qemu-system-arm", what, "qemu-system-arm"):
        return
    empty = path("empty.elf")
    link("M4F", empty, ["-Os"], [source("empty.c")])
    plugin = find_plugin(empty)
    if plugin is None:
        skip("instructions", "a QEMU with TCG plugins")
    run([CC] + C99 + ["-O0", source("make_model.c"), "-o", path("make_model")])
    data = {probe: make_data(probe) for probe in OPS}
    with open(path("w1_plan.h"), "wb") as f:
        f.write(run([path("make_model"), "w1", "plan"]))
    compile_libraries()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = list(pool.map(lambda program: measure(program, data, plugin), PROGRAMS))

    flash, memories, counts = [], [], []
    for (name, *_), (builds, least) in zip(PROGRAMS, measured):
        elf, printed, _ = builds[BOTH[0]]
        total, shares = flash_by_group(elf, empty)
        building = shares["planner"] + shares["text"] + shares["file"]
        flash.append([name, total, total - building] + list(shares.values()))
        block, model = int(printed["block"]), int(printed["model"])
        least = min(least, block)
        memories.append([name, block, least, model, block + model, least + model])
        for cpu, level in [("M4F", "-Os"), ("M0", "-Os")]:
            _, printed, _ = builds.get((cpu, level), (None, {}, None))
            memories[-1] += [printed.get("stack-" + call, "-")
                             for call in ("build", "infer", "train")]
        counts.append([name])
        for build in BOTH + SMALL:
            calls = builds.get(build, (None, None, []))[2]
            counts[-1] += (calls + ["-"] * 3)[0 if build == BOTH[0] else 1:3]

    print("Flash on Cortex-M4F at -Os in bytes, beyond an empty program and without weights and\n"
          "file, by section of nn.h. rows: nn_build from a table, weights in flash. file: nn_load\n"
          "from an image in flash. const plan: the planner's tables in flash, too.\n")
    table(["program", "total", "without planner, text, file"] + [g for g, _ in GROUPS] + OTHERS,
          flash)
    print("RAM in bytes (not the caller's input), and stack of a call in bytes at -Os. block:\n"
          "where planning happens in the block; least: where it happened elsewhere, as with "
          "malloc.\n")
    table(["program", "block", "least", "model", "block + model", "least + model",
           "M4F stack: build", "infer", "train", "M0 stack: build", "infer", "train"], memories)
    print("Instructions (not cycles) of a call for one sample, under QEMU.\n")
    table(["program", "M4F -Os: build", "infer", "train", "M4F -O2: infer", "train",
           "M3 -Os: infer", "train", "M0 -Os: infer", "train"], counts)


def memory():
    """nn_memory's table on every machine; the host's is the one to agree with."""
    run([CC] + C99 + ["-O0", source("probe_memory.c"), "-o", path("probe_memory")])
    expected = run([path("probe_memory"), "--markdown"])
    print("nn_memory, in bytes\n")
    print(expected.decode())
    for name, prefix, emulator in MACHINES:
        if not has(prefix + "-gcc", name, "gcc-" + prefix) or not has(emulator, name, "qemu-user"):
            continue
        run([prefix + "-gcc"] + C99 + ["-O0", "-static", source("probe_memory.c"),
                                       "-o", path(prefix)])
        check(run([emulator, path(prefix), "--markdown"]) == expected,
              f"{name}: nn_memory differs from the host's")


def main():
    os.makedirs(BUILD, exist_ok=True)
    firmware()
    memory()
    if os.environ.get("STRICT") == "1":
        failed.extend(skipped)
    print(f"{len(passed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
