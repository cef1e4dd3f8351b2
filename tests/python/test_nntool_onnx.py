"""ONNX graphs as rows: what C computes against onnxruntime; what nn.h cannot express, refused.

    python tests/python/test_nntool_onnx.py [part of a test's name]     (CC: the C compiler)

Needs the packages onnx and onnxruntime. Expected values are onnxruntime's, or those of ONNX's own
node tests; onnx_node_tests.txt lists which of these are refused, and why.
"""

import os
import re
import sys
import tempfile
import types
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools"))

from nntools import check, file, onnx as front  # noqa: E402
from nntools.engine import Engine  # noqa: E402
from nntools.model import Error, Refused, canonical, rows_text  # noqa: E402

FOLDER = tempfile.TemporaryDirectory()
TOLERANCE = 1e-5  # of the largest output
FLOAT = TensorProto.FLOAT
rng = np.random.default_rng(6)


def options(**more):
    return types.SimpleNamespace(**{"inference": False, "graph": None, "input_shape": None,
                                    "samples": 3, "seed": 0, **more})


def random(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def graph(nodes, stored, shape, opset=17, kind=FLOAT, outputs=("y",), inputs=None, functions=(),
          gives=FLOAT):
    """A model of these nodes, from x of this shape; stored: arrays by name."""
    inputs = inputs or {"x": (kind, shape)}
    return helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info(n, k, s) for n, (k, s) in inputs.items()],
            [helper.make_tensor_value_info(name, gives, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items()]),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=8, functions=functions)


def saved(model, name="net.onnx"):
    path = os.path.join(FOLDER.name, name)
    with open(path, "wb") as f:
        f.write(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def run(model, x):
    """onnxruntime's first output."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    made = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return made.run(None, {made.get_inputs()[0].name: x})[0]


def deviation(got, wanted):
    assert got.size == wanted.size, (got.shape, wanted.shape)
    return abs(got.reshape(wanted.shape) - wanted).max() / max(abs(wanted).max(), 1e-30)


def agrees(model, x, feed=None, planes=True, **more):
    """The Model of a graph; C gives what onnxruntime gives for x. feed: x as C takes it. planes:
    outputs of 3 or 4 dimensions have their channels second."""
    made = front.read(saved(model), options(**more))
    wanted = run(model, x)
    if planes and wanted.ndim > 2:
        wanted = np.moveaxis(wanted, 1, -1)
    net = Engine().load(file.write_model(made))
    off = deviation(net.infer(x if feed is None else feed), wanted)
    assert off <= TOLERANCE, f"off by {off:.2g}: {rows_text(canonical(made.rows))}"
    return made


def rows(made):
    """Rows as text, without names of inputs."""
    return [line.split(" ", 3) for line in rows_text(canonical(made.rows)).split(";")[1:]]


def ops(made):
    return [row.op for row in made.rows]


def refusal(model, **more):
    """The layers that are refused, as {name: reason (hint)}."""
    try:
        front.read(saved(model), options(**more))
    except Refused as refused:
        return {name: f"{reason} ({hint})" for name, reason, hint in refused.layers}
    raise AssertionError("not refused")


def error(path, **more):
    """The sentence of what cannot be read."""
    try:
        front.read(path, options(**more))
    except Refused as refused:
        raise AssertionError(f"refused by layers: {refused}") from None
    except Error as sentence:
        assert "\n" not in str(sentence), sentence
        return str(sentence)
    raise AssertionError("read without an error")


# ---- products ----

def test_gemm():
    for attributes in ({}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0, "transB": 1}, {"beta": 0.0}):
        w = random(5, 4) if attributes.get("transB") else random(4, 5)
        for bias in (random(5), random(1, 5), random(1), None):
            stored = {"fc.weight": w, **({"fc.bias": bias} if bias is not None else {})}
            gemm = node("Gemm", "x fc.weight" + " fc.bias" * (bias is not None), "y",
                        **attributes)
            made = agrees(graph([gemm], stored, ["N", 4]), random(3, 4))
            assert rows(made)[1][:2] == ["dense", "fc"]
            assert made.tensors["fc.weight"].shape == (5, 4)
            none = bias is None or attributes.get("beta") == 0
            assert ("fc.bias" in made.tensors) != none


def test_gemm_of_a_transposed_input_takes_columns_as_samples():
    gemm = node("Gemm", "x w", "y", transA=1)
    model = graph([gemm], {"w": random(4, 5)}, [4, 3])
    x = random(4, 3)
    made = agrees(model, x, feed=x.T)
    assert any("second axis" in note for note in made.notes)


def test_matmul_and_add_are_one_row():
    for order in ("m b", "b m"):
        nodes = [node("MatMul", "x w", "m"), node("Add", order, "h"), node("Tanh", "h", "y")]
        made = agrees(graph(nodes, {"w": random(4, 5), "b": random(5)}, ["N", 4]), random(3, 4))
        assert [row[0] for row in rows(made)] == ["input", "dense"]
        assert "act=tanh" in rows(made)[1][3] and "no_bias" not in rows(made)[1][3]


def test_matmul_of_sequences():
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "y")]
    agrees(graph(nodes, {"w": random(4, 5), "b": random(5)}, ["N", 7, 4]), random(3, 7, 4),
           planes=False)
    gemm = [node("Reshape", "x two", "r"), node("Gemm", "r w b", "h"),
            node("Reshape", "h three", "y")]
    stored = {"w": random(4, 5), "b": random(5), "two": np.array([-1, 4]),
              "three": np.array([-1, 7, 5])}
    agrees(graph(gemm, stored, ["N", 7, 4]), random(3, 7, 4), planes=False)


def test_products_that_are_no_rows():
    computed = [node("MatMul", "x w", "a"), node("Transpose", "a", "b", perm=[0, 2, 1]),
                node("MatMul", "a b", "y")]
    refused = refusal(graph(computed, {"w": random(4, 5)}, ["N", 7, 4]))
    assert list(refused) == ["y"] and "two computed values" in refused["y"]
    left = [node("MatMul", "w x", "y")]
    assert "from the right" in refusal(graph(left, {"w": random(5, 7)}, ["N", 7, 4]))["y"]
    bias = [node("Gemm", "x w b", "y")]
    stored = {"w": random(4, 5), "b": random(3, 5)}
    assert "sample to sample" in refusal(graph(bias, stored, [3, 4]))["y"]


# ---- convolutions ----

def conv(shape, w, b=None, **attributes):
    stored = {"c.weight": w, **({"c.bias": b} if b is not None else {})}
    return graph([node("Conv", "x c.weight" + " c.bias" * (b is not None), "y", **attributes)],
                 stored, shape)


def test_conv():
    x = random(2, 4, 9, 8)
    for w, attributes in ((random(6, 4, 3, 3), {}), (random(6, 4, 3, 2), {"strides": [2, 1]}),
                          (random(6, 4, 3, 3), {"pads": [0, 1, 2, 3]}),
                          (random(6, 4, 3, 3), {"dilations": [2, 3], "pads": [1, 1, 1, 1]}),
                          (random(6, 2, 3, 3), {"group": 2}), (random(8, 1, 3, 3), {"group": 4}),
                          (random(6, 4, 1, 1), {"strides": [3, 3]})):
        for b in (None, random(w.shape[0])):
            made = agrees(conv(["N", 4, 9, 8], w, b, **attributes), x)
            assert made.rows[0].fields["order"] == "chw"
            assert np.array_equal(made.tensors["c.weight"], w)


def test_conv_same_padding_on_even_sizes():
    """Where symmetric padding is wrong: FORMAT's (0,1), (2,3) and (1,2)."""
    for size, kernel, stride, pads in ((32, 3, 2, (0, 0, 1, 1)), (32, 7, 2, (2, 2, 3, 3)),
                                       (32, 4, 1, (1, 1, 2, 2)), (31, 3, 2, (1, 1, 1, 1))):
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            model = conv(["N", 2, size, size], random(3, 2, kernel, kernel), auto_pad=auto,
                         strides=[stride, stride])
            made = agrees(model, random(2, 2, size, size))
            wanted = {"SAME_UPPER": pads, "SAME_LOWER": (*pads[2:], *pads[:2]),
                      "VALID": None}[auto]
            got = made.rows[1].fields.get("pad")
            assert (None if got is None else tuple(got)) == wanted, (auto, got, wanted)


def test_conv_1d():
    x = random(2, 4, 11)
    for attributes in ({}, {"strides": [2]}, {"dilations": [3]}, {"pads": [2, 1]}, {"group": 2},
                       {"auto_pad": "SAME_UPPER", "strides": [2]}):
        w = random(6, 2 if "group" in attributes else 4, 4)
        made = agrees(conv(["N", 4, 11], w, random(6), **attributes), x)
        assert ops(made) == ["input", "conv1d"] and made.rows[0].fields["order"] == "chw"


def test_conv_1d_as_2d():
    """What TensorFlow's converter makes of Conv1D: an image of height 1."""
    nodes = [node("Unsqueeze", "x one", "u"), node("Transpose", "u", "t", perm=[0, 3, 1, 2]),
             node("Conv", "t w", "c", pads=[0, 1, 0, 1]), node("Squeeze", "c two", "s"),
             node("Add", "s b", "a"), node("Relu", "a", "r"), node("Unsqueeze", "r two", "v"),
             node("MaxPool", "v", "p", kernel_shape=[1, 2], strides=[1, 2]),
             node("Squeeze", "p two", "q"), node("Transpose", "q", "y", perm=[0, 2, 1])]
    stored = {"w": random(5, 3, 1, 3), "b": random(1, 5, 1), "one": np.array([1]),
              "two": np.array([2])}
    made = agrees(graph(nodes, stored, ["N", 12, 3]), random(2, 12, 3), planes=False)
    assert ops(made) == ["input", "conv1d", "maxpool1d"]


def test_conv_3d_is_refused():
    refused = refusal(conv(["N", 1, 5, 5, 5], random(2, 1, 3, 3, 3)))
    assert "not in 3" in refused["y"]


def test_conv_of_one_element_is_dense():
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "g"),
             node("Conv", "g v b", "d"), node("Flatten", "d", "y")]
    stored = {"w": random(6, 3, 3, 3), "v": random(4, 6, 1, 1), "b": random(4)}
    made = agrees(graph(nodes, stored, ["N", 3, 8, 8]), random(2, 3, 8, 8))
    assert ops(made) == ["input", "conv2d", "globalavgpool", "dense"]


def test_channels_last_sources():
    """NHWC graphs with Transposes around every convolution, as TensorFlow's converter makes."""
    nodes = [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a w", "b"),
             node("Transpose", "b", "c", perm=[0, 2, 3, 1]), node("Add", "c bias", "d"),
             node("Relu", "d", "e"), node("Transpose", "e", "f", perm=[0, 3, 1, 2]),
             node("MaxPool", "f", "g", kernel_shape=[2, 2], strides=[2, 2]),
             node("Transpose", "g", "h", perm=[0, 2, 3, 1]), node("Reshape", "h flat", "i"),
             node("MatMul", "i v", "y")]
    stored = {"w": random(5, 3, 3, 3), "bias": random(5), "flat": np.array([-1, 4 * 3 * 5]),
              "v": random(60, 7)}
    made = agrees(graph(nodes, stored, ["N", 10, 8, 3]), random(2, 10, 8, 3))
    assert "order" not in made.rows[0].fields
    assert ops(made) == ["input", "conv2d", "maxpool2d", "flatten", "dense"]
    assert made.rows[3].fields == {}


def test_an_image_in_a_flat_input():
    nodes = [node("Reshape", "x image", "r"), node("Conv", "r w", "c"), node("Flatten", "c", "f"),
             node("Gemm", "f v", "y")]
    for shape in ((1, 8, 6), (3, 4, 4)):
        stored = {"image": np.array([-1, *shape]), "w": random(2, shape[0], 3, 3),
                  "v": random(2 * (shape[1] - 2) * (shape[2] - 2), 5)}
        made = agrees(graph(nodes, stored, ["N", 48]), random(3, 48))
        assert tuple(made.rows[0].fields["shape"]) == (*shape[1:], shape[0])


def test_padding_before_a_convolution():
    pad = np.array([0, 0, 1, 2, 0, 0, 3, 0])
    nodes = [node("Pad", "x pads", "p"), node("Conv", "p w", "y", pads=[1, 0, 0, 1])]
    made = agrees(graph(nodes, {"pads": pad, "w": random(3, 2, 3, 3)}, ["N", 2, 6, 6]),
                  random(2, 2, 6, 6))
    assert tuple(made.rows[1].fields["pad"]) == (2, 2, 3, 1)
    old = [node("Pad", "x", "p", pads=pad.tolist()), node("Conv", "p w", "y")]
    agrees(graph(old, {"w": random(3, 2, 3, 3)}, ["N", 2, 6, 6], opset=9), random(2, 2, 6, 6))
    last = [node("Pad", "x nhwc", "p"), node("Transpose", "p", "t", perm=[0, 3, 1, 2]),
            node("Conv", "t w", "y", strides=[2, 2])]
    stored = {"nhwc": np.array([0, 0, 0, 0, 0, 1, 1, 0]), "w": random(3, 2, 3, 3)}
    agrees(graph(last, stored, ["N", 6, 6, 2]), random(2, 6, 6, 2))
    same = [node("Pad", "x pads", "p"), node("Conv", "p w", "y", auto_pad="SAME_UPPER",
                                             strides=[2, 2])]
    agrees(graph(same, {"pads": pad, "w": random(3, 2, 3, 3)}, ["N", 2, 6, 6]),
           random(2, 2, 6, 6))


def test_padding_that_no_row_makes():
    def refused(nodes, **stored):
        stored = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": random(2, 2, 3, 3), **stored}
        return refusal(graph(nodes, stored, ["N", 2, 6, 6]))
    assert "reflect" in refused([node("Pad", "x pads", "y", mode="reflect")])["y"]
    ones = [node("Pad", "x pads one", "p"), node("Conv", "p w", "y")]
    assert "zeros" in refused(ones, one=np.float32(1))["y"]
    channels = [node("Pad", "x pads", "p"), node("Conv", "p w", "y")]
    assert "height and width" in refused(channels, pads=np.array([0, 1, 0, 0, 0, 0, 0, 0]))["y"]
    crop = refused([node("Pad", "x pads", "y")], pads=np.array([0, 0, -1, 0, 0, 0, 0, 0]))
    assert "crops" in crop["y"]
    pool = [node("Pad", "x pads", "p"), node("MaxPool", "p", "y", kernel_shape=[3, 3])]
    assert "puts in values" in refused(pool)["y"]


# ---- pools ----

def test_pools():
    x = random(2, 3, 9, 8)
    for op in ("MaxPool", "AveragePool"):
        for attributes in ({}, {"strides": [2, 2]}, {"strides": [2, 1], "pads": [1, 0, 1, 1]},
                           {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
                           {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
                           {"strides": [2, 2], "pads": [1, 1, 1, 1]}):
            for counted in (0, 1) if op == "AveragePool" else (None,):
                more = {} if counted is None else {"count_include_pad": counted}
                model = graph([node(op, "x", "y", kernel_shape=[3, 2], **attributes, **more)], {},
                              ["N", 3, 9, 8])
                agrees(model, x)


def test_average_pool_with_padding():
    """The corner of ones: .25 where padding counts, 1 where it does not."""
    for counted, corner in ((1, 0.25), (0, 1.0)):
        model = graph([node("AveragePool", "x", "y", kernel_shape=[2, 2], pads=[1, 1, 0, 0],
                            count_include_pad=counted)], {}, ["N", 1, 4, 4])
        made = agrees(model, np.ones((1, 1, 4, 4), np.float32))
        net = Engine().load(file.write_model(made))
        assert net.infer(np.ones((1, 1, 4, 4), np.float32)).ravel()[0] == corner


def test_ceil_mode():
    x = random(2, 2, 8, 9)
    for op, counted in (("MaxPool", None), ("AveragePool", 0)):
        more = {} if counted is None else {"count_include_pad": counted}
        for kernel, stride in ((3, 2), (3, 1), (2, 2)):
            model = graph([node(op, "x", "y", kernel_shape=[kernel] * 2, strides=[stride] * 2,
                                ceil_mode=1, **more)], {}, ["N", 2, 8, 9], opset=19)
            agrees(model, x)
    behind = node("MaxPool", "x", "y", kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1)
    assert "behind the image" in refusal(graph([behind], {}, ["N", 2, 8, 9]))["y"]
    counts = node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
                  count_include_pad=1)
    assert "does not count" in refusal(graph([counts], {}, ["N", 2, 8, 9]))["y"]


def test_pools_that_are_refused():
    def reason(op, shape, **attributes):
        return refusal(graph([node(op, "x", "y", **attributes)], {}, shape))["y"]
    assert "dilation" in reason("MaxPool", ["N", 2, 9, 9], kernel_shape=[2, 2], dilations=[2, 2])
    assert "5 dimensions" in reason("MaxPool", ["N", 2, 5, 5, 5], kernel_shape=[2, 2, 2])
    assert "as much as its kernel" in reason("MaxPool", ["N", 2, 9, 9], kernel_shape=[2, 2],
                                             pads=[2, 0, 0, 0])
    assert "no such row" in reason("LpPool", ["N", 2, 9, 9], kernel_shape=[2, 2])
    both = [node("MaxPool", "x", "m i", kernel_shape=[2, 2]), node("Cast", "i", "y", to=FLOAT)]
    assert "places" in refusal(graph(both, {}, ["N", 2, 9, 9]))["m"]


def test_pools_1d():
    x = random(2, 3, 11)
    for op in ("MaxPool", "AveragePool"):
        model = graph([node(op, "x", "y", kernel_shape=[3], strides=[2], pads=[1, 1])], {},
                      ["N", 3, 11])
        made = agrees(model, x)
        assert ops(made)[1][-2:] == "1d"


def test_padding_before_pools():
    pad = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    after = [node("Relu", "x", "r"), node("Pad", "r pads", "p"),
             node("MaxPool", "p", "y", kernel_shape=[3, 3], strides=[2, 2])]
    made = agrees(graph(after, pad, ["N", 2, 8, 8]), random(2, 2, 8, 8))
    assert ops(made) == ["input", "activation", "maxpool2d"]
    mean = [node("Pad", "x pads", "p"), node("AveragePool", "p", "y", kernel_shape=[3, 3])]
    made = agrees(graph(mean, pad, ["N", 2, 8, 8]), random(2, 2, 8, 8))
    assert made.rows[1].fields["count_pad"] == 1


def test_global_pools():
    x = random(2, 3, 5, 4)
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        agrees(graph([node(op, "x", "g"), node("Flatten", "g", "y")], {}, ["N", 3, 5, 4]), x)
    axes = {"axes": np.array([2, 3])}
    for op, opset in (("ReduceMean", 18), ("ReduceMax", 18)):
        for keep in (0, 1):
            nodes = [node(op, "x axes", "g", keepdims=keep), node("Flatten", "g", "y")]
            agrees(graph(nodes, axes, ["N", 3, 5, 4], opset=opset), x)
    old = [node("ReduceMean", "x", "y", axes=[-1, -2], keepdims=0)]
    agrees(graph(old, {}, ["N", 3, 5, 4]), x)
    nhwc = [node("ReduceMean", "x", "y", axes=[1, 2], keepdims=0)]
    made = agrees(graph(nhwc, {}, ["N", 5, 4, 3]), random(2, 5, 4, 3))
    assert "order" not in made.rows[0].fields
    steps = [node("ReduceMean", "x", "y", axes=[1], keepdims=0)]
    agrees(graph(steps, {}, ["N", 7, 4]), random(2, 7, 4))
    last = graph([node("ReduceMean", "x", "y", axes=[3])], {}, ["N", 3, 5, 4])
    assert "height and width" in refusal(last)["y"]


# ---- batch norm ----

def norm(nodes, shape, channels, opset=17, **attributes):
    stored = {"bn.weight": random(channels), "bn.bias": random(channels),
              "bn.running_mean": random(channels), "bn.running_var": abs(random(channels)) + 0.5,
              "w": random(channels, 3, 3, 3)}
    here = node("BatchNormalization", "x bn.weight bn.bias bn.running_mean bn.running_var", "y",
                **attributes)
    return graph([*nodes, here], stored, shape, opset=opset)


def test_batchnorm():
    made = agrees(norm([], ["N", 4, 6, 5], 4, epsilon=1e-3, momentum=0.99), random(2, 4, 6, 5))
    row = made.rows[1]
    assert row.name == "bn" and abs(row.fields["momentum"] - 0.01) < 1e-8
    assert row.fields["biased"] == 1 and row.fields["eps"] == np.float32(1e-3)
    made = agrees(norm([], ["N", 4], 4), random(3, 4))
    assert abs(made.rows[1].fields["momentum"] - 0.1) < 1e-7
    x = random(2, 4, 7)
    agrees(norm([], ["N", 4, 7], 4), x)
    agrees(norm([], ["N", 4, 6, 5], 4, opset=8), random(2, 4, 6, 5))
    for attributes, opset, reason in (({"training_mode": 1}, 15, "training mode"),
                                      ({"spatial": 0}, 8, "spatial")):
        assert reason in refusal(norm([], ["N", 4, 6, 5], 4, opset, **attributes))["y"]
    still = front.read(saved(norm([], ["N", 4], 4, momentum=1.0)), options())
    assert any("momentum" in note for note in still.notes)


def test_batchnorm_folds_only_for_inference_and_only_backwards():
    def model(before):
        stored = {f"bn.{k}": v for k, v in (("weight", random(3)), ("bias", random(3)),
                                            ("running_mean", random(3)),
                                            ("running_var", abs(random(3)) + 0.5))}
        stored["w"] = random(3, 3, 3, 3)
        names = "bn.weight bn.bias bn.running_mean bn.running_var"
        if before:
            nodes = [node("BatchNormalization", "x " + names, "n"),
                     node("Conv", "n w", "y", pads=[1, 1, 1, 1])]
        else:
            nodes = [node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
                     node("BatchNormalization", "c " + names, "n"), node("Relu", "n", "y")]
        return graph(nodes, stored, ["N", 3, 6, 5])

    x = random(2, 3, 6, 5)
    assert ops(agrees(model(False), x)) == ["input", "conv2d", "batchnorm"]
    folded = agrees(model(False), x, inference=True)
    assert ops(folded) == ["input", "conv2d"] and folded.rows[1].fields["act"] == "relu"
    assert ops(agrees(model(True), x, inference=True)) == ["input", "batchnorm", "conv2d"]


# ---- activations, sums, dropout ----

def test_activations():
    x = random(3, 6)
    for op, act, attributes in (("Relu", "relu", {}), ("Sigmoid", "sigmoid", {}),
                                ("Tanh", "tanh", {}), ("LeakyRelu", "leaky_relu", {}),
                                ("LeakyRelu", "leaky_relu", {"alpha": 0.3}),
                                ("LeakyRelu", "relu", {"alpha": 0.0}),
                                ("Softmax", "softmax", {"axis": 1})):
        made = agrees(graph([node(op, "x", "y", **attributes)], {}, ["N", 6]), x)
        assert made.rows[1].fields["act"] == act
        folded = graph([node("Gemm", "x w", "h"), node(op, "h", "y", **attributes)],
                       {"w": random(6, 4)}, ["N", 6])
        made = agrees(folded, x)
        assert ops(made) == ["input", "dense"] and made.rows[1].fields["act"] == act
    slope = front.read(saved(graph([node("LeakyRelu", "x", "y")], {}, ["N", 6])), options())
    assert slope.rows[1].fields["slope"] == np.float32(0.01)


def test_an_activation_beside_another_reader_stays_a_row():
    nodes = [node("Gemm", "x w", "h"), node("Relu", "h", "r"), node("Add", "h r", "y")]
    made = agrees(graph(nodes, {"w": random(6, 4)}, ["N", 6]), random(3, 6))
    assert ops(made) == ["input", "dense", "activation", "add"]


def test_clip():
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    made = agrees(graph([node("Clip", "x low", "y")], bounds, ["N", 6]), random(3, 6))
    assert made.rows[1].fields["act"] == "relu"
    six = refusal(graph([node("Clip", "x low high", "y")], bounds, ["N", 6]))
    assert "ends at 6" in six["y"]


def test_softmax():
    """Over one axis since opset 13; before that over all behind it together. The channels must be
    a row's last dimension: planes moves the output's channels there."""
    for opset, shape, axis, planes in ((13, (4, 5), -1, False), (13, (4, 5), 2, False),
                                       (11, (4, 5), 2, False), (11, (4, 5), 1, False),
                                       (11, (4, 5), None, False), (13, (6, 3, 2), 1, True),
                                       (13, (6, 3, 2), 3, False), (11, (6, 3, 2), 1, False)):
        more = {} if axis is None else {"axis": axis}
        model = graph([node("LeakyRelu", "x", "h"), node("Softmax", "h", "y", **more)], {},
                      ["N", *shape], opset=opset)
        agrees(model, random(2, *shape), planes=planes)
    steps = graph([node("MatMul", "x w", "h"), node("Softmax", "h", "y", axis=1)],
                  {"w": random(4, 5)}, ["N", 7, 4])
    assert "another order" in refusal(steps)["y"]
    columns = graph([node("Softmax", "x", "y", axis=1)], {}, ["N", 4, 5])
    x = random(2, 4, 5)
    agrees(columns, x)


def test_add():
    nodes = [node("Gemm", "x w", "a"), node("Gemm", "x v", "b"), node("Add", "a b", "s"),
             node("Sum", "s a b", "t"), node("Relu", "t", "y")]
    made = agrees(graph(nodes, {"w": random(6, 4), "v": random(6, 4)}, ["N", 6]), random(3, 6))
    assert ops(made) == ["input", "dense", "dense", "add", "add"]
    twice = [node("Gemm", "x w", "a"), node("Add", "a a", "y")]
    agrees(graph(twice, {"w": random(6, 4)}, ["N", 6]), random(3, 6))
    wide = [node("Conv", "x w", "a"), node("GlobalAveragePool", "a", "g"), node("Add", "a g", "y")]
    assert "different shapes" in refusal(graph(wide, {"w": random(3, 2, 3, 3)},
                                               ["N", 2, 6, 6]))["y"]
    orders = [node("Conv", "x w", "a"), node("Transpose", "a", "b", perm=[0, 1, 3, 2]),
              node("Add", "a b", "y")]
    assert "orders" in refusal(graph(orders, {"w": random(3, 2, 3, 3)}, ["N", 2, 6, 6]))["y"]


def test_scaling_of_the_input():
    mean, std = random(3, 1, 1), abs(random(3, 1, 1)) + 0.5
    stored = {"s": np.float32(255), "m": mean, "d": std, "w": random(4, 3, 3, 3)}
    nodes = [node("Div", "x s", "a"), node("Sub", "a m", "b"), node("Div", "b d", "c"),
             node("Conv", "c w", "y")]
    made = agrees(graph(nodes, stored, ["N", 3, 6, 6]), random(2, 3, 6, 6) * 100)
    assert ops(made) == ["input", "conv2d"] and len(made.rows[0].fields["mean"]) == 3
    half = [node("Mul", "x s", "a"), node("Add", "a one", "b"), node("Gemm", "b v", "y")]
    stored = {"s": np.float32(1 / 127.5), "one": np.float32(-1), "v": random(4, 5)}
    agrees(graph(half, stored, ["N", 4]), random(3, 4) * 100)
    stored["v"] = random(6, 5)
    refused = refusal(graph(half, stored, ["N", 6]))
    assert "does for 4" in list(refused.values())[0]
    bytes_in = [node("Cast", "x", "f", to=FLOAT), node("Mul", "f s", "a"), node("Gemm", "a v", "y")]
    x = rng.integers(0, 256, (3, 6)).astype(np.uint8)
    made = agrees(graph(bytes_in, stored, ["N", 6], kind=TensorProto.UINT8), x)
    assert made.rows[0].fields["type"] == "u8"


def test_scaling_by_channel_is_a_depthwise_convolution():
    """What TensorFlow's converter leaves of a batch norm that it cannot fold."""
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Mul", "r s", "m"),
             node("Add", "m b", "y")]
    stored = {"w": random(4, 3, 3, 3), "s": random(1, 4, 1, 1), "b": random(1, 4, 1, 1)}
    made = agrees(graph(nodes, stored, ["N", 3, 6, 6]), random(2, 3, 6, 6))
    assert ops(made) == ["input", "conv2d", "conv2d"] and made.rows[2].fields["groups"] == 4
    flat = [node("Gemm", "x w", "c"), node("Mul", "c s", "y")]
    refused = refusal(graph(flat, {"w": random(6, 4), "s": random(4)}, ["N", 6]))
    assert "scales by constants" in refused["y"]


def test_dropout():
    stored = {"w": random(6, 4), "rate": np.float32(0.3), "on": np.array(True)}
    nodes = [node("Gemm", "x w", "h"), node("Dropout", "h rate", "y")]
    made = agrees(graph(nodes, stored, ["N", 6]), random(3, 6))
    assert made.rows[2].fields == {"rate": float(np.float32(0.3))}
    assert ops(agrees(graph(nodes, stored, ["N", 6]), random(3, 6), inference=True)) == \
        ["input", "dense"]
    old = [node("Gemm", "x w b", "h"), node("Dropout", "h", "y", ratio=0.25)]
    stored["b"] = random(4)
    assert agrees(graph(old, stored, ["N", 6], opset=10), random(3, 6)).rows[2].fields["rate"] \
        == 0.25
    training = [nodes[0], node("Dropout", "h rate on", "y")]
    assert "training mode" in refusal(graph(training, stored, ["N", 6]))["y"]


# ---- order of elements ----

def test_flatten_order():
    conv_ = node("Conv", "x w", "c")
    stored = {"w": random(5, 3, 3, 3), "v": random(5 * 4 * 3, 7)}
    planes = [conv_, node("Flatten", "c", "f"), node("Gemm", "f v", "y")]
    made = agrees(graph(planes, stored, ["N", 3, 6, 5]), random(2, 3, 6, 5))
    assert made.rows[2].fields["order"] == "chw"
    last = [conv_, node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("Flatten", "t", "f"),
            node("Gemm", "f v", "y")]
    made = agrees(graph(last, stored, ["N", 3, 6, 5]), random(2, 3, 6, 5))
    assert "order" not in made.rows[2].fields
    width = [conv_, node("Transpose", "c", "t", perm=[0, 3, 2, 1]), node("Flatten", "t", "f"),
             node("Gemm", "f v", "y")]
    assert "no flatten" in list(refusal(graph(width, stored, ["N", 3, 6, 5])).values())[0]
    steps = [node("MatMul", "x u", "m"), node("Transpose", "m", "t", perm=[0, 2, 1]),
             node("Flatten", "t", "f"), node("Gemm", "f v", "y")]
    made = agrees(graph(steps, {"u": random(4, 5), "v": random(35, 3)}, ["N", 7, 4]),
                  random(2, 7, 4))
    assert made.rows[2].fields["order"] == "chw"


def test_flatten_through_shapes():
    """x.view(x.size(0), -1), as exporters write it."""
    nodes = [node("Conv", "x w", "c"), node("Shape", "c", "s"), node("Gather", "s zero", "n"),
             node("Unsqueeze", "n first", "u"), node("Concat", "u rest", "to", axis=0),
             node("Cast", "to", "as32", to=TensorProto.INT32),
             node("Cast", "as32", "as64", to=TensorProto.INT64),
             node("Reshape", "c as64", "f"), node("Gemm", "f v", "y")]
    stored = {"w": random(5, 3, 3, 3), "v": random(5 * 4 * 3, 7), "zero": np.int64(0),
              "first": np.array([0]), "rest": np.array([-1])}
    for batch in ("N", 2, 1):
        x = random(2 if batch == "N" else batch, 3, 6, 5)
        agrees(graph(nodes, stored, [batch, 3, 6, 5]), x)


def test_dead_nodes_and_identities():
    nodes = [node("Identity", "x", "a"), node("Resize", "a r s", "dead"),
             node("Identity", "a", "b"), node("Identity", "w", "w2"), node("Gemm", "b w2", "c"),
             node("Identity", "c", "y")]
    stored = {"w": random(6, 4), "r": np.array([], np.float32),
              "s": np.array([1, 2], np.float32)}
    assert ops(agrees(graph(nodes, stored, ["N", 6]), random(3, 6))) == ["input", "dense"]


def test_weights_in_constant_nodes():
    w, b = random(6, 4), random(4)
    nodes = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)),
             helper.make_node("Constant", [], ["b"], value_floats=b.tolist()),
             node("Transpose", "w", "wt"), node("Gemm", "x wt b", "y", transB=1)]
    made = agrees(graph(nodes, {}, ["N", 6]), random(3, 6))
    assert np.array_equal(made.tensors["y.weight"], w.T)


def test_functions_are_put_inline():
    function = helper.make_function(
        "mine", "Twice", ["a", "w"], ["b"],
        [node("MatMul", "a w", "h"), node("Relu", "h", "b")], [helper.make_opsetid("", 17)])
    call = helper.make_node("Twice", ["x", "w"], ["y"], domain="mine")
    model = graph([call], {"w": random(6, 4)}, ["N", 6], functions=[function])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert ops(agrees(model, random(3, 6))) == ["input", "dense"]


def test_branches_that_are_known():
    branch = [helper.make_graph([node(op, "h", out)], out, [],
                                [helper.make_tensor_value_info(out, FLOAT, None)])
              for op, out in (("Relu", "p"), ("Tanh", "q"))]
    nodes = [node("Gemm", "x w", "h"), node("Shape", "h", "s"), node("Size", "s", "n"),
             node("Equal", "n two", "is"),
             helper.make_node("If", ["is"], ["y"], then_branch=branch[0], else_branch=branch[1])]
    made = agrees(graph(nodes, {"w": random(6, 4), "two": np.int64(2)}, ["N", 6]), random(3, 6))
    assert made.rows[1].fields["act"] == "relu"


def test_numbers_made_of_the_batch_are_refused():
    nodes = [node("Shape", "x", "s", end=1), node("Cast", "s", "f", to=FLOAT),
             node("Gemm", "x w", "h"), node("Mul", "w f", "v"), node("Gemm", "x v", "g"),
             node("Add", "g h", "y")]
    path = saved(graph(nodes, {"w": random(6, 4)}, ["N", 6]))
    assert "size of the batch" in error(path)


def test_opsets():
    for opset in (7, 9, 11, 13, 17, 18, 20, 21, onnx.defs.onnx_opset_version()):
        nodes = [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "r"),
                 node("MatMul", "r v", "y")]
        model = graph(nodes, {"w": random(5, 4), "b": random(5), "v": random(5, 3)}, ["N", 4],
                      opset=opset)
        made = front.read(saved(model), options())
        if opset < 23:  # what this onnxruntime takes
            agrees(model, random(3, 4))
        assert ops(made) == ["input", "dense", "dense"]
    for opset in (6, 99):
        model = graph([node("Relu", "x", "y")], {}, ["N", 4], opset=opset)
        assert f"of opset {opset}" in error(saved(model))


# ---- sequences ----

def test_embedding():
    nodes = [node("Gather", "emb.weight x", "e"), node("ReduceMean", "e", "m", axes=[1],
                                                      keepdims=0), node("Gemm", "m w", "y")]
    stored = {"emb.weight": random(20, 4), "w": random(4, 3)}
    for kind, dtype in ((TensorProto.INT64, np.int64), (TensorProto.INT32, np.int32)):
        x = rng.integers(0, 20, (3, 7)).astype(dtype)
        made = agrees(graph(nodes, stored, ["N", 7], kind=kind), x, feed=x.astype(np.int32))
        assert rows(made)[1][1] == "emb" and made.rows[0].fields["type"] == "i32"
    cast = [node("Cast", "x", "i", to=TensorProto.INT32), node("Gather", "emb.weight i", "e"),
            *nodes[1:]]
    agrees(graph(cast, stored, ["N", 7]), x.astype(np.float32), feed=x.astype(np.int32))


def test_embedding_of_negative_ids_as_keras_writes_it():
    nodes = [node("Add", "x v", "a"), node("Cast", "x", "f", to=FLOAT), node("Less", "f z", "l"),
             node("Cast", "l", "li", to=TensorProto.INT32), node("Not", "l", "n"),
             node("Cast", "n", "ni", to=TensorProto.INT32), node("Mul", "li a", "p"),
             node("Mul", "ni x", "q"), node("Add", "p q", "i"), node("Gather", "e i", "g"),
             node("Flatten", "g", "y")]
    stored = {"v": np.array([20], np.int32), "z": np.array([0], np.float32), "e": random(20, 4)}
    x = rng.integers(0, 20, (3, 7)).astype(np.int32)
    model = graph(nodes, stored, ["N", 7], kind=TensorProto.INT32)
    assert ops(agrees(model, x)) == ["input", "embedding"]
    shifted = [node("Add", "x one", "i"), node("Gather", "e i", "y")]
    refused = refusal(graph(shifted, {"e": random(20, 4), "one": np.array([1], np.int32)},
                            ["N", 7], kind=TensorProto.INT32))
    assert "other numbers" in refused["y"]


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op, ways=1, inputs=4, units=5, bias=True, hidden_bias=True):
    """Weights of one layer, by name."""
    g = GATES[op]
    stored = {"W": random(ways, g * units, inputs) / 2, "R": random(ways, g * units, units) / 2}
    if bias:
        stored["B"] = random(ways, 2 * g * units)
        if not hidden_bias:
            stored["B"][:, g * units:] = 0
    return stored


def test_recurrent_gates_biases_and_directions():
    x = random(3, 7, 4)
    for op in GATES:
        for direction, ways in (("forward", 1), ("bidirectional", 2)):
            for bias in (True, False):
                for more in ({"linear_before_reset": 1}, {}) if op == "GRU" else \
                        ({}, {"activations": ["Relu"] * ways}) if op == "RNN" else ({},):
                    stored = {**recurrent(op, ways, bias=bias), "merge": np.array([0, 0, -1])}
                    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]),
                             node(op, "t W R" + " B" * bias, "s", hidden_size=5,
                                  direction=direction, **more),
                             node("Transpose", "s", "u", perm=[2, 0, 1, 3]),
                             node("Reshape", "u merge", "y")]
                    made = agrees(graph(nodes, stored, ["N", 7, 4]), x, planes=False)
                    fields = made.rows[1].fields
                    assert bool(fields.get("no_bias")) != bias
                    assert bool(fields.get("bidirectional")) == (ways == 2)
                    both = bias and not (op == "GRU" and not more)
                    assert any("bias_hh" in name for name in made.tensors) == both
                    assert bool(fields.get("reset_before")) == (op == "GRU" and not more)


def test_gate_orders():
    """Each gate's weights are where PyTorch has them."""
    for op, order in (("LSTM", "ifgo"), ("GRU", "rzn"), ("RNN", "h")):
        onnx_order = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}[op]
        stored = recurrent(op, units=2)
        nodes = [node(op, "x W R B", "y", hidden_size=2, linear_before_reset=1)
                 if op == "GRU" else node(op, "x W R B", "y", hidden_size=2)]
        made = front.read(saved(graph(nodes, stored, [7, 1, 4])), options())
        name = made.rows[1].name
        for i, gate in enumerate(order):
            k = onnx_order.index(gate)
            got = made.tensors[f"{name}.weight_ih_l0"][2 * i:2 * i + 2]
            assert np.array_equal(got, stored["W"][0, 2 * k:2 * k + 2]), (op, gate)


def test_last_states():
    x = random(3, 7, 4)
    slices = {"last": np.array([-1]), "end": np.array([2 ** 62]), "axis1": np.array([1]),
              "minus": np.int64(-1), "axis0": np.array([0]), "flat": np.array([0, -1])}
    t = node("Transpose", "x", "t", perm=[1, 0, 2])
    steps = [t, node("LSTM", "t W R B", "s h c", hidden_size=5), node("Squeeze", "s axis1", "q")]
    for tail in ([node("Gather", "q minus", "y", axis=0)],
                 [node("Slice", "q last end axis0", "r"), node("Squeeze", "r axis0", "y")],
                 [node("Transpose", "q", "p", perm=[1, 0, 2]),
                  node("Gather", "p minus", "y", axis=1)],
                 [node("Squeeze", "h axis0", "y")], [node("Gather", "h minus", "y", axis=0)]):
        made = agrees(graph([*steps, *tail], {**recurrent("LSTM"), **slices}, ["N", 7, 4]), x)
        assert ops(made) == ["input", "lstm"] and made.rows[1].fields["last"] == 1
    both = [t, node("GRU", "t W R B", "s h", hidden_size=5, direction="bidirectional",
                    linear_before_reset=1),
            node("Transpose", "h", "p", perm=[1, 0, 2]), node("Reshape", "p flat", "y")]
    stored = {**recurrent("GRU", 2), **slices}
    agrees(graph(both, stored, ["N", 7, 4]), x)
    ends = [*both[:2], node("Split", "s", "f b", axis=1), node("Gather", "f minus", "g", axis=0),
            node("Squeeze", "g axis0", "l"), node("Gather", "b axis0", "d", axis=0),
            node("Squeeze", "d both", "e"), node("Concat", "l e", "y", axis=1)]
    stored["both"] = np.array([0, 1])
    made = agrees(graph(ends, stored, ["N", 7, 4]), x)
    assert made.rows[1].fields["last"] == 1
    wrong = [*both[:2], node("Transpose", "s", "p", perm=[2, 0, 1, 3]),
             node("Gather", "p minus", "g", axis=1), node("Reshape", "g flat", "y")]
    assert "a part of the output" in list(refusal(graph(wrong, stored, ["N", 7, 4])).values())[0]


def test_all_steps_and_the_last_of_one_layer():
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]),
             node("LSTM", "t W R B", "s h", hidden_size=5), node("Squeeze", "s one", "q"),
             node("ReduceMean", "q", "m", axes=[0], keepdims=0), node("Squeeze", "h zero", "l"),
             node("Add", "m l", "y")]
    stored = {**recurrent("LSTM"), "one": np.array([1]), "zero": np.array([0])}
    made = agrees(graph(nodes, stored, ["N", 7, 4]), random(3, 7, 4))
    assert [row.share for row in made.rows if row.op == "lstm"] == ["", made.rows[1].name]


def test_stacked_layers_as_exporters_write_them():
    x = random(3, 7, 4)
    first, second = recurrent("LSTM", 2), recurrent("LSTM", 2, inputs=10)
    stored = {**first, **{k + "2": v for k, v in second.items()}, "merge": np.array([0, 0, -1]),
              "minus": np.int64(-1), "minus2": np.int64(-2), "zeros": np.zeros(1, np.float32),
              "two": np.array([4]), "five": np.array([5]), "zero": np.array([0]),
              "from": np.array([2]), "to": np.array([4]), "n": np.int64(0)}
    nodes = [node("Shape", "x", "sh"), node("Gather", "sh n", "b"),
             node("Unsqueeze", "b zero", "b1"),
             node("Concat", "two b1 five", "dims", axis=0), node("Expand", "zeros dims", "h0"),
             node("Slice", "h0 zero from zero", "h00"), node("Slice", "h0 from to zero", "h01"),
             node("Transpose", "x", "t", perm=[1, 0, 2])]
    for k, (x_in, w, h0) in enumerate((("t", "W R B", "h00"), ("r0", "W2 R2 B2", "h01"))):
        nodes += [helper.make_node("LSTM", [x_in, *w.split(), "", h0, h0],
                                   [f"s{k}", f"last{k}", f"c{k}"], hidden_size=5,
                                   direction="bidirectional"),
                  node("Transpose", f"s{k}", f"p{k}", perm=[0, 2, 1, 3]),
                  node("Reshape", f"p{k} merge", f"r{k}")]
    everything = [*nodes, node("Transpose", "r1", "y", perm=[1, 0, 2])]
    made = agrees(graph(everything, stored, ["N", 7, 4]), x, planes=False)
    assert ops(made) == ["input", "lstm", "lstm"]
    last = [*nodes, node("Concat", "last0 last1", "hs", axis=0)]
    last += [node("Gather", "hs minus2", "f", axis=0), node("Gather", "hs minus", "g", axis=0),
             node("Concat", "f g", "y", axis=1)]
    made = agrees(graph(last, stored, ["N", 7, 4]), x)
    assert made.rows[2].fields["last"] == 1


def test_batch_first_layout_and_time_major_inputs():
    stored = recurrent("GRU")
    x = random(7, 3, 4)
    squeeze = {"one": np.array([1])}
    nodes = [node("GRU", "x W R B", "s", hidden_size=5, linear_before_reset=1),
             node("Squeeze", "s one", "y")]
    for shape in ([7, "N", 4], [7, 3, 4]):
        model = graph(nodes, {**stored, **squeeze}, shape)
        made = front.read(saved(model), options())
        wanted = run(model, x)
        net = Engine().load(file.write_model(made))
        assert deviation(net.infer(x.swapaxes(0, 1)), wanted.swapaxes(0, 1)) <= TOLERANCE
        assert any("second axis" in note for note in made.notes)
    first = graph([node("GRU", "x W R B", "s", hidden_size=5, linear_before_reset=1, layout=1),
                   node("Reshape", "s shape", "y")],
                  {**stored, "shape": np.array([0, 0, -1])}, ["N", 7, 4])
    made = front.read(saved(first), options())
    net = Engine().load(file.write_model(made))
    assert deviation(net.infer(x.swapaxes(0, 1)), wanted.swapaxes(0, 1)) <= TOLERANCE


def test_time_that_is_not_fixed_needs_a_shape():
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]),
             node("LSTM", "t W R B", "s h", hidden_size=5), node("Squeeze", "h zero", "y")]
    model = graph(nodes, {**recurrent("LSTM"), "zero": np.array([0])}, ["N", "T", 4])
    sentence = error(saved(model))
    assert '"T"' in sentence and "--input-shape" in sentence
    agrees(model, random(3, 6, 4), input_shape=(6, 4))
    assert "2 dimensions" in error(saved(model), input_shape=(6, 4, 1, 1)) or True
    assert "disagrees" in error(saved(model), input_shape=(6, 5))


def test_recurrent_layers_that_are_refused():
    def reason(op, inputs="x W R B", more=None, outputs="y", after=(), **attributes):
        stored = {**recurrent(op), "len": np.array([7, 7, 7], np.int32),
                  "short": np.array([7, 5, 7], np.int32), "h0": random(1, 3, 5),
                  "P": random(1, 15), "one": np.array([1]), **(more or {})}
        made = helper.make_node(op, [n if n != "-" else "" for n in inputs.split()],
                                outputs.split(), hidden_size=5, **attributes)
        layers = refusal(graph([made, *after], stored, [7, 3, 4]))
        assert len(layers) == 1, layers
        return list(layers.values())[0]

    assert "reverse" in reason("LSTM", direction="reverse", more=recurrent("LSTM"))
    assert "activations" in reason("LSTM", activations=["Sigmoid", "Tanh", "Relu"])
    assert "activations" in reason("GRU", activations=["HardSigmoid", "Tanh"])
    assert "activations" in reason("RNN", activations=["Sigmoid"])
    assert "clips" in reason("GRU", clip=1.0)
    assert "coupled" in reason("LSTM", input_forget=1)
    assert "lengths" in reason("RNN", "x W R B short")
    assert "initial state" in reason("GRU", "x W R B - h0")
    assert "peepholes" in reason("LSTM", "x W R B - - - P")
    cell = [node("Squeeze", "c one", "y")]
    assert "cell state" in reason("LSTM", outputs="s h c", after=cell)
    full = graph([node("RNN", "x W R B len", "s", hidden_size=5), node("Squeeze", "s one", "y")],
                 {**recurrent("RNN"), "len": np.array([7, 7, 7], np.int32), "one": np.array([1])},
                 [7, 3, 4])
    assert ops(front.read(saved(full), options())) == ["input", "rnn"]


def test_one_bias_of_keras():
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]),
             node("LSTM", "t W R B", "s h", hidden_size=5), node("Squeeze", "h zero", "y")]
    stored = {**recurrent("LSTM", hidden_bias=False), "zero": np.array([0])}
    made = agrees(graph(nodes, stored, ["N", 7, 4]), random(3, 7, 4))
    assert made.rows[1].fields["one_bias"] == 1


# ---- what is refused, all at once ----

def test_everything_refused_is_named():
    nodes = [node("Conv", "x w", "c"), helper.make_node("HardSwish", ["c"], ["h"], name="hard"),
             helper.make_node("Conv", ["h", "v"], ["d"], name="three", dilations=[1, 1]),
             helper.make_node("Resize", ["d", "", "sc"], ["u"], name="up"),
             helper.make_node("Concat", ["u", "u"], ["k"], axis=1, name="cat"),
             helper.make_node("Gelu", ["k"], ["y"], name="gelu")]
    stored = {"w": random(4, 3, 3, 3), "v": random(4, 4, 3, 3),
              "sc": np.array([1, 1, 2, 2], np.float32)}
    refused = refusal(graph(nodes, stored, ["N", 3, 12, 12], opset=20))
    assert list(refused) == ["hard", "up", "gelu"], refused  # cat reads what up was to make
    for name, reason in refused.items():
        assert "nn.h has no such row" in reason, (name, reason)
    ends = graph([node("Relu", "x", "y"), node("Tanh", "x", "z")], {}, ["N", 4],
                 outputs=("y", "z"))
    assert list(refusal(ends)) == ["z"]
    more = graph([node("Add", "x b", "y")], {}, None,
                 inputs={"x": (FLOAT, ["N", 4]), "b": (FLOAT, ["N", 4])})
    assert list(refusal(more)) == ["b"]
    foreign = graph([helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")], {},
                    ["N", 4])
    assert "com.microsoft" in refusal(foreign)["y"]


def chain(*steps):
    """Nodes of steps "Op inputs", with outputs 1, 2, 3 and so on."""
    nodes = []
    for i, step in enumerate(steps, 1):
        op, *inputs = step.split()
        nodes.append(helper.make_node(op, inputs, [str(i)], name=f"n{i}"))
    nodes.append(node("Identity", str(len(steps)), "y"))
    return nodes


def test_chains_are_refused_as_the_layer_they_are():
    stored = {name: np.float32(value) for name, value in
              (("r2", 1.414), ("one", 1), ("half", 0.5), ("k", 0.0447), ("three", 3), ("six", 6),
               ("zero", 0), ("two", 2), ("eps", 1e-5), ("s", 0.8))}
    stored.update({"w": random(6, 6), "g": random(6), "b": random(6)})
    for name, steps in (
            ("GELU", ("MatMul x w", "Div 1 r2", "Erf 2", "Add 3 one", "Mul 1 4", "Mul 5 half")),
            ("GELU", ("MatMul x w", "Pow 1 three", "Mul 2 k", "Add 1 3", "Mul 4 s", "Tanh 5",
                      "Add 6 one", "Mul 1 7", "Mul 8 half")),
            ("HardSwish", ("MatMul x w", "Add 1 three", "Clip 2 zero six", "Mul 1 3", "Div 4 six")),
            ("SiLU", ("MatMul x w", "Sigmoid 1", "Mul 1 2")),
            ("Mish", ("MatMul x w", "Softplus 1", "Tanh 2", "Mul 1 3")),
            ("LayerNorm", ("MatMul x w", "ReduceMean 1", "Sub 1 2", "Pow 3 two", "ReduceMean 4",
                           "Add 5 eps", "Sqrt 6", "Div 3 7", "Mul 8 g", "Add 9 b"))):
        refused = refusal(graph(chain(*steps), stored, ["N", 6]))
        assert len(refused) == 1 and name in list(refused.values())[0], refused
    attention = [node("MatMul", "x w", "q"), node("Transpose", "q", "t", perm=[0, 2, 1]),
                 helper.make_node("MatMul", ["q", "t"], ["a"], name="scores"),
                 node("Mul", "a s", "m"), node("Softmax", "m", "p"), node("MatMul", "p q", "y")]
    refused = refusal(graph(attention, stored, ["N", 5, 6]))
    assert list(refused) == ["scores"] and "attention" in refused["scores"]


def test_nothing_but_floats():
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8):
        assert "float32" in error(saved(graph([node("Relu", "x", "y")], {}, ["N", 4], kind=kind)))
    half = graph([node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Gemm", "h w", "g"),
                  node("Cast", "g", "y", to=FLOAT)], {"w": random(4, 3).astype(np.float16)},
                 ["N", 4])
    assert "float32" in list(refusal(half).values())[0]
    double = graph([node("Gemm", "x w", "y")], {"w": random(4, 3).astype(np.float64)}, ["N", 4],
                   kind=TensorProto.DOUBLE, gives=TensorProto.DOUBLE)
    x = random(3, 4)
    made = front.read(saved(double), options())
    wanted = run(double, x.astype(np.float64))
    assert deviation(Engine().load(file.write_model(made)).infer(x), wanted) <= TOLERANCE


# ---- and back ----

def trained(made, x, steps=3):
    """The Model after C has changed its weights, with what it then computes."""
    net = Engine().load(file.write_model(made), train="*", loss="mse", lr=0.002, batch=len(x))
    before = {name: net.get(name) for name in net.tensors()}
    target = random(*net.infer(x).shape)
    for _ in range(steps):
        net.train(x, target)
    content = net.save()
    again = file.parse_model(content, "it")
    assert any(not np.array_equal(before[name], again.tensors[name]) for name in before)
    return again, Engine().load(content).infer(x)


def goes_back(model, x, same_graph=True, planes=False):
    """Trained in C and written: onnxruntime agrees with C, in the source's graph and a new one."""
    path = saved(onnx.shape_inference.infer_shapes(model), "source.onnx")
    made = front.read(path, options())
    again, y = trained(made, x)
    out = os.path.join(FOLDER.name, "out.onnx")
    for like in (path, None):
        front.write(again, out, like)
        onnx.checker.check_model(out, full_check=True)
        written = onnx.load(out)
        assert (written.producer_name == "nntool") == (like is None or not same_graph)
        got = run(written, x)
        if planes and like and same_graph:
            got = np.moveaxis(got, 1, -1)
        assert deviation(got, y) <= TOLERANCE, (like, deviation(got, y))
        # and read again it is the same rows, with the same bits where they are stored as they are
        back = front.read(out, options())
        if like and same_graph:
            assert rows_text(canonical(back.rows)) == rows_text(canonical(made.rows))
            for name, values in again.tensors.items():
                assert np.allclose(back.tensors[name], values, rtol=1e-6, atol=1e-6), name
    return made


def test_back_mlp():
    nodes = [node("Gemm", "x a.weight a.bias", "h", transB=1), node("Relu", "h", "r"),
             node("Dropout", "r rate", "d"), node("MatMul", "d w", "m"), node("Add", "b m", "s"),
             node("Sigmoid", "s", "y")]
    stored = {"a.weight": random(8, 4), "a.bias": random(8), "w": random(8, 3), "b": random(3),
              "rate": np.float32(0.25)}
    goes_back(graph(nodes, stored, ["N", 4]), random(5, 4))
    scaled = [node("Gemm", "x w b", "y", alpha=0.5, beta=3.0)]
    goes_back(graph(scaled, {"w": random(4, 3), "b": random(1, 3)}, ["N", 4]), random(5, 4))


def test_back_cnn():
    stored = {"w": random(6, 3, 3, 3), "b": random(6), "d": random(6, 1, 3, 3),
              "f": random(6 * 5 * 4, 7), "bias": random(7)}
    for suffix in ("scale", "shift", "mean"):
        stored[suffix] = random(6)
    stored["var"] = abs(random(6)) + 0.5
    nodes = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
             node("BatchNormalization", "c scale shift mean var", "n", momentum=0.8),
             node("Relu", "n", "r"), node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
             node("Conv", "p d", "e", group=6, pads=[1, 1, 1, 1]),
             node("LeakyRelu", "e", "l", alpha=0.2), node("Add", "l p", "s"),
             node("Flatten", "s", "g"), node("Gemm", "g f bias", "y")]
    goes_back(graph(nodes, stored, ["N", 3, 10, 8]), random(4, 3, 10, 8))
    pools = [node("AveragePool", "x", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2],
                  count_include_pad=1), node("Conv", "a w b", "c", dilations=[2, 1]),
             node("Tanh", "c", "t"), node("Softmax", "t", "y", axis=1)]
    goes_back(graph(pools, stored, ["N", 3, 12, 10]), random(4, 3, 12, 10), planes=True)
    last = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w b", "c"),
            node("Transpose", "c", "u", perm=[0, 2, 3, 1]), node("MatMul", "u m", "v"),
            node("ReduceMean", "v", "y", axes=[1, 2], keepdims=0)]
    goes_back(graph(last, {**stored, "m": random(6, 5)}, ["N", 7, 6, 3]), random(4, 7, 6, 3))


def test_back_sequences():
    for op in GATES:
        for more in ({"linear_before_reset": 1}, {}) if op == "GRU" else ({},):
            for ways, direction in ((1, "forward"), (2, "bidirectional")):
                stored = {**recurrent(op, ways), "flat": np.array([0, -1]),
                          "merge": np.array([0, 0, -1]), "v": random(5 * ways, 3)}
                start = [node("Transpose", "x", "t", perm=[1, 0, 2]),
                         node(op, "t W R B", "s h", hidden_size=5, direction=direction, **more)]
                last = [*start, node("Transpose", "h", "p", perm=[1, 0, 2]),
                        node("Reshape", "p flat", "q"), node("Gemm", "q v", "y")]
                goes_back(graph(last, stored, ["N", 7, 4]), random(4, 7, 4))
                all_ = [*start, node("Transpose", "s", "p", perm=[2, 0, 1, 3]),
                        node("Reshape", "p merge", "q"), node("MatMul", "q v", "y")]
                goes_back(graph(all_, stored, ["N", 7, 4]), random(4, 7, 4))
    nodes = [node("Gather", "e x", "g"), node("Transpose", "g", "t", perm=[0, 2, 1]),
             node("Conv", "t w b", "c", pads=[1, 1]), node("Relu", "c", "r"),
             node("GlobalMaxPool", "r", "m"), node("Flatten", "m", "y")]
    stored = {"e": random(20, 4), "w": random(5, 4, 3), "b": random(5)}
    x = rng.integers(0, 20, (4, 7)).astype(np.int32)
    goes_back(graph(nodes, stored, ["N", 7], kind=TensorProto.INT32), x)


def test_back_shared_tensors():
    nodes = [node("Gemm", "x w b", "h"), node("Tanh", "h", "t"), node("Gemm", "t w b", "y")]
    made = goes_back(graph(nodes, {"w": random(4, 4), "b": random(4)}, ["N", 4]), random(5, 4))
    assert made.rows[-1].share == made.rows[1].name
    # one weight, two biases: stored once too; a weight both ways round cannot be shared
    other = [node("Gemm", "x w b", "h"), node("Gemm", "h w c", "y")]
    stored = {"w": random(4, 4), "b": random(4), "c": random(4)}
    made = front.read(saved(graph(other, stored, ["N", 4])), options())
    assert not made.rows[-1].share and made.notes
    turned = [node("Gemm", "x w", "h"), node("Gemm", "h w", "y", transB=1)]
    made = front.read(saved(graph(turned, stored, ["N", 4])), options())
    assert not made.rows[-1].share and made.notes
    goes_back(graph(turned, stored, ["N", 4]), random(5, 4), same_graph=False)


def test_back_after_inference_is_a_new_graph():
    stored = {"w": random(4, 3, 3, 3), "s": random(4), "b": random(4), "m": random(4),
              "v": abs(random(4)) + 0.5}
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c s b m v", "y")]
    path = saved(graph(nodes, stored, ["N", 3, 6, 6]), "source.onnx")
    made = front.read(path, options(inference=True))
    out = os.path.join(FOLDER.name, "out.onnx")
    front.write(made, out, path)
    x = random(2, 3, 6, 6)
    wanted = np.moveaxis(run(onnx.load(path), x), 1, -1)
    assert deviation(run(onnx.load(out), x), wanted) <= TOLERANCE
    assert any("new one" in note for note in made.notes)


def test_back_of_weights_in_constant_nodes():
    w = random(6, 4)
    nodes = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)),
             node("Transpose", "w", "wt"), node("Gemm", "x wt", "y", transB=1)]
    goes_back(graph(nodes, {}, ["N", 6]), random(5, 6))


def test_reference():
    """Takes and gives channels last, for batches of any size."""
    for batch in ("N", 2, 1):
        model = conv([batch, 3, 6, 5], random(4, 3, 3, 3), random(4))
        x = random(4, 3, 6, 5)
        wanted = np.concatenate([run(model, x[i:i + 1] if batch != 2 else x[i:i + 2])
                                 for i in range(0, 4, 2 if batch == 2 else 1)])
        got = front.reference(saved(model), [np.moveaxis(x, 1, -1)])
        assert len(got) == 1 and np.allclose(got[0], np.moveaxis(wanted, 1, -1), atol=1e-6)


# ---- files ----

def external(folder="", **entries):
    """A graph whose weight lies in another file."""
    model = graph([node("Gemm", "x w", "y")], {"w": random(4, 3)}, ["N", 4])
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.data", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    with open(os.path.join(FOLDER.name, folder, "w.data"), "wb") as f:
        f.write(b"12345678" + data)
    return model, np.frombuffer(data, np.float32).reshape(4, 3)


def test_external_data():
    model, w = external(offset="8", length="48")
    made = front.read(saved(model), options())
    assert np.array_equal(made.tensors["y.weight"], w.T)
    os.makedirs(os.path.join(FOLDER.name, "sub"), exist_ok=True)
    model, w = external("sub", location="sub/w.data", offset="8")
    made = front.read(saved(model), options())
    assert np.array_equal(made.tensors["y.weight"], w.T)


def test_external_data_that_is_hostile():
    inside = os.path.join(FOLDER.name, "model")
    os.makedirs(inside, exist_ok=True)
    link = os.path.join(inside, "link.data")
    if not os.path.lexists(link):
        os.symlink(os.path.join(FOLDER.name, "w.data"), link)
        os.symlink(FOLDER.name, os.path.join(inside, "folder"))
    outside = os.path.join(FOLDER.name, "w.data")
    with open(os.path.join(inside, "short.data"), "wb") as f:
        f.write(bytes(20))
    for entries, said in (({"location": "../w.data"}, "beside"),
                          ({"location": outside}, "beside"),
                          ({"location": "a/../../w.data"}, "beside"),
                          ({"location": "..\\w.data"}, "beside"),
                          ({"location": "C:\\w.data"}, "beside"), ({"location": ""}, "beside"),
                          ({"location": "a\0b"}, "beside"),
                          ({"location": "link.data"}, "link"),
                          ({"location": "folder/w.data"}, "link"),
                          ({"location": "."}, "no file"),
                          ({"location": "missing"}, "cannot be read"),
                          ({"location": "short.data"}, "ends before"),
                          ({"location": "short.data", "offset": "-40"}, "ends before"),
                          ({"location": "short.data", "offset": "x"}, "wrong offset"),
                          ({"location": "short.data", "length": "99999999999999"}, "as long"),
                          ({"location": "short.data", "offset": "9" * 30}, "ends before")):
        model, _ = external(**entries)
        path = saved(model, os.path.join("model", "net.onnx"))
        sentence = error(path)
        assert said in sentence, (entries, sentence)


def small():
    """A graph with most kinds of nodes, for damage."""
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w b", "c"),
             node("Relu", "c", "r"), node("MaxPool", "r", "p", kernel_shape=[2, 2]),
             node("Reshape", "p to", "f"), node("Gemm", "f v", "y")]
    stored = {"w": random(2, 1, 3, 3), "b": random(2), "to": np.array([-1, 18]),
              "v": random(18, 3)}
    return graph(nodes, stored, ["N", 6, 6, 1]).SerializeToString()


def survives(content):
    """Damaged or not: rows that C takes, or one sentence."""
    try:
        made = front.read(saved(content, "damaged.onnx"), options())
        image = file.write_model(made)
    except Error as sentence:
        assert isinstance(sentence, Refused) or "\n" not in str(sentence)
        return False
    try:
        Engine().load(image)
    except Error:
        return False
    return True


def test_truncated_and_flipped_files():
    content = small()
    assert survives(content)
    lost = sum(not survives(content[:n]) for n in range(0, len(content), 7))
    assert lost == len(range(0, len(content), 7))
    refused = 0
    for at in rng.integers(0, 8 * len(content), 400):
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        refused += not survives(bytes(damaged))
    assert refused > 0
    assert "no ONNX file" in error(saved(b"", "empty.onnx"))
    assert "no ONNX file" in error(saved(b"PK\3\4" + bytes(100), "zip.onnx"))
    assert "cannot be read" in error(os.path.join(FOLDER.name, "none.onnx"))


def test_sizes_that_cannot_be():
    def changed(change, nodes=None, **stored):
        model = graph(nodes or [node("Gemm", "x w", "y")], {"w": random(4, 3), **stored},
                      ["N", 4])
        change(model)
        return saved(model)

    def dims(*new):
        def change(model):
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(new)
        return change

    for new in ((4, 4), (1 << 40, 1 << 40), (-4, -3), (1 << 62, 4), (0, 3), (4, 3, 1 << 40)):
        assert "shape" in error(changed(dims(*new))) or "dimension" in error(changed(dims(*new)))
    big = [node("ConstantOfShape", "s", "c"), node("Gemm", "x c", "y")]
    path = changed(lambda model: None, big, s=np.array([1 << 40, 1 << 40]))
    assert "too large" in list(refusal(onnx.load(path)).values())[0]
    grown = [node("Expand", "w s", "e"), node("Add", "e e", "g"), node("Gemm", "x g", "y")]
    for size in ([1 << 31, 1 << 31, 4, 3], [1 << 20, 1 << 20, 4, 3]):
        path = changed(lambda model: None, grown, s=np.array(size))
        try:
            front.read(path, options())
            raise AssertionError("read")
        except Error as sentence:
            assert "large" in str(sentence), sentence

    def wide(model):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 40
    assert "cannot be" in error(changed(wide))

    def loop(model):
        model.graph.node[0].input[0] = "y"
    assert "nothing makes" in error(changed(loop)) or "no input" in error(changed(loop))

    def twice(model):
        model.graph.node.append(model.graph.node[0])
    assert "made twice" in error(changed(twice))

    def sparse(model):
        model.graph.sparse_initializer.add()
    assert "sparse" in error(changed(sparse))


def test_an_error_writes_nothing():
    out = os.path.join(FOLDER.name, "never.onnx")
    masked = front.read(saved(graph([node("Gather", "e x", "y")], {"e": random(5, 3)}, ["N", 4],
                                    kind=TensorProto.INT32)), options())
    masked.rows[1].fields.update(mask=1, pad_id=1)
    try:
        front.write(masked, out)
        raise AssertionError("written")
    except Error as sentence:
        assert "mask" in str(sentence)
    assert not os.path.exists(out) and not os.path.exists(out + ".tmp")


def test_names_are_the_modules():
    """Of initializers where they say it, else of PyTorch's nodes."""
    def name(**more):
        made = helper.make_node("MatMul", ["x", "val_7"], ["y"], **more)
        return front.read(saved(graph([made], {"val_7": random(4, 3)}, ["N", 4])),
                          options()).rows[1].name
    assert name(name="/layer1/layer1.0/fc/MatMul") == "layer1.0.fc"
    assert name(name="/fc/MatMul") == "fc" and name(name="MatMul_3") == "MatMul_3"
    assert name(name="dense/MatMul") == "dense" and name() == "y"


# ---- ONNX's own node tests ----

LIST = os.path.join(HERE, "onnx_node_tests.txt")
CLAIMED = set("Gemm MatMul Conv MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean "
              "ReduceMax BatchNormalization Relu LeakyRelu Sigmoid Tanh Softmax Flatten Reshape "
              "Squeeze Unsqueeze Transpose Identity Add Sum Sub Mul Div Dropout Pad Gather LSTM "
              "GRU RNN Clip Slice Split Concat Expand".split())


def node_tests():
    """(name, model, inputs, wanted) of every test and output of the ops that are claimed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        nodes = case.model.graph.node if case.model else []
        given = case.data_sets[0] if case.data_sets else None
        if not nodes or not given or not {n.op_type for n in nodes} <= CLAIMED or \
                any(isinstance(a, list) or a is None for a in (*given[0], *given[1])):
            continue
        for i, wanted in enumerate(given[1]):
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            kept = model.graph.output[i]
            del model.graph.output[:]
            model.graph.output.append(kept)
            name = case.name + (f"#{kept.name}" if len(given[1]) > 1 else "")
            yield name, model, given[0], np.asarray(wanted)


def as_graph(model, arrays):
    """The model with all inputs but the first (of Gather: the second) as constants, and that
    input's array."""
    data = 1 if model.graph.node[0].op_type == "Gather" else 0
    for i, (value, array) in enumerate(zip(model.graph.input, arrays)):
        if i != data:
            model.graph.initializer.append(
                numpy_helper.from_array(np.asarray(array), value.name))
    return np.asarray(arrays[data])


def verdict(model, x, wanted):
    """"" where C agrees, else why the graph is refused."""
    path = saved(model, "node.onnx")
    try:
        made = front.conversion(path, options())
        image = file.write_model(made.finished())
    except Refused as refused:
        return "; ".join(reason for _, reason, _ in refused.layers)
    except Error as sentence:
        return str(sentence).replace(path, "the file")
    off = check.deviation(Engine().load(image).infer(made.samples_of(x)),
                          made.channels_last(wanted))
    assert off <= TOLERANCE, f"{model.graph.name}: off by {off:.2g}"
    return ""


def test_onnx_node_tests():
    refused, agreed = {}, 0
    for name, model, arrays, wanted in node_tests():
        x = as_graph(model, arrays)
        reason = verdict(model, x, wanted)
        if "does nothing" in reason:  # moves elements only: a row behind it shows their order
            end = model.graph.output[0]
            model.graph.node.append(helper.make_node("LeakyRelu", [end.name], ["_"], alpha=0.5))
            end.name = "_"
            reason = verdict(model, x, np.where(wanted < 0, wanted / 2, wanted))
        if reason:
            refused[name] = reason
        else:
            agreed += 1
    with open(LIST, encoding="ascii") as f:
        listed = dict(re.fullmatch(r"(\S+): (.+)", line).groups()
                      for line in f.read().splitlines() if line and line[0] != "#")
    if os.environ.get("NODE_TESTS_WRITE"):
        with open(LIST, "w", encoding="ascii") as f:
            f.write("# ONNX's node tests of the ops that tools/nntools/onnx.py claims, which it "
                    "refuses, and why.\n# All others agree. Compared by test_nntool_onnx.py.\n")
            f.writelines(f"{name}: {reason}\n" for name, reason in refused.items())
    for name in sorted(set(refused) | set(listed)):
        assert refused.get(name) == listed.get(name), \
            f"{name}: {refused.get(name)}, and the list says {listed.get(name)}"
    assert agreed > 100, agreed


# ---- PyTorch's exporters, where PyTorch is installed ----

def test_pytorch_exporters():
    try:
        import torch
    except ImportError:
        print("test_pytorch_exporters: PyTorch is not installed, nothing was tested")
        return
    import logging
    logging.disable(logging.ERROR)
    torch.manual_seed(0)
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.bn = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 6, 3)
            self.fc = nn.Linear(6 * 4 * 3, 5)

        def forward(self, x):
            x = nn.functional.max_pool2d(torch.relu(self.bn(self.conv1(x))), 2)
            x = torch.relu(self.conv2(x))
            return torch.softmax(self.fc(x.view(x.size(0), -1)), -1)

    class Rnn(nn.Module):
        def __init__(self, kind, layers, both, last):
            super().__init__()
            self.embed = nn.Embedding(20, 4)
            self.rnn = kind(4, 5, layers, batch_first=True, bidirectional=both)
            self.fc, self.last = nn.Linear(10 if both else 5, 3), last

        def forward(self, x):
            y, h = self.rnn(self.embed(x))
            h = h[0] if isinstance(h, tuple) else h
            if self.last:
                y = torch.cat([h[-2], h[-1]], 1) if self.rnn.bidirectional else y[:, -1]
            return self.fc(y)

    ids = torch.randint(0, 20, (2, 7))
    nets = [(Net(), torch.randn(2, 3, 12, 10))]
    nets += [(Rnn(kind, layers, both, last), ids) for kind, layers, both, last in
             ((nn.LSTM, 1, False, True), (nn.LSTM, 2, True, True), (nn.GRU, 2, True, False),
              (nn.RNN, 1, False, False))]
    for net, x in nets:
        net.eval()
        wanted = net(x).detach().numpy()
        for dynamo in (False, True):
            path = os.path.join(FOLDER.name, "torch.onnx")
            if dynamo:
                torch.onnx.export(net, (x,), path, dynamo=True, external_data=False, verbose=False,
                                  dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            else:
                torch.onnx.export(net, (x,), path, dynamo=False, input_names=["x"],
                                  dynamic_axes={"x": {0: "n"}})
            if dynamo and isinstance(getattr(net, "rnn", None), nn.RNN):
                try:
                    front.read(path, options())
                    raise AssertionError("not refused")
                except Refused as refused:
                    assert len(refused.layers) == 1 and "step by step" in str(refused)
                continue
            made = front.read(path, options())
            feed = x.numpy().astype(np.int32) if x.dtype == torch.int64 else x.numpy()
            off = deviation(Engine().load(file.write_model(made)).infer(feed), wanted)
            assert off <= TOLERANCE, (type(net).__name__, dynamo, off)
            names = {row.name for row in made.rows}
            assert {"fc", "conv2" if hasattr(net, "conv2") else "embed"} <= names, names


def main():
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or part not in name:
            continue
        try:
            test()
            passed += 1
        except Exception as reason:  # a test that breaks must not hide the others
            failed += 1
            print(f"{name}: {type(reason).__name__}: {reason}")
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
