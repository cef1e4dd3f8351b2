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
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIRMWARE = os.path.join(ROOT, "tests", "firmware")
BUILD = os.path.join(ROOT, "build", "size")
CC = os.environ.get("CC", "cc")
ARM = "arm-none-eabi-"

C99 = ["-std=c99", "-Wall", "-Wextra", "-pedantic"]
M4F = ["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-mthumb", "-g",
       "-ffunction-sections", "-fdata-sections"]
M4F_LINK = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections",
            "-T", os.path.join(FIRMWARE, "cm.ld")]
QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none",
        "-serial", "null", "-semihosting-config", "enable=on,target=native"]
MACHINES = [  # name, compiler's prefix, user-mode emulator
    ("32-bit ARM", "arm-linux-gnueabihf", "qemu-arm"),
    ("aarch64", "aarch64-linux-gnu", "qemu-aarch64"),
    ("s390x, big-endian", "s390x-linux-gnu", "qemu-s390x"),
]

# name, probe, what trains, fuse_update
PROGRAMS = [
    ("W1 inference", "w1", None, 0),
    ("W1, SGD, fused", "w1", "*", 1),
    ("W1, SGD, buffered", "w1", "*", 0),
    ("W3 inference", "w3", None, 0),
    ("W3, SGD on the head", "w3", "dense2", 0),
]
SOURCES = [("rows", 0), ("file", 1)]

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
OTHERS = ["rows table", "C library", "strings, gaps"]

failures, skips = [], []


def fail(text):
    failures.append(text)
    print("FAILED: " + text)


def skip(what, package):
    skips.append(what)
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


# --- model data -----------------------------------------------------------------------------------

def make_data(probe):
    """Writes a probe's model file, and its weights in row order, as C; returns their sizes."""
    image = run([path("make_model"), probe])
    (length,) = struct.unpack_from("<Q", image)
    header = json.loads(image[8:8 + length])
    names = [n for n in header if n != "__metadata__"]
    weights = []
    # Convolutions stand before dense rows in these models, so that rows sort by name.
    for name in sorted(names, key=lambda n: (n.split(".")[0], n.endswith("bias"))):
        begin, end = header[name]["data_offsets"]
        weights += struct.unpack_from(f"<{(end - begin) // 4}I", image, 8 + length + begin)
    with open(path(probe + "_data.c"), "w") as f:
        f.write("#include <stdint.h>\n"
                f"extern const uint32_t probe_weights[{len(weights)}];\n"
                f"extern const unsigned char probe_file[{len(image)}];\n"
                "const uint32_t probe_weights[] = {" + ",".join(map(hex, weights)) + "};\n"
                "__attribute__((aligned(64))) const unsigned char probe_file[] = {"
                + ",".join(map(str, image)) + "};\n")
    return 4 * len(weights), len(image)


# --- building and running -------------------------------------------------------------------------

def compile_m4f(output, sources, flags):
    run([ARM + "gcc"] + C99 + M4F + flags + M4F_LINK + sources
        + [source("rt_cm.c"), "-o", output])


def results(text):
    return dict(line.split(" ", 1) for line in text.decode().splitlines() if " " in line)


def find_plugin(empty):
    """Builds the instruction counter for the plugin interface of this QEMU; None: it has none."""
    for api in range(1, 6):
        plugin = path("insn.so")
        run([CC, "-O2", "-shared", "-fPIC", f"-DINSN_API={api}", source("insn.c"), "-o", plugin])
        if quiet(QEMU + ["-plugin", plugin, "-kernel", empty]) == 0:
            return plugin
    return None


def emulate(elf, plugin):
    """What the image prints, and the instructions between each pair of marks."""
    command, log = QEMU + ["-kernel", elf], path("counts.txt")
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
    found = []
    for line in run([ARM + "nm", "-S", "-l", "--defined-only", elf]).decode().splitlines():
        m = re.match(r"^(\w{8}) (\w{8} )?(\w) (\S+)(?:\t(.*):(\d+))?$", line)
        if m:
            found.append((m[4], int(m[1], 16), int(m[2] or "0", 16), m[3],
                          os.path.basename(m[5] or ""), int(m[6] or "0")))
    return found


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
        if file.startswith("probe") or re.match(r"w[13]_data\.c$", file):
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

def measure(label, probe, flags, plugin):
    """Runs a probe on the host, and at -Os and -O2 on the target, where it must print the same."""
    sources = [source(f"probe_{probe}.c"), path(f"{probe}_data.c")]
    run([CC] + C99 + ["-O1"] + flags + sources + [source("rt_host.c"), "-o", path("probe")])
    host = results(run([path("probe")]))
    # The target's block has exactly the bytes that the plan on the host asked for.
    flags = flags + [f"-DPROBE_MEMORY={host['block']}"]
    images, printed, counts = {}, {}, {}
    for level in ("-Os", "-O2"):
        images[level] = path(f"{label.replace(' ', '_').replace(',', '')}{level}.elf")
        compile_m4f(images[level], sources, flags + [level])
        printed[level], counts[level] = emulate(images[level], plugin)
        for key in ("block", "output", "loss", "trained-output"):
            here, there = host.get(key), printed[level].get(key)
            if here != there:
                fail(f"{label} {level}: {key} is {there}, on the host {here}")
        if ram_of_library(images[level]):
            fail(f"{label} {level}: in RAM beside the block: {ram_of_library(images[level])}")
    build, infer, train = (["-", "-"] if n >= len(counts["-Os"]) else
                           [counts["-Os"][n], counts["-O2"][n]] for n in range(3))
    return images["-Os"], printed["-Os"], build[:1] + infer + train


def firmware():
    what = "Cortex-M4F"
    if not has(ARM + "gcc", what, "gcc-arm-none-eabi"):
        return
    if quiet([ARM + "gcc", "--specs=nano.specs", "-E", "-include", "string.h", "-xc", os.devnull]):
        return skip(what, "libnewlib-arm-none-eabi")
    if not has("qemu-system-arm", what, "qemu-system-arm"):
        return
    empty = path("empty.elf")
    compile_m4f(empty, [source("empty.c")], ["-Os"])
    plugin = find_plugin(empty)
    if plugin is None:
        skip("instructions", "a QEMU with TCG plugins")
    run([CC] + C99 + ["-O1", source("make_model.c"), "-o", path("make_model")])
    sizes = {probe: make_data(probe) for probe in ("w1", "w3")}

    flash, running = [], []
    groups = [group for group, _ in GROUPS] + OTHERS
    for name, probe, train, fuse in PROGRAMS:
        for kind, is_file in SOURCES:
            flags = [f"-DPROBE_FILE={is_file}", f"-DPROBE_WEIGHTS_BYTES={sizes[probe][0]}",
                     f"-DPROBE_FILE_BYTES={sizes[probe][1]}"]
            if train:
                flags += [f'-DPROBE_TRAIN="{train}"', f"-DPROBE_FUSE={fuse}"]
            label = f"{name}, {kind}"
            elf, printed, counts = measure(label, probe, flags, plugin)
            total, shares = flash_by_group(elf, empty)
            building = shares["planner"] + shares["text"] + shares["file"]
            flash.append([label, total, total - building] + [shares[g] for g in groups])
            block, model = int(printed["block"]), int(printed["model"])
            stack = [printed.get("stack-" + call, "-") for call in ("build", "infer", "train")]
            running.append([label, block, model, block + model] + stack + counts)

    print("Flash on Cortex-M4F at -Os in bytes, beyond an empty program and without weights and\n"
          "file, by section of nn.h. rows: nn_build from a table, weights in flash. file: nn_load\n"
          "from an image in flash.\n")
    table(["program", "total", "without planner, text, file"] + groups, flash)
    print("RAM in bytes (block and model; not the caller's input), stack of a call in bytes at\n"
          "-Os, and instructions (not cycles) of a call for one sample, under QEMU.\n")
    table(["program", "block", "model", "RAM", "stack: build", "infer", "train",
           "instructions: build -Os", "infer -Os", "infer -O2", "train -Os", "train -O2"], running)
    if not failures:
        print("Outputs, losses and block sizes: the same bits as on the host.\n")


def memory():
    """nn_memory's table on every machine; the host's is the one to agree with."""
    run([CC] + C99 + ["-O1", source("probe_memory.c"), "-o", path("probe_memory")])
    expected = run([path("probe_memory"), "--markdown"])
    print("nn_memory, in bytes\n")
    print(expected.decode())
    for name, prefix, emulator in MACHINES:
        if not has(prefix + "-gcc", name, "gcc-" + prefix) or not has(emulator, name, "qemu-user"):
            continue
        run([prefix + "-gcc"] + C99 + ["-O1", "-static", source("probe_memory.c"),
                                       "-o", path(prefix)])
        if run([emulator, path(prefix), "--markdown"]) == expected:
            print(f"{name}: the same bytes")
        else:
            fail(f"{name}: nn_memory differs from the host's")


def main():
    os.makedirs(BUILD, exist_ok=True)
    firmware()
    memory()
    return 1 if failures or (skips and os.environ.get("STRICT") == "1") else 0


if __name__ == "__main__":
    sys.exit(main())
