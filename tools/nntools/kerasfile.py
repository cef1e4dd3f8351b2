"""Keras files: what stands in .keras and .h5 files, and where. Any byte of them may be hostile:
sizes are checked before they are used, links are not followed, nothing is executed."""

import contextlib
import dataclasses
import io
import json
import re
import struct
import zipfile
import zlib

import numpy as np

from . import hdf5
from .file import read_bytes
from .model import Error, Refused

JSON_MAX = 1 << 26      # bytes of a config
MEMBER_MAX = 1 << 32    # bytes of the weights in an archive
EXPANSION_MAX = 20      # of what is compressed: weights hardly shrink
ROWS_MAX = 65535
INT_MAX = 2 ** 31 - 1
OURS = re.compile(r"(keras|tf_keras|tensorflow\.keras|tensorflow\.python\.keras)(\.|\Z)")

# What Python, zlib and zipfile raise on damaged files.
BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, OSError,
          RuntimeError, EOFError, NotImplementedError, RecursionError, ZeroDivisionError,
          zipfile.BadZipFile, zlib.error, struct.error)


class No(Exception):
    """A layer is refused: its reason and a hint."""

    def __init__(self, reason, hint=""):
        super().__init__(reason)
        self.reason, self.hint = reason, hint


class Unknown(Exception):
    """The input comes from a refused layer, so that nothing more can be said."""


@contextlib.contextmanager
def blaming(what):
    """Whatever a hostile file makes libraries raise becomes one sentence, with the file's name."""
    try:
        yield
    except Refused:
        raise
    except Error as reason:
        raise Error(str(reason) if what in str(reason) else f"{what}: {reason}") from None
    except BROKEN as reason:
        text = " ".join(str(reason).split())[:120]
        raise Error(f"{what} is damaged, or not as Keras writes it: "
                    f"{type(reason).__name__} {text}".rstrip()) from None


# --------------------------------------------------------------------------------------------------
# Archives: a .keras is a zip of config.json and model.weights.h5, a .h5 holds all in one

@dataclasses.dataclass
class Archive:
    what: str       # for error sentences
    config: dict    # class_name, config, ...
    training: dict  # what compile() got: optimizer and loss; {}: nothing
    weights: bytes  # an HDF5 file
    legacy: bool    # weights by layers' names (.h5), not by paths (.keras)
    content: bytes  # the whole file
    version: str = ""


def open_archive(path):
    content = read_bytes(path)
    with blaming(path):
        if content[:8] == hdf5.SIGNATURE:
            return open_legacy(path, content)
        if content[:2] == b"PK":
            return open_zip(path, content)
    raise Error(f"{path} is no Keras file: neither a .keras archive nor HDF5")


def zip_member(archive, name, most, expansion):
    """A member's bytes, after its sizes were checked; zipfile checks its CRC."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise Error(f"{archive.filename or 'the archive'} holds {len(found)} times {name}, not "
                    "once")
    info = found[0]
    if info.file_size > most or info.file_size > (1 << 20) + expansion * info.compress_size:
        raise Error(f"{name} in the archive would unpack to {info.file_size} bytes from "
                    f"{info.compress_size}: that is no honest file")
    return archive.read(info)


def open_zip(path, content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = {info.filename for info in archive.infolist()}
        if "config.json" not in names:
            raise Error(f"{path} is a zip file without config.json: no .keras archive")
        if "model.weights.h5" not in names:
            raise Error(f"{path} has no model.weights.h5: only weights in one HDF5 file are read")
        config = json.loads(zip_member(archive, "config.json", JSON_MAX, 1100))
        weights = zip_member(archive, "model.weights.h5", MEMBER_MAX, EXPANSION_MAX)
        version = ""
        if "metadata.json" in names:
            version = json.loads(zip_member(archive, "metadata.json", 1 << 16, 1100))
            version = str(version.get("keras_version", ""))
    training = as_dict(config.get("compile_config") or {}, "compile_config")
    return Archive(path, config, training, weights, False, content, version)


def open_legacy(path, content):
    texts = hdf5.File(content).root.attributes
    if "model_config" not in texts:
        raise Error(f"{path} holds weights without the layers they belong to: convert the file of "
                    "the whole model (model.save), or the live model")
    config = json.loads(texts["model_config"])
    training = json.loads(texts.get("training_config", "{}")) or {}
    version = texts.get("keras_version", "")
    if isinstance(training, dict) and "optimizer_config" in training:
        training["optimizer"] = training["optimizer_config"]
    return Archive(path, config, as_dict(training, "training_config"), content, True, content,
                   version)


def as_dict(value, what):
    if not isinstance(value, dict):
        raise Error(f"{what} is not as Keras writes it")
    return value


def values_of(dataset, shape):
    """A data set's numbers as float32."""
    if dataset.shape != tuple(shape):
        raise Error(f"{dataset.path} is {list(dataset.shape)}, but the layer needs {list(shape)}")
    values = dataset.values()
    if values.dtype.kind == "V":
        if dataset.attributes.get("dtype") != "bfloat16":
            raise Error(f"{dataset.path} holds no numbers")
        values = (values.view("<u2").astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


# --------------------------------------------------------------------------------------------------
# Layers as the config has them

@dataclasses.dataclass(eq=False)
class Variable:
    """One array of a layer: its role ("kernel") and its path in the weights of a .keras file."""
    role: str
    path: str
    trainable: bool
    owner: str      # the layer's name


@dataclasses.dataclass(eq=False)
class Layer:
    kind: str       # the class
    config: dict
    name: str
    full: str       # with the names of the models it stands in: of its row
    path: str       # in the weights of a .keras file
    trainable: bool
    sub: str = ""   # path below it of what it wraps
    reason: str = ""  # why it is refused already
    children: list = None   # of a model
    nodes: list = None      # of a Functional model: (child number, [nodes read], [masks], training)
    ports: list = None      # of a Functional model: numbers of the nodes that are its inputs
    output: int = 0         # of a Functional model: the node
    variables: list = dataclasses.field(default_factory=list)
    rows: dict = dataclasses.field(default_factory=dict)  # the first of each sort, once it was used
    uses: int = 0
    call_training: object = None  # of the call that is being converted: True, False or None


MODELS = ("Functional", "Model", "Sequential")
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
FROZEN = ("moving_mean", "moving_variance", "mean", "variance", "count")


def snake(name):
    """A class's name as paths in the weights have it: Conv2D is conv2d, ReLU re_lu."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def kind_of(entry):
    """(class, why it is refused or "") of a serialised object: a user's own class may be called
    as one of Keras' is."""
    kind = entry["class_name"]
    module, registered = entry.get("module"), entry.get("registered_name")
    if not isinstance(kind, str):
        raise Error("a class_name in the config is no text")
    if kind == "Lambda":
        return kind, "code in a file is never run"
    if module is not None and (not isinstance(module, str) or not OURS.match(module)):
        return kind, f"{kind} of {str(module)[:60]} is not one of Keras' own layers"
    if registered not in (None, kind):
        return kind, f"{str(registered)[:60]} is not one of Keras' own layers"
    if (module and ".ops" in module) or (not module and kind in ("NotEqual", "LogicalOr")):
        return "op " + kind, ""
    return kind, ""


def roles(kind, config, sub):
    """(role, path below the layer) of every variable, in Keras' order."""
    def join(more):
        return f"{sub}/{more}" if sub else more

    if kind == "TimeDistributed":
        inner = config["layer"]
        return roles(inner["class_name"], inner["config"], join("layer"))
    if kind == "Bidirectional":
        inner = config["layer"]
        return [each for way in ("forward_layer", "backward_layer")
                for each in roles(inner["class_name"], inner["config"], join(way))]
    if kind in GATES:
        names = ["kernel", "recurrent_kernel"] + ["bias"] * bool(config.get("use_bias", True))
        return [(name, join("cell")) for name in names]
    names = {
        "Dense": ["kernel"], "Conv": ["kernel"], "DepthwiseConv": ["kernel"],
        "SeparableConv": ["depthwise_kernel", "pointwise_kernel"],
        "Embedding": ["embeddings"],
    }.get(re.sub(r"[12]D\Z", "", kind), [])
    if names and kind != "Embedding" and config.get("use_bias", True):
        names = names + ["bias"]
    if kind == "BatchNormalization":
        names = ["gamma"] * bool(config.get("scale", True))
        names += ["beta"] * bool(config.get("center", True)) + ["moving_mean", "moving_variance"]
    if kind == "Normalization" and config.get("mean") is None:
        names = ["mean", "variance", "count"]
    return [(name, sub) for name in names]


def make_layer(entry, parent, path, depth=0):
    """The tree of layers below a serialised layer or model."""
    if depth > 30:
        raise Error("models are nested deeper than 30")
    kind, reason = kind_of(as_dict(entry, "a layer"))
    config = entry["config"]
    if kind == "Sequential" and isinstance(config, list):
        config = {"layers": config}
    as_dict(config, f"the config of {kind}")
    name = config.get("name", entry.get("name", snake(kind)))
    if not isinstance(name, str):
        raise Error("a layer's name is no text")
    full = name if not parent or not parent.full else f"{parent.full}.{name}"
    trainable = config.get("trainable") is not False and (not parent or parent.trainable)
    layer = Layer(kind, config, name, full if parent else "", path, trainable, reason=reason)
    if reason:
        return layer
    if kind in MODELS:
        make_children(layer, depth)
        return layer
    count = {}
    for role, sub in roles(kind, config, ""):
        where = "/".join(part for part in (path, sub, "vars", str(count.get(sub, 0))) if part)
        layer.variables.append(Variable(role, where, trainable and role not in FROZEN, name))
        count[sub] = count.get(sub, 0) + 1
    return layer


def make_children(model, depth):
    entries = model.config.get("layers")
    if not isinstance(entries, list) or not entries or len(entries) > ROWS_MAX:
        raise Error(f"model {model.name or 'without a name'} has no list of layers")
    model.children, used = [], {}
    for number, entry in enumerate(entries):
        kind = as_dict(entry, "a layer")["class_name"]
        counted = not (model.kind == "Sequential" and number == 0 and kind == "InputLayer")
        counted = counted and ".ops" not in str(entry.get("module"))
        path = snake(str(kind))
        if counted:
            used[path] = used.get(path, -1) + 1
            path += f"_{used[path]}" if used[path] else ""
        path = "/".join(part for part in (model.path, "layers", path) if part)
        model.children.append(make_layer(entry, model, path, depth + 1))
    names = [child.name for child in model.children]
    if len(set(names)) < len(names):
        raise Error(f"two layers of model {model.name} have one name")
    if model.kind != "Sequential":
        make_nodes(model, entries)


def tensors_in(value):
    """References to tensors in what Keras 3 stores of a call's arguments: (layer, node, output)."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            layer, node, output = value["config"]["keras_history"]
            return [(layer, node, output)]
        return [each for item in value.values() for each in tensors_in(item)]
    if isinstance(value, list):
        return [each for item in value for each in tensors_in(item)]
    return []


def calls_of(entry, operation):
    """Calls of a layer: (references read, those of masks, keyword arguments, is it called with
    anything else). Of operations, unlike layers, each input is an argument of its own."""
    result = []
    for node in entry.get("inbound_nodes") or []:
        if isinstance(node, dict):  # Keras 3
            args, kwargs = node["args"], dict(as_dict(node["kwargs"], "kwargs of a call"))
            masks = tensors_in(kwargs.pop("mask", None))
            others = [each for each in args if each is not None and not tensors_in(each)]
            if operation == "op NotEqual" and others == [0] and len(args) == 2:
                others = []
            strange = tensors_in(kwargs) or others or (len(args) > 1 and not operation)
            result.append((tensors_in(args), masks, kwargs, bool(strange)))
            continue
        if node and isinstance(node[0], str):
            node = [node]
        kwargs = {}
        for each in node:
            kwargs.update(each[3] if len(each) > 3 else {})
        strange = kwargs.pop("mask", None) is not None
        result.append(([(layer, number, output) for layer, number, output, *_ in node], [], kwargs,
                       strange))
    return result


def make_nodes(model, entries):
    """The calls of a Functional model's layers as nodes, numbered."""
    number_of = {child.name: i for i, child in enumerate(model.children)}
    calls, first, pending = [], [], []
    for i, (child, entry) in enumerate(zip(model.children, entries)):
        operation = child.kind.startswith("op ") or (child.kind == "Add" and "module" not in entry)
        found = calls_of(entry, child.kind if operation else "")
        if child.kind == "InputLayer":
            found = [([], [], {}, False)]
        first.append(len(pending))
        calls.append(len(found))
        for reads, masks, kwargs, strange in found:
            others = sorted(key for key, value in kwargs.items() if value is not None and
                            key not in ("training", "name"))
            if not reads and child.kind != "InputLayer":
                child.reason = child.reason or "it reads no other layer"
            if strange or others:
                child.reason = child.reason or ("it is called with more than its input" +
                                                (f": {others[0][:40]}" if others else ""))
            pending.append((i, reads, masks, kwargs.get("training")))
    modern = any(isinstance(node, dict) for e in entries for node in e.get("inbound_nodes") or [])
    outputs = references(model.config["output_layers"])
    bases = bases_of(model, [read for _, reads, _, _ in pending for read in reads], outputs,
                     modern)

    def node(reference, base):
        layer, number, output = reference
        child = number_of.get(layer)
        if child is None:
            raise Error(f"a layer reads {str(layer)[:60]}, which does not exist")
        number -= base.get(layer, 0)
        if calls[child] == 1 and model.children[child].children is not None and number in (-1, 1):
            number = 0  # versions differ in whether a model's own graph counts as a call
        if not isinstance(number, int) or not 0 <= number < calls[child]:
            raise Error(f"a layer reads call {number} of {layer[:60]}, which does not exist")
        if output != 0:
            model.children[child].reason = "another output than its first is used"
        return first[child] + number

    model.nodes = [(i, [node(read, bases[0]) for read in reads],
                    [node(read, bases[0]) for read in masks], training)
                   for i, reads, masks, training in pending]
    model.ports = [node(each, bases[0]) for each in references(model.config["input_layers"])]
    if len(outputs) != 1:
        model.reason = f"it has {len(outputs)} outputs; a model of nn.h has one"
    model.output = node(outputs[0], bases[1])


def references(value):
    """["dense", 0, 0], a list of such, or a dict of them."""
    if isinstance(value, dict):
        value = list(value.values())
    if len(value) == 3 and isinstance(value[0], str):
        return [tuple(value)]
    return [each for item in value for each in references(item)]


def bases_of(model, reads, outputs, modern):
    """What calls of nested models are numbered from, by name: in what layers read and in outputs.
    A Functional model counts its own graph as call 0: in Keras 2 everywhere, in Keras 3 only in
    output_layers."""
    nested = {child.name: child for child in model.children if child.children is not None}
    if modern:
        return {}, {name: 1 for name, child in nested.items() if child.kind != "Sequential"}
    lowest = {}
    for layer, number, _ in [*reads, *outputs]:
        if layer in nested:
            lowest[layer] = min(number, lowest.get(layer, number))
    return lowest, lowest


def order_of(model):
    """Numbers of the nodes that the output needs, each behind those it reads."""
    order, done, stack = [], {}, [model.output]
    while stack:
        number = stack[-1]
        if done.get(number) == 2:
            stack.pop()
        elif done.get(number) == 1:
            done[number] = 2
            order.append(number)
            stack.pop()
        else:
            done[number] = 1
            for read in [*model.nodes[number][2], *reversed(model.nodes[number][1])]:
                if done.get(read) == 1:
                    raise Error(f"the layers of {model.name} read each other in a circle")
                if read not in done:
                    stack.append(read)
    return order


def leaves(layer):
    """The layers that are no models, in Keras' order."""
    if layer.children is None:
        return [layer]
    return [leaf for child in layer.children for leaf in leaves(child)]


def walk(model, values, training, apply):
    """What a model gives for values: apply(layer, values, masks, training) of its layers, one after
    the other as Keras would."""
    if model.kind == "Sequential":
        value = values[0]
        for child in model.children:
            value = apply(child, [value], [], training)
        return value
    if len(model.ports) != len(values):
        raise No(f"it has {len(model.ports)} inputs and is called with {len(values)}")
    got = dict(zip(model.ports, values))
    for number in order_of(model):
        child, reads, masks, mode = model.nodes[number]
        if number not in got:
            got[number] = apply(model.children[child], [got[read] for read in reads],
                                [got[read] for read in masks],
                                mode if training is None else training)
    return got[model.output]


# --------------------------------------------------------------------------------------------------
# Where the numbers of a variable are

class Store:
    """Weights; dataset(variable) is what the file has of it."""

    wide = False  # was anything float64?

    def values(self, variable, shape=None):
        """A variable as float32, of this shape."""
        dataset = self.dataset(variable)
        self.wide = self.wide or dataset.dtype == np.float64
        return values_of(dataset, dataset.shape if shape is None else shape)


class PathStore(Store):
    """Weights of a .keras file: layers/dense_1/vars/0."""

    def __init__(self, f, root):
        self.f = f.root
        for leaf in leaves(root):
            where = self.find(leaf.path + "/vars") if leaf.variables else None
            texts = self.f.get(where, hdf5.Group).attributes if where else {}
            if texts.get("name", leaf.name) != leaf.name:
                raise Error(f"the weights at {where} are of layer {str(texts['name'])[:60]}, not "
                            f"of {leaf.name}")

    def find(self, path):
        """The path as this version of Keras wrote it; None: it is not there."""
        for name in (path, path.replace("layers/", "_layer_checkpoint_dependencies/")):
            layer, vars_, number = name.partition("/vars")
            for each in (name, layer.replace("/", "\\") + vars_ + number):  # written on Windows
                if self.f.has(each):
                    return each
        return None

    def dataset(self, variable):
        where = self.find(variable.path)
        if where is None:
            raise Error(f"layer {variable.owner} has no weights in the file ({variable.path} is "
                        "missing)")
        return self.f.get(where, hdf5.Dataset)

    def optimizer(self):
        """Data sets of the optimizer: its counter, learning rate and state; []: none."""
        where = self.find("optimizer/vars")
        if where is None:
            return []
        group = self.f.get(where, hdf5.Group)
        return [group.get(str(i), hdf5.Dataset) for i in range(len(group.members()))]


class GroupStore(Store):
    """Weights of a .h5 file: model_weights/dense_1 names its arrays, those that train first."""

    def __init__(self, f, root):
        self.f, self.at = f.root, {}
        weights = self.f.get("model_weights", hdf5.Group)
        for child in root.children:
            variables = [(leaf, v) for leaf in leaves(child) for v in leaf.variables]
            if not variables:
                continue
            group = weights.get(child.name, hdf5.Group)
            variables = ([each for each in variables if each[1].trainable] +
                         [each for each in variables if not each[1].trainable])
            names = strings(group, "weight_names")
            if len(names) != len(variables):
                raise Error(f"layer {child.name} has {len(names)} arrays in the file, not "
                            f"{len(variables)}")
            self.bind(child, group, variables, names)

    def bind(self, child, group, variables, names):
        others = {leaf.name for leaf, _ in variables}
        for (leaf, variable), name in zip(variables, names):
            *scope, last = name.split("/")
            last = re.sub(r"(_\d+)?(:0)?\Z", "", last)
            fits = last == variable.role or (last == "depthwise_kernel" and
                                             leaf.kind.startswith("DepthwiseConv"))
            if child.children is not None and leaf.name not in scope and others & set(scope):
                fits = False
            if not fits:
                raise Error(f"{child.name}: the file has {name[:80]} where {leaf.name}'s "
                            f"{variable.role} should be")
            self.at[variable] = group.get(name, hdf5.Dataset)

    def dataset(self, variable):
        return self.at[variable]

    def optimizer(self):
        if not self.f.has("optimizer_weights"):
            return []
        group = self.f.get("optimizer_weights", hdf5.Group)
        return [group.get(name, hdf5.Dataset) for name in strings(group, "weight_names")]


def strings(group, name):
    """A list of names in an attribute, or in several where it is long."""
    texts = group.attributes
    if name in texts:
        return list(texts[name])
    result, part = [], 0
    while f"{name}{part}" in texts:
        result += texts[f"{name}{part}"]
        part += 1
    return result
