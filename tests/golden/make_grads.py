"""Writes grads.safetensors: what every case of cases.txt must give, for test_grads.c.

    python tests/golden/make_grads.py        needs numpy and safetensors; a minute

For a case NAME the file holds, as float32:

    NAME/seed                 of the values below; the first whose values keep away from kinks
    NAME/out                  outputs, in training
    NAME/loss  NAME/dx        loss, and its derivative by the samples, laid out as the caller's; ids
                              have none
    NAME/grad/TENSOR          its derivative by every parameter
  and where the case has a batchnorm row, which then normalises by its batch:
    NAME/moved/TENSOR         running statistics after the update
    NAME/infer                outputs by running statistics
    NAME/frozen/...           loss, dx and grad when every row but the batchnorm rows trains, if any

Derivatives are central differences in float64: no rule for a derivative is written here that could
share a mistake with the C code. Their own error is about 1e-9 of the loss.
"""

import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file, save_file
from numpy_reference import Net

HERE = pathlib.Path(__file__).parent
STEP = 2.0 ** -20    # of the differences
MARGIN = 2.0 ** -10  # of every value from a kink: far above STEP and above the errors of float32


# The generator of ../test.h: it gives the same numbers, bit for bit, so that no file holds them.

X, TARGET, FIRST_TENSOR = 0, 1, 3  # streams


def mix(h):
    h = (h ^ h >> 16) * np.uint32(0x85EBCA6B)
    h = (h ^ h >> 13) * np.uint32(0xC2B2AE35)
    return h ^ h >> 16


def hashes(seed, stream, shape):
    """32 bits an element."""
    key = mix(mix(np.array([seed], np.uint32)) + np.uint32(stream))
    return mix(key + np.arange(np.prod(shape), dtype=np.uint32)).reshape(shape)


def floats(seed, stream, shape, amplitude=1.0, center=0.0):
    """center - amplitude to center + amplitude in steps of amplitude / 2^19: nothing rounds."""
    return ((hashes(seed, stream, shape) >> 12) / 2.0 ** 19 - 1) * amplitude + center


def ints(seed, stream, shape, below):
    return (hashes(seed, stream, shape) >> 8).astype(np.int64) * below >> 24


def initial(seed, stream, name, shape):
    """The value of a tensor; a row's outputs get about the size of its inputs."""
    if len(shape) > 1:
        amplitude = 1.0
        while amplitude * amplitude * np.prod(shape[1:]) > 4:
            amplitude /= 2
        return floats(seed, stream, shape, amplitude)
    return floats(seed, stream, shape, 0.5, 1 if name.endswith(("weight", "running_var")) else 0)


def samples(seed, rows, batch):
    row = rows[0]
    shape = [batch] + row.ints("shape", [0])
    if row.word("type") == "i32":  # ids that every table has
        return ints(seed, X, shape, min(int(r.word("vocab")) for r in rows if r.word("vocab")))
    if row.word("type") == "u8":
        return ints(seed, X, shape, 256).astype(np.float64)
    return floats(seed, X, shape)


def targets(seed, loss, y):
    if loss == "ce":
        return ints(seed, TARGET, y.shape[:-1], y.shape[-1])
    if loss == "bce":
        return floats(seed, TARGET, y.shape, 0.5, 0.5)
    return floats(seed, TARGET, y.shape)


def differences(value, f):
    """Central differences of f() by every element of the array value, which it puts back."""
    result = np.empty_like(value)
    for at in np.ndindex(value.shape):
        was = value[at]
        value[at] = was + STEP
        above = f()
        value[at] = was - STEP
        result[at] = (above - f()) / (2 * STEP)
        value[at] = was
    return result


class Case:
    """A line of the table and its values for one seed."""

    def __init__(self, line, seed):
        parts = [part.strip() for part in line.split("|")]
        self.name, batch, self.loss_kind, text = parts[:4]
        self.lengths = [int(length) for length in parts[4].split(",")] if parts[4:] else None
        assert self.lengths is None or len(self.lengths) == int(batch), line
        self.net, self.seed, self.tensors = Net(text), seed, {}
        self.norms = [row.name for row in self.net.rows if row.op == "batchnorm"]
        self.x = samples(seed, self.net.rows, int(batch))
        self.y = self.forward(True)
        self.margin = self.net.margin
        if self.norms:
            self.inferred = self.forward(False)
            self.margin = min(self.margin, self.net.margin)
        self.target = targets(seed, self.loss_kind, self.y)

    def param(self, name, shape):
        if name not in self.tensors:
            stream = FIRST_TENSOR + len(self.tensors)
            self.tensors[name] = initial(self.seed, stream, name, shape)
        return self.tensors[name]

    def forward(self, training):
        return self.net.forward(self.x, self.param, training, self.lengths)

    def derivatives(self, training):
        """loss, dx and grad/TENSOR for every tensor that trains."""
        def f():
            return self.net.loss(self.loss_kind, self.forward(training), self.target)

        found = {"loss": np.array([f()])}
        if self.net.rows[0].word("type") != "i32":
            found["dx"] = differences(self.x, f)
        for name, value in self.tensors.items():
            if ".running_" not in name and (training or name.rsplit(".", 1)[0] not in self.norms):
                found["grad/" + name] = differences(value, f)
        return found

    def expected(self):
        found = {"seed": np.array([self.seed]), "out": self.y, **self.derivatives(True)}
        if self.norms:
            found["infer"] = self.inferred
            frozen = self.derivatives(False)
            if any(key.startswith("grad/") for key in frozen):
                found.update(("frozen/" + key, value) for key, value in frozen.items())
            self.forward(True)
            for row in self.norms:
                names = row + ".running_mean", row + ".running_var"
                moved = self.net.moved(row, *(self.tensors[name] for name in names))
                found.update(("moved/" + name, value) for name, value in zip(names, moved))
        return {self.name + "/" + key: value.astype(np.float32) for key, value in found.items()}


def cases():
    """The lines of the table, continuation lines joined."""
    lines = []
    for line in (HERE / "cases.txt").read_text().splitlines():
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        elif line and not line.startswith("#"):
            lines.append(line)
    return lines


def check(found):
    """The file's values against ones made anew: libraries may differ in the last bits."""
    have = load_file(HERE / "grads.safetensors")
    wrong = [key for key in set(found) ^ set(have)]
    for key in set(found) & set(have):
        scale = max(float(np.max(np.abs(have[key]))), 1e-3) if have[key].size else 1.0
        same = found[key].shape == have[key].shape
        if not same or np.max(np.abs(found[key] - have[key])) > 1e-5 * scale:
            wrong.append(key)
    for key in sorted(wrong):
        print("FAILED: %s is not what the script makes" % key)
    print("%d passed, %d failed" % (len(found) - len(wrong), len(wrong)))
    sys.exit(1 if wrong else 0)


def main():
    found = {}
    for line in cases():
        seed = 1
        while Case(line, seed).margin < MARGIN:
            seed += 1
        found.update(Case(line, seed).expected())
    if "--check" in sys.argv[1:]:
        check(found)
        return
    save_file(found, HERE / "grads.safetensors")
    print("%d cases, %d values" % (len(cases()), sum(value.size for value in found.values())))


if __name__ == "__main__":
    main()
