"""A model between its source and its file: rows, tensors, and what was refused on the way."""

import re
import struct
from dataclasses import dataclass, field

import numpy as np

NAME = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9._/-]{0,126}\Z")


class Error(Exception):
    """One sentence for the user; no traceback is shown."""


class Refused(Error):
    """Layers that nn.h cannot express: all of them, as (layer, reason, hint or "")."""

    def __init__(self, layers):
        self.layers = list(layers)
        super().__init__("\n".join(f"{name}: {reason}" + (f" ({hint})" if hint else "")
                                   for name, reason, hint in self.layers))


@dataclass
class Row:
    """One row of nn_layer. fields holds what is not zero there: numbers, tuples, or the names of
    type, order and act, all as the text of rows spells them."""

    op: str
    name: str
    inputs: list = field(default_factory=list)  # names of rows; [] for input
    fields: dict = field(default_factory=dict)
    share: str = ""


@dataclass
class Model:
    """rows in order, each input before its reader; tensors by name ("conv1.weight"), float32, in
    PyTorch's shapes; training: the text of nn.train and the tensors opt.* of a train file; notes:
    sentences for the user about what the conversion decided."""

    rows: list = field(default_factory=list)
    tensors: dict = field(default_factory=dict)
    training: str = ""
    source: str = ""  # nn.src: what it was made from, and the source's own names where they differ
    samples: list = field(default_factory=list)  # of (input, output) of the source framework
    notes: list = field(default_factory=list)

    def row(self, name):
        return next(r for r in self.rows if r.name == name)

    def add(self, op, name, inputs=None, **fields):
        """Appends a row that reads the last one (or inputs); returns its name."""
        if inputs is None:
            inputs = [self.rows[-1].name] if self.rows else []
        kept = {k: v for k, v in fields.items() if not is_default(v)}
        self.rows.append(Row(op, name, list(inputs), kept))
        return name


def is_default(value):
    """Does the field's zero say the same?"""
    if isinstance(value, (tuple, list)):
        return all(is_default(v) for v in value)
    return value in (0, None, False, "", "linear", "f32", "hwc")


def real(value):
    """A real as the text of rows has it: x and the eight hex digits of its float32 bits."""
    return "x%08x" % struct.unpack("<I", struct.pack("<f", np.float32(value)))


def rows_text(rows):
    """The rows as nn.graph stores them. C's planner reads it and rewrites it canonically."""
    def value(v):
        if isinstance(v, (tuple, list)):
            return ",".join(value(each) for each in v)
        if isinstance(v, (bool, np.bool_)):
            return str(int(v))
        if isinstance(v, (float, np.floating)):
            return real(v)
        return str(v)

    text = ["1"]
    for row in rows:
        if not NAME.match(row.name):
            raise Error(f'"{row.name}" cannot be the name of a row')
        words = [row.op, row.name, ",".join(row.inputs) or "-"]
        words += [f"share={row.share}"] * bool(row.share)
        words += [f"{key}={value(v)}" for key, v in row.fields.items()]
        text.append(" ".join(words))
    return ";".join(text)


def unique(name, taken):
    """A valid row name near name that is not taken; taken is a set, and gets it."""
    name = re.sub(r"[^A-Za-z0-9._/-]", "_", name).lstrip("-")[:120] or "row"
    if name.startswith(("opt.", "aux.")):
        name = "_" + name
    result, count = name, 2
    while result in taken:
        result, count = f"{name}_{count}", count + 1
    taken.add(result)
    return result


# --------------------------------------------------------------------------------------------------
# Rows read back, and their canonical form

REALS = {"scale", "mean", "std", "slope", "eps", "momentum", "rate", "lr"}
TUPLES = {"shape", "mean", "std", "kernel", "stride", "dilation", "pad"}
FIELDS = (  # in the order of nn.h's table
    "shape type order scale mean std units act slope kernel stride dilation pad groups no_bias eps "
    "momentum biased rate count_pad vocab pad_id mask sparse layers bidirectional last one_bias "
    "reset_before lr no_decay").split()
RECURRENT = {"lstm": 4, "gru": 3, "rnn": 1}  # gates
SUFFIXES = {"dense": ["weight", "bias"], "conv2d": ["weight", "bias"],
            "conv1d": ["weight", "bias"], "embedding": ["weight"],
            "batchnorm": ["weight", "bias", "running_mean", "running_var"]}


def parse_value(key, text):
    """A value of a field: a number, a name, or a tuple of numbers."""
    def one(word):
        if re.fullmatch(r"x[0-9a-f]{8}", word):
            return struct.unpack("<f", struct.pack("<I", int(word[1:], 16)))[0]
        if key in ("type", "order", "act"):
            return word
        try:
            return float(word) if key in REALS else int(word)
        except ValueError:
            raise Error(f"{key}={text[:40]} is no value for {key}") from None

    values = tuple(one(word) for word in text.split(","))
    if len(values) > 1 and key not in TUPLES:
        raise Error(f"{key} takes one value, not {text[:40]}")
    return values if key in TUPLES else values[0]


def parse_rows(text):
    """Rows from their text, joined by ';' as nn.h has it, or, without any ';', one a line. What
    stands behind a # is a comment."""
    text = re.sub(r"#[^\n]*", "", text)
    rows = []
    for line in text.split(";" if ";" in text else "\n"):
        words = line.split()
        if not words or (not rows and words == ["1"]):
            continue
        if len(words) < 3:
            raise Error(f'"{line.strip()[:60]}" is no row: op name input key=value ...')
        row = Row(words[0], words[1], [] if words[2] == "-" else words[2].split(","))
        for word in words[3:]:
            key, equals, value = word.partition("=")
            if not equals or key in row.fields:
                raise Error(f'row {row.name}: "{word[:40]}" is no key=value, or stands twice')
            if key == "share":
                row.share = value
            elif key in FIELDS:
                row.fields[key] = parse_value(key, value)
            elif not key.startswith("_"):
                raise Error(f"row {row.name}: no field is called {key[:40]}")
        rows.append(row)
    if not rows:
        raise Error("there are no rows")
    return rows


def canonical(rows):
    """The same rows with fields as nn.h writes them: in its order, without trailing zeros."""
    def trimmed(key, value):
        values = list(value) if isinstance(value, (tuple, list)) else [value]
        while len(values) > 1 and is_default(values[-1]):
            values.pop()
        values = [float(v) if key in REALS else v for v in values]
        return tuple(values) if key in TUPLES else values[0]

    result = []
    for row in rows:
        fields = {key: trimmed(key, row.fields[key]) for key in FIELDS
                  if not is_default(row.fields.get(key))}
        strange = set(row.fields) - set(FIELDS)
        if strange:
            raise Error(f"row {row.name}: no field is called {min(strange)}")
        result.append(Row(row.op, row.name, row.inputs, fields, row.share))
    return result


def tensor_names(row):
    """The tensors a row may have, in the order of a file (it lacks some with no_bias or share)."""
    if row.op not in RECURRENT:
        names = SUFFIXES.get(row.op, [])
        return [f"{row.name}.{n}" for n in names if n != "bias" or not row.fields.get("no_bias")]
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    kinds = kinds[:2 if row.fields.get("no_bias") else 3 if row.fields.get("one_bias") else 4]
    ways = ["", "_reverse"] if row.fields.get("bidirectional") else [""]
    return [f"{row.name}.{kind}_l{layer}{way}" for layer in range(row.fields.get("layers") or 1)
            for way in ways for kind in kinds]
