"""Rows as ONNX graphs, and new values in the graph that rows came from."""

import math

import numpy as np

from .model import Error, Row, canonical, rows_text, unique
from .onnxfile import array_of, package
from .onnxvalues import GATES

OPSET, IR = 17, 8


def comparable(rows):
    """The text of rows without what only training reads."""
    kept = []
    for row in canonical(rows):
        fields = {key: value for key, value in row.fields.items()
                  if key not in ("lr", "no_decay", "pad_id", "sparse")}
        kept.append(Row(row.op, row.name, row.inputs, fields, row.share))
    return rows_text(kept)


def with_values(proto, made, model):
    """The graph that a Conversion was made of with the model's values in its tensors; None where
    that cannot be."""
    if comparable(made.model.rows) != comparable(model.rows) or \
            set(made.origins) != {n for n in model.tensors if not n.startswith("opt.")}:
        return None
    stored, starts, arrays = stored_tensors(proto), {}, []
    at = 0
    for origin in made.origins.values():
        for name, array in origin.const.stored().items():
            if name in stored and name not in starts:
                starts[name] = at
                at += array.size
                arrays.append(array.reshape(-1).astype(np.float32))
    flat = np.concatenate([*arrays, np.zeros(1, np.float32)])  # the last is for places of -1
    if not put(flat, starts, made.origins, model.tensors):
        return None
    for name, start in starts.items():
        old = array_of(stored[name])
        new = flat[start:start + old.size].reshape(old.shape).astype(old.dtype)
        stored[name].CopyFrom(package().numpy_helper.from_array(new, stored[name].name))
    return proto


def put(flat, starts, origins, tensors):
    """Puts tensors of rows into what is stored, one array after the other. False: that cannot
    hold them, since they come from elsewhere too, or two from one place."""
    found = {}
    for name, origin in origins.items():
        values = np.asarray(tensors[name], np.float32)
        places = found[name] = origin.places(starts)
        if origin.scale == 0 or places.shape != values.shape:
            return False
        if origin.plus is not None:
            values = values - origin.plus
        if origin.scale != 1:
            values = values / origin.scale
        kept = places >= 0
        if kept.all():
            flat[places] = values
        else:
            flat[places[kept]] = values[kept]
    for name, origin in origins.items():
        places = found[name]
        back = flat[places] * np.float32(origin.scale)
        if places.min(initial=0) < 0:
            back = np.where(places < 0, origin.values(), back)
        if origin.plus is not None:
            back = np.where(places < 0, back, back + origin.plus)
        if not np.all(abs(back - tensors[name]) <= 1e-6 * abs(back) + 1e-7):
            return False
    return True


def stored_tensors(proto):
    """The tensors of a graph by the name of the value that they are."""
    stored = {}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    stored[node.output[0]] = attribute.t
    stored.update((tensor.name, tensor) for tensor in proto.graph.initializer)
    return stored


def row_shapes(rows):
    """The output shape of every row."""
    dims = {}
    for row in rows:
        f, of = row.fields, dims[row.inputs[0]] if row.inputs else None
        units = f.get("units", 0)
        if row.op == "input":
            dims[row.name] = tuple(d for d in f["shape"] if d)
        elif row.op[:-2] in ("conv", "maxpool", "avgpool"):
            kernel, stride, dilation, pads = window_of(row)
            rank = len(kernel)
            out = [(of[i] + pads[i] + pads[i + rank] - dilation[i] * (kernel[i] - 1) - 1)
                   // stride[i] + 1 for i in range(rank)]
            dims[row.name] = (*out, units or of[-1])
        elif row.op in ("globalavgpool", "globalmaxpool"):
            dims[row.name] = of[-1:]
        elif row.op == "flatten":
            dims[row.name] = (math.prod(of),)
        elif row.op == "dense":
            dims[row.name] = (*of[:-1], units)
        elif row.op == "embedding":
            dims[row.name] = (of[0], units)
        elif row.op in ("lstm", "gru", "rnn"):
            size = units * (1 + bool(f.get("bidirectional")))
            dims[row.name] = (size,) if f.get("last") else (of[0], size)
        else:
            dims[row.name] = of
    return dims


def window_of(row):
    """Kernel, stride, dilation and pads of a row, with nn.h's defaults."""
    rank = int(row.op[-2])

    def numbers(key, default):
        values = [v for v in row.fields.get(key, ()) if v] or list(default)
        return (values * 2)[:rank]

    kernel = numbers("kernel", (1,))
    stride = numbers("stride", (1,) if row.op.startswith("conv") else kernel)
    pads = [*row.fields.get("pad", ()), 0, 0, 0, 0][:2 * rank]
    return kernel, stride, numbers("dilation", (1,)), pads


class Writer:
    """A graph of rows: images as [N,C,H,W], sequences as [N,T,C]."""

    def __init__(self, model):
        self.model, self.helper = model, package().helper
        self.dims = row_shapes(model.rows)
        self.nodes, self.stored, self.values, self.count = [], {}, {}, 0

    def made(self):
        onnx, types = package(), package().TensorProto
        first, last = self.model.rows[0], self.model.rows[-1]
        for row in self.model.rows:
            writer = getattr(self, "write_" + row.op, None)
            if writer is None:
                raise Error(f"row {row.name}: {row.op} cannot be written as ONNX")
            self.values[row.name] = self.activated(row, writer(row))
        dims = self.dims[last.name]
        result = self.values[last.name]
        if len(dims) == 3:
            result = self.node("Transpose", result, perm=[0, 2, 3, 1])
        output = unique("output", {first.name})
        self.nodes.append(self.helper.make_node("Identity", [result], [output]))
        kind = {"u8": types.UINT8, "i32": types.INT32}.get(first.fields.get("type"), types.FLOAT)
        shape = list(self.dims[first.name])
        if first.fields.get("order") == "chw":
            shape = [shape[-1], *shape[:-1]]
        value = self.helper.make_tensor_value_info
        graph = self.helper.make_graph(
            self.nodes, "nn", [value(first.name, kind, ["N", *shape])],
            [value(output, types.FLOAT, ["N", *dims])],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.stored.items()])
        return self.helper.make_model(
            graph, producer_name="nntool", ir_version=IR,
            opset_imports=[self.helper.make_opsetid("", OPSET)])

    def node(self, op, *inputs, outputs=1, **attributes):
        """Adds a node; the name of its output, or the names of all."""
        names = []
        for _ in range(outputs):
            self.count += 1
            names.append(f"value_{self.count}")
        self.nodes.append(self.helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def store(self, name, values):
        self.stored[name] = np.asarray(values)
        return name

    def tensor(self, row, suffix):
        """A tensor of a row, or of the row that it shares it with; None: it has none."""
        for owner in (row.name, row.share):
            name = f"{owner}.{suffix}"
            if owner and name in self.model.tensors:
                return self.store(name, np.asarray(self.model.tensors[name], np.float32))
        return None

    def activated(self, row, value):
        act = row.fields.get("act") if row.op not in ("lstm", "gru", "rnn") else None
        names = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
        if act in names:
            return self.node(names[act], value)
        if act == "leaky_relu":
            return self.node("LeakyRelu", value, alpha=float(row.fields.get("slope") or 0.01))
        if act == "softmax":
            return self.node("Softmax", value, axis=1 if len(self.dims[row.name]) == 3 else -1)
        return value

    def write_input(self, row):
        value, f, dims = row.name, row.fields, self.dims[row.name]
        if f.get("type") == "u8":
            value = self.node("Cast", value, to=package().TensorProto.FLOAT)
        planes = f.get("order") == "chw"
        if len(dims) == 3 and not planes:
            value = self.node("Transpose", value, perm=[0, 3, 1, 2])
        if len(dims) == 2 and planes:
            value = self.node("Transpose", value, perm=[0, 2, 1])
        shape = (-1, 1, 1) if len(dims) == 3 else (-1,)
        for op, key, each in (("Mul", "scale", (f.get("scale"),)), ("Sub", "mean", f.get("mean")),
                              ("Div", "std", f.get("std"))):
            if not each or not any(each):
                continue
            each = np.array([*each, 0, 0, 0, 0][:1 if key == "scale" else dims[-1]], np.float32)
            if key == "std":
                each[each == 0] = 1
            value = self.node(op, value, self.store(f"{row.name}.{key}", each.reshape(shape)))
        return value

    def write_dense(self, row):
        value, dims = self.values[row.inputs[0]], self.dims[row.name]
        weight, bias = self.tensor(row, "weight"), self.tensor(row, "bias")
        if row.fields.get("no_bias"):
            bias = None
        if len(dims) == 1:
            return self.node("Gemm", value, weight, *[bias] * (bias is not None), transB=1)
        if len(dims) == 3:
            value = self.node("Transpose", value, perm=[0, 2, 3, 1])
        value = self.node("MatMul", value, self.node("Transpose", weight, perm=[1, 0]))
        if bias:
            value = self.node("Add", value, bias)
        if len(dims) == 3:
            value = self.node("Transpose", value, perm=[0, 3, 1, 2])
        return value

    def planes(self, row):
        """What a row reads, with channels before height and width, or before steps."""
        value = self.values[row.inputs[0]]
        if len(self.dims[row.inputs[0]]) == 2:
            value = self.node("Transpose", value, perm=[0, 2, 1])
        return value

    def from_planes(self, row, value):
        if len(self.dims[row.name]) == 2:
            value = self.node("Transpose", value, perm=[0, 2, 1])
        return value

    def write_conv(self, row):
        kernel, stride, dilation, pads = window_of(row)
        bias = None if row.fields.get("no_bias") else self.tensor(row, "bias")
        value = self.node("Conv", self.planes(row), self.tensor(row, "weight"),
                          *[bias] * (bias is not None), kernel_shape=kernel, strides=stride,
                          dilations=dilation, pads=pads, group=row.fields.get("groups") or 1)
        return self.from_planes(row, value)

    write_conv2d = write_conv1d = write_conv

    def write_maxpool(self, row):
        kernel, stride, _, pads = window_of(row)
        return self.from_planes(row, self.node("MaxPool", self.planes(row), kernel_shape=kernel,
                                               strides=stride, pads=pads))

    write_maxpool2d = write_maxpool1d = write_maxpool

    def write_avgpool(self, row):
        kernel, stride, _, pads = window_of(row)
        counted = int(bool(row.fields.get("count_pad")))
        return self.from_planes(row, self.node("AveragePool", self.planes(row),
                                               kernel_shape=kernel, strides=stride, pads=pads,
                                               count_include_pad=counted))

    write_avgpool2d = write_avgpool1d = write_avgpool

    def write_globalavgpool(self, row):
        return self.node("Flatten", self.node("GlobalAveragePool", self.planes(row)))

    def write_globalmaxpool(self, row):
        return self.node("Flatten", self.node("GlobalMaxPool", self.planes(row)))

    def write_batchnorm(self, row):
        value = self.node("BatchNormalization", self.planes(row),
                          *(self.tensor(row, suffix) for suffix in
                            ("weight", "bias", "running_mean", "running_var")),
                          epsilon=float(row.fields.get("eps") or 1e-5),
                          momentum=1 - float(row.fields.get("momentum") or 0.1))
        return self.from_planes(row, value)

    def write_dropout(self, row):
        return self.dropped(self.values[row.inputs[0]], row.fields["rate"], row.name)

    def dropped(self, value, rate, name):
        return self.node("Dropout", value, self.store(name + ".rate", np.float32(rate)))

    def write_flatten(self, row):
        value, dims = self.values[row.inputs[0]], self.dims[row.inputs[0]]
        if row.fields.get("order") == "chw":
            return self.node("Flatten", self.planes(row))
        if len(dims) == 3:
            value = self.node("Transpose", value, perm=[0, 2, 3, 1])
        return self.node("Flatten", value)

    def write_add(self, row):
        value = self.values[row.inputs[0]]
        for name in row.inputs[1:]:
            value = self.node("Add", value, self.values[name])
        return value

    def write_activation(self, row):
        return self.values[row.inputs[0]]

    def write_embedding(self, row):
        if row.fields.get("mask"):
            raise Error(f"row {row.name}: its mask cannot be written as ONNX")
        return self.node("Gather", self.tensor(row, "weight"), self.values[row.inputs[0]])

    def write_recurrent(self, row):
        f, ways = row.fields, 1 + bool(row.fields.get("bidirectional"))
        layers = f.get("layers") or 1
        value = self.node("Transpose", self.values[row.inputs[0]], perm=[1, 0, 2])
        for layer in range(layers):
            if layer and f.get("rate"):
                value = self.dropped(value, f["rate"], f"{row.name}.{layer}")
            steps, last = self.cell(row, value, layer, ways)
            if layer == layers - 1 and f.get("last"):
                return self.node("Flatten", self.node("Transpose", last, perm=[1, 0, 2]))
            value = self.node("Transpose", steps, perm=[0, 2, 1, 3])
            shape = self.store("directions.merged", np.array([0, 0, -1], np.int64))
            value = self.node("Reshape", value, shape)
        return self.node("Transpose", value, perm=[1, 0, 2])

    write_lstm = write_gru = write_rnn = write_recurrent

    def cell(self, row, value, layer, ways):
        """The node of one layer; its two outputs."""
        f, op = row.fields, row.op.upper()
        back = np.argsort(GATES[op])
        units, name = f["units"], f"{row.name}.l{layer}"
        ends = [f"_l{layer}", f"_l{layer}_reverse"][:ways]

        def gathered(kind):
            found = []
            for end in ends:
                stored = next((self.model.tensors[f"{owner}.{kind}{end}"]
                               for owner in (row.name, row.share)
                               if f"{owner}.{kind}{end}" in self.model.tensors), None)
                if stored is None:
                    return None
                found.append(np.asarray(stored, np.float32).reshape(
                    len(back), units, -1)[back].reshape(len(back) * units, -1))
            return np.stack(found)

        w, r = gathered("weight_ih"), gathered("weight_hh")
        b, c = gathered("bias_ih"), gathered("bias_hh")
        inputs = [value, self.store(name + ".W", w), self.store(name + ".R", r)]
        if b is not None and not f.get("no_bias"):
            c = np.zeros_like(b) if c is None or f.get("one_bias") else c
            inputs.append(self.store(name + ".B", np.concatenate([b, c], 1)[:, :, 0]))
        more = {"hidden_size": units, "direction": "bidirectional" if ways == 2 else "forward"}
        if op == "GRU":
            more["linear_before_reset"] = int(not f.get("reset_before"))
        if op == "RNN":
            more["activations"] = [(f.get("act") or "tanh").capitalize()] * ways
        return self.node(op, *inputs, outputs=2, **more)
