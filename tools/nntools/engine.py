"""nn.h itself, from Python: compiled once with the user's C compiler, reached through ctypes.

    net = Engine().load(open("net.nn", "rb").read(), train="*", loss="mse", lr=0.1, batch=8)
    net.train(x, y)
    y = net.infer(x)
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from .model import Error, rows_text

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = os.path.join(os.path.dirname(os.path.dirname(HERE)), "nn.h")
SOURCE = os.path.join(HERE, "engine.c")
FLAGS = ["-std=c99", "-O2", "-shared"] + ([] if os.name == "nt" else ["-fPIC"])

TYPES = [np.float32, np.uint8, np.int32]  # of inputs, in the order of NN_F32
CHOICES = {  # options that are names: their values in nn.h
    "loss": ["none", "mse", "bce", "cross_entropy"],
    "optimizer": ["sgd", "adam"],
    "eps_mode": ["pytorch", "keras"],
    "init": ["pytorch", "keras"],
}

POINTER, TEXT, SIZE, INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
CALLS = {  # of engine.c: result and arguments behind the engine
    "engine_new": (POINTER,),
    "engine_free": (None, POINTER),
    "engine_why": (TEXT, POINTER),
    "engine_option": (INT, POINTER, TEXT, ctypes.c_double),
    "engine_train_what": (INT, POINTER, TEXT),
    "engine_load": (INT, POINTER, POINTER, SIZE),
    "engine_build": (INT, POINTER, TEXT),
    "engine_memory": (ctypes.c_int64, POINTER, POINTER, SIZE),
    "engine_infer": (INT, POINTER, TEXT, POINTER, POINTER, INT),
    "engine_train": (INT, POINTER, POINTER, POINTER, INT, POINTER),
    "engine_eval": (INT, POINTER, POINTER, POINTER, INT, POINTER),
    "engine_lengths": (INT, POINTER, POINTER),
    "engine_get": (INT, POINTER, TEXT, POINTER, SIZE),
    "engine_set": (INT, POINTER, TEXT, POINTER, SIZE),
    "engine_save": (ctypes.c_int64, POINTER, INT, POINTER, SIZE),
    "engine_rows": (ctypes.c_int64, POINTER, POINTER, SIZE),
    "engine_fact": (ctypes.c_int64, POINTER, TEXT),
    "engine_digest": (ctypes.c_uint64, POINTER),
    "engine_row": (INT, POINTER, ctypes.c_uint32, POINTER),
    "engine_panels": (ctypes.c_int, POINTER, TEXT, POINTER, POINTER),
    "engine_plan": (ctypes.c_int64, POINTER, TEXT, ctypes.c_int, POINTER, SIZE),
    "engine_tensor": (INT, POINTER, ctypes.c_uint32, POINTER, SIZE, POINTER),
}


def cache_folder():
    """A folder that only this user can write, for the compiled library."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(base, "nntool")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.access(folder, os.W_OK) and (os.name == "nt" or
                                           os.stat(folder).st_uid == os.getuid()):
            return folder
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="nntool")


def compiler():
    """The C compiler's command: CC, or the first of the usual names that exists."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError:
        raise Error("CC holds a quotation mark without its other half") from None
    if given:
        return given
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise Error("no C compiler was found to run nn.h with: install gcc or clang, or set CC")


def compile_library(path):
    """Compiles engine.c into path; another process may do the same at the same time."""
    part = f"{path}.{os.getpid()}"
    command = [*compiler(), *FLAGS, SOURCE, "-o", part]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as reason:
        raise Error(f"the C compiler {command[0]} cannot be run: {reason.strerror}") from None
    if done.returncode or not os.path.exists(part):
        first = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise Error(f"the C compiler {command[0]} cannot compile nn.h: {first}")
    os.replace(part, path)


def opened(path):
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None


def library():
    """engine.c as a library; compiled when nn.h, it or the compiler changed."""
    digest = hashlib.sha256(" ".join([*compiler(), *FLAGS, sys.platform]).encode())
    for source in (HEADER, SOURCE):
        with open(source, "rb") as f:
            digest.update(f.read())
    suffix = ".dll" if os.name == "nt" else ".so"
    path = os.path.join(cache_folder(), "engine-" + digest.hexdigest()[:24] + suffix)
    lib = opened(path) if os.path.exists(path) else None
    if lib is None:  # not yet compiled, or damaged
        compile_library(path)
        lib = opened(path)
    if lib is None:
        raise Error(f"what the C compiler {compiler()[0]} made of nn.h cannot be loaded: is it for "
                    "another machine?")
    for name, (result, *arguments) in CALLS.items():
        getattr(lib, name).restype = result
        getattr(lib, name).argtypes = arguments
    return lib


class Engine:
    """Makes nets; the library is loaded once a process."""

    lib = None

    def __init__(self):
        if Engine.lib is None:
            Engine.lib = library()

    def load(self, image, train=None, **options):
        """The net of a model file's bytes. Options are those of nn_opts, by name."""
        net = Net(self.lib, train, options)
        net.image = bytes(image)
        net.check(self.lib.engine_load(net.handle, net.image, len(net.image)))
        return net

    def build(self, rows, train=None, tensors=None, **options):
        """A net of rows (their text, or a list of Row), with initial values or these tensors."""
        net = Net(self.lib, train, options)
        text = rows if isinstance(rows, str) else rows_text(rows)
        net.check(self.lib.engine_build(net.handle, text.encode()))
        for name, values in (tensors or {}).items():
            net.set(name, values)
        return net

    def memory(self, image, train=None, **options):
        """Bytes of the block that loading these bytes would take, from the planner."""
        net = Net(self.lib, train, options)
        return net.check(self.lib.engine_memory(net.handle, image, len(image)))


def pointer(array):
    return array.ctypes.data_as(POINTER)


class Net:
    """A model of nn.h. Arrays are copied in and out; images are channels last."""

    def __init__(self, lib, train, options):
        self.lib, self.handle = lib, lib.engine_new()
        self.image = self.kept_lengths = None
        for name, value in options.items():
            if isinstance(value, str):
                value = CHOICES[name].index(value)
            self.check(lib.engine_option(self.handle, name.encode(), value))
        if train is not None:
            self.check(lib.engine_train_what(self.handle, train.encode()))

    def __del__(self):
        if getattr(self, "handle", None):
            self.lib.engine_free(self.handle)
            self.handle = None

    def check(self, result):
        """The result, which nn.h must not have refused."""
        if result < 0:
            raise Error(self.lib.engine_why(self.handle).decode() or f"nn.h returned {result}")
        return result

    def fact(self, what):
        return self.lib.engine_fact(self.handle, what.encode())

    def rows(self):
        """(name, op, output shape) of every row."""
        shape = (ctypes.c_int32 * 3)()
        result = []
        for i, line in enumerate(self.text().split(";")[1:]):
            ndim = self.lib.engine_row(self.handle, i, shape)
            op, name = line.split(" ")[:2]
            result.append((name, op, tuple(shape[:ndim])))
        return result

    def text(self):
        """The rows as a file stores them."""
        size = self.lib.engine_rows(self.handle, None, 0) + 1
        text = ctypes.create_string_buffer(size)
        self.lib.engine_rows(self.handle, text, size)
        return text.value.decode()

    def tensors(self):
        """{name: shape} of every tensor that is stored, in the order of the rows."""
        name, shape = ctypes.create_string_buffer(300), (ctypes.c_int32 * 4)()
        result = {}
        for i in range(self.fact("tensors")):
            ndim = self.lib.engine_tensor(self.handle, i, name, len(name), shape)
            if ndim:
                result[name.value.decode()] = tuple(shape[:ndim])
        return result

    def samples(self, x):
        """The array as the input row wants it, and how many samples it holds."""
        x = np.ascontiguousarray(x, TYPES[self.fact("type")])
        size = self.fact("input")
        if x.size % size or not x.size:
            raise Error(f"samples of {size} elements are wanted, not an array of shape {x.shape}")
        return x, x.size // size

    def infer(self, x, row=None):
        """Outputs [n, ...] of the last row, or of the named one."""
        x, n = self.samples(x)
        rows = self.rows()
        shape = next(s for name, _, s in rows if name == (row or rows[-1][0]))
        y = np.empty((n, *shape), np.float32)
        self.check(self.lib.engine_infer(self.handle, row.encode() if row else None, pointer(x),
                                         pointer(y), n))
        return y

    def with_target(self, call, x, target):
        x, n = self.samples(x)
        labels = CHOICES["loss"][self.fact("loss")] == "cross_entropy"
        target = np.ascontiguousarray(target, np.int32 if labels else np.float32)
        rows = self.rows()
        wanted = n * (int(np.prod(rows[-1][2][:-1])) if labels else self.fact("output"))
        if target.size != wanted:
            raise Error(f"{wanted} targets are wanted, not {target.size}")
        loss = ctypes.c_float()
        self.check(call(self.handle, pointer(x), pointer(target), n, ctypes.byref(loss)))
        return loss.value

    def train(self, x, target):
        """One training step; the loss before it."""
        return self.with_target(self.lib.engine_train, x, target)

    def eval(self, x, target):
        """The loss as inference has it."""
        return self.with_target(self.lib.engine_eval, x, target)

    def lengths(self, lengths):
        """Lengths of the sequences of the calls that follow; None: all steps."""
        self.kept_lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int32)
        at = None if lengths is None else pointer(self.kept_lengths)
        self.check(self.lib.engine_lengths(self.handle, at))

    def get(self, name):
        """A copy of a tensor, or of optimizer state ("opt.m/conv1.weight")."""
        shapes = self.tensors()
        shape = shapes.get(name.split("/", 1)[1] if name.startswith("opt.") else name)
        if shape is None:
            raise Error(f"no tensor is called {name}")
        out = np.empty(shape, np.float32)
        self.check(self.lib.engine_get(self.handle, name.encode(), pointer(out), out.size))
        return out

    def set(self, name, values):
        values = np.ascontiguousarray(values, np.float32)
        self.check(self.lib.engine_set(self.handle, name.encode(), pointer(values), values.size))

    def save(self, with_training=False):
        """The bytes of a model file."""
        size = self.check(self.lib.engine_save(self.handle, with_training, None, 0))
        out = ctypes.create_string_buffer(size)
        self.check(self.lib.engine_save(self.handle, with_training, out, size))
        return out.raw

    def plan(self, prefix, panels=False):
        """The plan as C text; its weights are to be used in place, see panels()."""
        how = self.handle, prefix.encode(), int(panels)
        size = self.check(self.lib.engine_plan(*how, None, 0)) + 1
        text = ctypes.create_string_buffer(size)
        self.lib.engine_plan(*how, text, size)
        return text.value.decode()

    def panels(self, name, values):
        """A tensor's values in the order that a plan with panels reads them."""
        values = np.ascontiguousarray(values, np.float32)
        out = np.empty_like(values)
        self.check(self.lib.engine_panels(self.handle, name.encode(), values.ctypes.data,
                                          out.ctypes.data))
        return out

    def memory(self):
        """Bytes of the block that the net lies in."""
        return self.fact("block")

    def digest(self):
        return self.lib.engine_digest(self.handle)
