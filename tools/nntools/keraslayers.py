"""Layers of Keras 2 and 3 as rows of nn.h. A layer that is not exactly a row is refused.

    Keras                                nn.h
    kernel [in, units]                   weight, transposed
    kernel [kh, kw, in / g, out]         weight [out, in / g, kh, kw]; 1D: without kh
    kernel [kh, kw, c, m], depthwise     weight [c * m, 1, kh, kw], groups = c
    i, f, c, o of an LSTM                i, f, g, o
    z, r, h of a GRU                     r, z, n; bias [2, 3 u] with reset_after is two biases
    momentum .99 (of the old)            momentum .01 (of the new), biased = 1
    padding "same"                       the numbers that it is at this size
"""

import dataclasses
import math
import re

import numpy as np

from .kerasfile import (GATES, INT_MAX, ROWS_MAX, Layer, No, Unknown, Variable, as_dict, kind_of,
                        make_layer, walk)
from .model import Error, Model, Refused, Row, unique

# --------------------------------------------------------------------------------------------------
# How an array of Keras lies in tensors of nn.h, and back

@dataclasses.dataclass
class Layout:
    there: object  # array -> list of tensors
    back: object   # list of tensors -> array


PLAIN = Layout(lambda a: [a], lambda t: t[0])
TURNED = Layout(lambda a: [a.T], lambda t: t[0].T)
CONV_KERNEL = Layout(lambda a: [np.moveaxis(a, (-1, -2), (0, 1))],
                     lambda t: np.moveaxis(t[0], (0, 1), (-1, -2)))


def depthwise(channels):
    return Layout(
        lambda a: [np.moveaxis(a, (-2, -1), (0, 1)).reshape(-1, 1, *a.shape[:-2])],
        lambda t: np.moveaxis(t[0].reshape(channels, -1, *t[0].shape[2:]), (0, 1), (-2, -1)))


def swapped(rows):
    """Of a GRU, the first two gates' rows: z, r, h to r, z, n and back."""
    first, second, third = np.split(rows, 3)
    return np.concatenate([second, first, third])


GRU_KERNEL = Layout(lambda a: [swapped(a.T)], lambda t: swapped(t[0]).T)
GRU_BIAS = Layout(lambda a: [swapped(a)], lambda t: swapped(t[0]))
GRU_BIASES = Layout(lambda a: [swapped(each) for each in a],
                    lambda t: np.stack([swapped(each) for each in t]))


@dataclasses.dataclass
class Binding:
    variable: Variable
    shape: tuple
    names: list     # of tensors
    layout: Layout


# --------------------------------------------------------------------------------------------------
# Layers to rows

@dataclasses.dataclass
class Value:
    """What a layer gives."""
    row: str
    dims: tuple = None      # None: a layer before was refused
    positive: bool = False  # no element is below 0
    pad: tuple = ()         # zeros around it that no row has added yet, as a row's pad
    pad_layer: Layer = None
    mask: str = ""          # the embedding whose ids say which steps count, as Keras has it
    nn_mask: str = ""       # and as nn.h will
    stale: bool = False     # steps that do not count hold other numbers than Keras'
    raw: bool = False       # it is made of an embedding's vectors, step by step
    version: int = -1       # of the input row: how many layers have been made part of it
    is_mask: bool = False   # it is no value but a mask: which of the input's ids are not 0

    @property
    def shape(self):
        if self.dims is None:
            raise Unknown
        return self.dims


ACTS = ("linear", "relu", "sigmoid", "tanh", "softmax")
NO_ACT = {
    "relu6": "relu that ends at 6", "hard_sigmoid": "the hard sigmoid",
    "swish": "swish", "silu": "swish",
}


def act_of(value):
    """(act, slope) of an activation's config; slope 0 without one."""
    if value is None or value in ACTS:
        return value or "linear", 0.0
    if value == "leaky_relu":
        return "leaky_relu", 0.2  # the function's default; the layer's is .3
    if isinstance(value, dict):
        kind, reason = kind_of({"module": None, **value})
        config = value.get("config")
        if kind == "function" or value.get("module") == "builtins":
            registered = value.get("registered_name")
            if isinstance(config, str) and registered in (None, config, "function"):
                return act_of(config)
        elif not reason and isinstance(config, dict) and kind in ("ReLU", "LeakyReLU",
                                                                  "Activation", "Softmax"):
            return layer_act(kind, config)
        value = str(value.get("registered_name") or value.get("class_name"))
    name = str(value)[:60]
    raise No(f"nn.h has no activation {NO_ACT.get(name, name)}",
             "train it with relu, leaky_relu, sigmoid or tanh")


def layer_act(kind, config):
    """(act, slope) of an activation that is a layer."""
    if kind == "Activation":
        return act_of(config.get("activation"))
    if kind == "Softmax":
        return "softmax", 0.0
    if kind == "LeakyReLU":
        slope = real_of(config, "alpha" if "alpha" in config else "negative_slope", 0.3)
    else:
        slope = real_of(config, "negative_slope", 0.0)
        if config.get("max_value") is not None:
            raise No(f"nn.h has no relu that ends at {str(config['max_value'])[:20]}",
                     "train it with a plain relu")
        if real_of(config, "threshold", 0.0):
            raise No("nn.h has no relu with a threshold")
    if slope < 0:
        raise No("a slope below 0")
    return ("leaky_relu", slope) if np.float32(slope) else ("relu", 0.0)


def real_of(config, key, default):
    value = config.get(key, default)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise No(f"its {key} is no number")
    return float(value)


def whole_of(config, key, default=None, low=1, high=INT_MAX):
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise No(f"its {key} is {str(value)[:40]}, out of range")
    return value


def numbers_of(config, key, count, default=None):
    """As many whole numbers; one stands for all."""
    value = config.get(key, default)
    if value is None:
        value = default
    value = [value] * count if isinstance(value, int) else list(value)
    if len(value) != count:
        raise No(f"its {key} has {len(value)} numbers, not {count}")
    return tuple(whole_of({key: each}, key, high=65535) for each in value)


def channels_last(layer):
    if layer.config.get("data_format", "channels_last") not in (None, "channels_last"):
        raise No("data_format is channels_first; nn.h is channels last",
                 "rebuild the model with channels_last, which has the same weights")


def spatial(layer, value):
    """What a layer slides over by its name: (height, width), or (steps,)."""
    channels_last(layer)
    axes = 1 if layer.kind.endswith("1D") else 2
    if len(value.shape) != axes + 1:
        raise No("its input is no " + ("sequence [T,C]" if axes == 1 else "image [H,W,C]"))
    return value.shape[:-1]


def same_pads(size, kernel, stride):
    """Zeros before and after, as TensorFlow counts them."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


TRAINING_ONLY = ("_initializer", "_regularizer", "_constraint")
ANYWHERE = {"name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape",
            "input_dtype", "ragged", "sparse", "optional", "autocast"}
WINDOW = "padding data_format strides "
CONV = WINDOW + "kernel_size dilation_rate groups activation use_bias "
CELL = ("units activation use_bias return_sequences return_state go_backwards stateful unroll "
        "time_major implementation dropout recurrent_dropout zero_output_for_mask seed ")
KEEPS_MASK = {"Dense", "TimeDistributed", "Activation", "ReLU", "LeakyReLU", "Dropout",
              "BatchNormalization", "Identity", "Add", "InputLayer", "ActivityRegularization",
              "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"}
USES_MASK = {"LSTM", "GRU", "SimpleRNN", "Bidirectional", "GlobalAveragePooling1D", "Softmax"}
MAKES_MASK = {"Embedding", "Bidirectional", *GATES}
ONLY_TRAINS = {"SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout",
               "AlphaDropout", "ActivityRegularization", "RandomFlip", "RandomRotation",
               "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"}


class Converter:
    """Walks through the layers as Keras would call them, and adds rows."""

    def __init__(self, archive, options):
        self.archive = archive
        self.inference = bool(getattr(options, "inference", False))
        self.input_shape = getattr(options, "input_shape", None)
        self.model, self.taken = Model(), set()
        self.refused, self.bindings, self.constants = [], {}, {}  # bindings: by their variables
        self.affine, self.version, self.input_read = [], 0, False
        self.masks_used, self.masks_leaked = set(), set()
        self.calls = 0
        self.root = make_layer(archive.config, None, "")
        self.shape = ()  # of the input, as Keras has it

    # The whole model

    def convert(self):
        """Rows only; fill() brings the numbers."""
        if self.root.reason or self.root.children is None:
            hint = "" if self.root.children else "convert a Sequential or Functional model"
            raise Refused([(self.root.name, self.root.reason or f"{self.root.kind} is no model",
                            hint)])
        try:
            start = self.start()
        except No as no:
            raise Error(f"{self.archive.what}: {no.reason}") from None
        try:
            end = walk(self.root, [start], None, self.apply)
            self.leak(end)
            if end.mask and not self.inference:
                raise No("Keras leaves the steps that are masked out of its loss, and nn.h does "
                         "not", "convert with --inference")
            row = self.plain(end)
            if row == self.model.rows[0].name:
                raise Error(f"{self.archive.what} has no layers that compute anything")
        except Unknown:
            pass
        except No as no:
            self.refused.append(("the output", no.reason, no.hint))
        self.settle_masks()
        if self.refused:
            raise Refused(self.refused)
        fold_activations(self.model)
        return self

    def start(self):
        """The input row."""
        shape, kind, name = input_of(self.root)
        if shape is None and self.input_shape is None:
            raise Error(f"{self.archive.what} does not say the shape of its input: give it with "
                        "--input-shape")
        given = self.input_shape
        shape = list(given) if shape is None else list(shape)
        if given is not None and len(given) == len(shape):
            shape = [each if each is not None else more for each, more in zip(shape, given)]
        if None in shape:
            raise Error(f"{self.archive.what} takes inputs of shape {show(shape)}, of any size: "
                        "give one with --input-shape")
        shape = tuple(whole_of({"input shape": each}, "input shape") for each in shape)
        if not 1 <= len(shape) <= 3:
            raise Refused([(name, f"the input has {len(shape)} dimensions; nn.h takes [N], [T,C] "
                            "or [H,W,C]", "")])
        if not re.match(r"(u?int|b?float)\d+\Z|\Z", kind):
            raise Refused([(name, f"it takes {kind[:20]}, not numbers", "")])
        self.shape = shape
        row = unique(name, self.taken)
        self.model.rows.append(Row("input", row, [], {"shape": shape}))
        if kind == "uint8":
            self.model.rows[0].fields["type"] = "u8"
        return Value(row, shape, version=0)

    def apply(self, layer, values, masks, training):
        self.calls += 1
        if self.calls > ROWS_MAX:
            raise Error(f"{self.archive.what} calls its layers more than {ROWS_MAX} times")
        try:
            if layer.children is not None and not layer.reason:
                return walk(layer, values, training, self.apply)
            if layer.kind in ("op NotEqual", "op LogicalOr"):
                return self.mask(layer, values)
            if any(value.is_mask for value in values):
                raise No("it computes with a mask")
            if any(not mask.is_mask for mask in masks) or (masks and not values[0].mask):
                raise No("it is called with a mask that is not its input's own")
            return self.leaf(layer, values, training)
        except Unknown:
            return Value("")
        except No as no:
            entry = (layer.full, no.reason, no.hint)
            if entry not in self.refused:
                self.refused.append(entry)
            return Value("")

    def mask(self, layer, values):
        """Keras 3 writes masks out as operations: ids that are not 0."""
        fine = (all(value.is_mask for value in values) if layer.kind == "op LogicalOr" else
                [value.version for value in values] == [0] and len(values[0].shape) == 1)
        if layer.reason or not fine:
            raise No(layer.reason or f"nn.h has no row for the operation {layer.kind[3:]}")
        return Value("", is_mask=True)

    def leaf(self, layer, values, training):
        kind = layer.kind
        if layer.reason:
            raise No(layer.reason, LAMBDA_HINT if kind == "Lambda" else "")
        if kind in ONLY_TRAINS:
            if not self.inference:
                raise No(f"nn.h has no {kind}, which only acts in training",
                         "convert with --inference to leave it out")
            return values[0]
        if kind not in KINDS:
            what = f"the operation {kind[3:]}" if kind.startswith("op ") else kind
            raise No(f"nn.h has no row for {what}", HINTS.get(kind, ""))
        method, known, many = KINDS[kind]
        self.check_settings(layer, set(known.split()))
        if training is True and kind in ("Dropout", "BatchNormalization", *GATES):
            raise No("it is called with training=True, so that it trains in inference too")
        if len(values) > 1 and not many:
            raise No(f"it is called with {len(values)} inputs")
        masks = {value.mask for value in values}
        if kind not in KEEPS_MASK | USES_MASK:
            for value in values:
                self.leak(value)
        elif len(masks) > 1:
            raise No("its inputs have different masks")
        layer.call_training = training
        result = method(self, layer, values if many else values[0])
        if kind in KEEPS_MASK:
            result.mask = values[0].mask
            result.stale, result.raw = (any(v.stale for v in values), any(v.raw for v in values))
        elif kind not in MAKES_MASK:
            result.mask = ""
        return result

    def check_settings(self, layer, known):
        """A setting that is not known may mean anything, unless it is off."""
        narrow = policy(layer.config.get("dtype"))
        if narrow:
            self.note(f"Keras computes in {narrow} in part; nn.h computes in float32")
        for key, value in layer.config.items():
            if key in known or key in ANYWHERE or value in (None, False, [], {}):
                continue
            if not key.endswith(TRAINING_ONLY):
                raise No(f"its setting {key[:40]} is not known here")
            if not key.endswith("_initializer"):
                self.note(f"{layer.full}: its {key} is left out: it is no part of the model (for "
                          "L2 there is opts.weight_decay)")

    def note(self, text):
        if text not in self.model.notes:
            self.model.notes.append(text)

    # Rows

    def unpadded(self, value):
        """Refuses zeros around a value that no row has added."""
        if any(value.pad):
            entry = (value.pad_layer.full, "zeros around its input are only taken into the "
                     "convolution or pool that comes next", "")
            if entry not in self.refused:
                self.refused.append(entry)
            raise Unknown

    def plain(self, value):
        """The row that has this value."""
        self.unpadded(value)
        if value.dims is None:
            raise Unknown
        if value.version >= 0:
            if value.version != self.version:
                raise No("it reads the input without a layer that was made part of the input row")
            self.input_read = True
        return value.row

    def add(self, op, layer, values, shape, suffix="", positive=None, **fields):
        """A row of this layer. One that was used before shares its tensors."""
        inputs = [self.plain(value) for value in values]
        for key, number in fields.items():
            if isinstance(number, float) and number and not np.float32(number):
                raise No(f"its {key} {number:g} is 0 in float32")
        layer.uses += 1
        again = op + suffix in layer.rows
        name = unique(layer.full + suffix + f"_{layer.uses}" * again, self.taken)
        self.model.add(op, name, inputs, **fields)
        layer.rows.setdefault(op + suffix, name)
        act = fields.get("act", "linear")
        if positive is None:
            positive = act in ("relu", "sigmoid", "softmax")
        nn_mask = values[0].nn_mask if len(shape) == 2 and "kernel" not in fields else ""
        return Value(name, shape, positive, nn_mask=nn_mask)

    def weighted(self, op, layer, values, shape, arrays, suffix="", **fields):
        """A row with tensors: arrays are (role, path below the layer, shape, suffixes, layout)."""
        before = layer.rows.get(op + suffix, "")
        value = self.add(op, layer, values, shape, suffix, **fields)
        self.model.rows[-1].share = before
        for role, sub, size, ends, layout in arrays:
            variable, size = variable_of(layer, role, sub), tuple(size)
            if not before:
                names = [f"{value.row}.{end}" for end in ends]
                self.bindings[variable] = Binding(variable, size, names, layout)
            elif self.bindings[variable].shape != size:
                raise No("it is used again on an input of another shape")
        return value

    def leak(self, value):
        """Something reads all steps of a sequence, whatever Keras' mask says."""
        if not value.mask:
            return
        if value.stale:
            raise No("it reads steps that the mask leaves out: there Keras repeats the last output "
                     "and nn.h gives 0", "zero_output_for_mask=True, or return_sequences=False")
        if value.raw:
            self.masks_leaked.add(value.mask)

    def use_mask(self, value):
        if value.mask != value.nn_mask:
            raise No("the mask of an embedding does not reach it in Keras, but would in nn.h",
                     "mask_zero=False")
        if value.mask:
            self.masks_used.add(value.mask)

    def settle_masks(self):
        """Masks that nothing uses are not there; their ids then have vectors that train."""
        for row in self.model.rows:
            if row.name in self.masks_leaked - self.masks_used or (
                    row.op == "embedding" and row.name not in self.masks_used):
                row.fields.pop("mask", None)
                row.fields.pop("pad_id", None)
            elif row.name in self.masks_leaked and not self.inference:
                self.refused.append((row.name, "the vector of id 0 is masked in one place and used "
                                     "in another, where Keras trains it and nn.h does not",
                                     "convert with --inference"))

    # Layers, by their classes

    def same(self, layer, value):
        return dataclasses.replace(value)

    def dense(self, layer, value):
        act, slope = act_of(layer.config.get("activation"))
        units = whole_of(layer.config, "units")
        bias = bool(layer.config.get("use_bias", True))
        if layer.config.get("lora_rank") is not None:
            self.note(f"{layer.full}: its LoRA parts are merged into its weights")
        shape = value.shape
        arrays = [("kernel", layer.sub, (shape[-1], units), ["weight"], TURNED)]
        if bias:
            arrays.append(("bias", layer.sub, (units,), ["bias"], PLAIN))
        return self.weighted("dense", layer, [value], (*shape[:-1], units), arrays, units=units,
                             act=act, slope=slope, no_bias=int(not bias))

    def time_distributed(self, layer, value):
        inner = as_dict(layer.config["layer"], "the layer of TimeDistributed")
        kind, reason = kind_of(inner)
        if reason:
            raise No(reason)
        if kind not in ("Dense", "Activation", "ReLU", "LeakyReLU"):
            raise No(f"nn.h has no row for TimeDistributed({kind})")
        wrapped = dataclasses.replace(layer, kind=kind, config=inner["config"], sub="layer")
        method, known, _ = KINDS[kind]
        self.check_settings(wrapped, set(known.split()))
        if len(value.shape) < 2:
            raise No("its input is no sequence")
        return method(self, wrapped, value)

    def window(self, layer, value, key, stride):
        """(fields of the row, output size) of a convolution or pool."""
        config, sizes = layer.config, spatial(layer, value)
        padding = config.get("padding", "valid")
        if padding not in ("valid", "same") and (padding, layer.kind) != ("causal", "Conv1D"):
            raise No(f"padding {str(padding)[:40]} is not known")
        kernel = numbers_of(config, key, len(sizes))
        stride = numbers_of(config, "strides", len(sizes), stride or kernel)
        dilation = numbers_of(config, "dilation_rate", len(sizes), 1)
        before, after, out = [], [], []
        for size, k, s, d in zip(sizes, kernel, stride, dilation):
            reach, pads = (k - 1) * d + 1, (0, 0)
            if padding == "same":
                pads = same_pads(size, reach, s)
            elif padding == "causal":
                pads = reach - 1, 0
            if size + sum(pads) < reach:
                raise No(f"its kernel of {reach} is larger than the {size} it slides over")
            out.append((size + sum(pads) - reach) // s + 1)
            before.append(pads[0])
            after.append(pads[1])
        fields = {"kernel": kernel, "stride": stride, "pad": (*before, *after)}
        if max(dilation) > 1:
            fields["dilation"] = dilation
        return fields, tuple(out)

    def conv(self, layer, value):
        act, slope = act_of(layer.config.get("activation"))
        units, groups = whole_of(layer.config, "filters"), whole_of(layer.config, "groups", 1)
        fields, out = self.window(layer, value, "kernel_size", 1)
        channels = value.shape[-1]
        if channels % groups or units % groups:
            raise No(f"{channels} and {units} channels do not divide into {groups} groups")
        size = (*fields["kernel"], channels // groups, units)
        return self.convolution(layer, value, "", ("kernel", size, CONV_KERNEL), (*out, units),
                                groups=groups, act=act, slope=slope, **fields)

    def convolution(self, layer, value, suffix, array, shape, bias=True, **fields):
        """A conv row; the zeros that the value waits for become part of its pads."""
        role, size, layout = array
        if value.pad:
            fields["pad"] = tuple(a + b for a, b in zip(fields["pad"], value.pad))
            value = dataclasses.replace(value, pad=())
        if fields.get("groups") == 1:
            fields["groups"] = 0
        arrays = [(role, layer.sub, size, ["weight"], layout)]
        bias = bias and bool(layer.config.get("use_bias", True))
        if bias:
            arrays.append(("bias", layer.sub, shape[-1:], ["bias"], PLAIN))
        return self.weighted(f"conv{len(shape) - 1}d", layer, [value], shape, arrays, suffix,
                             units=shape[-1], no_bias=int(not bias), **fields)

    def depthwise(self, layer, value):
        act, slope = act_of(layer.config.get("activation"))
        times = whole_of(layer.config, "depth_multiplier", 1)
        fields, out = self.window(layer, value, "kernel_size", 1)
        channels = value.shape[-1]
        array = ("kernel", (*fields["kernel"], channels, times), depthwise(channels))
        return self.convolution(layer, value, "", array, (*out, channels * times),
                                groups=channels, act=act, slope=slope, **fields)

    def separable(self, layer, value):
        act, slope = act_of(layer.config.get("activation"))
        times = whole_of(layer.config, "depth_multiplier", 1)
        units = whole_of(layer.config, "filters")
        fields, out = self.window(layer, value, "kernel_size", 1)
        channels, ones = value.shape[-1], (1,) * len(out)
        middle = channels * times
        array = ("depthwise_kernel", (*fields["kernel"], channels, times), depthwise(channels))
        value = self.convolution(layer, value, ".depthwise", array, (*out, middle), bias=False,
                                 groups=channels, **fields)
        array = ("pointwise_kernel", (*ones, middle, units), CONV_KERNEL)
        return self.convolution(layer, value, ".pointwise", array, (*out, units), kernel=ones,
                                act=act, slope=slope)

    def pool(self, layer, value):
        fields, out = self.window(layer, value, "pool_size", None)
        kernel, pads, largest = fields["kernel"], fields["pad"], layer.kind.startswith("Max")
        if any(value.pad):
            where = value.pad_layer.kind
            if any(pads):
                raise No(f"padding same on top of {where}")
            if any(p >= k for p, k in zip(value.pad, kernel * 2)):
                raise No("the zeros around its input are as wide as its kernel")
            if largest and not value.positive:
                raise No("zeros around its input can win the maximum, and padding of nn.h never "
                         "does", f"a relu before {where}")
            fields.update(pad=value.pad, count_pad=int(not largest))
            value = dataclasses.replace(value, pad=())
        elif not largest and pads[:len(out)] != pads[len(out):] and max(kernel) > 2:
            self.note(f"{layer.full}: computed as TensorFlow and JAX do; Keras on PyTorch pads it "
                      "otherwise, with copies of the border")
        return self.add(f"{'max' if largest else 'avg'}pool{len(out)}d", layer, [value],
                        (*out, value.shape[-1]), positive=value.positive, **fields)

    def global_pool(self, layer, value):
        sizes, channels = spatial(layer, value), value.shape[-1]
        kind, keep = "max" if "Max" in layer.kind else "avg", layer.config.get("keepdims")
        if kind == "avg" and keep and value.mask:
            raise No("nn.h's mean over the steps that count keeps no dimension of one",
                     "keepdims=False")
        if kind == "avg" and not keep:
            self.use_mask(value)
        if not keep and (kind == "avg" or not value.nn_mask):
            return self.add(f"global{kind}pool", layer, [value], (channels,),
                            positive=value.positive)
        # One window over all steps, whatever a mask says: Keras' maximum has none.
        value = self.add(f"{kind}pool{len(sizes)}d", layer, [value],
                         (*(1 for _ in sizes), channels), positive=value.positive, kernel=sizes)
        if keep:
            return value
        return self.add("flatten", layer, [value], (channels,), ".flatten", value.positive)

    def zero_padding(self, layer, value):
        sizes, padding = spatial(layer, value), layer.config.get("padding", 1)
        if isinstance(padding, int):
            padding = [padding] * len(sizes)
        elif len(sizes) == 1:
            padding = [padding]
        pads = [[p, p] if isinstance(p, int) else list(p) for p in padding]
        if [len(p) for p in pads] != [2] * len(sizes):
            raise No(f"its padding is {str(padding)[:40]}, which does not fit its input")
        pads = [whole_of({"padding": p[side]}, "padding", low=0, high=65535)
                for side in (0, 1) for p in pads]
        dims = [sum(each) for each in zip(sizes, pads, pads[len(sizes):])]
        pad = tuple(a + b for a, b in zip(pads, value.pad or [0] * len(pads)))
        return dataclasses.replace(value, dims=(*dims, value.shape[-1]), pad=pad, pad_layer=layer)

    def batchnorm(self, layer, value):
        config = layer.config
        axis = config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        momentum, eps = real_of(config, "momentum", 0.99), real_of(config, "epsilon", 1e-3)
        if config.get("renorm"):
            raise No("nn.h has no batch renormalization", "renorm=False")
        if not 0 <= momentum <= 1 or eps < 0:
            raise No("its momentum or epsilon is out of range")
        if axis not in (-1, len(value.shape)):
            raise No(f"axis {str(axis)[:20]} is not the channels, which are last in nn.h")
        if value.mask and not self.inference:
            raise No("with a mask Keras' batch statistics leave steps out, and nn.h's do not",
                     "convert with --inference")
        if momentum == 1 and not self.inference:
            raise No("momentum 1 never moves the running statistics; nn.h cannot say that",
                     "momentum .999, or convert with --inference")
        count = value.shape[-1]
        arrays, fixed = [], {}
        for key, role, end, constant in (("scale", "gamma", "weight", 1.0),
                                         ("center", "beta", "bias", 0.0)):
            if config.get(key, True):
                arrays.append((role, "", (count,), [end], PLAIN))
            else:
                fixed[end] = np.full(count, constant, np.float32)
        arrays += [("moving_mean", "", (count,), ["running_mean"], PLAIN),
                   ("moving_variance", "", (count,), ["running_var"], PLAIN)]
        result = self.weighted("batchnorm", layer, [value], value.shape, arrays,
                               eps=max(eps, 1e-37), momentum=1 - momentum or 1.0, biased=1)
        if not self.model.rows[-1].share:
            for end, constant in fixed.items():
                self.constants[f"{result.row}.{end}"] = constant
                self.note(f"{result.row}: its {end} is a constant in Keras; nn.h trains it when it "
                          "trains the row")
        if layer.call_training is False and not self.inference:
            self.note(f"{result.row}: in Keras it always runs as in inference: leave it out of "
                      "opts.train")
        return result

    def dropout(self, layer, value):
        rate = real_of(layer.config, "rate", None)
        if layer.config.get("noise_shape") not in (None, [None] * (1 + len(value.shape))):
            raise No("nn.h drops every element on its own", "noise_shape=None")
        if not 0 <= rate < 1:
            raise No(f"its rate {rate} is not from 0 to below 1")
        if rate == 0 or self.inference or layer.call_training is False:
            return dataclasses.replace(value)
        return self.add("dropout", layer, [value], value.shape, positive=value.positive, rate=rate)

    def flatten(self, layer, value):
        if len(value.shape) == 1:
            return dataclasses.replace(value)
        channels_last(layer)
        return self.flat(layer, value)

    def flat(self, layer, value):
        return self.add("flatten", layer, [value], (math.prod(value.shape),),
                        positive=value.positive)

    def reshape(self, layer, value):
        return self.reshaped(layer, value, list(layer.config["target_shape"]))

    def reshaped(self, layer, value, target):
        shape, known = value.shape, math.prod(each for each in target if each != -1)
        if target.count(-1) == 1 and known > 0:
            target[target.index(-1)] = math.prod(shape) // known
        target = tuple(whole_of({"target_shape": each}, "target_shape") for each in target)
        if math.prod(target) != math.prod(shape):
            raise No(f"{list(target)} has not the elements of {list(shape)}")
        if target == shape:
            return dataclasses.replace(value)
        self.unpadded(value)
        if value.version >= 0 and len(target) <= 3 and not self.affine:
            self.change_input(value)
            self.model.rows[0].fields["shape"] = target
            return dataclasses.replace(value, dims=target, version=self.version)
        if len(target) == 1:
            return self.flat(layer, value)
        raise No(f"nn.h cannot make {list(target)} of {list(shape)}; only a flat vector",
                 "let the input have this shape")

    def permute(self, layer, value):
        dims = list(layer.config["dims"])
        moved = [d for d in dims if value.shape[d - 1] != 1]
        if moved != sorted(moved):
            raise No("nn.h does not turn dimensions")
        return self.reshaped(layer, value, [value.shape[d - 1] for d in dims])

    def activation(self, layer, value):
        act, slope = layer_act(layer.kind, layer.config)
        if layer.kind == "Softmax":
            axis = layer.config.get("axis", -1)
            axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
            if axis not in (-1, len(value.shape)):
                raise No("nn.h's softmax runs over the last dimension")
            if value.mask:
                raise No("nn.h's softmax has no mask")
        if act == "linear":
            return dataclasses.replace(value)
        return self.add("activation", layer, [value], value.shape, act=act, slope=slope)

    def add_layer(self, layer, values):
        shapes = {value.shape for value in values}
        if len(values) < 2:
            raise No("it adds numbers to a layer's output" if layer.kind.startswith("op ") else
                     "it adds fewer than two inputs")
        if len(shapes) > 1:
            raise No(f"it adds {' and '.join(str(list(s)) for s in sorted(shapes))}; nn.h adds "
                     "equal shapes only")
        if len(values) > 8:
            raise No(f"it adds {len(values)} inputs; nn.h takes 8")
        return self.add("add", layer, values, values[0].shape,
                        positive=all(value.positive for value in values))

    def embedding(self, layer, value):
        vocab, units = whole_of(layer.config, "input_dim"), whole_of(layer.config, "output_dim")
        length = layer.config.get("input_length")
        if value.version < 0 or len(value.shape) != 1 or self.affine:
            raise No("nn.h's embedding reads the ids of the input, [T], and nothing else")
        if length not in (None, value.shape[0]):
            raise No(f"its input_length is {str(length)[:20]}, but the input has "
                     f"{value.shape[0]} ids")
        self.model.rows[0].fields["type"] = "i32"
        mask = bool(layer.config.get("mask_zero"))
        arrays = [("embeddings", "", (vocab, units), ["weight"], PLAIN)]
        result = self.weighted("embedding", layer, [value], (value.shape[0], units), arrays,
                               vocab=vocab, units=units, pad_id=int(mask), mask=int(mask))
        result.mask = result.nn_mask = result.row if mask else ""
        result.raw = True
        return result

    def recurrent(self, layer, value):
        return self.cells(layer, value, layer.kind, layer.config, [""])

    def cells(self, layer, value, kind, config, ways):
        """A row of lstm, gru or rnn; ways: paths below the layer, one for each direction."""
        units = whole_of(config, "units")
        bias = bool(config.get("use_bias", True))
        fields = self.check_cell(kind, config)
        if len(value.shape) != 2:
            raise No("its input is no sequence [T,C]")
        self.use_mask(value)
        last = not config.get("return_sequences")
        gates, (steps, size) = GATES[kind], value.shape
        turned, flat, biases = TURNED, PLAIN, ["bias_ih"]
        shape = (gates * units,)
        if kind == "GRU":
            turned, flat = GRU_KERNEL, GRU_BIAS
            if config.get("reset_after", False):
                flat, biases, shape = GRU_BIASES, ["bias_ih", "bias_hh"], (2, gates * units)
            else:
                fields["reset_before"] = 1
        arrays = []
        for way, end in zip(ways, ("_l0", "_l0_reverse")):
            sub = f"{way}/cell" if way else "cell"
            arrays += [("kernel", sub, (size, gates * units), ["weight_ih" + end], turned),
                       ("recurrent_kernel", sub, (units, gates * units), ["weight_hh" + end],
                        turned)]
            if bias:
                arrays.append(("bias", sub, shape, [each + end for each in biases], flat))
        width = units * len(ways)
        result = self.weighted({"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}[kind], layer,
                               [value], (width,) if last else (steps, width), arrays, units=units,
                               bidirectional=int(len(ways) == 2), last=int(last),
                               no_bias=int(not bias), one_bias=int(bias and len(biases) == 1),
                               positive=fields.get("act") == "relu", **fields)
        if not last and value.mask:
            result.mask = value.mask
            result.stale = len(ways) == 1 and not config.get("zero_output_for_mask")
        return result

    def check_cell(self, kind, config):
        """Fields that a cell's settings ask for; what nn.h's cells cannot do is refused."""
        for key, reason, hint in (
                ("return_state", "it returns its state too", "return_state=False"),
                ("go_backwards", "nn.h has no single layer from the last step to the first",
                 "Bidirectional, or turn the sequence"),
                ("stateful", "its states go on from call to call",
                 "save it with stateful=False, and build with opts.stateful"),
                ("time_major", "steps come before samples", "time_major=False")):
            if config.get(key):
                raise No(reason, hint)
        for key in ("dropout", "recurrent_dropout"):
            if real_of(config, key, 0.0) and not self.inference:
                raise No(f"its {key} drops within the layer, which nn.h does not",
                         "convert with --inference to leave it out of training")
        act, _ = act_of(config.get("activation", "tanh"))
        if kind == "SimpleRNN" and act in ("tanh", "relu"):
            return {"act": act} if act == "relu" else {}
        if act != "tanh":
            raise No(f"its activation is {act}, not tanh")
        gate = config.get("recurrent_activation", "sigmoid")
        if kind != "SimpleRNN" and act_of(gate)[0] != "sigmoid":
            raise No(f"its recurrent_activation is {str(gate)[:40]}, not sigmoid")
        return {}

    def bidirectional(self, layer, value):
        config = layer.config
        inner = as_dict(config["layer"], "the layer of Bidirectional")
        kind, reason = kind_of(inner)
        if reason or kind not in GATES:
            raise No(reason or f"nn.h has no Bidirectional({kind})")
        if config.get("merge_mode", "concat") != "concat":
            raise No(f"it merges its directions by {str(config['merge_mode'])[:20]}; nn.h "
                     "concatenates", 'merge_mode="concat"')
        settings = set(KINDS[kind][1].split())
        self.check_settings(dataclasses.replace(layer, config=inner["config"]), settings)
        other = config.get("backward_layer")
        if other is not None:
            ignored = {"name", "go_backwards", "trainable", "dtype", "seed"}
            differ = [key for key in settings - ignored
                      if inner["config"].get(key) != other["config"].get(key)]
            if other["class_name"] != kind or differ or kind_of(other)[1]:
                raise No("its two directions are not alike")
            if not other["config"].get("go_backwards"):
                raise No("its second direction does not go backwards")
        return self.cells(layer, value, kind, inner["config"], ["forward_layer", "backward_layer"])

    # Layers that become part of the input row

    def change_input(self, value):
        self.unpadded(value)
        if self.input_read or value.version != self.version:
            raise No("it changes the input, which another layer reads unchanged")
        self.version += 1

    def rescaling(self, layer, value):
        scale, offset = (listed(layer.config.get(key, default))
                         for key, default in (("scale", 1.0), ("offset", 0.0)))
        channels = value.shape[-1]
        if value.version < 0:
            raise No("nn.h scales its input only: it must come first")
        if any(s == 0 for s in scale):
            raise No("its scale is 0")
        if channels > 4 and (any(offset) or len(set(scale)) > 1):
            raise No(f"nn.h shifts inputs of at most 4 channels, not {channels}")
        if {len(scale), len(offset)} - {1, channels}:
            raise No(f"its scale or offset is not of {channels} channels")
        self.change_input(value)
        self.affine.append(lambda _: (1 / np.array(scale), -np.array(offset) / np.array(scale)))
        if len(scale) == 1:
            self.affine[-1] = (scale[0], offset)
        return dataclasses.replace(value, version=self.version)

    def normalization(self, layer, value):
        config = layer.config
        axis = config.get("axis", -1)
        axes = list(axis) if isinstance(axis, list) else [axis]
        channels = value.shape[-1]
        if config.get("invert"):
            raise No("nn.h does not undo a normalization")
        if axes not in ([None], [-1], [len(value.shape)], []):
            raise No("nn.h normalizes by channel, which is the last dimension")
        count = channels if axis not in (None, []) else 1
        numbers = self.statistics(layer, count, axis in (None, []))
        if value.version >= 0 and channels <= 4:
            self.change_input(value)
            self.affine.append(numbers)
            return dataclasses.replace(value, version=self.version)
        where = f"of {channels} channels" if value.version >= 0 else "that does not come first"
        if not self.inference:
            raise No(f"nn.h has no normalization {where} that training leaves alone",
                     "convert with --inference, or normalize before the net")
        result = self.add("batchnorm", layer, [value], value.shape, eps=1e-37, biased=1)

        def fill(store):
            deviation, mean = (np.broadcast_to(each, (channels,)) for each in numbers(store))
            for end, values in (("weight", np.ones(channels)), ("bias", np.zeros(channels)),
                                ("running_mean", mean), ("running_var", deviation ** 2)):
                self.model.tensors[f"{result.row}.{end}"] = values.astype(np.float32)

        self.constants[result.row] = fill
        return result

    def statistics(self, layer, count, scalar):
        """A function of the store: deviation and mean of a Normalization."""
        shape = () if scalar else (count,)

        def numbers(mean, variance):
            return np.maximum(np.sqrt(variance), 1e-7), mean

        if layer.config.get("mean") is not None:
            given = [np.array(listed(layer.config[key]), np.float64).reshape(-1)
                     for key in ("mean", "variance")]
            if any(each.size not in (1, count) or not np.isfinite(each).all() or
                   (each < 0).any() and i for i, each in enumerate(given)):
                raise No("its mean or variance is not of its channels")
            return lambda _: numbers(*given)
        mean, variance = (variable_of(layer, role, "") for role in ("mean", "variance"))
        return lambda store: numbers(*(store.values(v, shape).astype(np.float64).reshape(-1)
                                       for v in (mean, variance)))

    # The numbers

    def fill(self, store):
        """Tensors of all rows, and the input's scale."""
        tensors = self.model.tensors
        for binding in self.bindings.values():
            values = store.values(binding.variable, binding.shape)
            for name, tensor in zip(binding.names, binding.layout.there(values)):
                tensors[name] = np.ascontiguousarray(tensor)
        for name, constant in self.constants.items():
            if callable(constant):
                constant(store)
            else:
                tensors[name] = constant
        self.fill_input(store)
        if store.wide:
            self.note("weights are float64 in the source and float32 here")

    def fill_input(self, store):
        """y = (x scale - mean) / std of all layers that became part of the input."""
        scale, mean, std = 1.0, np.zeros(1), np.ones(1)
        for step in self.affine:
            if callable(step):  # y = (y - m) / d
                deviation, shift = step(store)
                mean, std = mean + shift * std, std * deviation
            elif (std == 1).all():  # y = y s + o
                scale, mean = scale * step[0], mean * step[0] - np.array(step[1])
            else:
                mean, std = mean - np.array(step[1]) * std / step[0], std / step[0]
        fields = self.model.rows[0].fields
        channels, name = fields["shape"][-1], self.model.rows[0].name
        if (std < 0).all():
            scale, mean, std = -scale, -mean, -std
        mean, std = np.float32(mean), np.float32(std)
        if not np.float32(scale) or not (std > 0).all() or not np.isfinite([*mean, *std]).all():
            raise Refused([(name, "nn.h scales no channel by 0, infinity or another sign than the "
                            "others", "")])
        if channels > 4 and ((std != 1).any() or (mean != 0).any()):
            raise Refused([(name, f"nn.h shifts and divides inputs of at most 4 channels, not "
                            f"{channels}", "")])
        if scale != 1:
            fields["scale"] = float(scale)
        for key, values, default in (("mean", mean, 0), ("std", std, 1)):
            if (values != default).any():
                fields[key] = tuple(float(v) for v in np.broadcast_to(values, (channels,)))


def listed(value):
    """A number or a list of numbers as a list."""
    values = [value] if isinstance(value, (int, float)) else list(np.ravel(value))
    return [real_of({"value": float(each)}, "value", 0.0) for each in values]


def variable_of(layer, role, sub):
    end = "/".join(part for part in (layer.path, sub, "vars") if part) + "/"
    for variable in layer.variables:
        if variable.role == role and variable.path.startswith(end):
            return variable
    raise Error(f"layer {layer.full} has no {role}")


def policy(dtype):
    """Refuses quantized weights; returns the precision when Keras computes in less than float32."""
    if isinstance(dtype, dict):
        if dtype.get("class_name") not in ("DTypePolicy", "Policy"):
            raise No(f"its weights are quantized ({str(dtype.get('class_name'))[:40]})")
        dtype = as_dict(dtype["config"], "dtype").get("name")
    if dtype not in (None, "float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16",
                     "float64", "int32", "int64", "uint8"):
        raise No(f"its dtype is {str(dtype)[:40]}")
    return dtype.replace("mixed_", "") if dtype and "float16" in dtype else ""


def show(shape):
    return "[" + ",".join("?" if each is None else str(each) for each in shape) + "]"


def input_of(root):
    """(shape or None, dtype, name) of a model's input, without the batch."""
    layer, entry = root, root.config
    while layer.children is not None:
        if layer.kind == "Sequential":
            entry = layer.config
            child = layer.children[0]
        else:
            if len(layer.ports) != 1:
                raise Refused([(layer.name, f"it has {len(layer.ports)} inputs; a model of nn.h "
                                "has one", "")])
            child = layer.children[layer.nodes[layer.ports[0]][0]]
        shape = child.config.get("batch_shape", child.config.get("batch_input_shape"))
        if shape is None and child.children is None:
            shape = entry.get("build_input_shape")
        layer, entry = child, child.config
    name = layer.name if layer.kind == "InputLayer" else "input"
    dtype = layer.config.get("dtype")
    if not isinstance(shape, (list, tuple)) or not shape:
        shape = None
    return shape and list(shape[1:]), dtype if isinstance(dtype, str) else "", name


LAMBDA_HINT = "write it as layers"
HINTS = {
    "Masking": "lengths of sequences are given with nn_set_lengths",
    "LayerNormalization": "BatchNormalization",
    "Concatenate": "Add",
}
KINDS = {  # method, settings it knows, whether it takes several inputs
    "InputLayer": (Converter.same, "", False),
    "Identity": (Converter.same, "", False),
    "Dense": (Converter.dense, "units activation use_bias lora_rank lora_alpha", False),
    "TimeDistributed": (Converter.time_distributed, "layer", False),
    "BatchNormalization": (Converter.batchnorm, "axis momentum epsilon center scale synchronized "
                           "renorm renorm_clipping renorm_momentum fused", False),
    "Dropout": (Converter.dropout, "rate seed noise_shape", False),
    "Flatten": (Converter.flatten, "data_format", False),
    "Reshape": (Converter.reshape, "target_shape", False),
    "Permute": (Converter.permute, "dims", False),
    "Activation": (Converter.activation, "activation", False),
    "ReLU": (Converter.activation, "max_value negative_slope threshold", False),
    "LeakyReLU": (Converter.activation, "alpha negative_slope", False),
    "Softmax": (Converter.activation, "axis", False),
    "Add": (Converter.add_layer, "", True),
    "op Add": (Converter.add_layer, "", True),
    "Embedding": (Converter.embedding, "input_dim output_dim input_length mask_zero lora_rank "
                  "lora_alpha", False),
    "LSTM": (Converter.recurrent, CELL + "recurrent_activation unit_forget_bias", False),
    "GRU": (Converter.recurrent, CELL + "recurrent_activation reset_after", False),
    "SimpleRNN": (Converter.recurrent, CELL, False),
    "Bidirectional": (Converter.bidirectional, "layer backward_layer merge_mode", False),
    "Rescaling": (Converter.rescaling, "scale offset", False),
    "Normalization": (Converter.normalization, "axis invert mean variance", False),
}
for _axes in ("1D", "2D"):
    KINDS.update({
        "Conv" + _axes: (Converter.conv, CONV + "filters", False),
        "DepthwiseConv" + _axes: (Converter.depthwise, CONV + "depth_multiplier filters", False),
        "SeparableConv" + _axes: (Converter.separable, CONV + "filters depth_multiplier", False),
        "MaxPooling" + _axes: (Converter.pool, WINDOW + "pool_size", False),
        "AveragePooling" + _axes: (Converter.pool, WINDOW + "pool_size", False),
        "GlobalMaxPooling" + _axes: (Converter.global_pool, "data_format keepdims", False),
        "GlobalAveragePooling" + _axes: (Converter.global_pool, "data_format keepdims", False),
        "ZeroPadding" + _axes: (Converter.zero_padding, "padding data_format", False),
    })


def fold_activations(model):
    """Activations that stand alone behind a row that can apply them become part of it."""
    readers = {}
    for row in model.rows:
        for name in row.inputs:
            readers[name] = readers.get(name, 0) + 1
    by_name, kept, renamed = {}, [], {}
    for row in model.rows:
        row.inputs = [renamed.get(name, name) for name in row.inputs]
        before = by_name.get(row.inputs[0]) if row.inputs else None
        if row.op == "activation" and before is not None and "act" not in before.fields and \
                before.op in ("dense", "conv1d", "conv2d", "batchnorm", "add") and \
                readers[before.name] == 1:
            before.fields.update(row.fields)
            renamed[row.name] = before.name
            readers[before.name] = readers.get(row.name, 0)
            continue
        by_name[row.name] = row
        kept.append(row)
    model.rows = kept
