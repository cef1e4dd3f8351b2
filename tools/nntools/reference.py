"""The rows computed with NumPy in double precision: what C's outputs are compared with where the
source framework is not at hand, row by row. Written from >>manual, not from nn.h's code."""

import numpy as np

from .model import RECURRENT, Error, Row, tensor_names


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def activate(row, x):
    kind = row.fields.get("act", "linear")
    if kind == "leaky_relu":
        return np.where(x > 0, x, x * np.float64(np.float32(row.fields.get("slope") or 0.01)))
    return {"linear": lambda v: v, "relu": lambda v: np.where(v > 0, v, 0), "tanh": np.tanh,
            "sigmoid": sigmoid, "softmax": softmax}[kind](x)


def pair(row, key, default):
    """Two numbers of a field, where a zero second one means the first."""
    value = row.fields.get(key) or default
    value = tuple(np.atleast_1d(value))
    return int(value[0]), int(value[1] if len(value) > 1 and value[1] else value[0])


def values(row, key, count, default):
    given = [v or default for v in np.atleast_1d(row.fields.get(key) or 0.0)]
    return np.array((given + [default] * count)[:count], np.float64)


def padded(row, x, fill):
    pad = [int(p) for p in row.fields.get("pad") or ()] + [0, 0, 0, 0]
    return np.pad(x, ((0, 0), (pad[0], pad[2]), (pad[1], pad[3]), (0, 0)), constant_values=fill)


def windows(x, kernel, stride, dilation):
    """(ky, kx, x at that place of every window) one after the other."""
    size = [(x.shape[1 + k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in (0, 1)]
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            y0, x0 = ky * dilation[0], kx * dilation[1]
            yield ky, kx, x[:, y0:y0 + size[0] * stride[0]:stride[0],
                            x0:x0 + size[1] * stride[1]:stride[1]][:, :size[0], :size[1]]


def as_2d(row, x):
    """A 1d row and its [n,T,C] as the 2d row that acts on [n,1,T,C]."""
    fields = dict(row.fields)
    for key in ("kernel", "stride", "dilation"):
        if fields.get(key):
            fields[key] = (1, int(np.atleast_1d(fields[key])[0]))
    before, behind = (*(int(p) for p in row.fields.get("pad") or ()), 0, 0)[:2]
    fields["pad"] = (0, before, 0, behind)
    return Row(row.op.replace("1d", "2d"), row.name, row.inputs, fields), x[:, None]


def conv2d(row, x, weight, bias=0.0):
    groups = row.fields.get("groups") or 1
    kernel, out = pair(row, "kernel", None), weight.shape[0]
    x = padded(row, x, 0.0)
    total = 0.0
    for ky, kx, at in windows(x, kernel, pair(row, "stride", 1), pair(row, "dilation", 1)):
        split = at.reshape(*at.shape[:3], groups, -1)
        w = weight[:, :, ky, kx].reshape(groups, out // groups, -1)
        total = total + np.einsum("nhwgi,goi->nhwgo", split, w, optimize=True)
    return activate(row, total.reshape(*total.shape[:3], out) + bias)


def pool(row, x):
    kernel = pair(row, "kernel", None)
    stride = pair(row, "stride", kernel)
    if row.op == "maxpool2d":
        at = windows(padded(row, x, -np.inf), kernel, stride, (1, 1))
        return np.maximum.reduce([part for _, _, part in at])
    total = sum(part for _, _, part in windows(padded(row, x, 0.0), kernel, stride, (1, 1)))
    if row.fields.get("count_pad"):
        return total / (kernel[0] * kernel[1])
    ones = padded(row, np.ones_like(x[:1, :, :, :1]), 0.0)
    return total / sum(part for _, _, part in windows(ones, kernel, stride, (1, 1)))


def batchnorm(row, x, weight, bias, mean, var):
    eps = np.float64(np.float32(row.fields.get("eps") or 1e-5))
    return activate(row, (x - mean) / np.sqrt(var + eps) * weight + bias)


def cell(row, gates, x, h, c, wx, wh, bx, bh):
    """One step: the new h and c."""
    a = x @ wx.T + bx
    if gates == 1:
        act = np.tanh if row.fields.get("act", "tanh") == "tanh" else lambda v: np.maximum(v, 0)
        return act(a + h @ wh.T + bh), c
    if gates == 4:
        i, f, g, o = np.split(a + h @ wh.T + bh, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    units = h.shape[-1]
    b = np.broadcast_to(bh, (3 * units,))
    ar, az, an = np.split(a, 3, -1)
    r = sigmoid(ar + h @ wh[:units].T + b[:units])
    z = sigmoid(az + h @ wh[units:2 * units].T + b[units:2 * units])
    if row.fields.get("reset_before"):
        n = np.tanh(an + (r * h) @ wh[2 * units:].T + b[2 * units:])
    else:
        n = np.tanh(an + r * (h @ wh[2 * units:].T + b[2 * units:]))
    return n + z * (h - n), c


def recurrent(row, x, counts, tensors):
    """All steps [n,T,units], or the last; counts [n,T]: which steps do."""
    gates, units = RECURRENT[row.op], row.fields["units"]
    ways = ["", "_reverse"] if row.fields.get("bidirectional") else [""]
    for layer in range(row.fields.get("layers") or 1):
        outputs, finals = [], []
        for way in ways:
            w = [tensors.get(f"{kind}_l{layer}{way}", 0.0)
                 for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            h = c = np.zeros((len(x), units))
            out = np.zeros((len(x), x.shape[1], units))
            for t in range(x.shape[1])[::-1 if way else 1]:
                now = counts[:, t, None]
                new_h, new_c = cell(row, gates, x[:, t], h, c, *w)
                h, c = np.where(now, new_h, h), np.where(now, new_c, c)
                out[:, t] = np.where(now, h, 0)
            outputs.append(out)
            finals.append(h)
        x = np.concatenate(outputs, -1)
    return np.concatenate(finals, -1) if row.fields.get("last") else x


def input_of(row, x):
    """What the caller gives, as the first row gives it on."""
    shape = [int(n) for n in row.fields["shape"] if n]
    if row.fields.get("type") == "i32":
        return x.reshape(-1, *shape)
    x = np.asarray(x, np.float64)
    if row.fields.get("order") == "chw":
        x = np.moveaxis(x.reshape(-1, shape[-1], *shape[:-1]), 1, -1)
    x = x.reshape(-1, *shape)
    channels = shape[-1] if shape[-1] <= 4 else 1
    x = x * (row.fields.get("scale") or 1.0)
    return (x - values(row, "mean", channels, 0.0)) / values(row, "std", channels, 1.0)


def compute(row, x, tensors, counts):
    """Output of a row that reads the list x; counts is of its first input."""
    op, first = row.op, x[0]
    t = [tensors.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    bias = 0.0 if t[1] is None else t[1]
    if op == "dense":
        return activate(row, first @ t[0].T + bias)
    if op == "conv2d":
        return conv2d(row, first, t[0], bias)
    if op == "conv1d":
        return conv2d(*as_2d(row, first), t[0][:, :, None], bias)[:, 0]
    if op in ("maxpool1d", "avgpool1d"):
        return pool(*as_2d(row, first))[:, 0]
    if op in ("maxpool2d", "avgpool2d"):
        return pool(row, first)
    if op == "globalavgpool":
        if first.ndim == 4:
            return first.mean((1, 2))
        total = (first * counts[:, :, None]).sum(1)
        return total / np.maximum(counts.sum(1), 1)[:, None]
    if op == "globalmaxpool":
        if first.ndim == 4:
            return first.max((1, 2))
        most = np.where(counts[:, :, None], first, -np.inf).max(1)
        return np.where(counts.any(1)[:, None], most, 0)
    if op == "batchnorm":
        return batchnorm(row, first, *t)
    if op == "dropout":
        return first
    if op == "flatten":
        if row.fields.get("order") == "chw":
            first = np.moveaxis(first, -1, 1)
        return first.reshape(len(first), -1)
    if op == "add":
        return activate(row, sum(x))
    if op == "activation":
        return activate(row, first)
    if op == "embedding":
        return t[0][first]
    if op in RECURRENT:
        return recurrent(row, first, counts, tensors)
    raise Error(f"row {row.name}: no op is called {row.op}")


def own_tensors(model, row):
    """Tensors of a row by suffix; those it shares are another row's."""
    chain, found = [row], {}
    while chain[-1].share and len(chain) < len(model.rows):
        chain.append(model.row(chain[-1].share))
    for each in reversed(chain):
        start = each.name + "."
        found.update({name[len(start):]: value for name, value in model.tensors.items()
                      if name.startswith(start) and "." not in name[len(start):]})
    reads = [name[len(row.name) + 1:] for name in tensor_names(row)]
    return {name: found[name] for name in reads if name in found}


def outputs(model, x):
    """(row, output [n, ...]) one after the other, for samples as the input row takes them."""
    done, counts, readers = {}, {}, {}
    for row in model.rows:
        for name in row.inputs:
            readers[name] = row.name
    for row in model.rows:
        if row.op == "input":
            y = input_of(row, x)
            count = np.ones(y.shape[:2], bool)
        else:
            before, count = [done[name] for name in row.inputs], counts[row.inputs[0]]
            tensors = {k: np.asarray(v, np.float64) for k, v in own_tensors(model, row).items()}
            y = compute(row, before, tensors, count)
            if row.op == "embedding" and row.fields.get("mask"):
                count = before[0] != row.fields["pad_id"] - 1
        if y.ndim == 3 and y.shape[1] != count.shape[-1] or row.op.endswith("1d"):
            count = np.ones(y.shape[:2], bool)
        done[row.name], counts[row.name] = y, count
        yield row, y
        for name in row.inputs:
            if readers[name] == row.name:
                done.pop(name, None)
