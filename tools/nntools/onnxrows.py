"""ONNX nodes as rows. What the graph only moves stays a view, and a row that reads one says which
order it needs."""

import dataclasses
import math
import re

import numpy as np

from .model import unique
from .onnxfile import package
from .onnxvalues import (DIM_MAX, GATES, Const, Origin, Parts, Refuse, View, Window, axes_of,
                         axis_of, broadcast, dealt, gathered_at, merged, natural, new_shape,
                         permutation, recurrent_tensors, same, scope_of, slices_of, split_slices,
                         vector, whole)

ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
CONCAT_HINT = "add instead of concatenating"


class Redeclare(Exception):
    """The input row must be of this shape and order; the graph is followed again."""

    def __init__(self, dims, order):
        super().__init__()
        self.declared = tuple(dims), order


def is_cast_to_float(function):
    """Does it leave integers what they are, as floats?"""
    numbers = np.arange(-300, 300)
    result = function(numbers)
    return result.dtype.kind == "f" and np.array_equal(result, numbers)


class Rows:
    """Half of Conversion: a function op_NAME for each op, from a Node to the values it makes."""

    # ---- what rows ask of their inputs ----

    def label(self, view):
        """The name of a view's row, for the user."""
        return self.wanted.get(view.row, view.row)

    def settled(self, view):
        """The view as all elements of a row's output; refuses what is not."""
        if isinstance(view, Parts):
            view = self.joined(view)
        view = self.last_step(view)
        if view.ids and is_cast_to_float(view.ids):
            self.notes.append("the input is of integers in the graph, and of floats here")
            view = dataclasses.replace(view, kind="f32", ids=None)
        if view.kind == "ids":
            raise Refuse("it computes with integers; nn.h takes those as ids of an embedding only")
        if any(p != (0, 0) for p in view.pads):
            raise Refuse("a Pad stands before it, which nn.h has in convolutions only",
                         "pad in the row itself")
        elements = math.prod(self.dims[view.row])
        if view.offset or math.prod(view.shape) != elements * self.batch:
            raise Refuse(f"it reads a part of the output of {self.label(view)}; nn.h reads all of "
                         "it")
        if view.kind == "u8":
            raise Refuse("it computes with bytes", "cast them to float first")
        return view

    def batch_at(self, view, axis):
        """Is this axis the batch?"""
        return merged(view.axes[axis]) == self.batch_factor(math.prod(self.dims[view.row]))

    def declare(self, view, dims, order="hwc"):
        """Follows the graph again with another input row, if this is that and could be so."""
        if self.roots[view.row] == self.input_row and (tuple(dims), order) not in self.tried and \
                math.prod(dims) == math.prod(self.dims[view.row]) and \
                self.input_axes(tuple(dims), order, self.source_shape) is not None:
            raise Redeclare(dims, order)

    def spatial(self, value, what):
        """A view of an image, [N,C,H,W] over a row of [H,W,C], or of a sequence, [N,C,T] over
        [T,C]; and the axes that are the row's. A sequence may have a height or width of 1 here."""
        pads = value.pads if isinstance(value, View) else ()
        view = self.settled(dataclasses.replace(value, pads=()) if pads else value)
        rank = len(view.axes)
        if rank not in (3, 4):
            raise Refuse(f"{what} takes [N,C,H,W] or [N,C,T], and this is of "
                         f"{rank} dimensions")
        at = list(range(2, rank))
        if rank == 4 and len(self.dims[view.row]) == 2 and 1 in view.shape[2:]:
            at.remove(2 if view.shape[2] == 1 else 3)
        dims = (*(view.shape[i] for i in at), view.shape[1])
        factors = natural(dims)
        axes = [self.batch_factor(math.prod(dims)), merged(factors[-1:]), *[()] * (rank - 2)]
        for i, factor in zip(at, factors):
            axes[i] = merged([factor])
        if view.axes != tuple(axes) or self.dims[view.row] != dims:
            self.declare(view, dims, "hwc" if dims[-1] == 1 else "chw")
            self.declare(view, dims, "hwc")
            raise Refuse(f"{what} takes the output of {self.label(view)} in another order or shape "
                         "than that row makes it; nn.h cannot transpose or reshape there")
        return dataclasses.replace(view, pads=pads), at

    def spatial_view(self, row, rank, at):
        """The output of such a row in ONNX's order."""
        dims = self.dims[row]
        factors = natural(dims)
        axes = [self.batch_factor(math.prod(dims)), merged(factors[-1:]), *[()] * (rank - 2)]
        for i, factor in zip(at, factors):
            axes[i] = merged([factor])
        return View(row, tuple(axes))

    def sequence(self, value, time, batch, last):
        """The row of a sequence, with the axes of its steps, batch and elements."""
        view = self.settled(value)
        if len(view.axes) != 3:
            raise Refuse(f"it takes sequences; this is of {len(view.axes)} dimensions")
        t, c = view.shape[time], view.shape[last]
        wanted = {time: merged([(t, c)]), last: merged([(c, 1)]), batch: self.batch_factor(t * c)}
        if any(view.axes[axis] != factors for axis, factors in wanted.items()) or \
                self.dims[view.row] != (t, c):
            self.declare(view, (t, c))
            raise Refuse(f"it takes the output of {self.label(view)} as a sequence, which is not "
                         "one, or in another order; nn.h cannot transpose or reshape there")
        return view

    def last_axis(self, view, axis):
        """Is this axis the last dimension of the row's output?"""
        return view.axes[axis] == merged([(self.dims[view.row][-1], 1)])

    def flat(self, view, name=None):
        """A view [N, elements] as one of a row with one dimension."""
        dims = self.dims[view.row]
        elements = math.prod(dims)
        if len(view.axes) != 2 or not self.batch_at(view, 0):
            return view
        if len(dims) == 1:
            return view
        if view.axes[1] == merged([(elements, 1)]):
            order = "hwc"
        else:
            factors = [(d, s) for d, s in natural(dims)]
            if view.axes[1] != merged([factors[-1], *factors[:-1]]):
                raise Refuse(f"it takes the output of {self.label(view)} in an order that no "
                             "flatten of nn.h makes")
            order = "chw"
        key = view.row, order
        if key not in self.flat_rows:
            row = self.model.add("flatten", unique(name or f"{view.row}.flatten", self.taken),
                                 [view.row], order=order)
            self.dims[row], self.roots[row] = (elements,), row
            self.flat_rows[key] = row
        axes = self.batch_factor(elements), merged([(elements, 1)])
        return dataclasses.replace(view, row=self.flat_rows[key], axes=axes)

    def add_row(self, op, node, inputs, dims, tensors=None, name=None, same=False, **fields):
        """A row; same: of its input's shape."""
        if min(dims) < 1 or math.prod(dims) > DIM_MAX:
            raise Refuse(f"its output would be of shape {list(dims)}")
        name = name or self.name_of(node)
        self.model.add(op, name, inputs, **fields)
        self.dims[name] = tuple(dims)
        self.roots[name] = self.roots[inputs[0]] if same else name
        for suffix, origin in (tensors or {}).items():
            self.origins[f"{name}.{suffix}"] = origin
        return name

    def elementwise(self, op, node, view, **fields):
        """A row that changes no shape and no order."""
        view = self.settled(view)
        name = None
        if op == "activation":  # most become a part of another row
            name = unique("activation", self.taken)
            self.wanted[name] = self.scope(node) or scope_of(node.name) or node.outputs[0]
        row = self.add_row(op, node, [view.row], self.dims[view.row], name=name, same=True,
                           **fields)
        return [dataclasses.replace(view, row=row, alone=True)]

    # ---- nodes that move elements ----

    def moved(self, node):
        """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in other axes."""
        view = node.inputs[0]
        if isinstance(view, Parts):
            view = self.joined(view)
        if any(p != (0, 0) for p in view.pads):
            raise Refuse("a Pad stands before it, which nn.h has in convolutions only")
        shape = new_shape(node, view.shape)
        axes = dealt([factor for axis in view.axes for factor in axis], shape)
        if axes is None:
            raise Refuse(f"it reshapes {list(view.shape)} to {shape}, which splits dimensions "
                         "where rows of nn.h have none")
        return [dataclasses.replace(view, axes=axes, pads=())]

    op_Reshape = op_Flatten = op_Squeeze = op_Unsqueeze = moved

    def op_Identity(self, node):
        return [node.inputs[0]]

    def op_Transpose(self, node):
        view = node.inputs[0]
        if isinstance(view, Parts):
            view = self.joined(view)
        perm = permutation(node, len(view.axes))
        pads = tuple(view.pads[p] for p in perm) if view.pads else ()
        return [dataclasses.replace(view, axes=tuple(view.axes[p] for p in perm), pads=pads)]

    def op_Cast(self, node):
        types, to, view = package().TensorProto, node.get("to"), node.inputs[0]
        if isinstance(view, Parts):
            view = self.joined(view)
        if to in (types.FLOAT, types.DOUBLE):
            return [dataclasses.replace(view, kind="f32")]
        if to in (types.INT32, types.INT64) and view.row == self.input_row:
            return [dataclasses.replace(view, kind="ids")]
        raise Refuse("it casts to a type that rows of nn.h do not compute in",
                     "export it in float32")

    def op_Expand(self, node):
        view = node.inputs[0]
        new = broadcast(view.shape, whole(node.input(1), "shape"))
        if isinstance(view, Parts) or tuple(new) != view.shape:
            raise Refuse("it repeats elements; nn.h has no such row")
        return [view]

    def op_Slice(self, node):
        view = node.inputs[0]
        taken = slices_of(node, view.shape)
        for axis, each in enumerate(taken):
            view = self.cut(view, axis, each)
        return [view]

    def cut(self, view, axis, taken):
        """A part of a view along an axis."""
        size = view.shape[axis]
        start, stop, step = taken.indices(size)
        if (start, stop, step) == (0, size, 1):
            return view
        if step != 1:
            raise Refuse("it takes steps with gaps or backwards; nn.h has no such row")
        if stop <= start:
            raise Refuse("it takes nothing")
        if isinstance(view, Parts):
            return self.cut_parts(view, axis, start, stop)
        if view.pads and view.pads[axis] != (0, 0):
            raise Refuse("it takes a part of what a Pad makes")
        axes = list(view.axes)
        if stop - start > 1 and len(axes[axis]) != 1:
            raise Refuse("it takes a part that spans several dimensions")
        offset = view.offset + gathered_at(axes[axis], start)
        axes[axis] = merged([(stop - start, axes[axis][-1][1])])
        return dataclasses.replace(view, axes=tuple(axes), offset=offset)

    def cut_parts(self, parts, axis, start, stop):
        if axis != parts.axis:
            return Parts(tuple(self.cut(v, axis, slice(start, stop)) for v in parts.views),
                         parts.axis)
        kept, at = [], 0
        for view in parts.views:
            size = view.shape[axis]
            low, high = max(start - at, 0), min(stop - at, size)
            if low < high:
                kept.append(self.cut(view, axis, slice(low, high)))
            at += size
        return kept[0] if len(kept) == 1 else Parts(tuple(kept), axis)

    def op_Split(self, node):
        view = node.inputs[0]
        axis = axis_of(node.get("axis", 0), len(view.shape))
        return [self.cut(view, axis, taken[axis])
                for taken in split_slices(node, view.shape, axis)]

    def op_Gather(self, node):
        data, index = node.inputs[0], node.inputs[1]
        if isinstance(data, Const):
            return self.embedding(node)
        axis = axis_of(node.get("axis", 0), len(data.shape))
        if not isinstance(index, Const) or index.array.size != 1:
            raise Refuse("it takes elements by number; nn.h has that as an embedding only")
        at = whole(index, "indices")[0]
        at += data.shape[axis] if at < 0 else 0
        if not 0 <= at < data.shape[axis]:
            raise Refuse("its indices are out of range")
        view = self.cut(data, axis, slice(at, at + 1))
        if isinstance(view, Parts):
            view = self.joined(view)
        axes = list(view.axes)
        axes[axis:axis + 1] = [()] * index.array.ndim
        return [dataclasses.replace(view, axes=tuple(axes), pads=())]

    def op_Concat(self, node):
        views = [v for each in node.inputs
                 for v in (each.views if isinstance(each, Parts) else [each])]
        if not all(isinstance(v, View) for v in views):
            raise Refuse("nn.h has no such row", CONCAT_HINT)
        axis = axis_of(node.get("axis", 0), len(views[0].shape))
        if any(isinstance(each, Parts) and each.axis != axis for each in node.inputs) or \
                any(len(v.axes) != len(views[0].axes) for v in views):
            raise Refuse("nn.h has no such row", CONCAT_HINT)
        joined = self.neighbours(views, axis)
        return [joined if joined else Parts(tuple(views), axis)]

    def neighbours(self, views, axis):
        """One view of views that lie beside each other in one row, or None."""
        first = views[0]
        other = [a for i, a in enumerate(first.axes) if i != axis]
        if any(v.row != first.row or v.pads or v.kind != first.kind or
               [a for i, a in enumerate(v.axes) if i != axis] != other or
               len(v.axes[axis]) > 1 for v in views):
            return None
        if len(views) == 1:
            return first
        step = first.axes[axis][0][1] if first.axes[axis] else views[1].offset - first.offset
        at = first.offset
        for view in views:
            if view.offset != at or (view.axes[axis] and view.axes[axis][0][1] != step):
                return None
            at += view.shape[axis] * step
        if step < 1:
            return None
        axes = list(first.axes)
        axes[axis] = merged([(sum(v.shape[axis] for v in views), step)])
        return dataclasses.replace(first, axes=tuple(axes),
                                   alone=all(v.alone for v in views))

    def joined(self, parts):
        """Views behind each other as one: the last states of both directions, which a row makes."""
        views = parts.views
        row = views[0].row
        if len(views) == 2 and row == views[1].row and row in self.recurrent and \
                len(self.dims[row]) == 2:
            steps, size = self.dims[row]
            half = size // 2
            ends = views[0].offset == (steps - 1) * size and views[1].offset == half
            rest = [merged([(half, 1)]), self.batch_factor(steps * size)]
            fine = all(sorted(a for a in v.axes if a) == sorted(a for a in rest if a) and
                       v.axes[parts.axis] == rest[0] for v in views)
            if ends and fine and self.recurrent[row].fields.get("bidirectional"):
                axes = [self.batch_factor(size) if a else () for a in views[0].axes]
                axes[parts.axis] = merged([(size, 1)])
                return View(self.last_row(row), tuple(axes))
        names = sorted({view.row for view in views})
        raise Refuse(f"it reads a Concat (of {', '.join(names)[:120]}); nn.h has no such row",
                     CONCAT_HINT)

    def last_step(self, view):
        """A view of the last step of a recurrent row as one of a row that makes only that."""
        row = self.recurrent.get(view.row)
        if row is None or len(self.dims[view.row]) != 2 or row.fields.get("bidirectional"):
            return view
        steps, size = self.dims[view.row]
        batch, state = self.batch_factor(steps * size), merged([(size, 1)])
        if steps == 1 or view.offset != (steps - 1) * size or \
                sorted(a for a in view.axes if a) != sorted(a for a in (batch, state) if a):
            return view
        axes = tuple(self.batch_factor(size) if a == batch else a for a in view.axes)
        return dataclasses.replace(view, row=self.last_row(view.row), axes=axes, offset=0)

    def op_Pad(self, node):
        view = node.inputs[0]
        if isinstance(view, Parts):
            view = self.joined(view)
        rank = len(view.axes)
        if node.opset < 11:
            pads, value, axes = node.get("pads", []), node.get("value", 0.0), None
        else:
            pads, filler = whole(node.input(1), "pads"), node.const(2, "value")
            value = float(filler.array.reshape(-1)[0]) if filler else 0.0
            axes = whole(node.input(3), "axes") if node.input(3) else None
        axes = list(range(rank)) if axes is None else [axis_of(a, rank) for a in axes]
        if len(pads) != 2 * len(axes):
            raise Refuse("its pads do not fit")
        if not any(pads):
            return [view]
        if node.get("mode", "constant") != "constant":
            raise Refuse(f'nn.h pads with zeros, not by mode "{node.get("mode")}"')
        if min(pads) < 0 or any(p != (0, 0) for p in view.pads):
            raise Refuse("it crops, or pads what is padded; nn.h has no such row")
        result = [(0, 0)] * rank
        for i, axis in enumerate(axes):
            result[axis] = pads[i], pads[i + len(axes)]
        return [dataclasses.replace(view, pads=tuple(result), filler=value)]

    # ---- nodes that are rows ----

    def op_Conv(self, node):
        weight, bias = node.const(1, "weight"), node.bias(2)
        rank = weight.array.ndim if weight is not None else 0
        if rank not in (3, 4):
            raise Refuse(f"nn.h has convolutions in one and two dimensions, not in {rank - 2}")
        units, per_group, *kernel = weight.array.shape
        if min(weight.array.shape) < 1 or node.get("kernel_shape", kernel) != kernel:
            raise Refuse("its kernel_shape is not that of its weight")
        if bias is not None and bias.array.shape != (units,):
            raise Refuse("its bias is not of its number of outputs")
        tensors = {"weight": Origin(weight, same)}
        if bias is not None:
            tensors["bias"] = Origin(bias, same)
        groups = node.get("group", 1)
        view = node.inputs[0]
        if isinstance(view, View) and set(kernel) == {1} and groups == 1:
            dense = self.conv_as_dense(node, view, tensors)
            if dense:
                return dense
        view, at = self.spatial(view, "a convolution")
        if len(view.axes) != rank:
            raise Refuse("its weight does not fit its input")
        c, image = view.shape[1], view.shape[2:]
        if groups < 1 or c != per_group * groups or units % groups:
            raise Refuse(f"{c} channels in {groups} groups do not fit its weight")
        window = Window(node, image, kernel)
        if any(p != (0, 0) for p in view.pads):
            if view.filler != 0 or view.pads[0] != (0, 0) or view.pads[1] != (0, 0):
                raise Refuse("the Pad before it does not pad height and width with zeros")
            window.pad_more(view.pads[2:])
        kept = [i - 2 for i in at]
        window.keep(kept)
        if len(kept) < rank - 2:
            tensors["weight"] = Origin(weight, lambda a: a.reshape(*a.shape[:2],
                                                                   a.shape[2 + kept[0]]))
        row = self.add_row("conv2d" if len(at) == 2 else "conv1d", node, [view.row],
                           (*window.sizes(), units), tensors, units=units, kernel=window.kernel,
                           stride=window.unless_one(window.stride), pad=window.pads(),
                           dilation=window.unless_one(window.dilation),
                           groups=groups if groups > 1 else 0, no_bias=int(bias is None))
        return [self.spatial_view(row, rank, at)]

    def conv_as_dense(self, node, view, tensors):
        """A convolution of one element by one, of what is no image, as behind a global mean."""
        if len(view.axes) < 3 or view.pads or set(view.shape[2:]) != {1} or \
                len(self.dims[view.row]) != 1 or self.roots[view.row] == self.input_row:
            return None
        window = Window(node, view.shape[2:], [1] * (len(view.axes) - 2))
        view = self.settled(view)
        weight = tensors["weight"].const.array
        if any(window.pads()) or not self.last_axis(view, 1) or \
                weight.shape[1] != view.shape[1]:
            return None
        tensors["weight"] = Origin(tensors["weight"].const, lambda a: a.reshape(a.shape[:2]))
        return self.dense(node, view, weight.shape[0], tensors, axis=1)

    def dense(self, node, view, units, tensors, axis):
        """A dense row along an axis that is the last dimension of the row it reads."""
        size = self.dims[view.row][-1]
        dims = (*self.dims[view.row][:-1], units)
        row = self.add_row("dense", node, [view.row], dims, tensors, units=units,
                           no_bias=int("bias" not in tensors))
        axes = [merged((n, stride // size * units) for n, stride in a) for a in view.axes]
        axes[axis] = merged([(units, 1)])
        return [View(row, tuple(axes))]

    def product(self, node, view, weight, tensors):
        """x W of a Gemm or MatMul, as a dense row over the last axis."""
        view = self.settled(view)
        if len(view.axes) < 1 or weight[0] != view.shape[-1]:
            raise Refuse(f"it multiplies {list(view.shape)} by {list(weight)}")
        view = self.flat(view)
        if not self.last_axis(view, len(view.axes) - 1):
            elements = math.prod(self.dims[view.row])
            self.declare(view, (elements // weight[0], weight[0]))
            raise Refuse("it multiplies along a dimension that is not the last of "
                         f"{self.label(view)}; nn.h cannot transpose or reshape there")
        return self.dense(node, view, weight[1], tensors, len(view.axes) - 1)

    def op_Gemm(self, node):
        view, weight, bias = node.inputs[0], node.const(1, "weight"), node.bias(2)
        if weight is None or weight.array.ndim != 2 or len(view.shape) != 2:
            raise Refuse("it multiplies what is no matrix")
        if node.get("transA", 0):
            if isinstance(view, Parts):
                view = self.joined(view)
            view = dataclasses.replace(view, axes=view.axes[::-1])
        if node.get("transB", 0):
            size, change = weight.array.shape[::-1], same
        else:
            size, change = weight.array.shape, np.transpose
        tensors = {"weight": Origin(weight, change, node.get("alpha", 1.0))}
        if bias is not None and node.get("beta", 1.0) != 0:
            tensors["bias"] = Origin(bias, vector(bias.array.shape, size[1]),
                                     node.get("beta", 1.0))
        return self.product(node, view, size, tensors)

    def op_MatMul(self, node):
        if isinstance(node.inputs[0], Const):
            raise Refuse("it multiplies a stored matrix by a computed one",
                         "nn.h multiplies vectors by weights from the right")
        if not isinstance(node.inputs[1], Const):
            raise Refuse("it multiplies two computed values; nn.h multiplies by stored weights")
        weight = node.const(1, "weight")
        shape = weight.array.shape
        if len(shape) < 2 or any(d != 1 for d in shape[:-2]):
            raise Refuse("its weight is no matrix")
        tensors = {"weight": Origin(weight, lambda a: a.reshape(a.shape[-2:]).T)}
        if len(shape) > len(node.inputs[0].shape):
            raise Refuse("its weight has more dimensions than its input")
        return self.product(node, node.inputs[0], shape[-2:], tensors)

    def pool(self, node, op):
        view, at = self.spatial(node.inputs[0], "a pool")
        kernel, image, rank = node.get("kernel_shape", []), view.shape[2:], len(view.axes)
        if len(kernel) != len(image) or min(kernel) < 1:
            raise Refuse("its kernel_shape is wrong")
        window = Window(node, image, kernel)
        if set(window.dilation) != {1}:
            raise Refuse("nn.h has no pools with dilation")
        counted = node.get("count_include_pad", 0) if op == "avgpool" else 0
        if any(p != (0, 0) for p in view.pads):
            counted = self.padded_pool(op, view, any(window.pads()), counted)
            window.pad_more(view.pads[2:])
        window.ceil(counted)
        window.keep([i - 2 for i in at])
        if any(p >= k for p, k in zip(window.pads(), window.kernel * 2)):
            raise Refuse("it pads by as much as its kernel, and nn.h by less only")
        if not any(window.pads()):
            counted = 0
        row = self.add_row(f"{op}{len(at)}d", node, [view.row],
                           (*window.sizes(), view.shape[1]), kernel=window.kernel,
                           stride=window.stride, pad=window.pads(),
                           count_pad=int(bool(counted)))
        return [self.spatial_view(row, rank, at)]

    def padded_pool(self, op, view, padded, counted):
        """Can a Pad before a pool be padding of the pool? Then, does it count in means?"""
        fine = view.pads[0] == (0, 0) == view.pads[1]
        if op == "avgpool":
            fine = fine and view.filler == 0 and (counted or not padded)
        else:
            fine = fine and (view.filler == -math.inf or
                             (view.filler == 0 and self.not_negative(view.row)))
        if not fine:
            raise Refuse("the Pad before it puts in values that a pool of nn.h does not count",
                         "pad in the pool itself")
        return int(op == "avgpool")

    def not_negative(self, name):
        """Are this row's outputs never below zero? Then zeros beside them are no larger."""
        row = self.model.row(name)
        if row.op in ("maxpool2d", "avgpool2d", "maxpool1d", "avgpool1d", "dropout"):
            return self.not_negative(row.inputs[0])
        return row.op == "activation" and row.fields["act"] in ("relu", "sigmoid", "softmax")

    def op_MaxPool(self, node):
        if len(node.outputs) > 1 and self.uses[node.outputs[1]]:
            raise Refuse("the places of its maxima are read; nn.h gives none")
        return self.pool(node, "maxpool")

    def op_AveragePool(self, node):
        return self.pool(node, "avgpool")

    def op_GlobalMaxPool(self, node):
        return self.over_all(node, "globalmaxpool", set(range(2, len(node.inputs[0].shape))), 1)

    def op_GlobalAveragePool(self, node):
        return self.over_all(node, "globalavgpool", set(range(2, len(node.inputs[0].shape))), 1)

    def reduced(self, node, op):
        axes, rank = axes_of(node), len(node.inputs[0].shape)
        if not axes and node.get("noop_with_empty_axes", 0):
            return [node.inputs[0]]
        axes = set(range(rank)) if not axes else {axis_of(a, rank) for a in axes}
        return self.over_all(node, op, axes, node.get("keepdims", 1))

    def op_ReduceMean(self, node):
        return self.reduced(node, "globalavgpool")

    def op_ReduceMax(self, node):
        return self.reduced(node, "globalmaxpool")

    def over_all(self, node, op, axes, keep):
        """The mean or maximum over these axes, which must be all but batch and channels."""
        view = self.settled(node.inputs[0])
        if not self.leaves_channels(view, axes):
            if len(view.axes) in (3, 4) and axes == set(range(2, len(view.axes))):
                view, _ = self.spatial(view, "it")
            if not self.leaves_channels(view, axes):
                raise Refuse("nn.h takes means and maxima over height and width, or over the steps "
                             "of a sequence")
        c = self.dims[view.row][-1]
        row = self.add_row(op, node, [view.row], (c,))
        result = []
        for i, axis in enumerate(view.axes):
            if i in axes:
                result += [()] if keep else []
            elif self.last_axis(view, i) and axis:
                result.append(axis)
            else:
                result.append(self.batch_factor(c) if axis else ())
        return [View(row, tuple(result))]

    def leaves_channels(self, view, axes):
        dims = self.dims[view.row]
        return len(dims) > 1 and math.prod(view.shape[i] for i in axes) == math.prod(dims[:-1]) \
            and all(self.batch_at(view, i) or self.last_axis(view, i)
                    for i in range(len(view.axes)) if i not in axes)

    def op_BatchNormalization(self, node):
        names = "scale", "bias", "mean", "variance"
        stored = [node.const(i + 1, names[i]) for i in range(4)]
        if None in stored or any(each.array.ndim != 1 for each in stored):
            raise Refuse("its scale, bias, mean and variance must be stored vectors")
        if node.get("training_mode", 0):
            raise Refuse("it is in training mode and normalises by its batch",
                         "export the model in evaluation mode; PyTorch's training="
                         "TrainingMode.PRESERVE keeps batch norm as it is")
        if not node.get("spatial", 1):
            raise Refuse("it is not spatial; nn.h normalises by channel")
        if any(name and self.uses[name] for name in node.outputs[1:]):
            raise Refuse("its statistics are read; nn.h gives none")
        view = self.settled(node.inputs[0])
        if len(view.axes) < 2:
            raise Refuse("it has no channels")
        view = self.flat(view)
        if not self.last_axis(view, 1) and len(view.axes) in (3, 4):
            view, _ = self.spatial(view, "it")
        if not self.last_axis(view, 1):
            raise Refuse(f"its channels are not the last dimension of {self.label(view)}; nn.h "
                         "cannot transpose there")
        if any(each.array.shape[0] != view.shape[1] for each in stored):
            raise Refuse("its tensors are not of its number of channels")
        eps, keep = node.get("epsilon", 1e-5), node.get("momentum", 0.9)
        if not eps > 0:
            raise Refuse("its epsilon is zero, which means 1e-5 to nn.h")
        momentum = 1 - float(str(np.float32(keep)))  # of the decimals that were meant: 0.9, 0.1
        if not 0 < momentum <= 1:
            momentum = 0.1
            self.notes.append(f"{node.name or node.outputs[0]}: its momentum of {keep:g} never "
                              "moves the statistics; nn.h has none such and takes 0.9")
        suffixes = "weight", "bias", "running_mean", "running_var"
        tensors = {suffix: Origin(each, same) for suffix, each in zip(suffixes, stored)}
        row = self.add_row("batchnorm", node, [view.row], self.dims[view.row], tensors, same=True,
                           eps=float(eps), momentum=momentum, biased=1)
        return [dataclasses.replace(view, row=row, alone=True)]

    def activation(self, node):
        return self.elementwise("activation", node, node.inputs[0], act=ACTIVATIONS[node.op])

    op_Relu = op_Sigmoid = op_Tanh = activation

    def op_LeakyRelu(self, node):
        slope = float(np.float32(node.get("alpha", 0.01)))
        if not 0 <= slope < math.inf:
            raise Refuse(f"its slope is {slope:g}; nn.h takes positive ones")
        if slope == 0:
            return self.elementwise("activation", node, node.inputs[0], act="relu")
        return self.elementwise("activation", node, node.inputs[0], act="leaky_relu", slope=slope)

    def op_Clip(self, node):
        if node.opset < 11:
            low, high = node.get("min", -math.inf), node.get("max", math.inf)
        else:
            bounds = [node.const(i, "bound") for i in (1, 2)]
            low = -math.inf if bounds[0] is None else float(bounds[0].array.reshape(-1)[0])
            high = math.inf if bounds[1] is None else float(bounds[1].array.reshape(-1)[0])
        largest = float(np.finfo(np.float32).max)
        if low <= -largest and high >= largest:
            return [node.inputs[0]]
        if low == 0 and high >= largest:
            return self.elementwise("activation", node, node.inputs[0], act="relu")
        raise Refuse(f"nn.h has no activation that ends at {high:g}" if low == 0 else
                     "nn.h has no such row", "train with relu instead")

    def op_Softmax(self, node):
        rank = len(node.inputs[0].shape)
        view = self.settled(node.inputs[0])
        axis = axis_of(node.get("axis", -1 if node.opset >= 13 else 1), rank)
        axes = [axis] if node.opset >= 13 else list(range(axis, rank))
        return self.softmax(node, view, axes)

    def softmax(self, node, view, axes):
        """Softmax over these axes together: the last dimension of a row, or all of it."""
        dims = self.dims[view.row]
        over = merged(factor for a in axes for factor in view.axes[a])
        if len(dims) > 1 and over != merged([(dims[-1], 1)]):
            rest = [i for i in range(len(view.axes)) if i not in axes]
            if len(view.axes) in (3, 4) and axes == [1]:
                view, _ = self.spatial(view, "a softmax")
            elif math.prod(view.shape[a] for a in axes) == math.prod(dims) and \
                    all(self.batch_at(view, i) or not view.axes[i] for i in rest):
                flat = View(view.row, (self.batch_factor(math.prod(dims)),
                                       merged([(math.prod(dims), 1)])))
                view = dataclasses.replace(view, row=self.flat(flat).row)
                over = merged([(math.prod(dims), 1)])
        dims = self.dims[view.row]
        over = over if len(dims) == 1 else merged(f for a in axes for f in view.axes[a])
        if len(dims) == 1 and math.prod(size for size, _ in over) == dims[0]:
            over = merged([(dims[0], 1)])
        if over != merged([(dims[-1], 1)]) or not over:
            raise Refuse("nn.h takes softmax over channels (the last dimension of a row) only")
        return self.elementwise("activation", node, view, act="softmax")

    def op_Dropout(self, node):
        if node.opset < 12:
            ratio, training = node.get("ratio", 0.5), False
        else:
            given = node.const(1, "ratio")
            ratio = 0.5 if given is None else float(given.array.reshape(-1)[0])
            mode = node.input(2)
            if mode is not None and not isinstance(mode, Const):
                raise Refuse("its training mode is computed while it runs")
            training = mode is not None and bool(mode.array.any())
        if len(node.outputs) > 1 and node.outputs[1] and self.uses[node.outputs[1]]:
            raise Refuse("its mask is read; nn.h gives none")
        if ratio == 0:
            return [node.inputs[0]]
        if training:
            raise Refuse("it is in training mode and drops at random",
                         "export the model in evaluation mode")
        ratio = float(np.float32(ratio))
        if not 0 < ratio < 1:
            raise Refuse(f"it drops with probability {ratio:g}")
        return self.elementwise("dropout", node, node.inputs[0], rate=ratio)

    # ---- sums, and what the graph does to its input ----

    def op_Add(self, node):
        if len(node.inputs) != 2 or None in node.inputs:
            raise Refuse("it does not add two values")
        a, b = node.inputs
        if isinstance(b, Const) or isinstance(a, Const):
            view, number = (a, 1) if isinstance(b, Const) else (b, 0)
            return self.add_constant(node, view, node.const(number, "constant"))
        return self.op_Sum(node)

    def op_Sum(self, node):
        if any(isinstance(each, Const) for each in node.inputs):
            raise Refuse("it adds a constant")
        views = [self.settled(each) for each in node.inputs]
        if len(views) == 1:
            return [views[0]]
        if any(v.shape != views[0].shape for v in views):
            raise Refuse("it adds values of different shapes; nn.h repeats none")
        if any(v.axes != views[0].axes or self.dims[v.row] != self.dims[views[0].row]
               for v in views):
            views = [self.flat(v) for v in views]
        first = views[0]
        if any(v.axes != first.axes or self.dims[v.row] != self.dims[first.row] for v in views):
            raise Refuse("it adds values that lie in different orders; nn.h cannot transpose")
        if len(views) > 8:
            raise Refuse("it adds more than 8 values", "add them in turns")
        root = self.roots[first.row]
        row = self.add_row("add", node, [v.row for v in views], self.dims[first.row],
                           same=all(self.roots[v.row] == root for v in views))
        return [dataclasses.replace(first, row=row, alone=True)]

    def channel_vector(self, view, const):
        """How a constant that is broadcast is a vector over the last dimension of a row, or one
        number: a function, and how many numbers that makes."""
        array, rank = const.array, len(view.axes)
        if array.ndim > rank:
            if any(d != 1 for d in array.shape[:array.ndim - rank]):
                return None, 0
        shape = (1,) * (rank - array.ndim) + array.shape[-rank:] if rank else ()
        wide = [i for i, d in enumerate(shape) if d > 1]
        if not wide:
            return (lambda a: a.reshape(-1)), 1
        if len(wide) > 1 or shape[wide[0]] != view.shape[wide[0]]:
            return None, 0
        if not self.last_axis(view, wide[0]):
            if len(view.axes) in (3, 4) and wide == [1]:
                self.spatial(view, "it")
            return None, 0
        return (lambda a: a.reshape(-1)), shape[wide[0]]

    def add_constant(self, node, view, const):
        """A constant that is added: the bias of the row before, or the input's scaling."""
        if isinstance(view, View) and view.row == self.input_row:
            return self.scaled(node, view, 1.0, const)
        view = self.settled(view)
        view = self.flat(view) if len(view.axes) == 2 else view
        change, count = self.channel_vector(view, const)
        row = self.model.row(view.row)
        if change and view.alone and row.op in ("dense", "conv2d", "conv1d") and \
                row.fields.get("no_bias"):
            units = row.fields["units"]
            if count in (1, units):
                whole_bias = vector((count,), units)
                self.origins[f"{row.name}.bias"] = Origin(const, lambda a: whole_bias(change(a)))
                del row.fields["no_bias"]
                named = re.fullmatch(r"(.+)\.bias", const.source)
                if named:
                    self.rename(row, named.group(1))
                    view = dataclasses.replace(view, row=row.name)
                return [view]
        if change and not np.any(const.array):
            return [view]
        raise Refuse("it adds a constant that is no bias of the row before",
                     "give that row a bias instead")

    def rename(self, row, wanted):
        """Another name for the row that was made last and that nothing reads yet."""
        if row is not self.model.rows[-1] or wanted in self.taken:
            return
        old, row.name = row.name, unique(wanted, self.taken)
        for table in (self.dims, self.roots):
            table[row.name] = table.pop(old)
        self.roots[row.name] = row.name if self.roots[row.name] == old else self.roots[row.name]
        for name in [n for n in self.origins if n.startswith(old + ".")]:
            self.origins[row.name + name[len(old):]] = self.origins.pop(name)

    def op_Sub(self, node):
        return self.arithmetic(node, node.inputs[0], node.const(1, "operand")
                               if isinstance(node.input(1), Const) else None, "Sub")

    def op_Mul(self, node):
        a, b = node.inputs
        view, number = (a, 1) if isinstance(b, Const) else (b, 0)
        const = node.const(number, "factor") if isinstance(node.inputs[number], Const) else None
        return self.arithmetic(node, view, const, "Mul")

    def op_Div(self, node):
        return self.arithmetic(node, node.inputs[0], node.const(1, "divisor")
                               if isinstance(node.input(1), Const) else None, "Div")

    def arithmetic(self, node, view, const, op):
        """Scaling of the graph's input, which the input row does; nothing else."""
        if const is None or not isinstance(view, View):
            raise Refuse("nn.h has no such row between computed values")
        identity = 0 if op == "Sub" else 1
        if np.all(const.array == identity) and const.array.size == 1:
            return [view]
        if view.row != self.input_row:
            return self.scale_row(node, view, const, op)
        values = const.array.astype(np.float64)
        if op == "Sub":
            return self.scaled(node, view, 1.0, Const(-values))
        if op == "Div":
            if np.any(values == 0):
                raise Refuse("it divides by zero")
            values = 1 / values
        return self.scaled(node, view, values, None, const)

    def scale_row(self, node, view, const, op):
        """Factors by channel as a depthwise convolution of one element by one. A following Add is
        then its bias."""
        view = self.settled(view)
        change, count = self.channel_vector(view, const)
        dims = self.dims[view.row]
        if op == "Sub" and change:
            return self.add_constant(node, view, Const(-const.array))
        if change is None or count not in (1, dims[-1]) or len(dims) < 2:
            raise Refuse("nn.h has no such row: it scales by constants at the input, and by "
                         "channel in images and sequences", "fold the constant into a weight")
        if op == "Div":
            if np.any(const.array == 0):
                raise Refuse("it divides by zero")
            const = Const(1 / const.array)
        spread = vector((count,), dims[-1])
        kernel = [1] * (len(dims) - 1)
        tensors = {"weight": Origin(const, lambda a: spread(change(a)).reshape(-1, 1, *kernel))}
        row = self.add_row("conv2d" if len(dims) == 3 else "conv1d", node, [view.row], dims,
                           tensors, units=dims[-1], kernel=kernel, groups=dims[-1], no_bias=1,
                           same=True)
        self.notes.append(f"{row} multiplies by constants of the graph, which now are weights")
        return [dataclasses.replace(view, row=row, alone=True)]

    def scaled(self, node, view, factor, shift, like=None):
        """Takes factor * x + shift into the input row."""
        settled = self.settled(view)
        if not view.alone:
            raise Refuse("it scales the input, which is also read as it is; the input row of "
                         "nn.h scales for all")
        const = shift or like
        change, count = self.channel_vector(settled, const)
        c = self.dims[view.row][-1]
        if change is None or count not in (1, c):
            raise Refuse("it scales the input by numbers that differ within a channel")
        a, b = self.affine or (np.ones(1), np.zeros(1))
        if shift is None:
            factor = change(factor)
            a, b = a * factor, b * factor
        else:
            b = b + change(shift.array.astype(np.float64))
        self.affine = a, b
        return [view]

    def put_affine(self):
        """self.affine as fields of the input row: y = (x * scale - mean) / std."""
        if self.affine is None:
            return
        fields, c = self.model.rows[0].fields, self.dims[self.input_row][-1]
        a, b = (np.broadcast_to(each, max(len(self.affine[0]), len(self.affine[1])))
                for each in self.affine)
        if np.any(a == 0) or not np.all(np.isfinite(a)) or not np.all(np.isfinite(b)):
            raise Refuse("it scales the input by zero, or by what is no number")
        if np.all(a == a[0]):
            scale, mean, std = a[0], -b, None
        else:
            scale, mean, std = 1.0, -b / a, 1 / a
        if (std is not None or np.any(mean)) and c > 4:
            raise Refuse(f"it scales or shifts the input by channel, and nn.h does for 4, not {c}")
        if scale != 1:
            fields["scale"] = float(scale)
        if np.any(mean):
            fields["mean"] = tuple(float(v) for v in np.broadcast_to(mean, c))
        if std is not None:
            fields["std"] = tuple(float(v) for v in np.broadcast_to(std, c))

    # ---- sequences ----

    def embedding(self, node):
        table, view = node.const(0, "table"), node.inputs[1]
        if not isinstance(view, View) or view.row != self.input_row:
            raise Refuse("it looks up numbers that are computed while it runs")
        if table.array.ndim != 2 or axis_of(node.get("axis", 0), 2) != 0:
            raise Refuse("its table is not one of vectors")
        if view.kind != "ids" or view.pads or view.offset or self.affine or \
                math.prod(view.shape) != self.batch * math.prod(self.dims[view.row]):
            raise Refuse("it does not look up the input's numbers as they are")
        dims = self.dims[view.row]
        if len(dims) != 1:
            self.declare(view, (math.prod(dims),))
            raise Refuse("its numbers are used in another shape elsewhere")
        vocab, units = table.array.shape
        numbers = np.arange(vocab)
        if view.ids and not np.array_equal(view.ids(numbers), numbers):
            raise Refuse("it looks up other numbers than the input's")
        self.model.rows[0].fields["type"] = "i32"
        row = self.add_row("embedding", node, [view.row], (dims[0], units),
                           {"weight": Origin(table, same)}, vocab=vocab, units=units)
        axes = [merged((n, stride * units) for n, stride in axis) for axis in view.axes]
        return [View(row, (*axes, merged([(units, 1)])))]

    def op_LSTM(self, node):
        self.check_activations(node, [["sigmoid", "tanh", "tanh"]])
        if node.get("input_forget", 0):
            raise Refuse("its input and forget gates are coupled")
        peepholes = node.input(7)
        if peepholes is not None and not (isinstance(peepholes, Const) and
                                          not np.any(peepholes.array)):
            raise Refuse("it has peepholes; nn.h has none")
        if len(node.outputs) > 2 and node.outputs[2] and self.uses[node.outputs[2]]:
            raise Refuse("its last cell state is read; nn.h gives h alone")
        return self.recurrent_row(node)

    def op_GRU(self, node):
        self.check_activations(node, [["sigmoid", "tanh"]])
        return self.recurrent_row(node, before=not node.get("linear_before_reset", 0))

    def op_RNN(self, node):
        return self.recurrent_row(
            node, act=self.check_activations(node, [["tanh"], ["relu"]])[0])

    def check_activations(self, node, allowed):
        """The activations of one direction, which must be one of these lists."""
        ways = 2 if node.get("direction", "forward") == "bidirectional" else 1
        given = [str(a).lower() for a in node.get("activations", allowed[0] * ways)]
        for each in allowed:
            if given == each * ways:
                return each
        raise Refuse(f"its activations are {', '.join(given)[:80]}; nn.h has "
                     f"{' or '.join(', '.join(each) for each in allowed)}")

    def recurrent_row(self, node, act="", before=False):
        """An LSTM, GRU or RNN as a row that makes all steps, and one that makes the last."""
        direction = node.get("direction", "forward")
        if direction not in ("forward", "bidirectional"):
            raise Refuse(f"it runs in direction {direction}; nn.h has reverse in pairs only",
                         "make it bidirectional, or reverse the samples")
        if node.get("clip"):
            raise Refuse("it clips its gates; nn.h does not")
        ways = 2 if direction == "bidirectional" else 1
        w, r, b = (node.const(i + 1, name) for i, name in enumerate(("W", "R", "B")))
        gates = len(GATES[node.op])
        if w is None or r is None or r.array.ndim != 3 or w.array.ndim != 3:
            raise Refuse("its weights are missing or of a wrong shape")
        units, inputs = r.array.shape[2], w.array.shape[2]
        if r.array.shape != (ways, gates * units, units) or \
                w.array.shape != (ways, gates * units, inputs) or units < 1 or \
                (b is not None and b.array.shape != (ways, 2 * gates * units)) or \
                node.get("hidden_size", units) != units:
            raise Refuse("its weights do not fit each other")
        time, batch = (1, 0) if node.get("layout", 0) else (0, 1)
        view = self.sequence(node.inputs[0], time, batch, 2)
        steps = view.shape[time]
        if view.shape[2] != inputs:
            raise Refuse(f"its weight takes {inputs} elements, not {view.shape[2]}")
        self.check_states(node, steps)
        tensors, biases = recurrent_tensors(node.op, w, r, b, before)
        row = self.add_row(node.op.lower(), node, [view.row], (steps, ways * units), tensors,
                           units=units, bidirectional=ways - 1, no_bias=int(biases == 0),
                           one_bias=int(biases == 1), reset_before=int(before),
                           act="" if act == "tanh" else act)
        self.recurrent[row] = self.model.row(row)
        return self.recurrent_views(node, row, ways, time)

    def check_states(self, node, steps):
        lengths = node.input(4)
        if lengths is not None and not (isinstance(lengths, Const) and
                                        np.all(lengths.array == steps)):
            raise Refuse("it takes lengths of sequences (sequence_lens)",
                         "nn.h takes them at run time, by nn_set_lengths: leave them out")
        for state in (node.input(5), node.input(6)):
            if state is not None and not (isinstance(state, Const) and not np.any(state.array)):
                raise Refuse("its initial state is not zero",
                             "leave it out; nn.h begins with zeros, or goes on with stateful")

    def recurrent_views(self, node, row, ways, time):
        """Y and Y_h."""
        steps, size = self.dims[row]
        units = size // ways
        direction, state = merged([(ways, units)]), merged([(units, 1)])
        all_steps, last = [merged([(steps, size)]), direction], [direction]
        all_steps.insert(0 if time else 2, self.batch_factor(steps * size))
        result = [View(row, (*all_steps, state)), None]
        if len(node.outputs) > 1 and self.uses[node.outputs[1]]:
            last.insert(0 if time else 1, self.batch_factor(size))
            result[1] = View(self.last_row(row), (*last, state))
        return result

    def last_row(self, row):
        """The row that makes the last step of what this one makes."""
        if row not in self.last_rows:
            made = self.recurrent[row]
            name = self.model.add(made.op, unique(row + ".last", self.taken), made.inputs,
                                  **made.fields, last=1)
            self.dims[name] = self.dims[row][1:]
            self.roots[name] = name
            self.last_rows[row] = name
        return self.last_rows[row]
