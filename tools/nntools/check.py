"""The check of a conversion: samples with the source's outputs, stored beside the model, against
what C computes."""

import os

import numpy as np

from . import file, reference
from .engine import Engine
from .model import Error, Model, Row

TOLERANCE = 1e-5  # of the largest output
ROW_MOST = 1 << 16  # elements kept of a row's output


def beside(path):
    return os.path.splitext(path)[0] + ".test.safetensors"


def inputs_for(model, count, seed):
    """Random samples as the input row takes them; planes where it says order=chw."""
    row, rng = model.rows[0], np.random.default_rng(seed)
    shape = [n for n in row.fields["shape"] if n]
    if row.fields.get("order") == "chw":
        shape = [shape[-1], *shape[:-1]]
    kind = row.fields.get("type", "f32")
    if kind == "i32":
        vocab = min((r.fields["vocab"] for r in model.rows if r.op == "embedding"), default=1)
        return rng.integers(0, vocab, (count, *shape), np.int32)
    if kind == "u8":
        return rng.integers(0, 256, (count, *shape), np.uint8)
    return rng.standard_normal((count, *shape), np.float32)


def channels_last(model, x):
    """Samples as reference() of a front end takes them."""
    if model.rows[0].fields.get("order") == "chw":
        return np.ascontiguousarray(np.moveaxis(x, 1, -1))
    return x


def last_output(model, x):
    with np.errstate(invalid="ignore", over="ignore"):  # finish() says it in a sentence
        for _, y in reference.outputs(model, x):
            pass
    return y.astype(np.float32)


def deviation(got, wanted):
    """The largest difference, of the largest magnitude wanted; inf where one is not finite."""
    got, wanted = np.asarray(got, np.float64).ravel(), np.asarray(wanted, np.float64).ravel()
    if got.shape != wanted.shape or not np.array_equal(np.isnan(got), np.isnan(wanted)):
        return float("inf")
    with np.errstate(invalid="ignore"):
        off = np.where(got == wanted, 0, np.abs(got - wanted))
    largest = np.nanmax(np.abs(wanted), initial=0)
    if not np.nan_to_num(off, nan=0).any():
        return 0.0
    return float(np.nanmax(off) / largest) if 0 < largest < np.inf else float("inf")


def tests_of(model, x, y):
    """The tensors of a test file: samples, outputs, and the rows' outputs for the first sample."""
    tests = {"input": x, "output": np.ascontiguousarray(y, np.float32)}
    for row, out in reference.outputs(model, x[:1]):
        if row.op != "input":
            tests["row/" + row.name] = out.ravel()[:ROW_MOST].astype(np.float32)
    return tests


def up_to(model, name):
    """The model of the rows that a row needs, with no tensors shared: as a net of its own."""
    needed, head = {name}, Model()
    for row in reversed(model.rows):
        if row.name in needed:
            needed.update(row.inputs)
            head.rows.insert(0, Row(row.op, row.name, row.inputs, row.fields))
    for row in head.rows:
        own = reference.own_tensors(model, model.row(row.name))
        head.tensors.update({f"{row.name}.{suffix}": v for suffix, v in own.items()})
    return head


def row_outputs(model, x):
    """(row, C's output) of every row behind the input for samples x."""
    engine = Engine()
    for row in model.rows[1:]:
        yield row, engine.load(file.write_model(up_to(model, row.name))).infer(x)


def first_wrong_row(model, tests, tolerance):
    """The first row whose output in C is not the stored one: (name, deviation), or None."""
    x = tests["input"][:1]
    for row, y in row_outputs(model, x):
        wanted = tests.get("row/" + row.name)
        if wanted is None:
            continue
        off = deviation(y.ravel()[:ROW_MOST], wanted)
        if off > tolerance:
            return row.name, off
    return None


def run(net, image, tests, what, tolerance=TOLERANCE):
    """Runs C, the net of this image, on the samples; the deviation, which must be small."""
    if not {"input", "output"} <= set(tests):
        raise Error(f"the tests of {what} hold no input and output")
    off = deviation(net.infer(tests["input"]), tests["output"])
    if off <= tolerance:
        return off
    wrong = first_wrong_row(file.parse_model(image, what), tests, tolerance)
    where = f"; the first row that differs is {wrong[0]}, by {wrong[1]:.2g} of its largest" \
        if wrong else f"; no row differs from NumPy's by more than {tolerance:g}"
    raise Error(f"{what}: C's outputs differ from the source's by {off:.2g} of the largest{where}")
