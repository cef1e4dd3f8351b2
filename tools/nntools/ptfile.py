"""Reads and writes .pt files (zip files, and reads those of PyTorch before 1.6) without PyTorch.
Nothing from a file is run: pickle's opcodes are interpreted here over plain data, and a name in the
file is only ever looked up in the tables below."""

import io
import pickletools
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

from .file import read_bytes, write_atomically
from .model import Error

STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2",
            "BFloat16Storage": "bf16", "LongStorage": "<i8", "IntStorage": "<i4",
            "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?"}
MAGIC = 0x1950A86A20F9469CFC6C  # begins files of PyTorch before 1.6
PICKLE_MAX = 1 << 28
OPAQUE = {  # what checkpoints hold beside tensors: read over, never made
    "argparse.Namespace", "collections.Counter", "numpy.dtype", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "_codecs.encode", "pathlib.PosixPath", "pathlib.WindowsPath",
    "torch.device", "torch.nn.parameter.Parameter", "datetime.datetime"}
BROKEN = (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error,
          OverflowError, AssertionError)


class Name(str):
    """A global of the file, as module.name."""


class Opaque:
    """An object that nothing here needs."""


@dataclass
class Storage:
    key: str
    dtype: str
    count: int


@dataclass
class Tensor:
    """A tensor as the file describes it, not yet checked against its bytes."""

    storage: Storage
    offset: int
    shape: tuple
    stride: tuple


def is_count(value):
    return type(value) is int and 0 <= value < 1 << 48


def make_tensor(storage, offset, shape, stride, *_):
    fine = isinstance(storage, Storage) and is_count(offset) and len(shape) == len(stride) <= 64
    if not fine or not all(is_count(n) for n in (*shape, *stride)):
        raise ValueError("a tensor that is none")
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def key_of(key):
    """A key of a dict. No tuples: their hash can take for ever."""
    if not isinstance(key, (str, int, float, type(None))):
        raise ValueError("a key that is none")
    return key


def pairs(items=()):
    return {key_of(key): value for key, value in items}


MAKERS = {
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_tensor": make_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda make, kind, arguments, state:
        call(make, arguments),
    "torch.Size": lambda items=(): tuple(items),
    "collections.OrderedDict": pairs,
    "collections.defaultdict": lambda *_: {},
    "__builtin__.set": lambda items=(): list(items),
    "builtins.set": lambda items=(): list(items),
}


def call(function, arguments):
    """What REDUCE does, for the names known here."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of what is no function")
    if function in OPAQUE:
        return Opaque()
    return MAKERS[function](*arguments)


def lookup(module, name):
    full = Name(f"{module}.{name}")
    if full in MAKERS or full in OPAQUE:
        return full
    if module in ("torch", "torch.storage") and name in STORAGES:
        return full
    raise Error(f"the file refers to {full[:100]!a}, which no state dict needs and which is not "
                "run here: load it in PyTorch, and save model.state_dict() alone")


def storage_of(saved):
    kind, key, count = saved[1], saved[2], saved[4]
    is_view = len(saved) > 5 and saved[5] is not None
    if saved[0] != "storage" or is_view or not isinstance(key, str) or not is_count(count):
        raise ValueError("a storage that is none")
    return Storage(key, STORAGES[kind.rsplit(".", 1)[1]], count)


class Machine:
    """Pickle's stack machine, for the opcodes that torch.save uses."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def pop_mark(self):
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def set_items(self, items):
        if isinstance(self.stack[-1], Opaque):
            return
        for key, value in zip(items[::2], items[1::2]):
            self.stack[-1][key_of(key)] = value

    def step(self, name, argument):
        push = self.stack.append
        if name in ("PROTO", "FRAME"):
            pass
        elif name in CONSTANTS:
            push(CONSTANTS[name]())
        elif name in LITERALS:
            push(argument)
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            push(self.memo[argument])
        elif name in ("TUPLE", "LIST"):
            push((tuple if name == "TUPLE" else list)(self.pop_mark()))
        elif name == "DICT":
            items = self.pop_mark()
            push({})
            self.set_items(items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [self.stack.pop() for _ in range(int(name[-1]))]
            push(tuple(reversed(items)))
        elif name == "GLOBAL":
            push(lookup(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            last = self.stack.pop()
            push(lookup(self.stack.pop(), last))
        elif name == "BINPERSID":
            push(storage_of(self.stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = self.stack.pop()
            push(call(self.stack.pop(), arguments))
        elif name in ("BUILD", "POP"):  # no object here has a state
            self.stack.pop()
        elif name == "APPEND":
            value = self.stack.pop()
            self.stack[-1].append(value)
        elif name in ("APPENDS", "ADDITEMS"):
            items = self.pop_mark()
            self.stack[-1].extend(items)
        elif name == "SETITEM":
            value = self.stack.pop()
            self.set_items([self.stack.pop(), value])
        elif name == "SETITEMS":
            self.set_items(self.pop_mark())
        else:
            raise ValueError(f"opcode {name}")


CONSTANTS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
             "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
LITERALS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
            "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING",
            "SHORT_BINSTRING", "STRING", "BINBYTES", "SHORT_BINBYTES"}


def unpickle(stream):
    """The object that stands at stream's place, which moves behind it."""
    machine = Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            return machine.stack[-1]
        machine.step(opcode.name, argument)
    raise ValueError("it does not end")


def item_size(dtype):
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def array(tensor, data):
    """The tensor's values out of its storage's bytes: floats as float32, integers as they are."""
    dtype, count = tensor.storage.dtype, tensor.storage.count
    size = 1
    for n in tensor.shape:
        size *= n
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride))
    if count * item_size(dtype) > len(data) or size > count or (size and last >= count):
        raise ValueError("a tensor larger than its storage")
    if not size:
        return np.zeros(tensor.shape, np.float32)
    flat = np.frombuffer(data, "<u2" if dtype == "bf16" else dtype, count)
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset:], tensor.shape,
                                           [s * flat.itemsize for s in tensor.stride])
    if dtype == "bf16":
        return (view.astype("<u4") << 16).view("<f4")
    if view.dtype.kind == "f" and view.itemsize != 4:
        with np.errstate(over="ignore"):
            return view.astype("<f4")
    return view


def check_entries(entries, size):
    """The name of the pickle in a zip file of torch.save."""
    if any(name.endswith("/constants.pkl") for name in entries):
        raise Error("the file is a TorchScript program: save model.state_dict() instead")
    for info in entries.values():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
            raise Error("the file is compressed, which torch.save never does: not read, for it "
                        "could be of any size")
    pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise Error("the file is a zip file, but not one that torch.save wrote")
    if entries[pickles[0]].file_size > PICKLE_MAX:
        raise Error("the file's pickle is larger than any state dict's")
    return pickles[0]


def read_zip(content):
    """(object, bytes of a storage by key) of a file of today."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        name = check_entries(entries, len(content))
        folder = name.split("/")[0]
        order = entries.get(f"{folder}/byteorder")
        if order and archive.read(order) != b"little":
            raise Error("the file was written by a big-endian machine")
        root = unpickle(io.BytesIO(archive.read(entries[name])))

    def storage(key):
        with zipfile.ZipFile(io.BytesIO(content)) as again:
            return again.read(entries[f"{folder}/data/{key}"])
    return root, storage


def read_legacy(content):
    """(object, bytes of a storage by key) of a file of PyTorch before 1.6."""
    stream = io.BytesIO(content)
    if unpickle(stream) != MAGIC or unpickle(stream) != 1001:
        raise Error("the file is no .pt file")
    if not unpickle(stream).get("little_endian", True):
        raise Error("the file was written by a big-endian machine")
    root = unpickle(stream)
    keys = unpickle(stream)
    sizes = {s.key: item_size(s.dtype) for s in storages(root)}
    spans, view, at = {}, memoryview(content), stream.tell()
    for key in keys:
        count = struct.unpack_from("<q", content, at)[0]
        size = sizes.get(key)
        if size is None or not is_count(count) or count * size > len(content) - at - 8:
            raise ValueError("a storage that does not fit")
        spans[key] = view[at + 8:at + 8 + count * size]
        at += 8 + count * size
    return root, spans.__getitem__


def walk(root):
    """(path, object) of everything in a tree of dicts, lists and tuples, each object once."""
    todo, seen = [((), root)], set()
    while todo:
        path, value = todo.pop()
        if len(path) > 50:
            raise ValueError("it is nested too deep")
        if id(value) in seen and isinstance(value, (dict, list, tuple)):
            continue
        seen.add(id(value))
        yield path, value
        if isinstance(value, dict):
            todo += [((*path, key), v) for key, v in reversed(list(value.items()))]
        elif isinstance(value, (list, tuple)):
            todo += [((*path, i), v) for i, v in reversed(list(enumerate(value)))]


def storages(root):
    return [value.storage for _, value in walk(root) if isinstance(value, Tensor)]


class Arrays:
    """The tensors of a file as arrays; two of one storage and one view are one array."""

    def __init__(self, get, size):
        self.get, self.left, self.views_left = get, size, 4 * size
        self.bytes_of, self.made = {}, {}

    def __getitem__(self, tensor):
        storage = tensor.storage
        key = (storage.key, storage.dtype, tensor.offset, tensor.shape, tensor.stride)
        if storage.key not in self.bytes_of:
            self.bytes_of[storage.key] = data = self.get(storage.key)
            self.left -= len(data)
        if key not in self.made:
            self.made[key] = array(tensor, self.bytes_of[storage.key])
            self.views_left -= self.made[key].size
        if self.left < 0 or self.views_left < 0:
            raise ValueError("storages that overlap, or too many views of one")
        return self.made[key]


def load(path):
    """What torch.save wrote to path: dicts, lists, tuples and numbers, with arrays as tensors."""
    content = read_bytes(path)
    try:
        root, get = (read_zip if content[:4] == b"PK\x03\x04" else read_legacy)(content)
        arrays = Arrays(get, len(content))
        for _, value in list(walk(root)):
            if isinstance(value, (dict, list)):
                for key, v in list(value.items() if isinstance(value, dict) else enumerate(value)):
                    if isinstance(v, Tensor):
                        value[key] = arrays[v]
        return root
    except Error as reason:
        raise Error(f"{path}: {reason}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, MemoryError,
            *BROKEN):
        raise Error(f"{path} is no file of torch.save, or is damaged or cut off") from None


# --------------------------------------------------------------------------------------------------
# Writing: the same few opcodes

KINDS = {np.dtype(dtype): kind for kind, dtype in STORAGES.items() if dtype != "bf16"}


def text_out(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def tuple_out(values, write):
    return b"(" + b"".join(write(v) for v in values) + b"t"


class Writer:
    """Pickles dicts, lists, tuples, numbers, text and arrays; keeps the arrays as storages."""

    def __init__(self):
        self.arrays = []

    def tensor(self, values):
        """An array of its own: torch._utils._rebuild_tensor_v2(storage, 0, shape, stride, ...)."""
        if values.dtype not in KINDS:
            raise Error(f"a .pt file cannot hold {values.dtype}")
        kind, key = KINDS[values.dtype], str(len(self.arrays))
        self.arrays.append(np.ascontiguousarray(values).reshape(values.shape))
        stride = [n // values.itemsize for n in self.arrays[-1].strides]
        storage = b"(" + text_out("storage") + b"ctorch\n" + kind.encode() + b"\n" + \
            text_out(key) + text_out("cpu") + self.plain(values.size) + b"tQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + self.plain(0) + \
            tuple_out(values.shape, self.plain) + tuple_out(stride, self.plain) + b"\x89" + \
            hooks + b"tR"

    def plain(self, value):
        """Pickles anything but a class."""
        if isinstance(value, np.ndarray):
            return self.tensor(value)
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return text_out(value)
        if isinstance(value, dict):
            items = b"".join(self.plain(k) + self.plain(v) for k, v in value.items())
            return b"ccollections\nOrderedDict\n)R(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(self.plain(v) for v in value) + b"e"
        return tuple_out(value, self.plain)


def save(path, root):
    """What torch.save(root, path) would write; dicts become OrderedDicts."""
    writer, out = Writer(), io.BytesIO()
    pickle = b"\x80\x02" + writer.plain(root) + b"."
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        for i, values in enumerate(writer.arrays):
            archive.writestr(f"archive/data/{i}", values.astype(values.dtype.newbyteorder("<"),
                                                                copy=False).tobytes())
        archive.writestr("archive/version", b"3\n")
    write_atomically(path, out.getvalue())
