"""Values of an ONNX graph: constants, and views of rows' outputs."""

import dataclasses
import math
import re

import numpy as np

from .onnxfile import array_of, package

FOLD_MAX = 1 << 25  # elements of a constant that the graph itself computes
DIM_MAX = (1 << 31) - 1
GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}  # ONNX's, in PyTorch's order


class Refuse(Exception):
    """A node that nn.h cannot express: reason and hint."""

    def __init__(self, reason, hint=""):
        super().__init__(reason)
        self.reason, self.hint = reason, hint


class Node:
    """A NodeProto with its inputs' values."""

    def __init__(self, proto, opset, inputs):
        self.op, self.name, self.opset = proto.op_type, proto.name, opset
        self.inputs, self.outputs = inputs, list(proto.output)
        self.proto = proto
        self.attributes = {}
        for attribute in proto.attribute:
            value = package().helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                value = value.decode(errors="replace")
            elif not isinstance(value, (int, float, str)) and hasattr(value, "__len__"):
                value = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]
            self.attributes[attribute.name] = value

    def get(self, name, default=None):
        return self.attributes.get(name, default)

    def input(self, i):
        """The value of an input; None: it is not there."""
        return self.inputs[i] if i < len(self.inputs) else None

    def const(self, i, what):
        """An input that must be a constant of floats, or None."""
        value = self.input(i)
        if value is None:
            return None
        if not isinstance(value, Const):
            raise Refuse(f"its {what} is computed while it runs",
                         "nn.h takes tensors that are stored in the file")
        if value.array.dtype not in (np.float32, np.float64):
            raise Refuse(f"its {what} is of type {value.array.dtype}", "export it in float32")
        return value

    def bias(self, i):
        """A bias, or None where there is none, or zeros that nothing stores for each output."""
        value = self.const(i, "bias")
        if value is not None and not np.any(value.array) and \
                sum(array.size for array in value.stored().values()) < value.array.size:
            return None
        return value


@dataclasses.dataclass(frozen=True)
class Const:
    """A constant. source: the stored tensor that it is or rearranges; made: the function and the
    Consts that it was made with, if its elements are those of other constants."""

    array: np.ndarray
    source: str = ""
    made: tuple = ()

    def rearranged(self, change):
        return Const(change(self.array), self.source, (change, [self]))

    def stored(self):
        """The stored tensors that its elements come from, by name."""
        if not self.made:
            return {self.source: self.array} if self.source else {}
        return {name: a for each in self.made[1] for name, a in each.stored().items()}

    def places(self, starts):
        """Where each element is stored; starts: where each stored tensor begins. -1: nowhere."""
        if self.made:
            return self.made[0](*(each.places(starts) for each in self.made[1]))
        if self.source not in starts:
            return np.broadcast_to(np.int64(-1), self.array.shape)
        return np.arange(self.array.size).reshape(self.array.shape) + starts[self.source]


@dataclasses.dataclass(frozen=True)
class View:
    """Elements of a row's output. Every axis is a tuple of (size, stride), outermost first; the
    stride of the batch is the number of a sample's elements."""

    row: str
    axes: tuple
    offset: int = 0
    pads: tuple = ()   # (before, after) of every axis: zeros that the next row must add
    filler: float = 0
    alone: bool = True  # nothing else reads the row, nor what stands between it and this
    kind: str = "f32"  # or ids, u8: of the input
    ids: object = None  # of ids: the function that the graph has applied to them so far

    @property
    def shape(self):
        return tuple(math.prod(size for size, _ in axis) for axis in self.axes)


@dataclasses.dataclass(frozen=True)
class Parts:
    """Views behind each other along an axis, which are not one view."""

    views: tuple
    axis: int

    @property
    def shape(self):
        shape = list(self.views[0].shape)
        shape[self.axis] = sum(view.shape[self.axis] for view in self.views)
        return tuple(shape)


class Unknown:
    """What a refused node makes."""


UNKNOWN = Unknown()


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a row's tensor comes from: change(constant) * scale + plus."""

    const: Const
    change: object
    scale: float = 1.0
    plus: object = None

    def values(self):
        values = self.change(self.const.array)
        if self.scale != 1:
            values = values * np.float32(self.scale)
        if self.plus is not None:
            values = values + self.plus
        return np.ascontiguousarray(values, np.float32)

    def places(self, starts):
        """Where each element of the tensor is stored, see Const."""
        return self.change(self.const.places(starts))


def merged(factors):
    """The same axis with as few factors as possible."""
    result = []
    for size, stride in factors:
        if size == 1:
            continue
        if result and result[-1][1] == size * stride:
            result[-1] = result[-1][0] * size, stride
        else:
            result.append((size, stride))
    return tuple(result)


def dealt(factors, shape):
    """The factors as axes of these sizes, or None."""
    left, axes = list(merged(factors))[::-1], []
    for wanted in shape:
        axis = []
        while wanted > 1:
            if not left:
                return None
            size, stride = left.pop()
            if wanted % size == 0:
                axis.append((size, stride))
                wanted //= size
            elif size % wanted == 0:
                axis.append((wanted, stride * (size // wanted)))
                left.append((size // wanted, stride))
                wanted = 1
            else:
                return None
        axes.append(merged(axis))
    return None if left else tuple(axes)


def natural(dims):
    """(size, stride) of every dimension of a row's output."""
    return [(d, math.prod(dims[i + 1:])) for i, d in enumerate(dims)]


def axis_of(number, rank):
    if not -rank <= number < rank:
        raise Refuse(f"axis {number} of {rank} does not exist")
    return number % rank


def gathered_at(axis, index):
    """The offset of an index along an axis."""
    offset = 0
    for size, stride in reversed(axis):
        offset += index % size * stride
        index //= size
    return offset


# --------------------------------------------------------------------------------------------------
# Constants that the graph computes


def truncated_division(a, b):
    if a.dtype.kind == "f":
        return a / b
    return np.where(b == 0, 0, np.sign(a) * np.sign(b) * (abs(a) // np.where(b == 0, 1, abs(b))))


ELEMENTWISE = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": truncated_division,
    "Neg": np.negative, "Abs": np.abs, "Floor": np.floor, "Ceil": np.ceil, "Sqrt": np.sqrt,
    "Max": np.maximum, "Min": np.minimum, "Equal": np.equal, "Less": np.less,
    "Greater": np.greater, "LessOrEqual": np.less_equal, "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and, "Or": np.logical_or, "Not": np.logical_not, "Where": np.where,
}
MOVES = ("Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Expand").split()


def whole(const, what):
    """The integers of a constant, as a list."""
    if not isinstance(const, Const) or const.array.dtype.kind not in "iu":
        raise Refuse(f"its {what} are computed while it runs", "export with fixed shapes")
    if const.array.size > 64:
        raise Refuse(f"its {what} are too many")
    return [int(v) for v in const.array.reshape(-1)]


def target_shape(shape, wanted, allow_zero):
    """The shape that Reshape makes of another one."""
    if len(wanted) > 16 or wanted.count(-1) > 1:
        raise Refuse("its new shape is wrong")
    result = [shape[i] if d == 0 and not allow_zero and i < len(shape) else d
              for i, d in enumerate(wanted)]
    if -1 in result:
        known = -math.prod(result)
        if known <= 0 or math.prod(shape) % known:
            raise Refuse("its new shape does not fit")
        result[result.index(-1)] = math.prod(shape) // known
    if math.prod(result) != math.prod(shape) or min(result, default=1) < 0:
        raise Refuse("its new shape does not fit")
    return result


def slices_of(node, shape):
    """What a Slice takes: a slice for each axis."""
    if node.opset < 10:
        starts, ends = node.get("starts", []), node.get("ends", [])
        axes, steps = node.get("axes"), None
    else:
        starts, ends = whole(node.input(1), "starts"), whole(node.input(2), "ends")
        axes = whole(node.input(3), "axes") if node.input(3) else None
        steps = whole(node.input(4), "steps") if node.input(4) else None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refuse("its starts, ends, axes and steps do not fit")
    result = [slice(0, d, 1) for d in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps):
        axis = axis_of(axis, len(shape))
        result[axis] = slice(*slice(start, end, step).indices(shape[axis])) if step > 0 else \
            slice(start, end, step)
    return tuple(result)


def move(node, shape):
    """A function that does with an array of this shape what the node does with its first input,
    all other inputs being constants."""
    op = node.op
    if op == "Identity":
        return lambda a: a
    if op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        new = new_shape(node, shape)
        return lambda a: a.reshape(new)
    if op == "Transpose":
        perm = permutation(node, len(shape))
        return lambda a: a.transpose(perm)
    if op == "Slice":
        taken = slices_of(node, shape)
        return lambda a: a[taken]
    if op == "Expand":
        new = broadcast(shape, whole(node.input(1), "shape"))
        few_enough(new)
        return lambda a: np.broadcast_to(a, new)
    axis = axis_of(node.get("axis", 0), len(shape))
    index = node.input(1).array
    if index.dtype.kind not in "iu" or np.any(index < -shape[axis]) or np.any(index >= shape[axis]):
        raise Refuse("its indices are out of range")
    few_enough((*shape[:axis], *shape[axis + 1:], index.size))
    return lambda a: np.take(a, index, axis)


def broadcast(*shapes):
    """The shape that values of these are repeated to."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise Refuse("its shapes do not fit each other, or are too large") from None


def few_enough(shape):
    """Refuses to compute a constant of this shape if it takes too much memory."""
    if math.prod(shape) > FOLD_MAX:
        raise Refuse("it computes a constant that is too large")


def cast(node):
    """A constant as another type; the same one if it is of that type."""
    const, dtype = node.inputs[0], type_of(node)
    return const if const.array.dtype == dtype else Const(const.array.astype(dtype))


def type_of(node):
    """The type that a Cast makes."""
    try:
        return package().helper.tensor_dtype_to_np_dtype(node.get("to", 0))
    except (KeyError, TypeError, ValueError):
        raise Refuse("it casts to an unknown type") from None


def permutation(node, rank):
    perm = node.get("perm", list(range(rank))[::-1])
    if sorted(perm) != list(range(rank)):
        raise Refuse("its permutation is wrong")
    return perm


def axes_of(node, at=1, name="axes"):
    """The axes of a node: an attribute, or an input since opset 13 (18 for ReduceMean)."""
    if len(node.inputs) > at and node.inputs[at] is not None:
        return whole(node.inputs[at], name)
    return node.get(name)


def new_shape(node, shape):
    """The shape that a node makes which only reshapes."""
    rank = len(shape)
    if node.op == "Flatten":
        axis = node.get("axis", 1)
        axis = axis + rank if axis < 0 else axis
        if not 0 <= axis <= rank:
            raise Refuse("its axis is wrong")
        return [math.prod(shape[:axis]), math.prod(shape[axis:])]
    if node.op == "Reshape":
        return target_shape(shape, whole(node.input(1), "shape"), node.get("allowzero", 0))
    axes = axes_of(node)
    if node.op == "Squeeze":
        axes = [i for i, d in enumerate(shape) if d == 1] if axes is None else axes
        axes = {axis_of(a, rank) for a in axes}
        if any(shape[a] != 1 for a in axes):
            raise Refuse("it squeezes an axis that is not 1")
        return [d for i, d in enumerate(shape) if i not in axes]
    axes = axes or []
    axes = {axis_of(a, rank + len(axes)) for a in axes}
    left = iter(shape)
    return [1 if i in axes else next(left) for i in range(rank + len(axes))]


def of_ids(node):
    """What an elementwise node makes of the input's integers and of constants; or None."""
    views = [each for each in node.inputs if isinstance(each, View)]
    cast = node.op == "Cast"
    if not views or not (cast or node.op in ELEMENTWISE) or \
            any(v.kind != "ids" or v.row != views[0].row or v.axes != views[0].axes or v.offset
                for v in views) or \
            not all(isinstance(each, View) or (isinstance(each, Const) and each.array.size == 1)
                    for each in node.inputs):
        return None
    parts = [each.ids or same if isinstance(each, View) else
             (lambda a, number=each.array.reshape(-1)[0]: number) for each in node.inputs]

    def apply(a):
        values = [np.asarray(part(a)) for part in parts]
        if cast:
            return values[0].astype(type_of(node))
        return ELEMENTWISE[node.op](*values)
    return dataclasses.replace(views[0], ids=apply)


def fold(node):
    """The Consts that a node makes of constants, or None."""
    op, given = node.op, [each for each in node.inputs if each is not None]
    if op in ("Shape", "Size") and len(given) == 1 and not isinstance(given[0], Unknown):
        shape = given[0].array.shape if isinstance(given[0], Const) else given[0].shape
        if op == "Size":
            return [Const(np.array(math.prod(shape), np.int64))]
        return [Const(np.array(shape[node.get("start", 0):node.get("end")], np.int64))]
    if op == "CastLike" and len(given) == 2 and isinstance(given[0], Const):
        like = given[1].array.dtype if isinstance(given[1], Const) else np.dtype(np.float32)
        if given[0].array.dtype == like:
            return [given[0]]
    if not given or not all(isinstance(each, Const) for each in given):
        return None
    arrays = [each.array for each in given]
    if op == "Cast":
        return [cast(node)]
    if op in MOVES:
        return [given[0].rearranged(move(node, arrays[0].shape))]
    if op in ELEMENTWISE:
        few_enough(broadcast(*(a.shape for a in arrays)))
        with np.errstate(all="ignore"):
            if op in ("Max", "Min"):
                result = arrays[0]
                for each in arrays[1:]:
                    result = ELEMENTWISE[op](result, each)
            else:
                result = ELEMENTWISE[op](*arrays)
        return [Const(np.asarray(result))]
    if op == "Concat":
        few_enough([sum(a.size for a in arrays)])
        axis = axis_of(node.get("axis", 0), arrays[0].ndim)

        def join(*parts):
            return np.concatenate(parts, axis)
        return [Const(join(*arrays), "", (join, given))]
    if op == "ConstantOfShape":
        value = node.get("value")
        value = np.float32(0) if value is None else array_of(value).reshape(-1)[0]
        shape = whole(given[0], "shape")
        few_enough(shape)
        return [Const(np.broadcast_to(value, shape))]
    if op == "Range" and abs(arrays[1] - arrays[0]) <= 1e6 * abs(arrays[2]):
        return [Const(np.arange(*(a.reshape(-1)[0] for a in arrays)).astype(arrays[0].dtype))]
    if op == "ReduceProd" and axes_of(node) in (None, [0], [-1]) and arrays[0].ndim == 1:
        return [Const(np.prod(arrays[0], keepdims=bool(node.get("keepdims", 1))))]
    if op == "Split":
        axis = axis_of(node.get("axis", 0), arrays[0].ndim)
        return [given[0].rearranged(lambda a, s=s: a[s])
                for s in split_slices(node, arrays[0].shape, axis)]
    return None


def split_slices(node, shape, axis):
    """What each output of a Split takes."""
    sizes = axes_of(node, 1, "split")
    count = node.get("num_outputs", len(node.outputs))
    if sizes is None:
        if count < 1:
            raise Refuse("it splits into nothing")
        each = -(-shape[axis] // count)
        sizes = [min(each, shape[axis] - i * each) for i in range(count)]
    if sum(sizes) != shape[axis] or min(sizes) < 1 or len(sizes) != len(node.outputs):
        raise Refuse("its parts do not fit")
    result, at = [], 0
    for size in sizes:
        taken = [slice(None)] * len(shape)
        taken[axis] = slice(at, at + size)
        result.append(tuple(taken))
        at += size
    return result


# --------------------------------------------------------------------------------------------------
# What several rows have in common


def scope_of(name):
    """The layer's name in a node's: "layer1.0.conv1" in "/layer1/layer1.0/conv1/Conv"."""
    parts = [part for part in re.split("/", name) if part]
    if len(parts) < 2:
        return parts[0] if parts else ""
    path = ""
    for part in parts[:-1]:
        path = part if part.startswith(path + ".") or not path else f"{path}.{part}"
    return path if name.startswith("/") else "/".join(parts[:-1])


def same(array):
    return array


def vector(shape, units):
    """A function that makes a vector of units elements of an array that is broadcast to one."""
    if any(d != 1 for d in shape[:-1]) or (shape and shape[-1] not in (1, units)):
        raise Refuse("its bias differs from sample to sample")
    return lambda a: np.broadcast_to(a.reshape(-1), (units,))


class Window:
    """Kernel, strides, dilations and pads of a node that slides over an image or a sequence."""

    def __init__(self, node, image, kernel):
        self.image, self.kernel = list(image), list(kernel)
        self.stride, self.dilation = self.numbers(node, "strides"), self.numbers(node, "dilations")
        self.same = node.get("auto_pad", "NOTSET")
        self.rounds_up = bool(node.get("ceil_mode", 0)) and self.same == "NOTSET"
        count = len(self.image)
        if self.same == "NOTSET":
            pads = list(node.get("pads", [0] * 2 * count))
            if len(pads) != 2 * count or not all(0 <= p <= DIM_MAX for p in pads):
                raise Refuse("its pads are wrong or negative")
            self.before, self.after = pads[:count], pads[count:]
        elif self.same in ("VALID", "SAME_UPPER", "SAME_LOWER"):
            self.before, self.after = [0] * count, [0] * count
            if self.same != "VALID":
                self.pad_to_same()
        else:
            raise Refuse(f"its auto_pad is {self.same[:40]}")

    def numbers(self, node, name):
        values = list(node.get(name, [1] * len(self.image)))
        if len(values) != len(self.image) or not all(1 <= v <= DIM_MAX for v in values):
            raise Refuse(f"its {name} are wrong")
        return values

    def span(self, i):
        return self.dilation[i] * (self.kernel[i] - 1) + 1

    def pad_to_same(self):
        """Pads that make ceil(n / stride) of n; an odd one goes behind (UPPER) or before."""
        for i, n in enumerate(self.image):
            out = -(-n // self.stride[i])
            total = max((out - 1) * self.stride[i] + self.span(i) - n, 0)
            less, more = total // 2, total - total // 2
            upper = self.same == "SAME_UPPER"
            self.before[i], self.after[i] = (less, more) if upper else (more, less)

    def pad_more(self, pads):
        """Takes in the (before, after) of a Pad."""
        if self.same.startswith("SAME"):
            self.image = [n + sum(p) for n, p in zip(self.image, pads)]
            self.pad_to_same()
            self.image = [n - sum(p) for n, p in zip(self.image, pads)]
        for i, (before, after) in enumerate(pads):
            self.before[i] += before
            self.after[i] += after

    def ceil(self, counted):
        """Takes in what ceil_mode adds behind the image, where that is padding like any other."""
        for i, n in enumerate(self.image):
            room = n + self.before[i] + self.after[i] - self.span(i)
            more = -room % self.stride[i]
            if not self.rounds_up or room < 0 or not more:
                continue
            if room + more >= n + self.before[i]:
                raise Refuse("its ceil_mode makes a window that begins behind the image")
            if counted:
                raise Refuse("its ceil_mode adds padding that does not count among padding that "
                             "does", "set ceil_mode to 0")
            self.after[i] += more

    def keep(self, dims):
        """Only these dimensions; others must be as if not there."""
        for i in range(len(self.image)):
            if i not in dims and (self.kernel[i], self.before[i], self.after[i]) != (1, 0, 0):
                raise Refuse("it makes an image of a sequence")
        for name in ("image", "kernel", "stride", "dilation", "before", "after"):
            setattr(self, name, [getattr(self, name)[i] for i in dims])

    def pads(self):
        return self.before + self.after

    def sizes(self):
        """What it makes of the image."""
        result = []
        for i, n in enumerate(self.image):
            room = n + self.before[i] + self.after[i] - self.span(i)
            if room < 0:
                raise Refuse(f"its kernel spans {self.span(i)}, more than the image has")
            result.append(room // self.stride[i] + 1)
        return result

    def unless_one(self, values):
        return values if set(values) != {1} else None


def recurrent_tensors(op, w, r, b, before):
    """Origins of a recurrent row's tensors, and how many biases it has."""
    order, ways = GATES[op], w.array.shape[0]
    units = r.array.shape[2]
    tensors, biases = {}, 0 if b is None else 2

    def matrix(way):
        return lambda a: a[way].reshape(len(order), units, -1)[order].reshape(
            len(order) * units, -1)

    def bias(way, which):
        return lambda a: a[way].reshape(2, len(order), units)[which][order].reshape(-1)

    if b is not None:
        hidden = b.array.reshape(ways, 2, -1)[:, 1]
        # Keras has one bias, and its exporters write zeros for the other
        if before or (not np.any(hidden) and np.any(b.array) and op != "GRU"):
            biases = 1
    for way in range(ways):
        end = "_l0_reverse" if way else "_l0"
        tensors["weight_ih" + end] = Origin(w, matrix(way))
        tensors["weight_hh" + end] = Origin(r, matrix(way))
        if biases:
            added = bias(way, 1)(b.array) if biases == 1 else None
            tensors["bias_ih" + end] = Origin(b, bias(way, 0), plus=added)
        if biases == 2:
            tensors["bias_hh" + end] = Origin(b, bias(way, 1))
    return tensors, biases
