"""ONNX: graphs as rows, and rows as graphs.

A graph is followed node by node. A value is a constant, or a View: the output of a row with its
axes in the order the graph has them. Transposes, reshapes and slices only change the view; a row
that then reads it says which order it needs, and what no row of nn.h can express is refused.
"""

import collections
import dataclasses
import math
import re

import numpy as np

from . import onnxwrite, simplify
from .file import write_atomically
from .model import Error, Model, Refused, tensor_names, unique
from .onnxchains import ATTENTION, CHAIN_HINTS, Chains
from .onnxfile import FILE_MAX, array_of, first_line, guarded, load, package, session
from .onnxrows import CONCAT_HINT, Redeclare, Rows
from .onnxvalues import (DIM_MAX, ELEMENTWISE, GATES, UNKNOWN, Const, Node, Parts, Refuse, Unknown,
                         View, dealt, fold, merged, natural, of_ids, scope_of)

OPSET_MIN = 7
PRIMES = 1009, 1013  # stand for a batch of any size; what differs between them depends on it

SAME_SHAPE = set("Elu Selu Celu PRelu HardSigmoid HardSwish Gelu Mish Softplus Softsign Erf Exp "
                 "Log Sqrt Abs Neg Pow Clip LayerNormalization InstanceNormalization "
                 "GroupNormalization RMSNormalization LRN ThresholdedRelu Swish Shrink "
                 "LogSoftmax Hardmax Floor Ceil Round Sign Reciprocal".split())
HINTS = {
    "LogSoftmax": "drop it: the loss takes logits",
    "Gelu": "train with relu instead", "HardSwish": "train with relu instead",
    "HardSigmoid": "train with sigmoid instead",
    "Elu": "train with leaky_relu instead", "Selu": "train with leaky_relu instead",
    "PRelu": "train with leaky_relu instead: its slope is fixed",
    "LayerNormalization": "train with batch norm instead",
    "InstanceNormalization": "train with batch norm instead",
    "GroupNormalization": "train with batch norm instead",
    "ArgMax": "take it of the outputs", "TopK": "take it of the outputs",
    "Loop": "export without loops, or convert the Keras file itself",
    "Scan": "export without loops",
    "QuantizeLinear": "export the float model", "DequantizeLinear": "export the float model",
}


class Conversion(Rows):
    """Follows a graph once: the batch is this axis of the input, and has this size."""

    def __init__(self, proto, options, batch_axis, declared, tried, prime):
        self.proto, self.graph, self.options = proto, proto.graph, options
        self.batch_axis, self.declared, self.tried, self.prime = batch_axis, declared, tried, prime
        self.model, self.taken = Model(), set()
        self.dims = {}      # of the rows' outputs
        self.origins = {}   # of the rows' tensors
        self.roots = {}     # the row that a row of the same shape began with
        self.env, self.refused, self.notes = {}, [], []
        self.flat_rows, self.last_rows, self.recurrent, self.told = {}, {}, {}, set()
        self.wanted = {}    # names of activations, should they become rows
        self.affine = None  # (a, b) of a * x + b that the graph begins with
        self.opset = max([each.version for each in proto.opset_import
                          if each.domain in ("", "ai.onnx")] or [0])

    def run(self):
        self.check_opset()
        for tensor in self.graph.initializer:
            self.env[tensor.name] = Const(array_of(tensor), tensor.name)
        if self.graph.sparse_initializer:
            raise Error("sparse initializers cannot be read")
        nodes = self.live_nodes()
        self.count_uses(nodes)
        self.add_input(nodes)
        constants = {name for name, value in self.env.items() if isinstance(value, Const)}
        chains = Chains(nodes, self.constant_names(nodes, constants).__contains__).find()
        for i, proto in enumerate(nodes):
            self.step(proto, chains.get(i))
        self.finish()
        return self

    def check_opset(self):
        newest = package().defs.onnx_opset_version()
        if not OPSET_MIN <= self.opset <= newest:
            raise Error(f"the graph is of opset {self.opset}; {OPSET_MIN} to {newest} can be read "
                        "(onnx.version_converter converts)")

    # ---- before ----

    def live_nodes(self):
        """Nodes that the first output needs, in order."""
        makers, nodes = {}, list(self.graph.node)
        given = {*self.env, *(each.name for each in self.graph.input)}
        for i, node in enumerate(nodes):
            for name in node.output:
                if name and (name in given or makers.setdefault(name, i) != i):
                    raise Error(f'the value "{name[:80]}" is made twice')
        if not self.graph.output:
            raise Error("the graph has no output")
        todo, live = [output.name for output in self.graph.output], set()
        while todo:
            i = makers.get(todo.pop())
            if i is not None and i not in live:
                live.add(i)
                todo += names_read(nodes[i])
        return [node for i, node in enumerate(nodes) if i in live]

    def count_uses(self, nodes):
        self.uses = collections.Counter(name for node in nodes for name in names_read(node)
                                        if node.op_type not in ("Shape", "Size"))
        self.uses.update(output.name for output in self.graph.output)

    def constant_names(self, nodes, names):
        for node in nodes:
            if node.op_type == "Shape" or all(not n or n in names for n in names_read(node)):
                names.update(node.output)
        return names

    def add_input(self, nodes):
        """The input row; self.env gets its view."""
        needed = {name for node in nodes for name in names_read(node)}
        needed.update(output.name for output in self.graph.output)
        inputs = [each for each in self.graph.input
                  if each.name in needed and each.name not in self.env]
        if not inputs:
            raise Error("the graph has no input: it computes a constant")
        for each in inputs[1:]:
            self.refused.append((each.name, "a second input of the graph; nn.h has one",
                                 "make it an initializer, or leave it out"))
            self.env[each.name] = UNKNOWN
        first = inputs[0]
        self.input_name = first.name
        if not first.type.HasField("tensor_type"):
            raise Error(f'the input "{first.name[:80]}" is no tensor')
        self.input_type = first.type.tensor_type.elem_type
        types = package().TensorProto
        kinds = {types.FLOAT: "f32", types.DOUBLE: "f32", types.UINT8: "u8",
                 types.INT32: "ids", types.INT64: "ids"}
        if self.input_type not in kinds:
            raise Error(f'the input "{first.name[:80]}" is of a type that nn.h does not take; '
                        "export the model in float32")
        shape, sample = self.input_shape(first)
        self.source_shape = shape
        if self.declared is None:
            self.declared = tuple(sample) or (1,), "hwc"
        dims, order = self.declared
        name = unique(first.name, self.taken)
        self.input_row = self.model.add("input", name, [], shape=dims, order=order)
        self.dims[name], self.roots[name] = dims, name
        axes = self.input_axes(dims, order, shape)
        if axes is None:
            raise Error(f'the input "{first.name[:80]}" cannot be of shape {dims}')
        kind = kinds[self.input_type]
        if kind == "u8":
            self.model.rows[0].fields["type"] = "u8"
        self.env[first.name] = View(name, axes, alone=self.uses[first.name] == 1, kind=kind)

    def input_shape(self, value):
        """The shape with self.batch for the batch, and a sample's."""
        fields = value.type.tensor_type.shape.dim
        if not value.type.tensor_type.HasField("shape"):
            raise Error(f'the input "{value.name[:80]}" has no shape; give one with --input-shape')
        shape = [d.dim_value if d.HasField("dim_value") else None for d in fields]
        given = getattr(self.options, "input_shape", None)
        axis = self.batch_axis
        if given is not None:
            given = [int(d) for d in given]
            if len(given) != len(shape) - (axis is not None):
                raise Error(f"--input-shape has {len(given)} dimensions; without the batch the "
                            f'input "{value.name[:80]}" has {len(shape) - 1}')
            if axis is not None:
                given.insert(axis, shape[axis])
            if any(d not in (None, g) for d, g in zip(shape, given)):
                raise Error(f'--input-shape disagrees with the input "{value.name[:80]}"')
            shape = given
        self.batch_static = shape[axis] if axis is not None else None
        self.batch = 1 if axis is None else shape[axis] or self.prime
        sample = [d for i, d in enumerate(shape) if i != axis]
        if None in sample:
            which = fields[shape.index(None) if axis is None or shape[axis] is not None else
                           next(i for i, d in enumerate(shape) if d is None and i != axis)]
            raise Error(f'the dimension "{which.dim_param[:40]}" of the input '
                        f'"{value.name[:80]}" is not fixed; give the shape of a sample with '
                        "--input-shape")
        if min(sample, default=1) < 1 or math.prod(sample) > DIM_MAX or self.batch < 1 or \
                self.batch > DIM_MAX:
            raise Error(f'the input "{value.name[:80]}" is of a shape that cannot be: {shape}')
        if axis is not None:
            shape[axis] = self.batch
        return shape, sample

    def input_axes(self, dims, order, shape):
        """Axes of the graph's input over the row's output."""
        factors = natural(dims)
        if order == "chw":
            factors = [factors[-1], *factors[:-1]]
        sample = [d for i, d in enumerate(shape) if i != self.batch_axis]
        axes = dealt(factors, sample)
        if axes is None:
            return None
        axes = list(axes)
        if self.batch_axis is not None:
            axes.insert(self.batch_axis, self.batch_factor(math.prod(dims)))
        return tuple(axes)

    def batch_factor(self, elements):
        return ((self.batch, elements),) if self.batch > 1 else ()

    # ---- one node ----

    def step(self, proto, chain=None):
        """Follows a node: self.env gets its outputs."""
        inputs = []
        for name in proto.input:
            if name and name not in self.env:
                raise Error(f'node "{proto.name[:80]}" reads "{name[:80]}", which nothing makes')
            inputs.append(self.env[name] if name else None)
        if chain:
            return self.step_chain(proto, chain, inputs)
        node = Node(proto, self.opset, inputs)
        try:
            results = self.results(node)
        except Refuse as refusal:
            if not self.is_unrolled(node):
                self.refuse(node.name or node.outputs[0], f"{node.op}: {refusal.reason}",
                            refusal.hint)
            results = None
            first = next((each for each in inputs if isinstance(each, View)), UNKNOWN)
            if node.op in SAME_SHAPE:
                results = [first]
        self.put(node.outputs, results)

    def badness(self):
        """How many layers are refused; of equal ones those are better that do not blame order."""
        return len(self.refused), sum("cannot transpose" in reason for _, reason, _ in self.refused)

    def is_unrolled(self, node):
        """Is this node a step of a recurrent layer that PyTorch's exporter took apart? That layer
        is then refused, once."""
        entries = {entry.key: entry.value for entry in node.proto.metadata_props}
        if "torch.nn.modules.rnn." not in entries.get("pkg.torch.onnx.class_hierarchy", "") or \
                node.op in GATES:
            return False
        scope = self.scope(node)
        if scope not in self.told:
            self.told.add(scope)
            self.refuse(scope, "a recurrent layer that was exported step by step",
                        "export with dynamo=False, which keeps it one node")
        return True

    def put(self, names, results):
        results = results or []
        for i, name in enumerate(names):
            value = results[i] if i < len(results) and results[i] is not None else UNKNOWN
            if isinstance(value, View) and self.uses[name] != 1:
                value = dataclasses.replace(value, alone=False)
            if name:
                self.env[name] = value

    def step_chain(self, proto, chain, inputs):
        """A node of a layer that is refused as a whole."""
        what, last = chain
        if (what, last) not in self.told:
            self.told.add((what, last))
            self.refuse(proto.name or proto.output[0], f"{what}: nn.h has no such row",
                        CHAIN_HINTS[what])
        first = next((each for each in inputs if isinstance(each, View)), UNKNOWN)
        self.put(proto.output, [UNKNOWN if what == ATTENTION else first])

    def refuse(self, name, reason, hint):
        self.refused.append((name, reason, hint))

    def results(self, node):
        """The values of a node's outputs."""
        if node.proto.domain not in ("", "ai.onnx"):
            raise Refuse(f"an operator of {node.proto.domain[:60]}, which is not ONNX's own",
                         "export without fusing for a runtime")
        handler = getattr(self, "op_" + node.op, None)
        if node.op == "Constant":
            return [self.constant(node)]
        if node.op == "If":
            return self.inner(node)
        folded = fold(node)
        if folded is not None:
            return folded
        unknown = any(isinstance(each, Unknown) for each in node.inputs)
        if unknown and node.op == "Concat" and any(isinstance(v, View) for v in node.inputs):
            raise Refuse("nn.h has no such row", CONCAT_HINT)
        if unknown and (handler or node.op in ELEMENTWISE or node.op in ("Shape", "Size")):
            return None
        view = of_ids(node)
        if view is not None:
            return [view]
        if handler is None:
            raise Refuse("nn.h has no such row", HINTS.get(node.op, ""))
        if not any(isinstance(each, (View, Parts)) for each in node.inputs):
            raise Refuse("it computes a constant, which this tool does not",
                         "simplify the graph first, with onnxsim for example")
        return handler(node)

    def constant(self, node):
        for name in ("value_float", "value_int", "value_floats", "value_ints"):
            if node.get(name) is not None:
                kind = np.float32 if "float" in name else np.int64
                return Const(np.array(node.get(name), kind))
        if node.get("value") is None:
            raise Refuse("a constant of a kind that cannot be read")
        return Const(array_of(node.get("value")), node.outputs[0])

    def inner(self, node):
        """The branch of an If whose condition is known."""
        if not isinstance(node.inputs[0], Const) or node.inputs[0].array.size != 1:
            raise Refuse("it branches while it runs", "export the branch that is wanted")
        taken = node.get("then_branch" if node.inputs[0].array.all() else "else_branch")
        for tensor in taken.initializer:
            self.env[tensor.name] = Const(array_of(tensor))
        for proto in taken.node:
            for name in names_read(proto):
                self.uses[name] += 1
        for proto in taken.node:
            self.step(proto)
        if any(each.name not in self.env for each in taken.output):
            raise Error(f'node "{node.name[:80]}" has a branch without its output')
        return [self.env[each.name] for each in taken.output]

    # ---- names ----

    def name_of(self, node):
        """A name for the row of a node: the layer's in the source, as far as it can be told."""
        for value in node.inputs:
            if isinstance(value, Const) and value.source:
                found = re.fullmatch(r"(.+)\.(weight|bias|running_mean|running_var)",
                                     value.source)
                if found:
                    return unique(found.group(1), self.taken)
        return unique(self.scope(node) or scope_of(node.name) or node.outputs[0] or
                      node.op.lower(), self.taken)

    def scope(self, node):
        """The module that PyTorch's exporter notes for a node, or ""."""
        for entry in node.proto.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                scopes = re.findall(r"'([^']*)'", entry.value)
                return scopes[-2] if len(scopes) > 1 else ""
        return ""

    # ---- after ----

    def finish(self):
        """The output, and rows as they are kept."""
        for each in self.graph.output[1:]:
            self.refuse(each.name, "a second output of the graph; nn.h has one",
                        "cut the graph with onnx.utils.extract_model")
        if self.refused:
            return
        name = self.graph.output[0].name
        value = self.env.get(name)
        if not isinstance(value, (View, Parts)):
            raise Error(f'the output "{name[:80]}" is a constant, or is not made')
        try:
            view = self.output_view(self.settled(value))
            self.put_affine()
            self.check_input()
        except Refuse as refusal:
            self.refuse(name, f"the output: {refusal.reason}", refusal.hint)
            return
        self.output_row = view.row
        self.output_name = name
        self.output_factors = [factor for axis in view.axes for factor in axis]
        self.output_dims = self.dims[view.row]
        self.keep_live_rows()
        self.fold_activations()
        self.share_tensors()
        if len(self.model.rows) < 2:
            raise Error("the graph does nothing to its input")

    def output_view(self, view):
        """The output as a row has it, or in an order that the reader can be told."""
        elements, dims = math.prod(self.dims[view.row]), self.dims[view.row]
        sample = merged(f for f in self.without_batch(view))
        if sample == merged([(elements, 1)]):
            return view
        if len(view.axes) == 2:
            return self.flat(view)
        factors = natural(dims)
        if sample == merged([factors[-1], *factors[:-1]]):
            self.notes.append("the output has its channels last, where the graph has them first")
            return view
        raise Refuse("it is transposed or reshaped after the row that makes it, and nn.h gives "
                     f"what {self.label(view)} makes, {list(dims)}", "leave that to the program")

    def without_batch(self, view):
        """Factors of a view's axes, outermost first, without the batch's."""
        elements = math.prod(self.dims[view.row])
        result = []
        for size, stride in (factor for axis in view.axes for factor in axis):
            if size * stride > elements:
                size = elements // stride
            result.append((size, stride))
        return result

    def check_input(self):
        rows = [row for row in self.model.rows if self.input_row in row.inputs]
        ids = self.model.rows[0].fields.get("type") == "i32"
        if ids and any(row.op != "embedding" for row in rows):
            raise Refuse("the input is ids of an embedding and numbers too")

    def keep_live_rows(self):
        """Without rows that nothing reads; a last step alone gets the name of its row."""
        live, todo = set(), [self.output_row]
        while todo:
            name = todo.pop()
            if name not in live:
                live.add(name)
                todo += self.model.row(name).inputs
        for base, last in self.last_rows.items():
            if last in live and base not in live:
                row = self.model.row(last)
                self.model.rows = [r for r in self.model.rows if r.name != base]
                self.replace(last, base)
                row.name = base
                self.dims[base] = self.dims[last]
                live = {base if name == last else name for name in live}
            elif last in live:
                self.model.row(last).share = base
        live.add(self.input_row)
        self.model.rows = [row for row in self.model.rows if row.name in live]
        names = {row.name for row in self.model.rows}
        self.origins = {name: origin for name, origin in self.origins.items()
                        if name.rsplit(".", 1)[0] in names}

    def replace(self, old, new):
        """Readers of one row read another."""
        for row in self.model.rows:
            row.inputs = [new if name == old else name for name in row.inputs]
        if self.output_row == old:
            self.output_row = new

    def fold_activations(self):
        """An activation after a row that nothing else reads becomes that row's own."""
        for row in list(self.model.rows):
            if row.op != "activation":
                continue
            before = self.model.row(row.inputs[0])
            readers = sum(before.name in other.inputs for other in self.model.rows)
            if before.op in ("dense", "conv2d", "conv1d", "batchnorm", "add") and readers == 1 and \
                    "act" not in before.fields and before.name != self.output_row:
                before.fields.update(row.fields)
                self.model.rows.remove(row)
                self.replace(row.name, before.name)
            else:
                name = unique(self.wanted[row.name], self.taken)
                self.replace(row.name, name)
                row.name = name

    def share_tensors(self):
        """Rows that the graph gives the same tensors share them."""
        first = {}
        for row in self.model.rows:
            names = [name for name in tensor_names(row) if name in self.origins]
            if not names or not self.origins[names[0]].const.source:
                continue
            key = self.origins[names[0]].const.source
            if key not in first:
                first[key] = row.name
                continue
            pairs = [(name, first[key] + name[len(row.name):]) for name in names]
            both = [(a, b) for a, b in pairs if b in self.origins]
            if both and both[0][0] == names[0] and \
                    all(alike(self.origins[a], self.origins[b]) for a, b in both):
                row.share = first[key]
                for name, _ in both:
                    del self.origins[name]
            else:
                self.notes.append(f"{row.name} and {first[key]} have a tensor in common in the "
                                  "graph, and tensors of their own now")

    # ---- samples, as the graph and as the rows have them ----

    def samples_of(self, x):
        """The graph's input as the input row takes it."""
        shape = [d for i, d in enumerate(self.source_shape) if i != self.batch_axis]
        x = x[None] if self.batch_axis is None else np.moveaxis(x, self.batch_axis, 0)
        return x.reshape(-1, *shape)

    def source_input(self, samples):
        """The graph's input of samples with channels last."""
        dims, order = self.declared
        if order == "chw" and samples.shape[1:] == tuple(dims):
            samples = np.moveaxis(samples, -1, 1)
        shape = [d for i, d in enumerate(self.source_shape) if i != self.batch_axis]
        x = samples.reshape(len(samples), *shape)
        x = x[0] if self.batch_axis is None else np.moveaxis(x, 0, self.batch_axis)
        kind = package().helper.tensor_dtype_to_np_dtype(self.input_type)
        return np.ascontiguousarray(x, kind)

    def channels_last(self, y):
        """The graph's output as the last row has it."""
        elements = math.prod(self.output_dims)
        n = y.size // elements
        factors = []
        for size, stride in self.output_factors:
            if size * stride > elements:
                factors.append((n, elements))
                size = max(elements // stride, 1) if stride < elements else 1
            if size > 1:
                factors.append((size, stride))
        order = sorted(range(len(factors)), key=lambda i: -factors[i][1])
        y = y.reshape([size for size, _ in factors]).transpose(order)
        return y.reshape(n, *self.output_dims).astype(np.float32)

    def finished(self):
        """The Model, with its tensors."""
        for name, origin in self.origins.items():
            self.model.tensors[name] = origin.values()
        self.model.notes = list(dict.fromkeys(self.notes))
        return self.model


def alike(a, b):
    """Are these the same elements of the same stored tensor?"""
    return a.const.stored().keys() == b.const.stored().keys() and a.scale == b.scale and \
        a.plus is b.plus is None and np.array_equal(a.values(), b.values())


def names_read(node):
    """Names of the values that a node reads, in inner graphs too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {t.name for t in inner.initializer} | {v.name for v in inner.input}
            for each in inner.node:
                names += [n for n in names_read(each) if n not in own]
                own.update(each.output)
            names += [v.name for v in inner.output if v.name not in own]
    return names


# --------------------------------------------------------------------------------------------------
# Reading


def attempts(proto, options):
    """Axes of the input that the batch may be, the likeliest first; None: the graph is for one
    sample and has none."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in stored]
    fields = inputs[0].type.tensor_type.shape.dim if inputs else []
    free = [not d.HasField("dim_value") for d in fields]
    given = getattr(options, "input_shape", None)
    if given is not None and len(given) == len(free):
        return [None]
    axes = [axis for axis in (0, 1) if axis < len(free) and
            (given is not None or not any(f for i, f in enumerate(free) if i != axis))]
    if not any(free):
        axes.append(None)
    return axes or [0]


def convert(proto, options):
    """The Conversion of a graph, or the one with the fewest layers refused."""
    best = None
    for axis in attempts(proto, options):
        made = follow(proto, options, axis, PRIMES[0])
        if best is None or made.badness() < best.badness():
            best = made
        if not best.refused:
            break
    if best.refused:
        raise Refused(best.refused)
    if best.batch_axis is not None and best.batch_static is None:
        other = follow(proto, options, best.batch_axis, PRIMES[1])
        if other.refused or other.model.rows != best.model.rows or \
                other.origins.keys() != best.origins.keys() or \
                not all(np.array_equal(origin.values(), other.origins[name].values())
                        for name, origin in best.origins.items()):
            raise Error("the graph computes something from the size of the batch, which nn.h "
                        "cannot")
    if best.batch_axis == 1:
        best.notes.append("the batch is the second axis of the graph's input")
    if best.batch_axis is None:
        best.notes.append("the graph's input has no batch: all of it is one sample")
    return best


def follow(proto, options, axis, prime):
    """A Conversion with the input row that the graph's rows ask for."""
    declared, tried = None, set()
    while True:
        try:
            return Conversion(proto, options, axis, declared, tried, prime).run()
        except Redeclare as wish:
            declared = wish.declared
            tried.add(declared)


def conversion(path, options):
    """The Conversion of a file, which also says how samples lie in the graph and in the rows."""
    return guarded("converted", path, convert, guarded("read", path, load, path), options)


def read(path, options):
    """The Model of an ONNX file."""
    made = conversion(path, options)
    model = guarded("converted", path, made.finished)
    producer = f"{made.proto.producer_name} {made.proto.producer_version}".strip()[:80]
    model.source = f"onnx opset {made.opset}" + (f", {producer}" if producer else "")
    if getattr(options, "inference", False):
        simplify.for_inference(model)
    return model


# --------------------------------------------------------------------------------------------------
# The source's outputs


class Plain:
    """Options for reading a file again."""

    inference, graph, samples, seed = False, None, 0, 0

    def __init__(self, input_shape=None):
        self.input_shape = input_shape


def reference(path, inputs):
    """Outputs of the graph for a list of arrays [n, ...] (or one), both with channels last, as the
    rows have them; None without a package that runs ONNX."""
    inputs = [np.asarray(x) for x in inputs] if isinstance(inputs, (list, tuple)) else \
        [np.asarray(inputs)]
    run = guarded("run", path, runner, path, inputs[0].shape[1:])
    if run is None:
        return None
    return [guarded("run", path, run, x) for x in inputs]


def again(proto, shape):
    """Conversions of a graph whose rows take samples of this shape: its input may leave sizes
    open, or have channels first."""
    last = None
    for given in (None, shape, shape and (shape[-1], *shape[:-1])):
        try:
            yield convert(proto, Plain(given))
        except Error as reason:
            last = last or reason
    if last:
        raise last


def runner(path, shape=None):
    """A function from samples to outputs, both batch first and with channels last."""
    proto = load(path)
    compute = session(proto)
    if compute is None:
        return None
    conversion = next(again(proto, shape))

    def run(samples):
        count, taken = len(samples), conversion.batch_static
        taken = 1 if conversion.batch_axis is None else taken or count
        results = []
        for at in range(0, count, taken):
            part = samples[at:at + taken]
            fill = np.repeat(part[:1], taken - len(part), 0)
            y = compute(conversion.input_name, conversion.output_name,
                        conversion.source_input(np.concatenate([part, fill])))
            results.append(conversion.channels_last(np.asarray(y))[:len(part)])
        return np.concatenate(results)

    return run


# --------------------------------------------------------------------------------------------------
# Writing


def write(model, path, like=None):
    """An ONNX file of a model: the graph of the file like with new values where its rows are the
    model's, else a graph of the rows."""
    proto = with_values_of(model, like) if like else None
    if proto is None:
        proto = onnxwrite.Writer(model).made()
        checked(proto)
        if like:
            model.notes.append(f"the graph is a new one: the rows are not those that {like} makes")
    if proto.ByteSize() > FILE_MAX:
        raise Error("the weights take more than the 2 GB that a file of protobuf can be")
    write_atomically(path, proto.SerializeToString())


def checked(proto):
    """Refuses a graph that is not as ONNX has it."""
    try:
        package().checker.check_model(proto)
    except Exception as reason:
        raise Error(f"the graph made is not as ONNX has it: {first_line(reason)}") from None


def with_values_of(model, like):
    """The graph of a file with the model's values, or None where its rows are not the model's."""
    proto = guarded("read", like, load, like)
    try:
        for made in again(proto, model.rows[0].fields.get("shape")):
            found = onnxwrite.with_values(proto, made, model)
            if found is not None:
                return found
    except Error:
        pass
    return None
