"""Live torch.nn.Modules through torch.fx: traced, run on two batch sizes for the shapes, and each
node turned into rows.

PyTorch's images are [N,C,H,W], nn.h's [H,W,C]. A Value therefore says for every axis of a PyTorch
tensor what it is here: the batch, an axis of its row's output, or an axis of size 1 that the row
has not. permute, view, unsqueeze and the like only rename axes, and cost nothing; what would really
move elements is refused, but for a flatten. The input's shape is open until the first row that
computes has asked for an image, a sequence or a vector.

What PyTorch has as [N,C,T] is [T,C] here."""

import copy
from dataclasses import dataclass, replace

import numpy as np

from .model import Error, Model, Refused, unique
from .pytorch import (fit, listed, optimizer_state, parse_training, row_name, sharing,
                      state_dict)

try:
    import torch
    from torch import fx, nn
except ImportError:
    raise Error("a live module needs PyTorch: pip install torch") from None

BATCH = "batch"
HALVES = {torch.float16, torch.bfloat16}
LEAST = 2.0 ** -126  # added to any number it changes nothing: 0, where nn.h's 0 is a default
NAME_MOST = 120  # characters of a name that model.unique leaves as it is
BATCHES = (2, 3)  # the sizes that a node's shape is observed at


class No(Exception):
    """Why a node cannot become rows, and what to do about it."""

    def __init__(self, reason, hint=""):
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass(frozen=True)
class Value:
    """A tensor of the traced module. shape: without the batch's size (0 there); axes: BATCH, an
    axis of the row, or None. An input that is still open has row None, and axes of its memory."""

    row: str
    shape: tuple
    axes: tuple
    pad: tuple = (0, 0, 0, 0)  # of zeros, for the convolution or pool that reads it
    size: tuple = ()           # of an open input: its memory's axes


@dataclass(frozen=True)
class States:
    """What a recurrent module returned: all of it, the pair of its states, or its h."""

    module: object
    node: object
    row: str
    what: str  # "all", "pair", "h", or "way 0" and "way 1" of the last layer
    sequence: Value = None


def is_text(value, text):
    return isinstance(value, str) and value == text


class Wrapped(nn.Module):
    """The module as one of a single input: its other arguments keep their defaults."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def path_of(node):
    """A module's path in the module that was given."""
    return node.target.partition(".")[2] or "module"


class Shapes(fx.Interpreter):
    """Runs the graph, and keeps the shape of every node's tensor. changed: {node: an input of it
    that was changed in place after it was computed}, through whatever name or view."""

    def __init__(self, graph_module):
        super().__init__(graph_module)
        self.shapes, self.versions, self.changed = {}, {}, {}

    def run_node(self, n):
        for node in n.all_input_nodes:
            if node in self.versions and self.env[node]._version != self.versions[node]:
                self.changed[n] = node
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shapes[n], self.versions[n] = tuple(result.shape), result._version
        return result


def observed(traced, example):
    """{node: shape with 0 for the batch}, from runs at two batch sizes: a tensor whose batch is not
    just one axis has no entry. And Shapes.changed."""
    runs = []
    for n in BATCHES:
        x = example[:1].expand(n, *example.shape[1:]).contiguous()
        shapes = Shapes(traced)
        try:
            with torch.no_grad():
                shapes.run(x)
        except Exception as reason:
            raise Error("the module cannot be run on the example, or not on another batch size: "
                        f"{first_line(reason)}") from None
        runs.append(shapes.shapes)
    result = {}
    for node, a in runs[0].items():
        b = runs[1].get(node, ())
        differ = [i for i, (p, q) in enumerate(zip(a, b)) if p != q]
        if len(a) == len(b) and len(differ) == 1 and a[differ[0]] == BATCHES[0] and \
                b[differ[0]] == BATCHES[1]:
            result[node] = a[:differ[0]] + (0,) + a[differ[0] + 1:]
    return result, shapes.changed


def first_line(reason):
    return (str(reason).splitlines() or [type(reason).__name__])[0][:200]


def trace(module):
    """The module's graph, and whether it is that of training: where both have the same nodes, which
    keeps dropout."""
    try:
        graphs = []
        for training in (True, False):
            module.train(training)
            graphs.append(fx.symbolic_trace(Wrapped(module)))
        same = [[(n.op, str(n.target)) for n in g.graph.nodes] for g in graphs]
        return graphs[same[0] != same[1]], same[0] == same[1]
    except Exception as reason:
        raise Error("torch.fx cannot trace the module, whose forward depends on its data: "
                    f"{first_line(reason)}") from None


def needed(graph):
    """The nodes that the output reads, in their order, and the inputs."""
    live = {}
    for node in reversed(graph.nodes):
        if node in live or node.op in ("output", "placeholder"):
            live[node] = True
            live.update(dict.fromkeys(node.all_input_nodes, True))
    return {node: True for node in graph.nodes if node in live}


class Converter:
    """One conversion: rows so far, values by node, refusals."""

    def __init__(self, module, example, options):
        self.module, self.options = module, options
        self.traced, trains = trace(module)
        self.traced.eval()
        self.example = example
        self.shapes, self.changed = observed(self.traced, example)
        self.live = needed(self.traced.graph)
        self.model = Model(source=f"pytorch {type(module).__name__}")
        if not trains:
            self.model.notes.append("the module computes something else while it trains; what was "
                                    "converted is what it computes in eval()")
        self.paths = {row_name(path) for path, _ in module.named_modules()}
        self.taken, self.uses, self.refused, self.owners = set(), {}, [], {}
        self.values, self.open_input = {}, None
        self.known, self.lasts = {}, {}  # shapes by row; rows of last states by that of all steps

    # ---- rows

    def emit(self, op, name, inputs, **fields):
        """A row called name, or nearly so."""
        return self.model.add(op, unique(name, self.taken), inputs, **fields)

    def free_name(self, node):
        """A name for the row of a function: of no module, for those keep their paths."""
        if node.op == "call_module":
            return row_name(path_of(node))
        return unique(node.name, set(self.paths))

    def fix_input(self, shape, order="hwc", kind="f32"):
        """Decides what the input row is."""
        row = self.model.row(self.open_input.row)
        fields = {"shape": tuple(shape), "type": kind, "order": order}
        fields = {k: v for k, v in fields.items() if k == "shape" or v not in ("f32", "hwc")}
        if row.fields and row.fields != fields:
            raise No("it reads the input as another shape than a layer before it")
        row.fields = fields

    def natural(self, value):
        """The value with its axes known: an open input as it lies in memory."""
        self.unpadded(value)
        if not value.size:
            return value
        shape, axes = value.size, value.axes
        if len(shape) > 3 or not shape:
            raise No(f"its input has {len(shape)} dimensions, nn.h has one to three")
        if len(shape) == 3:  # planes, as PyTorch's images are
            self.fix_input((shape[1], shape[2], shape[0]), "hwc" if shape[0] == 1 else "chw")
            axes = tuple({0: 2, 1: 0, 2: 1}.get(a, a) for a in axes)
        else:
            self.fix_input(shape)
        return replace(value, axes=axes, size=())

    def unpadded(self, value):
        if any(value.pad):
            raise No("F.pad is only taken before a convolution")
        return value

    def image(self, value):
        """A value of PyTorch's [N,C,H,W] or [N,C,T], read as [H,W,C] or [T,C]."""
        rank = len(value.shape) - 2
        if value.axes[0] != BATCH or rank not in (1, 2):
            raise No("its input is no [batch, channels, ...]")
        order = [2, 3, 1] if rank == 2 else [2, 1]
        at, sizes = [value.axes[a] for a in order], [value.shape[a] for a in order]
        if value.size:
            memory = [a for a, n in zip(at, sizes) if n > 1]
            planes = [a for a, n in zip(at[-1:] + at[:-1], sizes[-1:] + sizes[:-1]) if n > 1]
            if memory == sorted(memory):
                self.fix_input(sizes)
            elif planes == sorted(planes):
                self.fix_input(sizes, "chw")
            else:
                raise No("its input lies in memory neither with channels last nor first")
        elif list(self.shape_of(value.row)) != sizes or \
                any(a != k and n > 1 for k, (a, n) in enumerate(zip(at, sizes))):
            raise No("its input is none that nn.h has computed with channels last there: it cannot "
                     "reshape or transpose", "only flatten")
        return replace(value, size=(), axes=(BATCH, rank, *range(rank)))

    def shape_of(self, row):
        """Output shape of a row, as nn.h has it."""
        if row == self.open_input.row:
            return tuple(self.model.row(row).fields.get("shape", ()))
        return self.known[row]

    def sequence(self, value, steps, features):
        """The value read as [T,N] along these PyTorch axes."""
        if value.size:
            sizes = (value.shape[steps], value.shape[features])
            memory = [value.axes[k] for k in (steps, features) if value.shape[k] > 1]
            if len(value.shape) != 3 or memory != sorted(memory):
                raise No("its input is no [batch, steps, features]")
            self.fix_input(sizes)
            axes = {steps: 0, features: 1}
            value = replace(value, size=(), axes=tuple(axes.get(k, BATCH) for k in range(3)))
        if len(self.shape_of(value.row)) != 2 or value.axes[steps] != 0 or \
                value.axes[features] != 1:
            raise No("its input is no sequence [batch, steps, features] there: nn.h cannot reshape "
                     "or transpose what it has computed")
        return self.unpadded(value)

    def out(self, node, row, shape, axes):
        """The value of a row's output of this shape; axes of the node's tensor."""
        self.known[row] = tuple(shape)
        torch_shape = self.shapes.get(node)
        if torch_shape is None:
            raise No("it mixes samples of a batch")
        return Value(row, torch_shape, tuple(axes))

    # ---- the graph

    def run(self):
        for node in self.live:
            try:
                self.values[node] = self.node(node)
            except No as why:
                self.values[node] = None
                self.refused.append((self.label(node), why.reason, why.hint))
            except (TypeError, AttributeError, IndexError, KeyError, ValueError) as reason:
                self.values[node] = None
                self.refused.append((self.label(node), "is used in a way that is not known here "
                                     f"({type(reason).__name__}: {reason})", ""))
        if self.refused:
            raise Refused(self.refused)
        self.only_last()
        frozen = [name for name, p in self.module.named_parameters() if not p.requires_grad]
        if frozen:
            self.model.notes.append(f"{listed(frozen)}: frozen in the module; here nn_opts.train "
                                    "decides what trains")
        return self.model

    def label(self, node):
        if node.op == "call_module":
            kind = type(self.traced.get_submodule(node.target)).__name__
            return f"{path_of(node)} ({kind})"
        if node.op == "get_attr":
            return path_of(node)
        return name_of(node)

    def node(self, node):
        """The value of a node; None where something that it reads was refused already."""
        if any(self.values.get(n, 0) is None for n in node.all_input_nodes):
            return None
        if node in self.changed:
            raise No(f"it reads {self.label(self.changed[node])} after that was changed in place",
                     "inplace=False, or x = x + ... for x += ...")
        if node.op == "placeholder":
            return self.placeholder(node)
        if node.op == "output":
            return self.output(node)
        if node.op == "get_attr":
            raise No("a tensor of the module's own is used directly", "use a layer for it")
        read = [self.values[n] for n in node.all_input_nodes]
        if read and all(isinstance(v, str) for v in read) and name_of(node) != "zeros":
            return self.told(node, set(read))
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        if any(isinstance(a, States) for a in args) and name_of(node) not in STATE_READERS:
            raise No(*UNREAD)
        if node.op == "call_module":
            return self.call_module(node, self.traced.get_submodule(node.target), args, kwargs)
        name = name_of(node)
        handler = FUNCTIONS.get(name) or FUNCTIONS.get(name.rstrip("_"))
        is_function = node.op == "call_function"
        if handler is None or (is_function and not known_function(node.target)):
            raise No("nn.h has no such operation")
        return handler(self, node, *args, **kwargs)

    def told(self, node, values):
        """Arithmetic on sizes (observed() knows what becomes of it), and zeros moved about."""
        if values == {"size"}:
            return "size"
        if values <= {"size", "zeros"} and name_of(node) in ZERO_KEEPERS:
            return "zeros"
        raise No("it computes with a constant of the module's own")

    def placeholder(self, node):
        shape = self.shapes[node]
        name = self.emit("input", self.free_name(node), [])
        self.open_input = Value(name, shape, (BATCH, *range(len(shape) - 1)), size=shape[1:])
        return self.open_input

    def output(self, node):
        value = node.args[0]
        value = self.values[value] if isinstance(value, fx.Node) else value
        if isinstance(value, States):
            raise No(*UNREAD)
        if not isinstance(value, Value):
            raise No("the module returns more than one tensor, or none",
                     "wrap it in a module that returns one")
        if value.size:
            raise No("the module computes nothing")
        self.unpadded(value)
        axes = [a for a, n in zip(value.axes, value.shape) if a != BATCH and n > 1]
        self.result, last = value, len(self.shape_of(value.row)) - 1
        if axes != sorted(axes) and axes != sorted(axes, key=lambda a: (a != last, a)):
            raise No("the module's output has its dimensions in an order of its own")
        if axes != sorted(axes):
            self.model.notes.append("the output is channels last, where the module's is "
                                    f"{[d for d in value.shape if d]}")
        return value

    # ---- tensors

    def take(self, row, module, suffixes):
        """The module's parameters become the row's tensors, or are shared with an earlier row."""
        share = set()
        tensors = {}
        for suffix in suffixes:
            parameter = getattr(module, suffix)
            owner, as_what = self.owners.get(id(parameter), (None, suffix))
            if as_what != suffix:
                raise No(f"its {suffix} is also the {as_what} of {owner}")
            if owner:
                share.add(owner)
            else:
                tensors[suffix] = parameter
        if len(share) > 1:
            raise No("its tensors are shared with several layers")
        owner = share.pop() if share else ""
        for suffix, parameter in tensors.items():
            theirs = self.model.tensors.get(f"{owner}.{suffix}")
            if owner and theirs is not None and theirs.shape == tuple(parameter.shape):
                raise No(f"its {suffix} is its own, but other tensors are shared with {owner}")
        self.model.row(row).share = owner
        for suffix, parameter in tensors.items():
            self.owners[id(parameter)] = row, suffix
            self.model.tensors[f"{row}.{suffix}"] = np.array(
                parameter.detach().cpu().float().numpy(), "<f4")
        return row

    def module_row(self, op, node, inputs, **fields):
        """The row of a module; of another use of it, under fc/2. The way back goes by this name."""
        path = row_name(path_of(node))
        name, count = path, 2
        while self.uses.get(name) == node.target:
            name, count = f"{path}/{count}", count + 1
        if name in self.taken or len(name) > NAME_MOST:
            raise No("its path makes no name of a row of its own", "rename it")
        self.uses[name] = node.target
        return self.emit(op, name, inputs, **fields)

    # ---- modules

    def call_module(self, node, module, args, kwargs):
        if kwargs:
            raise No("it is called with arguments by name")
        if module._forward_hooks or module._forward_pre_hooks or \
                nn.utils.parametrize.is_parametrized(module):
            raise No("its weight is computed (weight norm, a parametrization or a hook)",
                     "remove it before the conversion")
        handler = MODULES.get(type(module))
        if handler is None:
            raise No("nn.h has no such layer", HINTS.get(type(module).__name__, ""))
        return handler(self, node, module, *args)

    def linear(self, node, module, x):
        x = self.natural(x)
        last = len(self.shape_of(x.row)) - 1
        if x.axes[-1] != last:
            raise No("its input's last dimension is not what nn.h has last")
        row = self.module_row("dense", node, [x.row], units=module.out_features,
                              no_bias=int(module.bias is None))
        self.take(row, module, ["weight"] + ["bias"] * (module.bias is not None))
        return self.out(node, row, (*self.shape_of(x.row)[:-1], module.out_features), x.axes)

    def windowed(self, node, x, op, name, kernel, stride, dilation, pad, **fields):
        """The row of a convolution or pool; pad: of the layer alone. Numbers are by axis."""
        x = self.image(x)
        rank = len(kernel)
        before = x.pad[1::2] if rank == 1 else x.pad
        if any(before) and not op.startswith("conv"):
            raise No("F.pad is only taken before a convolution")
        pad = tuple(p + b for p, b in zip(pad, before))
        size = self.shape_of(x.row)[:rank]
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
        out = tuple((n + pad[k] + pad[k + rank] - reach[k]) // stride[k] + 1
                    for k, n in enumerate(size))
        if out != tuple(self.shapes[node][2:]):
            raise No("its output has another size than nn.h's would have")
        usual = kernel if "pool" in op else (1,) * rank
        row = name(f"{op}{rank}d", node, [x.row], kernel=kernel, pad=pad,
                   stride=stride if stride != usual else 0,
                   dilation=dilation if max(dilation) > 1 else 0, **fields)
        channels = fields.get("units") or self.shape_of(x.row)[-1]
        return self.out(node, row, (*out, channels), x.axes)

    def conv(self, node, module, x):
        rank = len(module.kernel_size)
        if module.padding_mode != "zeros":
            raise No(f"it pads with {module.padding_mode}, and nn.h with zeros")
        if module.padding == "same":
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
            pad = [n // 2 for n in total] + [n - n // 2 for n in total]
        else:
            pad = ((0,) * rank if module.padding == "valid" else tuple(module.padding)) * 2
        value = self.windowed(node, x, "conv", self.module_row, module.kernel_size, module.stride,
                              module.dilation, pad, units=module.out_channels,
                              groups=module.groups if module.groups > 1 else 0,
                              no_bias=int(module.bias is None))
        self.take(value.row, module, ["weight"] + ["bias"] * (module.bias is not None))
        return value

    def op_row(self, op, node, inputs, **fields):
        return self.emit(op, self.free_name(node), inputs, **fields)

    def pool(self, node, x, op, kernel, stride=None, padding=0, ceil_mode=False, count_pad=True):
        rank = len(x.shape) - 2
        kernel, padding = numbers(kernel, rank), numbers(padding, rank)
        stride = kernel if stride in (None, [], ()) else numbers(stride, rank)
        for k, n in enumerate(x.shape[2:]):
            if ceil_mode and (n + 2 * padding[k] - kernel[k]) % stride[k]:
                raise No("ceil_mode makes its last window reach beyond the image",
                         "use ceil_mode=False, or sizes that divide")
        fields = {"count_pad": int(any(padding) and count_pad)} if op == "avgpool" else {}
        return self.windowed(node, x, op, self.op_row, kernel, stride, (1,) * rank, padding * 2,
                             **fields)

    def adaptive(self, node, x, op, size):
        """Adaptive pools: over everything, or in windows that divide the image."""
        rank = len(x.shape) - 2
        inner = x.shape[2:]
        wanted = size if isinstance(size, (tuple, list)) else (size,) * rank
        wanted = [n if w is None else w for n, w in zip(inner, wanted)]
        if all(w == 1 for w in wanted):
            return self.overall(node, x, "global" + op)
        if any(n % w for n, w in zip(inner, wanted)):
            raise No(f"{list(inner)} does not divide into {list(wanted)} equal windows")
        return self.pool(node, x, op, tuple(n // w for n, w in zip(inner, wanted)))

    def overall(self, node, x, op):
        """Mean or maximum over all positions: channels stay."""
        x = self.unpadded(self.image(x))
        row = self.op_row(op, node, [x.row])
        return self.out(node, row, self.shape_of(x.row)[-1:],
                        (BATCH, 0, *[None] * (len(self.shapes[node]) - 2)))

    def mean(self, node, x, dim=None, keepdim=False, dtype=None, op="globalavgpool"):
        """Mean or maximum over all positions of an image, or all steps."""
        dims = sorted(d % len(x.shape) for d in np.atleast_1d(dim)) if dim is not None else []
        if dtype is None and dims == [1] and len(x.shape) == 3:
            x = self.sequence(x, 1, 2)
            row = self.emit(op, self.free_name(node), [x.row])
            axes = (BATCH, None, 0) if keepdim else (BATCH, 0)
            return self.out(node, row, (x.shape[2],), axes)
        if dtype is not None or dims != list(range(2, len(x.shape))):
            raise No("nn.h has this over all positions of an image or all steps only")
        return self.overall(node, x, op)

    def batchnorm(self, node, module, x):
        if module.running_mean is None:
            raise No("it keeps no running statistics (track_running_stats=False)")
        if module.momentum is None and not self.options.inference:
            raise No("its momentum is None, the plain average", "--inference")
        if module.weight is None and not self.options.inference:
            raise No("it has no weight and bias (affine=False), and nn.h would train some",
                     "--inference")
        x = self.channels(x)
        momentum = 0.1 if module.momentum is None else module.momentum
        row = self.module_row("batchnorm", node, [x.row],
                              eps=0.0 if module.eps == 1e-5 else module.eps or LEAST,
                              momentum=0.0 if momentum == 0.1 else momentum or LEAST)
        if module.weight is None:
            self.model.tensors[f"{row}.weight"] = np.ones(module.num_features, np.float32)
            self.model.tensors[f"{row}.bias"] = np.zeros(module.num_features, np.float32)
        self.take(row, module, ["weight", "bias"] * (module.weight is not None)
                  + ["running_mean", "running_var"])
        return self.out(node, row, self.shape_of(x.row), x.axes)

    def channels(self, x):
        """A value whose PyTorch axis 1 is nn.h's last."""
        x = self.natural(x) if len(x.shape) == 2 else self.image(x) if x.size else x
        if x.axes[1] != len(self.shape_of(x.row)) - 1 or x.axes[0] != BATCH:
            raise No("its channels are not what nn.h has last")
        return self.unpadded(x)

    def dropout(self, node, x, rate=0.5, training=True, inplace=False):
        if self.options.inference or not rate or not training or rate is None:
            return x
        if rate >= 1:
            raise No("its rate is 1")
        if inplace and len(node.all_input_nodes[0].users) > 1:
            raise No("it drops in place what something else reads too", "inplace=False")
        x = self.natural(x)
        row = self.emit("dropout", self.free_name(node), [x.row], rate=float(rate))
        return self.out(node, row, self.shape_of(x.row), x.axes)

    def activation(self, node, x, act, slope=0.0):
        x = self.natural(x)
        if act == "leaky_relu" and slope == 0:
            act = "relu"
        slope = slope if act == "leaky_relu" and slope != 0.01 else 0.0
        row = self.emit("activation", self.free_name(node), [x.row], act=act, slope=slope)
        return self.out(node, row, self.shape_of(x.row), x.axes)

    def softmax(self, node, x, dim=None, dtype=None, **_):
        x = self.natural(x)
        if dim is None or dtype is not None:
            raise No("softmax without a dimension", "give dim")
        if x.axes[dim % len(x.shape)] != len(self.shape_of(x.row)) - 1:
            raise No("it is over another dimension than the channels")
        return self.activation(node, x, "softmax")

    def add(self, node, a, b, alpha=1):
        if not isinstance(a, Value) or not isinstance(b, Value):
            raise No("it adds a number, and nn.h adds outputs of layers")
        if alpha != 1:
            raise No("it adds with a factor")
        a, b = self.natural(a), self.natural(b)
        if a.shape != b.shape or self.shape_of(a.row) != self.shape_of(b.row) or a.axes != b.axes:
            raise No("it adds tensors of different shapes")
        row = self.emit("add", self.free_name(node), [a.row, b.row])
        return self.out(node, row, self.shape_of(a.row), a.axes)

    def embedding(self, node, module, x):
        if module.max_norm is not None or module.scale_grad_by_freq:
            raise No("max_norm and scale_grad_by_freq change its training")
        if not x.size or len(x.size) != 1 or x.axes != (BATCH, 0):
            raise No("it reads something else than the module's input [batch, steps]")
        self.fix_input(x.size, kind="i32")
        padding = module.padding_idx
        row = self.module_row("embedding", node, [x.row], vocab=module.num_embeddings,
                              units=module.embedding_dim,
                              pad_id=0 if padding is None else padding + 1)
        self.take(row, module, ["weight"])
        return self.out(node, row, (x.size[0], module.embedding_dim), (BATCH, 0, 1))

    # ---- recurrent modules

    def recurrent(self, node, module, x, states=None):
        if not (states is None or is_text(states, "zeros") or
                (isinstance(states, (tuple, list)) and all(is_text(s, "zeros") for s in states))):
            raise No("it begins with states of its own, and nn.h with zeros")
        if getattr(module, "proj_size", 0):
            raise No("nn.h's lstm has no projection (proj_size)")
        if x.shape.index(0) != (0 if module.batch_first else 1):
            raise No("its input's batch is not where batch_first says",
                     "make the module with batch_first=True")
        steps = 1 if module.batch_first else 0
        x = self.sequence(x, steps, 2)
        op = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn"}[type(module)]
        act = "relu" if op == "rnn" and module.nonlinearity == "relu" else ""
        rate = 0.0 if self.options.inference or module.num_layers == 1 else float(module.dropout)
        row = self.module_row(op, node, [x.row], units=module.hidden_size, act=act,
                              layers=module.num_layers if module.num_layers > 1 else 0,
                              bidirectional=int(module.bidirectional), rate=rate,
                              no_bias=int(not module.bias))
        self.take(row, module, [n for group in module._all_weights for n in group])
        width = module.hidden_size * (2 if module.bidirectional else 1)
        self.known[row] = (self.shape_of(x.row)[0], width)
        shape = x.shape[:2] + (width,)
        return States(module, node, row, "all", Value(row, shape, x.axes[:2] + (1,)))

    def last(self, node, states):
        """The last state, as another row with last=1."""
        row, name = self.model.row(states.row), self.lasts.get(states.row)
        if name is None:
            name = self.module_row(row.op, states.node, row.inputs, **dict(row.fields, last=1))
            self.model.row(name).share = states.row
            self.lasts[states.row] = name
        shape = self.shapes[node]
        axes = [BATCH if n == 0 else None for n in shape]
        axes[-1] = 0
        return self.out(node, name, (shape[-1],), axes)

    def only_last(self):
        """Where nothing reads all steps of a recurrent row, it gives the last state itself."""
        for steps, last in self.lasts.items():
            if steps == self.result.row or any(steps in row.inputs for row in self.model.rows):
                continue
            self.model.row(steps).fields["last"] = 1
            self.model.rows.remove(self.model.row(last))
            self.known[steps] = self.known[last]
            for row in self.model.rows:
                row.inputs = [steps if name == last else name for name in row.inputs]
            if self.result.row == last:
                self.result = replace(self.result, row=steps)

    def item(self, node, x, index):
        if isinstance(x, States):
            return self.state_item(node, x, index)
        if isinstance(x, tuple):
            return x[index]
        index = index if isinstance(index, tuple) else (index,)
        self.unpadded(x)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            have = sum(i is not None for i in index) - 1
            index = index[:at] + (slice(None),) * (len(x.shape) - have) + index[at + 1:]
        axes, shape, source, last = [], [], iter(zip(x.axes, x.shape)), False
        for i in index:
            if i is None:
                axes.append(None)
                shape.append(1)
                continue
            axis, size = next(source)
            if i == slice(None) or (size and i == slice(0, size)):
                axes.append(axis)
                shape.append(size)
            elif isinstance(i, int) and size == 1:
                pass
            elif i in (-1, size - 1) and axis == 0 and isinstance(self.source_of(x), States):
                last = True
            else:
                raise No("nn.h cannot cut pieces out of a tensor", "only the last step of a "
                         "recurrent layer: out[:, -1]")
        for axis, size in source:
            axes.append(axis)
            shape.append(size)
        if not last:
            return replace(x, axes=tuple(axes), shape=tuple(shape))
        states = self.source_of(x)
        if states.module.bidirectional:
            raise No("out[:, -1] of a bidirectional layer is backward's first step, which nn.h's "
                     "last is not", "take torch.cat((h_n[-2], h_n[-1]), 1)")
        return self.last(node, states)

    def source_of(self, x):
        """The States whose whole sequence a value is, or None."""
        for value in self.values.values():
            if isinstance(value, States) and value.row == x.row and value.what == "all" and \
                    x.axes == value.sequence.axes:
                return value
        return None

    def state_item(self, node, x, index):
        lstm = isinstance(x.module, nn.LSTM)
        if x.what == "all":
            if index == 0:
                return x.sequence
            if index not in (1, -1):
                raise No(*UNREAD)
            return replace(x, what="pair" if lstm else "h")
        if x.what == "pair":
            if index == 0:
                return replace(x, what="h")
            raise No("it reads the cells' state c, and nn.h gives h only")
        if x.what != "h":
            raise No("its state is read in a way that is not known here")
        if isinstance(index, tuple) and all(i == slice(None) for i in index[1:]):
            index = index[0]
        ways = 2 if x.module.bidirectional else 1
        count = x.module.num_layers * ways
        if not isinstance(index, int) or not -count <= index < count:
            raise No("nn.h gives the state of the last layer only", "take h_n[-1]")
        at = index % count
        if at < count - ways:
            raise No("nn.h gives the state of the last layer only", "take h_n[-1]")
        if ways == 2:
            return replace(x, what=f"way {at - (count - ways)}")
        return self.last(node, x)

    def cat(self, node, tensors, dim=0):
        """Only the last states of both directions: torch.cat((h_n[-2], h_n[-1]), 1)."""
        both = all(isinstance(t, States) for t in tensors) and len(tensors) == 2 and \
            [t.what for t in tensors] == ["way 0", "way 1"] and tensors[0].row == tensors[1].row
        if not both or dim not in (1, -1):
            raise No("nn.h has no concatenation")
        return self.last(node, tensors[0])

    # ---- shapes

    def flatten(self, node, x, start_dim=0, end_dim=-1):
        return self.reshaped(node, x)

    def reshaped(self, node, x, *_, **__):
        """view, reshape, flatten, squeeze, unsqueeze: what the shapes before and after say."""
        if isinstance(x, States) and x.what == "h" and x.module.num_layers == 1 and \
                not x.module.bidirectional:
            return self.last(node, x)  # h_n.squeeze(0), h_n.view(batch, -1)
        if isinstance(x, States):
            raise No(*UNREAD)
        new = self.shapes.get(node)
        self.unpadded(x)
        if new is None:
            raise No("it mixes samples of a batch")
        if new == x.shape:
            return x
        kept = [(a, n) for a, n in zip(x.axes, x.shape) if n != 1]
        if [n for _, n in kept] == [n for n in new if n != 1]:
            source = iter(kept)
            return replace(x, shape=new, axes=tuple(None if n == 1 else next(source)[0]
                                                    for n in new))
        if x.axes[0] != BATCH or new[0] != 0:
            raise No("it moves the batch")
        order = [a for a, n in kept if a != BATCH]
        if x.size and order == sorted(order):
            return Value(x.row, new, (BATCH, *range(len(new) - 1)), size=new[1:])
        if len([n for n in new if n != 1]) != 2:
            raise No("nn.h can flatten what it has computed, but not give it another shape")
        return self.flat(node, x, new)

    def flat(self, node, x, new):
        x = self.natural(x)
        shape = self.shape_of(x.row)
        order = [a for a, n in zip(x.axes, x.shape) if a != BATCH and n > 1]
        planes = [k for k in (2, 0, 1) if k < len(shape) and shape[k] > 1]
        rows = [k for k in range(len(shape)) if shape[k] > 1]
        if len(shape) == 2:
            planes = [k for k in (1, 0) if shape[k] > 1]
        if order not in (rows, planes):
            raise No("it flattens in an order that is neither [H,W,C] nor [C,H,W]")
        row = self.emit("flatten", self.free_name(node), [x.row],
                        order="hwc" if order == rows else "chw")
        return self.out(node, row, (int(np.prod(shape)),),
                        (BATCH, *(0 if n != 1 else None for n in new[1:])))

    def permute(self, node, x, *dims):
        dims = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        dims = [d % len(self.unpadded(x).shape) for d in dims]
        return replace(x, axes=tuple(x.axes[d] for d in dims),
                       shape=tuple(x.shape[d] for d in dims))

    def transpose(self, node, x, a, b):
        dims = list(range(len(x.shape)))
        dims[a], dims[b] = dims[b], dims[a]
        return self.permute(node, x, dims)

    def pad(self, node, x, pad, mode="constant", value=None):
        if mode != "constant" or value:
            raise No("nn.h pads with zeros only")
        pad = [int(p) for p in pad]
        if len(pad) > 4 or min(pad) < 0 or len(pad) > 2 * (len(x.shape) - 2):
            raise No("it pads more than the two sides of an image, or by less than nothing")
        left, right, top, bottom = (pad + [0, 0, 0, 0])[:4]
        total = tuple(a + b for a, b in zip(x.pad, (top, left, bottom, right)))
        return replace(x, pad=total)

    def keep(self, node, x, *_, **__):
        return x

    def size(self, node, x, what=None):
        if isinstance(what, str) and what not in ("shape", "device", "dtype"):
            raise No("nn.h has no such operation")
        return "size"

    def zeros(self, node, *_, **__):
        return "zeros"


def numbers(value, rank):
    """A module's number or tuple as a tuple."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank


def name_of(node):
    """What a node calls: "relu", "getitem", a module's path."""
    return str(getattr(node.target, "__name__", node.target))


def known_function(function):
    module = getattr(function, "__module__", "") or ""
    return module.split(".")[0] in ("torch", "_operator", "builtins") or function in KNOWN


KNOWN = {torch.relu, torch.flatten, torch.add, torch.sigmoid, torch.tanh, torch.softmax}

FUNCTIONS = {
    "add": Converter.add, "iadd": Converter.add,
    "relu": lambda c, n, x, inplace=False: c.activation(n, x, "relu"),
    "leaky_relu": lambda c, n, x, negative_slope=0.01, inplace=False:
        c.activation(n, x, "leaky_relu", negative_slope),
    "sigmoid": lambda c, n, x: c.activation(n, x, "sigmoid"),
    "tanh": lambda c, n, x: c.activation(n, x, "tanh"),
    "softmax": Converter.softmax,
    "dropout": lambda c, n, x, p=0.5, training=True, inplace=False: c.dropout(n, x, p, training),
    "max_pool2d": lambda c, n, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
        return_indices=False: c.pool(n, undilated(x, dilation, return_indices), "maxpool",
                                     kernel_size, stride, padding, ceil_mode),
    "avg_pool2d": lambda c, n, x, kernel_size, stride=None, padding=0, ceil_mode=False,
        count_include_pad=True, divisor_override=None: c.pool(
            n, undivided(x, divisor_override), "avgpool", kernel_size, stride, padding,
            ceil_mode, count_include_pad),
    "adaptive_avg_pool2d": lambda c, n, x, output_size: c.adaptive(n, x, "avgpool", output_size),
    "adaptive_max_pool2d": lambda c, n, x, output_size, return_indices=False:
        c.adaptive(n, x, "maxpool", output_size),
    "mean": Converter.mean, "amax": lambda c, n, x, dim=None, keepdim=False:
        c.mean(n, x, dim, keepdim, op="globalmaxpool"),
    "cat": Converter.cat, "concat": Converter.cat, "pad": Converter.pad,
    "flatten": Converter.flatten, "view": Converter.reshaped, "reshape": Converter.reshaped,
    "squeeze": Converter.reshaped, "unsqueeze": Converter.reshaped,
    "unflatten": Converter.reshaped,
    "permute": Converter.permute, "transpose": Converter.transpose, "swapaxes": Converter.transpose,
    "contiguous": Converter.keep, "clone": Converter.keep,
    "getitem": Converter.item, "size": Converter.size, "getattr": Converter.size,
    "zeros": Converter.zeros, "zeros_like": Converter.zeros, "new_zeros": Converter.zeros,
}
for _name in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"):
    FUNCTIONS[_name + "1d"] = FUNCTIONS[_name + "2d"]


def undilated(x, dilation, return_indices):
    if set(np.atleast_1d(dilation)) != {1} or return_indices:
        raise No("nn.h's max pool has no dilation and returns no indices")
    return x


def undivided(x, divisor):
    if divisor is not None:
        raise No("nn.h's average divides by its window (divisor_override)")
    return x


def max_pool(c, n, m, x):
    return c.pool(n, undilated(x, m.dilation, m.return_indices), "maxpool", m.kernel_size,
                  m.stride, m.padding, m.ceil_mode)


def avg_pool(c, n, m, x):
    return c.pool(n, undivided(x, getattr(m, "divisor_override", None)), "avgpool",
                  m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad)


MODULES = {
    nn.Linear: Converter.linear, nn.Conv1d: Converter.conv, nn.Conv2d: Converter.conv,
    nn.MaxPool1d: max_pool, nn.MaxPool2d: max_pool, nn.AvgPool1d: avg_pool, nn.AvgPool2d: avg_pool,
    nn.BatchNorm1d: Converter.batchnorm, nn.BatchNorm2d: Converter.batchnorm,
    nn.Dropout: lambda c, n, m, x: c.dropout(n, x, m.p, inplace=m.inplace),
    nn.Identity: lambda c, n, m, x: x,
    nn.Flatten: lambda c, n, m, x: c.reshaped(n, x),
    nn.Unflatten: lambda c, n, m, x: c.reshaped(n, x),
    nn.ReLU: lambda c, n, m, x: c.activation(n, x, "relu"),
    nn.LeakyReLU: lambda c, n, m, x: c.activation(n, x, "leaky_relu", m.negative_slope),
    nn.Sigmoid: lambda c, n, m, x: c.activation(n, x, "sigmoid"),
    nn.Tanh: lambda c, n, m, x: c.activation(n, x, "tanh"),
    nn.Softmax: lambda c, n, m, x: c.softmax(n, x, m.dim),
    nn.Embedding: Converter.embedding,
    nn.LSTM: Converter.recurrent, nn.GRU: Converter.recurrent, nn.RNN: Converter.recurrent,
}
for _kind, _op in ((nn.AdaptiveAvgPool1d, "avgpool"), (nn.AdaptiveAvgPool2d, "avgpool"),
                   (nn.AdaptiveMaxPool1d, "maxpool"), (nn.AdaptiveMaxPool2d, "maxpool")):
    MODULES[_kind] = lambda c, n, m, x, op=_op: c.adaptive(n, x, op, m.output_size)
for _kind in (nn.Dropout1d, nn.Dropout2d):
    MODULES[_kind] = lambda c, n, m, x: whole_channels(c, x, m.p)

ZERO_KEEPERS = {"to", "cpu", "cuda", "float", "detach", "requires_grad_", "contiguous", "clone",
                "zeros_like"}
STATE_READERS = {"getitem", "cat", "concat", "squeeze", "view", "reshape", "contiguous"}
UNREAD = ("it reads a recurrent layer's states in a way that nn.h has not", "take out, out[:, -1], "
          "h_n[-1], or of a bidirectional layer torch.cat((h_n[-2], h_n[-1]), 1)")
HINTS = {"LayerNorm": "not yet in nn.h", "LogSoftmax": "return the logits, and train with "
         "cross-entropy", "ReLU6": "use ReLU", "GELU": "use ReLU or tanh",
         "ConvTranspose2d": "not in nn.h"}


def whole_channels(c, x, rate):
    if rate and not c.options.inference:
        raise No("nn.h drops elements, not whole channels", "--inference, or nn.Dropout")
    return x


# --------------------------------------------------------------------------------------------------

def fold_activations(model):
    """An activation whose input nothing else reads becomes that row's act."""
    takes = {"dense", "conv1d", "conv2d", "batchnorm", "add"}
    readers = {}
    for row in model.rows:
        for name in row.inputs:
            readers.setdefault(name, []).append(row)
    renamed, rows = {}, []
    for row in model.rows:
        row.inputs = [renamed.get(name, name) for name in row.inputs]
        before = next((r for r in rows if row.inputs and r.name == row.inputs[0]), None)
        if row.op == "activation" and before.op in takes and not before.fields.get("act") and \
                len(readers[before.name]) == 1:
            before.fields.update(row.fields)
            renamed[row.name] = before.name
            readers[before.name] = readers.get(row.name, [])
        else:
            rows.append(row)
    model.rows = rows


def as_array(tensor, row):
    """Samples as the input row takes them."""
    kind = {"i32": np.int32, "u8": np.uint8}.get(row.fields.get("type"), np.float32)
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(kind))


def samples_of(converter, count, seed):
    """(inputs, the module's outputs in nn.h's order)."""
    example, module = converter.example, converter.module
    generator = torch.Generator().manual_seed(seed)
    row = converter.model.rows[0]
    if row.fields.get("type") == "i32":
        vocab = min(r.fields["vocab"] for r in converter.model.rows if r.op == "embedding")
        x = torch.randint(0, vocab, (count, *example.shape[1:]), generator=generator)
        x = x.to(example.dtype)
    else:
        x = torch.randn((count, *example.shape[1:]), generator=generator, dtype=example.dtype)
    module.eval()
    with torch.no_grad():  # clones: the module may change its input in place
        y, again = (module(x.clone().to(example.device)).detach().cpu() for _ in range(2))
    if not torch.allclose(y, again, equal_nan=True):
        raise Error("the module draws random numbers in eval() too: its outputs are never the same "
                    "(is it F.dropout without training=self.training?)")
    axes = converter.result.axes
    order = sorted((i for i, a in enumerate(axes) if a not in (BATCH, None)),
                   key=lambda i: axes[i])
    order = [axes.index(BATCH)] + order + [i for i, a in enumerate(axes) if a is None]
    y = y.permute(order).contiguous().numpy()
    shape = converter.shape_of(converter.result.row)
    return as_array(x, row), np.ascontiguousarray(y.reshape(count, *shape), np.float32)


def example_of(example):
    """The one input, as a tensor; (x,) is x, as torch.export has it."""
    if isinstance(example, (tuple, list)) and \
            any(isinstance(each, (torch.Tensor, np.ndarray)) for each in example):
        if len(example) > 1:
            raise Error("the module has several inputs, and nn.h has one: wrap it in a module that "
                        "takes one")
        example = example[0]
    try:
        example = torch.as_tensor(example)
    except (TypeError, ValueError, RuntimeError):
        raise Error("the example input is no tensor and no array") from None
    if example.dim() < 2 or not example.numel():
        raise Error("the example input needs a batch dimension, and one more")
    return example


def read_live(module, options):
    """A live module and options.example (an input with a batch dimension) as a Model."""
    example = example_of(options.example)
    try:
        module = copy.deepcopy(module)  # tracing and running may change modes, statistics, weights
    except Exception as reason:
        raise Error("the module cannot be copied (has a layer of it weight norm?): "
                    f"{first_line(reason)}") from None
    if {t.dtype for t in (*module.state_dict().values(), example)} & HALVES:
        module = module.float()  # the weights as they are; nn.h computes in float32
        example = example.float() if example.is_floating_point() else example
    converter = Converter(module, example, options)
    model = converter.run()
    if not example.is_floating_point() and model.rows[0].fields.get("type") != "i32":
        raise Error(f"the example is of {example.dtype}, which only an embedding takes here")
    model.samples = [samples_of(converter, options.samples, options.seed)]
    fold_activations(model)
    return model


def load_into(model, module, optimizer=None):
    """The way back: a model's tensors into the module, its training state into the optimizer."""
    state = module.state_dict()  # with its metadata, by which a module knows its version
    arrays = {name: value.detach().cpu().float().numpy() for name, value in state.items()
              if value.is_floating_point()}
    new, keys = state_dict(model, arrays), fit(model.rows, arrays)[0]
    if optimizer is not None:
        check_optimizer(model, optimizer)
    for name in keys.values():
        state[name] = torch.from_numpy(np.array(new[name]))
    module.load_state_dict(state, strict=True)
    if optimizer is None:
        return
    shared = sharing(model.rows)
    paths = {id(p): path for path, p in module.named_parameters()}
    names = {key: shared.get(name, name) for name, key in keys.items()}
    order = [names.get(paths.get(id(p))) for group in optimizer.param_groups
             for p in group["params"]]
    if len(optimizer.param_groups) != 1 or None in order:
        raise Error("the optimizer must have one group, of parameters of the module")
    saved = optimizer_state(model, order)
    saved["state"] = {i: {key: torch.from_numpy(np.array(v)) for key, v in entry.items()}
                      for i, entry in saved["state"].items()}
    optimizer.load_state_dict(saved)


def check_optimizer(model, optimizer):
    """Is the optimizer of the kind whose training state the model holds?"""
    if not model.training:
        raise Error("the model file holds no training state: save it with nn_save(..., 1, ...)")
    kind, key = ("Adam", "amsgrad") if parse_training(model.training)["opt"] else \
        ("SGD", "nesterov")
    if key not in optimizer.param_groups[0]:
        raise Error(f"the training state is of {kind}, which {type(optimizer).__name__} cannot go "
                    "on with")
