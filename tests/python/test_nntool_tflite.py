"""The converter's TensorFlow Lite front end: its own interpreter says what every converted net must
compute.

    python tests/python/test_nntool_tflite.py [part of a test's name]    (CC: the C compiler)

Needs ai-edge-litert and numpy. Files are made here with the schema's own builder.
"""

import os
import random
import sys
import tempfile
import types

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools"))

from nntools import file, tflite as front
from nntools.engine import Engine
from nntools.model import Error, Refused

FOLDER = tempfile.TemporaryDirectory()
NEAR = 1e-5  # of the largest output
SAME, VALID = 0, 1
ACTS = {"": 0, "relu": 1, "relu6": 3, "tanh": 4}
TYPES = {"f4": 0, "f2": 1, "i4": 2, "u1": 3, "i8": 4, "i1": 9}


def path(name):
    return os.path.join(FOLDER.name, name)


def options(**more):
    return types.SimpleNamespace(**{"inference": False, "input_shape": None, **more})


def gen(*shape, seed=1, scale=0.5):
    return np.random.default_rng(seed + sum(shape)).normal(0, scale, shape).astype("f4")


class Net:
    """A .tflite file in the making. Tensors are numbers."""

    def __init__(self, *shape, kind="f4"):
        self.model = schema.ModelT()
        self.model.version, self.model.description = 3, "made up"
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.start = self.last = self.tensor((1, *shape), kind, "input")
        self.graph.inputs = [self.start]

    def tensor(self, shape, kind="f4", name=None, values=None):
        t = schema.TensorT()
        t.shape, t.type, t.buffer = [int(n) for n in shape], TYPES[kind], 0
        t.name = name or f"model/layer{len(self.graph.tensors)}/Out"
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), "u1")
            t.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def constant(self, values):
        values = np.asarray(values)
        return self.tensor(values.shape, values.dtype.str[1:], values=values)

    def op(self, kind, shape, *inputs, options=None, out="f4", **settings):
        """Adds an operator that reads the last tensor (or inputs); gives a tensor of this shape."""
        code = getattr(schema.BuiltinOperator, kind)
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
        self.model.operatorCodes.append(entry)
        op = schema.OperatorT()
        op.opcodeIndex = len(self.model.operatorCodes) - 1
        op.inputs = list(inputs) or [self.last]
        self.last = self.tensor((1, *shape), out)
        op.outputs = [self.last]
        if options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, options + "T")()
            for key, value in settings.items():
                assert hasattr(op.builtinOptions, key), key
                setattr(op.builtinOptions, key, value)
        self.graph.operators.append(op)
        return self.last

    def size(self, stride, reach, padding):
        _, *sizes, _ = self.graph.tensors[self.last].shape
        return [-(-n // s) if padding == SAME else (n - r) // s + 1
                for n, s, r in zip(sizes, stride, reach)]

    def conv(self, units, kernel, stride=(1, 1), padding=SAME, act="", dilation=(1, 1), groups=1):
        channels = self.graph.tensors[self.last].shape[3]
        weight = self.constant(gen(units, *kernel, channels // groups))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        return self.op("CONV_2D", (*self.size(stride, reach, padding), units), self.last, weight,
                       self.constant(gen(units)), options="Conv2DOptions", padding=padding,
                       strideH=stride[0], strideW=stride[1], dilationHFactor=dilation[0],
                       dilationWFactor=dilation[1], fusedActivationFunction=ACTS[act])

    def depthwise(self, times, kernel, stride=(1, 1), padding=SAME, act="", dilation=(1, 1)):
        channels = self.graph.tensors[self.last].shape[3]
        weight = self.constant(gen(1, *kernel, channels * times))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        return self.op("DEPTHWISE_CONV_2D", (*self.size(stride, reach, padding), channels * times),
                       self.last, weight, self.constant(gen(channels * times)),
                       options="DepthwiseConv2DOptions", padding=padding, strideH=stride[0],
                       strideW=stride[1], dilationHFactor=dilation[0], dilationWFactor=dilation[1],
                       depthMultiplier=times, fusedActivationFunction=ACTS[act])

    def pool(self, kind, kernel, stride, padding, act=""):
        channels = self.graph.tensors[self.last].shape[3]
        return self.op(kind, (*self.size(stride, kernel, padding), channels),
                       options="Pool2DOptions", padding=padding, strideH=stride[0],
                       strideW=stride[1], filterHeight=kernel[0], filterWidth=kernel[1],
                       fusedActivationFunction=ACTS[act])

    def dense(self, units, act="", keep=False, bias=True):
        shape = self.graph.tensors[self.last].shape[1:]
        size = int(shape[-1] if keep else np.prod(shape))
        more = [self.constant(gen(units))] if bias else []
        return self.op("FULLY_CONNECTED", (*shape[:-1], units) if keep else (units,), self.last,
                       self.constant(gen(units, size)), *more, options="FullyConnectedOptions",
                       fusedActivationFunction=ACTS[act], keepNumDims=keep)

    def save(self, name="net.tflite"):
        self.graph.outputs = [self.last]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        with open(path(name), "wb") as f:
            f.write(bytes(builder.Output()))
        return path(name)


def outputs(name, x):
    """The interpreter's, one sample after the other."""
    net = Interpreter(model_path=name)
    net.allocate_tensors()
    start, end = net.get_input_details()[0], net.get_output_details()[0]
    result = []
    for each in x:
        net.set_tensor(start["index"], each[None].astype(start["dtype"]))
        net.invoke()
        result.append(net.get_tensor(end["index"]))
    return np.concatenate(result)


def same(net, x=None, **opts):
    """Converts the net and compares outputs. Returns the Model."""
    name = net.save()
    t = net.graph.tensors[net.start]
    x = np.random.default_rng(7).normal(0, 1, (3, *t.shape[1:])).astype("f4") if x is None else x
    expected = outputs(name, x)
    model = front.read(name, options(**opts))
    y = Engine().load(file.write_model(model), batch=len(x)).infer(x).reshape(expected.shape)
    off = np.abs(y - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert np.isfinite(expected).all() and off <= NEAR, f"off by {off:.3g}"
    assert np.array_equal(front.reference(name, x)[0], expected)
    return model


def refusal(net, *words, **opts):
    name = net.save("no.tflite")
    try:
        front.read(name, options(**opts))
    except Refused as refused:
        text = [f"{layer}: {reason}" for layer, reason, _ in refused.layers]
        for word in words:
            assert any(word in line for line in text), (word, text)
        assert len(text) == len(words), text
        return
    raise AssertionError(f"not refused: {words}")


# --------------------------------------------------------------------------------------------------
# Operators

def test_conv():
    for size in ((7, 8), (8, 6)):
        for kernel in ((1, 1), (2, 3), (4, 4), (5, 2)):
            for stride in ((1, 1), (2, 2), (2, 3)):
                for padding in (SAME, VALID):
                    net = Net(*size, 3)
                    net.conv(4, kernel, stride, padding, "relu")
                    same(net)
    net = Net(8, 9, 4)
    net.conv(6, (3, 3), dilation=(2, 1))
    net.conv(4, (3, 3), padding=VALID, act="relu", groups=2)
    same(net)


def test_depthwise():
    for times in (1, 3):
        for stride, padding in (((1, 1), SAME), ((2, 2), SAME), ((2, 2), VALID)):
            net = Net(8, 7, 3)
            net.depthwise(times, (3, 4), stride, padding, "relu")
            same(net)
    net = Net(8, 7, 3)
    net.depthwise(1, (3, 3), dilation=(2, 2))
    same(net)


def test_pools():
    for kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        for size in ((6, 8), (7, 5)):
            for kernel, stride in (((2, 2), (2, 2)), ((3, 3), (2, 2)), ((2, 3), (1, 2)),
                                   ((4, 4), (1, 1))):
                for padding in (SAME, VALID):
                    net = Net(*size, 3)
                    net.pool(kind, kernel, stride, padding, "relu")
                    same(net)


def test_dense():
    net = Net(4, 3, 2)
    net.conv(3, (2, 2))
    net.dense(5, "relu")  # of an image as it lies
    net.dense(4, bias=False)
    model = same(net)
    assert [row.op for row in model.rows] == ["input", "conv2d", "flatten", "dense", "dense"]
    net = Net(6, 5)
    net.dense(4, "relu", keep=True)
    net.op("MEAN", (4,), net.last, net.constant(np.array([1], "i4")), options="ReducerOptions",
           keepDims=False)
    net.op("SOFTMAX", (4,), options="SoftmaxOptions", beta=1.0)
    same(net)
    net = Net(6, 5)
    net.op("SOFTMAX", (6, 5), options="SoftmaxOptions", beta=2.0)
    refusal(net, "temperature")


def test_activations():
    for kind, more in (("LOGISTIC", {}), ("TANH", {}), ("RELU", {}),
                       ("LEAKY_RELU", {"options": "LeakyReluOptions", "alpha": 0.3})):
        net = Net(7)
        net.dense(9)
        net.op(kind, (9,), **more)
        assert len(same(net).rows) == 2
    net = Net(7)
    net.dense(9, "relu6")
    net.op("RELU6", (9,))
    net.op("HARD_SWISH", (9,))
    refusal(net, "relu that ends at 6", "no row for RELU6", "no row for HARD_SWISH")


def test_names():
    net = Net(7)
    net.dense(9, "relu")
    net.graph.tensors[net.last].name = "sequential/hidden one/Relu;sequential/hidden one/BiasAdd"
    net.dense(2)
    net.graph.tensors[net.last].name = "StatefulPartitionedCall:0"
    assert [row.name for row in same(net).rows] == ["input", "hidden_one", "fully_connected"]


def test_shapes():
    net = Net(4, 3, 2)
    net.op("RESHAPE", (24,), net.last, net.constant(np.array([-1, 24], "i4")))
    net.dense(3)
    same(net)
    net = Net(24)  # the input itself may have another shape
    net.op("RESHAPE", (4, 3, 2), net.last, net.constant(np.array([1, 4, 3, 2], "i4")))
    net.conv(3, (2, 2))
    net.op("MEAN", (1, 1, 3), net.last, net.constant(np.array([1, 2], "i4")),
           options="ReducerOptions", keepDims=True)
    net.op("SQUEEZE", (3,), options="SqueezeOptions", squeezeDims=[1, 2])
    same(net)
    net = Net(4, 3)
    net.dense(6, keep=True)
    net.op("RESHAPE", (3, 8), net.last, net.constant(np.array([1, 3, 8], "i4")))
    refusal(net, "cannot make [3, 8]")
    net = Net(4, 3)
    net.op("TRANSPOSE", (3, 4), net.last, net.constant(np.array([0, 2, 1], "i4")))
    refusal(net, "does not turn")


def test_computed_shape():
    """Keras' Flatten becomes SHAPE, STRIDED_SLICE and PACK beside a RESHAPE."""
    net = Net(4, 3, 2)
    before = net.conv(3, (2, 2))
    net.op("SHAPE", (4,), before, out="i4", options="ShapeOptions", outType=TYPES["i4"])
    net.graph.tensors[net.last].shape = [4]
    net.op("STRIDED_SLICE", (), net.last, *(net.constant(np.array([n], "i4")) for n in (0, 1, 1)),
           out="i4", options="StridedSliceOptions", shrinkAxisMask=1)
    net.graph.tensors[net.last].shape = []
    net.op("PACK", (2,), net.last, net.constant(np.array(36, "i4")), out="i4",
           options="PackOptions", valuesCount=2, axis=0)
    net.graph.tensors[net.last].shape = [2]
    net.op("RESHAPE", (36,), before, net.last)
    net.dense(3)
    same(net)


def test_pad():
    pads = np.array([[0, 0], [1, 2], [0, 3], [0, 0]], "i4")
    net = Net(6, 5, 2)
    net.op("PAD", (9, 8, 2), net.last, net.constant(pads))
    net.conv(3, (3, 3), (2, 2), VALID)
    same(net)
    net = Net(6, 5, 2)
    net.op("PAD", (9, 8, 2), net.last, net.constant(pads))
    net.pool("MAX_POOL_2D", (4, 4), (2, 2), VALID)
    refusal(net, "zeros around its input can win")
    net = Net(6, 5, 2)
    net.op("PAD", (6, 5, 5), net.last, net.constant(pads[[0, 0, 0, 2]]))
    refusal(net, "pads more than height")


def test_add():
    net = Net(6, 5, 3)
    a = net.conv(4, (3, 3), act="relu")
    b = net.conv(4, (1, 1))
    net.op("ADD", (6, 5, 4), a, b, options="AddOptions", fusedActivationFunction=ACTS["relu"])
    model = same(net)
    assert model.rows[-1].op == "add" and model.rows[-1].fields["act"] == "relu"
    net.op("MUL", (6, 5, 4), a, b, options="MulOptions")
    refusal(net, "no row for MUL of two")


def test_input_scale():
    for first, second in ((np.float32(1 / 127.5), np.float32(-1)),
                          (-abs(gen(3)), gen(3, seed=2)), (gen(1), gen(1, 1, 1, 3))):
        net = Net(5, 4, 3)
        net.op("MUL", (5, 4, 3), net.last, net.constant(np.float32(first)), options="MulOptions")
        net.op("ADD", (5, 4, 3), net.constant(np.float32(second)), net.last, options="AddOptions")
        net.conv(2, (2, 2))
        model = same(net)
        assert [row.op for row in model.rows] == ["input", "conv2d"]
    net = Net(5, 4, 3)
    net.op("SUB", (5, 4, 3), net.last, net.constant(gen(3)), options="SubOptions")
    net.op("DIV", (5, 4, 3), net.last, net.constant(abs(gen(3, seed=5))), options="DivOptions")
    net.dense(2)
    same(net)
    net = Net(5, 4, 3)
    net.op("MUL", (5, 4, 3), net.last, net.constant(np.array([1, -1, 1], "f4")),
           options="MulOptions")
    net.dense(2)
    refusal(net, "another sign")


def test_what_a_batch_norm_left():
    net = Net(5, 4, 3)
    net.pool("MAX_POOL_2D", (2, 2), (1, 1), SAME)
    net.op("MUL", (5, 4, 3), net.last, net.constant(gen(3)), options="MulOptions")
    net.op("ADD", (5, 4, 3), net.last, net.constant(gen(3)), options="AddOptions",
           fusedActivationFunction=ACTS["relu"])
    refusal(net, "no row for MUL of a constant", "no row for ADD of a constant")
    same(net, inference=True)


def test_embedding():
    ids = np.random.default_rng(1).integers(0, 9, (4, 7)).astype("i4")
    net = Net(7, kind="i4")
    net.op("GATHER", (7, 5), net.constant(gen(9, 5)), net.last, options="GatherOptions", axis=0)
    net.op("MEAN", (5,), net.last, net.constant(np.array([1], "i4")), options="ReducerOptions",
           keepDims=False)
    same(net, ids)
    net = Net(7)
    net.op("CAST", (7,), out="i4", options="CastOptions")
    net.op("GATHER", (7, 5), net.constant(gen(9, 5)), net.last, options="GatherOptions", axis=0)
    net.dense(2)
    same(net, ids)


def test_half_weights():
    """Weights stored in halves pass through DEQUANTIZE."""
    net = Net(5)
    half = net.constant(gen(3, 5).astype("f2"))
    start = net.last
    net.op("DEQUANTIZE", (3, 5), half, options="DequantizeOptions")
    net.graph.tensors[net.last].shape = [3, 5]
    net.op("FULLY_CONNECTED", (3,), start, net.last, net.constant(gen(3)),
           options="FullyConnectedOptions", weightsFormat=0)
    same(net)


def test_refused():
    net = Net(7, 5)
    net.op("WHILE", (4,), options="WhileOptions")
    refusal(net, "no row for WHILE, which a recurrent layer became")
    net = Net(6, 5, 3)
    a = net.conv(4, (3, 3))
    net.op("CONCATENATION", (6, 5, 8), a, net.conv(4, (1, 1)), options="ConcatenationOptions",
           axis=3)
    net.op("LOG_SOFTMAX", (6, 5, 8))
    refusal(net, "no row for CONCATENATION", "no row for LOG_SOFTMAX")
    net = Net(6, 5, 3)
    a, b = net.conv(4, (3, 3), act="relu6"), net.op("ELU", (6, 5, 3), net.start)
    net.op("ADD", (6, 5, 4), a, b, options="AddOptions")
    refusal(net, "no row for ELU", "nn.h adds equal", "relu that ends at 6")
    net = Net(6, 5, 3)
    net.conv(4, (3, 3), act="relu6")
    refusal(net, "relu that ends at 6")


def test_quantized():
    net = Net(5)
    weight = net.constant(np.ones((3, 5), "i1"))
    scale = schema.QuantizationParametersT()
    scale.scale, scale.zeroPoint = [0.5], [0]
    net.graph.tensors[weight].quantization = scale
    net.op("FULLY_CONNECTED", (3,), net.last, weight, options="FullyConnectedOptions")
    refusal(net, "FULLY_CONNECTED is quantized (int8)")
    net = Net(5, kind="i1")
    net.op("DEQUANTIZE", (5,), options="DequantizeOptions")
    refusal(net, "the input: it is int8")


# --------------------------------------------------------------------------------------------------
# Hostile files

def outcome(content):
    """What reading comes to: a Model, or the sentence of an Error; nothing else."""
    with open(path("bad.tflite"), "wb") as f:
        f.write(content)
    try:
        return front.read(path("bad.tflite"), options())
    except Error as error:
        text = str(error)
        assert text and (isinstance(error, Refused) or "\n" not in text), text
        return text


def small():
    net = Net(4, 4, 1)
    net.conv(2, (2, 2), act="relu")
    net.dense(3)
    with open(net.save(), "rb") as f:
        return f.read()


def test_truncated():
    content = small()
    for size in range(len(content)):
        result = outcome(content[:size])
        assert isinstance(result, str) or size > len(content) - 8, size


def test_flipped_bits():
    """There is no checksum, so that a flip may be another number; but never anything else."""
    content, models = small(), 0
    for at in range(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        models += not isinstance(outcome(bytes(flipped)), str)
    assert models > 100


def test_mutated_words():
    """Offsets and counts of any value."""
    content, chance = small(), random.Random(1)
    for _ in range(3000):
        mutated = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(0, len(content) - 4) & ~1
            word = chance.choice([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(content),
                                  chance.randrange(len(content)), chance.getrandbits(32)])
            mutated[at:at + 4] = word.to_bytes(4, "little")
        outcome(bytes(mutated))


def test_not_tflite():
    for content in (b"", b"\0" * 8, b"\x1c\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + b"\xff" * 60,
                    b"\0\0\0\0TFL3" + b"\0" * 60, b"hello" * 100):
        assert isinstance(outcome(content), str)


def test_circle():
    net = Net(5)
    net.dense(5)
    net.dense(5)
    first, second = net.graph.operators
    first.inputs[0] = second.outputs[0]
    with open(net.save(), "rb") as f:
        assert "circle" in outcome(f.read())


# --------------------------------------------------------------------------------------------------

def main():
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or part not in name:
            continue
        try:
            test()
            passed += 1
        except Exception as error:  # a test that breaks must not hide the others
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}")
            if os.environ.get("TRACE"):
                import traceback
                traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
