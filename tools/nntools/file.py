"""Model files (>>format in nn.h) and any other .safetensors. Files are hostile: every size is
checked before it is used, and an error is one sentence."""

import json
import os
import zlib

import numpy as np

from .model import Error, Model, canonical, parse_rows, rows_text, tensor_names

HEADER_MAX = 1 << 20        # of a model file
FOREIGN_HEADER_MAX = 100_000_000  # of a .safetensors file: what the reference library takes
CRC_AT = 37                 # of the eight digits
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
          "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
          "BOOL": "?"}
HALVES = {"f16": "F16", "bf16": "BF16"}


def write_atomically(path, content):
    """The whole file or none: PATH.tmp, then rename."""
    if os.path.exists(path) and not os.path.isfile(path):  # root would replace /dev/null
        raise Error(f"{path} cannot be written: it is no regular file")
    part = path + ".tmp"
    try:
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as reason:
        if os.path.exists(part):
            os.remove(part)
        raise Error(f"{path} cannot be written: {reason.strerror}") from None


def read_bytes(path, most=1 << 40):
    """A file's content."""
    try:
        if os.path.getsize(path) > most:
            raise Error(f"{path} is larger than {most} bytes")
        with open(path, "rb") as f:
            return f.read()
    except OSError as reason:
        raise Error(f"{path} cannot be read: {reason.strerror}") from None


def no_twins(pairs):
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError("a key stands twice")
    return dict(pairs)


def parse_header(content, what):
    """The JSON of a .safetensors file, and where its data begins."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8 or size > FOREIGN_HEADER_MAX:
        raise Error(f"{what} is no .safetensors file, or is cut off: its header does not fit")
    try:
        header = json.loads(content[8:8 + size].decode(), object_pairs_hook=no_twins)
    except (ValueError, RecursionError):
        raise Error(f"{what} is damaged: its header is not the JSON of a .safetensors file"
                    ) from None
    if not isinstance(header, dict):
        raise Error(f"{what} is damaged: its header is no object")
    return header, 8 + size


def whole(values):
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def read_tensor(entry, data, what):
    """One tensor: floats as float32, integers as they are; and where its bytes end."""
    fine = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}
    fine = fine and whole(entry["shape"]) and whole(entry["data_offsets"])
    if not fine or len(entry["data_offsets"]) != 2 or len(entry["shape"]) > 64:
        raise Error(f"{what} is damaged: its entry is wrong")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise Error(f"{what} is of type {str(entry['dtype'])[:20]}, which cannot be read")
    begin, end = entry["data_offsets"]
    size = np.dtype(dtype).itemsize
    for n in entry["shape"]:
        size *= n
    if not begin <= end <= len(data) or end - begin != size:
        raise Error(f"{what} is damaged: its bytes do not fit its shape")
    values = np.frombuffer(data[begin:end], dtype)
    if entry["dtype"] == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    elif entry["dtype"] in ("F64", "F16"):
        with np.errstate(over="ignore"):
            values = values.astype("<f4")
    return values.reshape(entry["shape"]), begin, end


def parse_safetensors(content, what):
    """(metadata, tensors by name) of a .safetensors file's bytes."""
    header, start = parse_header(content, what)
    meta = header.pop("__metadata__", {})
    if not isinstance(meta, dict) or not all(isinstance(v, str) for v in meta.values()):
        raise Error(f"{what} is damaged: its metadata is wrong")
    if any(key.startswith("nn.") for key in meta):
        check_crc(content, what)
    data, spans, tensors = memoryview(content)[start:], [], {}
    for name, entry in header.items():
        tensors[name], begin, end = read_tensor(entry, data, f"{what}: tensor {name[:80]}")
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise Error(f"{what} is damaged: its tensors overlap or leave a hole")
        at = end
    if at != len(data):
        raise Error(f"{what} is damaged: it does not end with its last tensor")
    return meta, tensors


def crc_of(content):
    crc = zlib.crc32(content[:CRC_AT])
    crc = zlib.crc32(b"00000000", crc)
    return b"%08x" % zlib.crc32(memoryview(content)[CRC_AT + 8:], crc)


def check_crc(content, what):
    if content[8:CRC_AT] != b'{"__metadata__":{"nn.crc32":"' or \
            content[CRC_AT:CRC_AT + 8] != crc_of(content):
        raise Error(f"{what} is damaged: its checksum is wrong")


def read_safetensors(path):
    """(metadata, tensors by name) of a .safetensors file."""
    return parse_safetensors(read_bytes(path), path)


def parse_model(content, what):
    """The Model of a model file's bytes."""
    meta, tensors = parse_safetensors(content, what)
    if "nn.graph" not in meta:
        raise Error(f"{what} holds no rows: it is a plain state dict, not a model file")
    if meta.get("nn.version", "").split(".")[0] != "1" or meta.get("nn.req"):
        raise Error(f"{what} needs a newer reader")
    return Model(parse_rows(meta["nn.graph"]), tensors, meta.get("nn.train", ""),
                 meta.get("nn.src", ""))


def read_model(path):
    return parse_model(read_bytes(path), path)


def printable(text):
    """What metadata of a model file may hold."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text)


def encoded(values, half):
    """(dtype, array) as stored."""
    values = np.asarray(values, order="C")  # not ascontiguousarray, which knows no scalars
    if values.dtype.kind != "f":
        names = {np.dtype(text): name for name, text in DTYPES.items() if name != "BF16"}
        return names[values.dtype.newbyteorder("<")], values
    values = values.astype("<f4", copy=False)
    if half == "f16":
        with np.errstate(over="ignore"):
            return "F16", values.astype("<f2")
    if half == "bf16":  # to nearest, ties to even; a NaN stays one
        bits = values.view("<u4").astype("<u8")
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return "BF16", np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype("<u2")
    return "F32", values


def safetensors(meta, tensors, names=None, half=None):
    """Bytes of a .safetensors file; tensors in the order of names. half: "f16" or "bf16"."""
    names = list(tensors) if names is None else names
    stored = {}
    for name in names:
        state = name.startswith("opt.") or np.ndim(tensors[name]) < 2
        stored[name] = encoded(tensors[name], None if state else half)
    alignment = {name: min(a.nbytes & -a.nbytes, 64) or 64 for name, (_, a) in stored.items()}
    names.sort(key=lambda name: -alignment[name])  # stable: rows' order within
    header, at = {"__metadata__": meta} if meta else {}, 0
    for name in names:
        dtype, values = stored[name]
        header[name] = {"dtype": dtype, "shape": list(values.shape),
                        "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return b"".join([len(text).to_bytes(8, "little"), text,
                     *(memoryview(stored[name][1]).cast("B") if stored[name][1].size else b""
                       for name in names)])


def in_order(model):
    """Names of the tensors as a file has them before it sorts by alignment."""
    rows = [name for row in model.rows for name in tensor_names(row) if name in model.tensors]
    states = [prefix + name for prefix in ("opt.mom/", "opt.m/", "opt.v/") for name in rows]
    rows += [name for name in states if name in model.tensors]
    aux = [name for name in model.tensors if name.startswith("aux.")]
    left = sorted(set(model.tensors) - set(rows) - set(aux))
    if left:
        raise Error(f"no row has the tensor {left[0]}")
    return rows + aux


def write_model(model, half=None):
    """Bytes of the model's file: as nn_save writes them, where nothing is stored in halves."""
    meta = {"nn.crc32": "00000000", "nn.version": "1.0",
            "nn.kind": "train" if model.training else "model",
            "nn.graph": rows_text(canonical(model.rows))}
    if model.training:
        meta["nn.train"] = model.training
    if model.source:
        meta["nn.src"] = printable(model.source)
    meta["format"] = "pt"
    content = bytearray(safetensors(meta, model.tensors, in_order(model), half))
    if int.from_bytes(content[:8], "little") > HEADER_MAX:
        raise Error("the rows take more than 1 MiB, more than a model file may have")
    content[CRC_AT:CRC_AT + 8] = crc_of(content)
    return bytes(content)
