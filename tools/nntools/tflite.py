"""TensorFlow Lite's float models as rows of nn.h. Quantized ones are refused.

A .tflite file is a FlatBuffer: tables whose fields are found through offsets, any of which may be
hostile. The operators become the layers of Keras that they were, so that keraslayers.py decides
what is a row:

    CONV_2D [out, kh, kw, in / g]            Conv2D
    DEPTHWISE_CONV_2D [1, kh, kw, c * m]     DepthwiseConv2D
    FULLY_CONNECTED [out, in]                Flatten where needed, Dense
    GATHER, EMBEDDING_LOOKUP                 Embedding
"""

import argparse
import math
import os
import re
import struct

import numpy as np

from .file import read_bytes
from .kerasfile import BROKEN, No, Store, blaming
from .keraslayers import Converter
from .model import Error, Refused

TABLES_MAX = 65535
OPERATORS = """ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE
DEQUANTIZE EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6
RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM
EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND
TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST
PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN
TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN
FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN
FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU
REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE""".split()
TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 9: "i1"}  # of tensors
TYPE_NAMES = {3: "uint8", 7: "int16", 9: "int8", 17: "int4"}
ACTIVATIONS = ["", "relu", "relu_n1_to_1", "relu6", "tanh", "sign_bit"]  # fused into an operator
LOOPS = ("WHILE", "IF", "CALL_ONCE", "VAR_HANDLE", "RNN", "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM",
         "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN")


class Table:
    """A FlatBuffer's table; every offset is checked where it is followed."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.fields = at - self.number("<i", at)
        self.size = self.number("<H", self.fields)

    def number(self, kind, at):
        if not 0 <= at <= len(self.data) - struct.calcsize(kind):
            raise Error("an offset points out of the file")
        return struct.unpack_from(kind, self.data, at)[0]

    def field(self, index):
        """Where a field lies; 0: it has its default."""
        if 4 + 2 * index + 2 > self.size:
            return 0
        offset = self.number("<H", self.fields + 4 + 2 * index)
        return self.at + offset if offset else 0

    def value(self, index, kind, default=0):
        at = self.field(index)
        return self.number(kind, at) if at else default

    def table(self, index):
        at = self.field(index)
        return Table(self.data, at + self.number("<I", at)) if at else None

    def vector(self, index, kind):
        """A vector's elements as an array."""
        at = self.field(index)
        if not at:
            return np.zeros(0, kind)
        at += self.number("<I", at)
        count, size = self.number("<I", at), np.dtype(kind).itemsize
        if count > (len(self.data) - at - 4) // size:
            raise Error("a vector is longer than the file")
        return np.frombuffer(self.data, kind, count, at + 4)

    def text(self, index):
        return self.vector(index, "u1").tobytes().decode("utf-8", "replace")

    def tables(self, index):
        at = self.field(index)
        offsets = self.vector(index, "<u4")
        if len(offsets) > TABLES_MAX:
            raise Error(f"it has more than {TABLES_MAX} entries of a kind")
        start = at + self.number("<I", at) + 4 if at else 0
        return [Table(self.data, start + 4 * i + int(offset)) for i, offset in enumerate(offsets)]


class Tensor:
    def __init__(self, table):
        self.shape = tuple(int(n) for n in table.vector(0, "<i4"))
        self.type = table.value(1, "b")
        self.buffer = table.value(2, "<I")
        self.name = table.text(3)
        quantized = table.table(4)
        self.scales = len(quantized.vector(2, "<f4")) if quantized else 0
        self.values = None  # of a constant
        self.maker = None   # the operator that computes it


class Operator:
    """An operator and what it is called in rows and errors."""

    def __init__(self, table, codes):
        index = table.value(0, "<I")
        if index >= len(codes):
            raise Error("an operator is of no kind")
        self.kind = codes[index]
        self.inputs = [int(i) for i in table.vector(1, "<i4")]
        self.outputs = [int(i) for i in table.vector(2, "<i4")]
        self.options = table.table(4)
        self.name = ""

    def option(self, index, kind, default=0):
        return self.options.value(index, kind, default) if self.options else default


def kind_of(table):
    """An operator's name."""
    code = max(table.value(0, "b"), table.value(3, "<i"))
    if code == 32:
        return f"CUSTOM ({table.text(1)[:40]})"
    return OPERATORS[code] if 0 <= code < len(OPERATORS) else f"operator {code}"


class Graph:
    """The one subgraph of a file: tensors, operators, constants."""

    def __init__(self, path):
        self.path = path
        data = read_bytes(path)
        if data[4:8] != b"TFL3":
            raise Error(f"{path} is no TensorFlow Lite model")
        try:
            self.parse(data)
        except Error as reason:
            raise Error(f"{path} is damaged: {reason}") from None
        except BROKEN as reason:
            raise Error(f"{path} is damaged: {type(reason).__name__}") from None

    def parse(self, data):
        model = Table(data, struct.unpack_from("<I", data)[0])
        graphs = model.tables(2)
        if not graphs:
            raise Error("it holds no graph")
        codes = [kind_of(table) for table in model.tables(1)]
        buffers, graph = model.tables(4), graphs[0]
        self.tensors = [Tensor(table) for table in graph.tables(0)]
        self.inputs = [int(i) for i in graph.vector(1, "<i4")]
        self.outputs = [int(i) for i in graph.vector(2, "<i4")]
        self.operators = [Operator(table, codes) for table in graph.tables(3)]
        for tensor in self.tensors:
            tensor.values = constant(data, tensor, buffers)
        for number, operator in enumerate(self.operators):
            for i in [*operator.inputs, *operator.outputs]:
                if not -1 <= i < len(self.tensors):
                    raise Error("an operator reads or writes a tensor that is not there")
            for i in operator.outputs:
                if i >= 0:
                    self.tensors[i].maker = number
        if any(not 0 <= i < len(self.tensors) for i in [*self.inputs, *self.outputs]):
            raise Error("its input or output is not there")


def constant(data, tensor, buffers):
    """A tensor's values, or None where an operator computes it."""
    if tensor.buffer >= len(buffers):
        raise Error("a tensor's buffer is not there")
    table = buffers[tensor.buffer]
    content, at, size = table.vector(0, "u1"), table.value(1, "<Q"), table.value(2, "<Q")
    if at > 1 and not len(content):
        if at > len(data) or size > len(data) - at:
            raise Error("a buffer points out of the file")
        content = np.frombuffer(data, "u1", size, at)
    if not len(content) or tensor.type not in TYPES:
        return None
    kind = np.dtype(TYPES[tensor.type])
    if any(n < 0 for n in tensor.shape) or \
            math.prod(tensor.shape) * kind.itemsize != len(content):
        raise Error(f"the values of {tensor.name[:60]} do not fit its shape")
    return np.frombuffer(content.tobytes(), kind).reshape(tensor.shape)


# --------------------------------------------------------------------------------------------------
# Operators as layers

def name_of(operator, graph):
    """A layer's name: what TensorFlow called it in model/conv1/Relu;model/conv1/BiasAdd..."""
    tensor = graph.tensors[operator.outputs[0]].name if operator.outputs else ""
    parts = tensor.split(";")[0].split("/")
    name = parts[-2] if len(parts) > 1 else ""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name) or operator.kind.lower().split()[0]


class Layers:
    """The operators that the output needs as a Functional model of Keras, as its config has it, and
    the weights by (layer, role)."""

    def __init__(self, graph, options):
        self.graph, self.options = graph, options
        self.entries, self.weights, self.names = [], {}, set()
        self.values = {}   # layer that gives a tensor, by the tensor's number
        self.refused = {}  # reasons, by the names of layers that stand in for refused ones
        self.sources = set()  # tensors that are the input, or the input scaled

    def add(self, kind, name, config, reads, **weights):
        """A layer that reads tensors' layers (by name); its name."""
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        for role, values in weights.items():
            self.weights[unique, role] = np.asarray(values, np.float32)
        self.entries.append({
            "class_name": kind, "name": unique, "config": {"name": unique, **config},
            "inbound_nodes": [[[each, 0, 0, {}] for each in reads]] if reads else []})
        return unique

    def build(self):
        graph = self.graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise Refused([("the graph", f"it has {len(graph.inputs)} inputs and "
                            f"{len(graph.outputs)} outputs; a model of nn.h has one of each", "")])
        start = graph.inputs[0]
        tensor = graph.tensors[start]
        if tensor.type not in (0, 2, 3, 4) or (tensor.type == 3 and tensor.scales):
            raise Refused([("the input", f"it is {TYPE_NAMES.get(tensor.type, tensor.type)}, of a "
                            "quantized model", "convert the float model")])
        if len(tensor.shape) < 2:
            raise Refused([("the input", "it has no dimension of samples in front", "")])
        kind = {0: "float32", 3: "uint8"}.get(tensor.type, "int32")
        self.values[start] = self.add("InputLayer", "input", {
            "batch_shape": [None, *tensor.shape[1:]], "dtype": kind}, [])
        self.sources.add(start)
        for number in self.order():
            self.visit(graph.operators[number])
        if graph.outputs[0] not in self.values:
            raise Error(f"{graph.path} is damaged: nothing computes its output")
        return {"class_name": "Functional", "config": {
            "name": "model", "layers": self.entries, "input_layers": [["input", 0, 0]],
            "output_layers": [[self.values[graph.outputs[0]], 0, 0]]}}

    def order(self):
        """Numbers of the operators that the output needs, each behind those it reads."""
        graph, order, state = self.graph, [], {}
        stack = [graph.tensors[graph.outputs[0]].maker]
        while stack:
            number = stack[-1]
            if number is None or state.get(number) == 2:
                stack.pop()
            elif state.get(number) == 1:
                stack.pop()
                state[number] = 2
                order.append(number)
            else:
                state[number] = 1
                operator = graph.operators[number]
                reads = operator.inputs
                if operator.kind in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
                    reads = reads[:1]  # the shape may be computed: the tensor has it
                for i in reversed(reads):
                    maker = graph.tensors[i].maker if i >= 0 and i not in graph.inputs else None
                    if maker is not None and state.get(maker) == 1:
                        raise Error(f"{graph.path}: operators read each other in a circle")
                    if maker is not None and maker not in state:
                        stack.append(maker)
        return order

    def visit(self, operator):
        """Adds an operator's layers, or notes why it is refused."""
        operator.name = name_of(operator, self.graph)
        try:
            self.convert(operator)
        except No as no:
            reads = [self.values[i] for i in operator.inputs if i in self.values]
            name = self.add("Refused", operator.name, {}, reads or ["input"])
            self.refused[name] = (operator.name, no.reason, no.hint)
            for i in operator.outputs:
                self.values[i] = name
        except BROKEN:
            raise Error(f"{self.graph.path} is damaged: the {operator.kind} {operator.name} makes "
                        "no sense") from None

    def convert(self, operator):
        if operator.kind in LOOPS:
            raise No(f"nn.h has no row for {operator.kind}, which a recurrent layer became",
                     "convert the Keras model instead")
        method = METHODS.get(operator.kind)
        if method is None:
            raise No(f"nn.h has no row for {operator.kind}")
        if len(operator.outputs) != 1 or not operator.inputs:
            raise Error("an operator has no input, or several outputs")
        for i in [*operator.inputs, *operator.outputs]:
            tensor = self.graph.tensors[i] if i >= 0 else None
            if tensor and (tensor.type in (7, 9, 17) or (tensor.type == 3 and tensor.scales)):
                raise No(f"{operator.kind} is quantized ({TYPE_NAMES[tensor.type]})",
                         "convert the float model")
        result = method(self, operator)
        if result is not None:
            self.values[operator.outputs[0]] = result

    # What operators read

    def tensor(self, operator, index):
        if index >= len(operator.inputs) or operator.inputs[index] < 0:
            return None
        return self.graph.tensors[operator.inputs[index]]

    def constant(self, operator, index, what):
        tensor = self.tensor(operator, index)
        if tensor is None or tensor.values is None:
            raise No(f"its {what} is not constant")
        return tensor.values

    def layer(self, operator, index=0):
        """The layer that an input comes from."""
        number = operator.inputs[index]
        if number not in self.values:
            raise No("it reads a constant where a layer's output should be")
        return self.values[number]

    def shape(self, operator, index=0):
        """Of a sample."""
        return self.graph.tensors[operator.inputs[index]].shape[1:]

    # Operators

    def fused(self, operator, name, code):
        """The activation that an operator applies at its end."""
        if not 0 <= code < len(ACTIVATIONS):
            raise No(f"its activation {code} is not known")
        act = ACTIVATIONS[code]
        if not act:
            return name
        if act == "relu6":
            return self.add("ReLU", operator.name, {"max_value": 6.0}, [name])
        return self.add("Activation", operator.name, {"activation": act}, [name])

    def bias(self, operator, index, units):
        tensor = self.tensor(operator, index)
        if tensor is None:
            return {}
        values = self.constant(operator, index, "bias").reshape(-1)
        if values.size != units:
            raise No(f"its bias has {values.size} elements, not {units}")
        return {"bias": values}

    def conv(self, operator):
        weight = floats(self.constant(operator, 1, "weight"), 4)
        units, height, width, depth = weight.shape
        channels = self.shape(operator)[-1]
        if not depth or channels % depth:
            raise No(f"its weight is of {depth} channels, its input has {channels}")
        bias = self.bias(operator, 2, units)
        name = self.add("Conv2D", operator.name, {
            "filters": units, "kernel_size": [height, width], "groups": channels // depth,
            "use_bias": bool(bias), **self.window(operator, 4, 5)}, [self.layer(operator)],
            kernel=weight.transpose(1, 2, 3, 0), **bias)
        return self.fused(operator, name, operator.option(3, "b"))

    def depthwise(self, operator):
        weight = floats(self.constant(operator, 1, "weight"), 4)
        one, height, width, units = weight.shape
        channels = self.shape(operator)[-1]
        if one != 1 or not channels or units % channels:
            raise No(f"its weight is of {units} channels, its input has {channels}")
        bias = self.bias(operator, 2, units)
        kernel = weight.reshape(height, width, channels, units // channels)
        name = self.add("DepthwiseConv2D", operator.name, {
            "kernel_size": [height, width], "depth_multiplier": units // channels,
            "use_bias": bool(bias), **self.window(operator, 5, 6)}, [self.layer(operator)],
            kernel=kernel, **bias)
        return self.fused(operator, name, operator.option(4, "b"))

    def window(self, operator, dilation_w=None, dilation_h=None):
        padding = operator.option(0, "b")
        if padding not in (0, 1):
            raise No(f"its padding {padding} is not known")
        result = {"padding": ["same", "valid"][padding],
                  "strides": [operator.option(2, "<i"), operator.option(1, "<i")]}
        if dilation_w:
            result["dilation_rate"] = [operator.option(dilation_h, "<i", 1),
                                       operator.option(dilation_w, "<i", 1)]
        return result

    def pool(self, operator):
        kind = "MaxPooling2D" if operator.kind == "MAX_POOL_2D" else "AveragePooling2D"
        size = [operator.option(4, "<i"), operator.option(3, "<i")]
        name = self.add(kind, operator.name, {"pool_size": size, **self.window(operator)},
                        [self.layer(operator)])
        return self.fused(operator, name, operator.option(5, "b"))

    def dense(self, operator):
        weight = floats(self.constant(operator, 1, "weight"), 2)
        if operator.option(1, "b"):
            raise No("its weights are shuffled")
        shape, (units, size), name = self.shape(operator), weight.shape, self.layer(operator)
        if not operator.option(2, "b") and len(shape) > 1:
            if math.prod(shape) != size:
                raise No(f"it turns {list(shape)} into vectors of {size}")
            name = self.add("Flatten", operator.name + ".flatten", {}, [name])
        bias = self.bias(operator, 2, units)
        name = self.add("Dense", operator.name, {"units": units, "use_bias": bool(bias)}, [name],
                        kernel=weight.T, **bias)
        return self.fused(operator, name, operator.option(0, "b"))

    def activation(self, operator):
        act = {"LOGISTIC": "sigmoid", "TANH": "tanh", "RELU": "relu"}[operator.kind]
        return self.add("Activation", operator.name, {"activation": act}, [self.layer(operator)])

    def leaky_relu(self, operator):
        return self.add("LeakyReLU", operator.name, {"negative_slope": operator.option(0, "<f")},
                        [self.layer(operator)])

    def softmax(self, operator):
        if operator.option(0, "<f") != 1:
            raise No("nn.h's softmax has no temperature")
        return self.add("Softmax", operator.name, {}, [self.layer(operator)])

    def reshape(self, operator):
        before, after = (self.graph.tensors[i].shape
                         for i in (operator.inputs[0], operator.outputs[0]))
        given = self.tensor(operator, 1) if operator.kind == "RESHAPE" else None
        given = [int(n) for n in given.values.reshape(-1)] if given and given.values is not None \
            else list(after)
        fits = len(given) == len(after) and all(a in (-1, b) or not i
                                                for i, (a, b) in enumerate(zip(given, after)))
        if not fits or not before or not after or before[0] != after[0]:
            raise No(f"it makes {list(after)} of {list(before)}, samples and all")
        name = self.add("Reshape", operator.name, {"target_shape": list(after[1:])},
                        [self.layer(operator)])
        if operator.inputs[0] in self.sources:
            self.sources.add(operator.outputs[0])
        return name

    def transpose(self, operator):
        order = [int(n) for n in self.constant(operator, 1, "order").reshape(-1)]
        if sorted(order) != list(range(len(self.shape(operator)) + 1)) or order[0] != 0:
            raise No("it turns samples into something else")
        return self.add("Permute", operator.name, {"dims": order[1:]}, [self.layer(operator)])

    def pad(self, operator):
        pads = self.constant(operator, 1, "padding")
        if pads.shape != (4, 2) or pads[[0, 3]].any():
            raise No("it pads more than height and width")
        return self.add("ZeroPadding2D", operator.name, {"padding": pads[1:3].tolist()},
                        [self.layer(operator)])

    def mean(self, operator):
        rank = len(self.shape(operator)) + 1
        axes = sorted(int(n) % rank for n in self.constant(operator, 1, "axes").reshape(-1))
        keep = bool(operator.option(0, "b"))
        if (rank, axes) not in ((4, [1, 2]), (3, [1])):
            raise No("nn.h has a mean over height and width, or over steps, only")
        kind = "GlobalAveragePooling2D" if rank == 4 else "GlobalAveragePooling1D"
        return self.add(kind, operator.name, {"keepdims": keep}, [self.layer(operator)])

    def arithmetic(self, operator):
        """ADD of two layers; or ADD, SUB, MUL or DIV of a constant: scale or offset of the input,
        or what a batch norm left that could not be folded."""
        if len(operator.inputs) != 2:
            raise No("it has not two inputs")
        constants = [self.tensor(operator, i).values for i in (0, 1)]
        if constants[0] is None and constants[1] is None:
            if operator.kind != "ADD":
                raise No(f"nn.h has no row for {operator.kind} of two layers")
            if self.shape(operator, 0) != self.shape(operator, 1):
                raise No("nn.h adds equal shapes only")
            name = self.add("Add", operator.name, {},
                            [self.layer(operator, 0), self.layer(operator, 1)])
            return self.fused(operator, name, operator.option(0, "b"))
        at = 0 if constants[0] is None else 1
        if at == 1 and operator.kind in ("SUB", "DIV"):
            raise No(f"nn.h has no row for {operator.kind} from a constant")
        values = floats(constants[1 - at]).astype(np.float64)
        name = self.affine(operator, at, values)
        return self.fused(operator, name, operator.option(0, "b"))

    def affine(self, operator, at, values):
        shape, name = self.shape(operator, at), self.layer(operator, at)
        if values.size not in (1, shape[-1]) or values.size != (values.shape or (1,))[-1]:
            raise No(f"its constant is not one number, or one for each of {shape[-1]} channels")
        values = values.reshape(-1)
        if operator.kind == "DIV" and not values.all():
            raise No("it divides by 0")
        scale = {"MUL": values, "DIV": 1 / values if operator.kind == "DIV" else 1}.get(
            operator.kind, np.ones(1))
        offset = {"ADD": values, "SUB": -values}.get(operator.kind, np.zeros(1))
        if operator.inputs[at] in self.sources:
            self.sources.add(operator.outputs[0])
            return self.add("Rescaling", operator.name, {"scale": scale.tolist(),
                                                         "offset": offset.tolist()}, [name])
        if not getattr(self.options, "inference", False):
            raise No(f"nn.h has no row for {operator.kind} of a constant",
                     "convert with --inference to make it a batch norm that must not train")
        count = (shape[-1],)
        return self.add("BatchNormalization", operator.name, {"epsilon": 0.0}, [name],
                        gamma=np.broadcast_to(scale, count), beta=np.broadcast_to(offset, count),
                        moving_mean=np.zeros(count), moving_variance=np.ones(count))

    def cast(self, operator):
        """Of ids, which Keras takes as floats."""
        if operator.inputs[0] not in self.sources:
            raise No("nn.h has no row for CAST")
        self.sources.add(operator.outputs[0])
        return self.add("Identity", operator.name, {}, [self.layer(operator)])

    def embedding(self, operator):
        ids, table = (0, 1) if operator.kind == "EMBEDDING_LOOKUP" else (1, 0)
        weight = floats(self.constant(operator, table, "table"), 2)
        if operator.kind == "GATHER" and (operator.option(0, "<i") or operator.option(1, "<i")):
            raise No("it gathers along another dimension than the first")
        return self.add("Embedding", operator.name, {
            "input_dim": weight.shape[0], "output_dim": weight.shape[1]},
            [self.layer(operator, ids)], embeddings=weight)

    def dequantize(self, operator):
        """Of weights stored in halves."""
        values = self.constant(operator, 0, "input")
        if values.dtype != np.float16:
            raise No(f"its weights are {values.dtype}", "convert the float model")
        self.graph.tensors[operator.outputs[0]].values = values.astype(np.float32)


def floats(values, rank=None):
    if values.dtype.kind != "f" or (rank and values.ndim != rank):
        raise No(f"its constant is {values.dtype} of {values.ndim} dimensions")
    return values


METHODS = {
    "CONV_2D": Layers.conv, "DEPTHWISE_CONV_2D": Layers.depthwise, "MAX_POOL_2D": Layers.pool,
    "AVERAGE_POOL_2D": Layers.pool, "FULLY_CONNECTED": Layers.dense,
    "LOGISTIC": Layers.activation, "TANH": Layers.activation, "RELU": Layers.activation,
    "LEAKY_RELU": Layers.leaky_relu, "SOFTMAX": Layers.softmax, "RESHAPE": Layers.reshape,
    "SQUEEZE": Layers.reshape, "EXPAND_DIMS": Layers.reshape, "TRANSPOSE": Layers.transpose,
    "PAD": Layers.pad, "MEAN": Layers.mean, "ADD": Layers.arithmetic, "SUB": Layers.arithmetic,
    "MUL": Layers.arithmetic, "DIV": Layers.arithmetic, "CAST": Layers.cast,
    "GATHER": Layers.embedding, "EMBEDDING_LOOKUP": Layers.embedding,
    "DEQUANTIZE": Layers.dequantize,
}


class Weights(Store):
    """What a Converter asks for numbers."""

    def __init__(self, path, weights):
        self.path, self.weights = path, weights

    def values(self, variable, shape=None):
        values = self.weights[variable.owner, variable.role]
        if shape is not None and values.shape != tuple(shape):
            raise Error(f"{self.path}: the {variable.role} of {variable.owner} is "
                        f"{list(values.shape)}, but the layer needs {list(shape)}")
        return values


def read(path, options):
    """The Model of a .tflite file."""
    graph = Graph(path)
    layers = Layers(graph, options)
    source = argparse.Namespace(what=path, config=layers.build(), training={})
    try:
        with blaming(path):
            converter = Converter(source, options).convert()
    except Refused as refused:
        more = [each for each in refused.layers if each[0] not in layers.refused]
        raise Refused([*layers.refused.values(), *more]) from None
    converter.fill(Weights(path, layers.weights))
    converter.model.source = f"tflite {os.path.basename(path)}"
    converter.model.notes = []  # of what Keras does otherwise
    return converter.model


def write(model, path, like):
    raise Error("nothing is written as .tflite: export to Keras or ONNX, and convert that")


def reference(path, inputs):
    """[outputs] of TensorFlow Lite for NumPy inputs [n, ...]; None when it is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return None
    net = Interpreter(model_path=path)
    net.allocate_tensors()
    start, end = net.get_input_details()[0], net.get_output_details()[0]
    batch, shape = int(start["shape"][0]), [int(n) for n in start["shape"][1:]]
    inputs = inputs.reshape(len(inputs), *shape).astype(start["dtype"])
    outputs = []
    for at in range(0, len(inputs), batch):
        part = np.resize(inputs[at:at + batch], (batch, *shape))
        net.set_tensor(start["index"], part)
        net.invoke()
        outputs.append(net.get_tensor(end["index"]))
    return [np.concatenate(outputs)[:len(inputs)]]
