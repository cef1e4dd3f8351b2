"""What nn.h's ops and losses mean, in NumPy and float64, written from the manual and nothing else.

Slow and plain on purpose: it is the judge of the C code, so it shares no idea with it. Rows come as
the text that nn_build_text reads; values are [n, N], [n, T, C] or [n, H, W, C]; ids are [n, T].
"""

import numpy as np


class Row:
    """One row of the text: op name input,input key=value ..."""

    def __init__(self, text):
        self.op, self.name, inputs, *fields = text.split()
        self.inputs = [] if inputs == "-" else inputs.split(",")
        self.fields = dict(field.split("=") for field in fields)

    def word(self, key, default=None):
        return self.fields.get(key, default)

    def ints(self, key, default):
        """Integers of a field; a missing last one repeats the one before it."""
        values = [int(v) for v in self.fields[key].split(",")] if key in self.fields else []
        values = values or list(default)
        return values + values[-1:] * (len(default) - len(values))

    def reals(self, key, default):
        """Reals are floats in nn.h, so 0.1 is the float next to it here too."""
        if key not in self.fields:
            return np.array(default, np.float64)
        return np.array(self.fields[key].split(","), np.float32).astype(np.float64)


def padded(x, pad, value):
    """Maps x with top, left, bottom, right more rows and columns of value."""
    top, left, bottom, right = pad
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def windows(x, kernel, stride, dilation):
    """Yields (i, j, the elements of the padded maps x that tap i, j of the kernel meets)."""
    high = (x.shape[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    wide = (x.shape[2] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y0, x0 = i * dilation[0], j * dilation[1]
            yield i, j, x[:, y0:y0 + (high - 1) * stride[0] + 1:stride[0],
                          x0:x0 + (wide - 1) * stride[1] + 1:stride[1], :]


def along(x):
    """A sequence as an image of one row, and images as they are."""
    return x[:, None] if x.ndim == 3 else x


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Net:
    """The rows of a text. forward() asks param(name, shape) for every tensor it meets."""

    def __init__(self, text):
        self.rows = [Row(row) for row in text.split(";")]
        self.tensors = {}     # name of a row -> {suffix: (name of the tensor, shape)}
        self.margin = np.inf  # distance of the last forward from the nearest kink
        self.moments = {}     # name of a batchnorm row -> mean, variance, elements of its batch
        self.counts = {}      # name of a row of sequences -> bool [n, T]: which steps count
        self.padding = {}     # name of an embedding row -> its vector of pad_id, once and for all

    def forward(self, x, param, training, lengths=None):
        """The output for the samples x, as the input row lays them out; lengths: None is all T."""
        self.margin = np.inf
        self.counts = {}
        values = {}
        for row in self.rows:
            inputs = [values[name] for name in row.inputs]
            self.tensors[row.name] = {}

            def tensor(suffix, shape, row=row):
                name = row.name + "." + suffix
                shared = self.tensors.get(row.word("share"), {}).get(suffix)
                if shared is not None and shared[1] == shape:
                    name = shared[0]
                self.tensors[row.name][suffix] = (name, shape)
                return param(name, shape)

            if row.op == "input":
                y = self.input(row, x)
            else:
                y = getattr(self, row.op)(row, *inputs, tensor=tensor, training=training)
            values[row.name] = y if row.op == "rnn" else self.activate(row, y)
            self.count_steps(row, x, y, lengths)
        return values[self.rows[-1].name]

    def kink(self, distances):
        """Notes how far the values are from where a derivative jumps."""
        if distances.size:
            self.margin = min(self.margin, float(distances.min()))

    def count_steps(self, row, x, y, lengths):
        """Notes which steps of the row's output y count, as long as it has those of the input."""
        if not row.inputs:
            steps = np.arange(x.shape[1])
            counts = np.array([steps < (steps.size if lengths is None else lengths[i])
                               for i in range(len(x))])
        else:
            counts = self.counts.get(row.inputs[0])
            if counts is None or y.ndim != 3 or y.shape[1] != counts.shape[1]:
                return
            if row.word("kernel"):  # its steps are not those of the input
                return
        if row.word("mask") == "1":
            counts = counts & (x != row.ints("pad_id", [0])[0] - 1)
        self.counts[row.name] = counts

    def counted(self, row, x):
        """bool [n, T]: which steps of the sequences x count for a row that reads them."""
        return self.counts.get(row.inputs[0], np.ones(x.shape[:2], bool))

    def activate(self, row, x, default="linear"):
        act = row.word("act", default)
        if act == "relu":
            self.kink(np.abs(x))
            return np.maximum(x, 0)
        if act == "leaky_relu":
            self.kink(np.abs(x))
            return np.where(x > 0, x, x * row.reals("slope", np.float32(0.01)))
        if act == "sigmoid":
            return sigmoid(x)
        if act == "tanh":
            return np.tanh(x)
        if act == "softmax":
            e = np.exp(x - x.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)
        assert act == "linear", act
        return x

    def input(self, row, x):
        shape = row.ints("shape", [0])
        if row.word("type") == "i32":
            return x
        if row.word("order", "hwc") == "chw":
            x = x.reshape([len(x), shape[2], shape[0], shape[1]]).transpose(0, 2, 3, 1)
        return (x * row.reals("scale", 1.0) - row.reals("mean", 0.0)) / row.reals("std", 1.0)

    def dense(self, row, x, tensor, training):
        units = row.ints("units", [0])[0]
        y = x @ tensor("weight", (units, x.shape[-1])).T
        return y if row.word("no_bias") == "1" else y + tensor("bias", (units,))

    def window(self, row, key, default):
        """Such a field of a windowed row, for height and width; pads as top, left, bottom, right.
        What acts along a sequence has the height of one step."""
        if not row.op.endswith("1d"):
            return row.ints(key, default)
        values = row.ints(key, default[len(default) // 2:])
        return [0, values[0], 0, values[1]] if key == "pad" else [1, values[0]]

    def conv2d(self, row, x, tensor, training):
        units, groups = row.ints("units", [0])[0], row.ints("groups", [1])[0]
        kernel = self.window(row, "kernel", [0, 0])
        ins, outs = x.shape[-1] // groups, units // groups
        weight = tensor("weight", (units, ins, *kernel[4 - x.ndim:]))
        weight = weight.reshape(units, ins, *kernel)
        y = 0
        for i, j, seen in windows(padded(along(x), self.window(row, "pad", [0] * 4), 0), kernel,
                                  self.window(row, "stride", [1, 1]),
                                  self.window(row, "dilation", [1, 1])):
            y = y + np.concatenate([seen[..., g * ins:(g + 1) * ins]
                                    @ weight[g * outs:(g + 1) * outs, :, i, j].T
                                    for g in range(groups)], -1)
        y = y if x.ndim == 4 else y[:, 0]
        return y if row.word("no_bias") == "1" else y + tensor("bias", (units,))

    def pool(self, row, x, outside):
        """All elements of each window, on a new last axis."""
        kernel = self.window(row, "kernel", [0, 0])
        padded_x = padded(along(x), self.window(row, "pad", [0] * 4), outside)
        y = np.stack([seen for _, _, seen in
                      windows(padded_x, kernel, self.window(row, "stride", kernel), [1, 1])], -1)
        return y if x.ndim == 4 else y[:, 0]

    def largest(self, seen):
        """Along the last axis."""
        seen = np.sort(seen, -1)
        if seen.shape[-1] > 1:
            best, second = seen[..., -1], seen[..., -2]
            # Zeros that a ReLU made are equal, but whichever wins, its derivative is zero; none
            # counts where all are infinite.
            matters = ((best != 0) | (second != 0)) & (best > -np.inf)
            self.kink(best[matters] - second[matters])
        return seen[..., -1]

    def maxpool2d(self, row, x, tensor, training):
        return self.largest(self.pool(row, x, -np.inf))

    def avgpool2d(self, row, x, tensor, training):
        total = self.pool(row, x, 0.0).sum(-1)
        if row.word("count_pad") == "1":
            return total / np.prod(self.window(row, "kernel", [0, 0]))
        return total / self.pool(row, np.ones_like(x), 0.0).sum(-1)

    conv1d, maxpool1d, avgpool1d = conv2d, maxpool2d, avgpool2d

    def globalavgpool(self, row, x, tensor, training):
        if x.ndim == 4:
            return x.mean((1, 2))
        counts = self.counted(row, x)[..., None]  # steps of sequences; none: zero
        return (x * counts).sum(1) / np.maximum(counts.sum(1), 1)

    def globalmaxpool(self, row, x, tensor, training):
        if x.ndim == 4:
            return self.largest(np.moveaxis(x.reshape(len(x), -1, x.shape[-1]), 1, -1))
        counts = self.counted(row, x)[..., None]
        y = self.largest(np.moveaxis(np.where(counts, x, -np.inf), 1, -1))
        return np.where(counts.any(1), y, 0)

    def batchnorm(self, row, x, tensor, training):
        shape = (x.shape[-1],)
        weight, bias = tensor("weight", shape), tensor("bias", shape)
        mean, var = tensor("running_mean", shape), tensor("running_var", shape)
        if training:
            flat = x.reshape(-1, shape[0])
            mean, var = flat.mean(0), ((flat - flat.mean(0)) ** 2).mean(0)
            self.moments[row.name] = mean, var, len(flat)
        return (x - mean) / np.sqrt(var + row.reals("eps", np.float32(1e-5))) * weight + bias

    def flatten(self, row, x, tensor, training):
        if row.word("order", "hwc") == "chw":
            x = np.moveaxis(x, -1, 1)
        return x.reshape(len(x), -1)

    def add(self, row, *inputs, tensor, training):
        return sum(inputs)

    def activation(self, row, x, tensor, training):
        return x

    def embedding(self, row, ids, tensor, training):
        table = tensor("weight", (row.ints("vocab", [0])[0], row.ints("units", [0])[0]))
        y = table[ids]
        if row.word("pad_id"):
            pad = row.ints("pad_id", [0])[0] - 1  # the text has one more, as nn_layer does
            # Not from the table any more, so that no derivative by it sees this vector.
            y[ids == pad] = self.padding.setdefault(row.name, table[pad].copy())
        return y

    def recurrent(self, row, x, tensor, gates, kinds, cell):
        """Runs cell over the sequences x, by layer and direction. cell(of_x, of_h, h, ...) gives
        the next h and, for two kinds of state, c; of_x is W_ih x + b_ih, and of_h(h, from, to) is
        W_hh h + b_hh for these gates."""
        units, layers = row.ints("units", [0])[0], row.ints("layers", [1])[0]
        two_ways, no_bias = row.word("bidirectional") == "1", row.word("no_bias") == "1"
        counts = self.counted(row, x)
        samples, steps = counts.shape
        for layer in range(layers):
            states, outputs = [], []
            for reverse in (False, True) if two_ways else (False,):
                end = "_l%d%s" % (layer, "_reverse" if reverse else "")
                w_ih = tensor("weight_ih" + end, (gates * units, x.shape[-1]))
                w_hh = tensor("weight_hh" + end, (gates * units, units))
                b_ih = b_hh = np.zeros(gates * units)
                if not no_bias:
                    b_ih = tensor("bias_ih" + end, (gates * units,))
                if not no_bias and row.word("one_bias") != "1":
                    b_hh = tensor("bias_hh" + end, (gates * units,))

                def of_h(h, start, stop, w_hh=w_hh, b_hh=b_hh):
                    part = slice(start * units, stop * units)
                    return h @ w_hh[part].T + b_hh[part]

                state = np.zeros((kinds, samples, units))
                y = np.zeros((samples, steps, units))
                for t in reversed(range(steps)) if reverse else range(steps):
                    on = counts[:, t]  # the others keep their state, and their output is zero
                    if on.any():
                        state[:, on] = cell(x[on, t] @ w_ih.T + b_ih, of_h, *state[:, on])
                        y[on, t] = state[0, on]
                states.append(state[0])
                outputs.append(y)
            x = np.concatenate(outputs, -1)
        return np.concatenate(states, -1) if row.word("last") == "1" else x

    def lstm(self, row, x, tensor, training):
        def cell(of_x, of_h, h, c):
            i, f, g, o = np.split(of_x + of_h(h, 0, 4), 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c

        return self.recurrent(row, x, tensor, 4, 2, cell)

    def gru(self, row, x, tensor, training):
        def cell(of_x, of_h, h):
            xr, xz, xn = np.split(of_x, 3, -1)
            r, z = sigmoid(xr + of_h(h, 0, 1)), sigmoid(xz + of_h(h, 1, 2))
            if row.word("reset_before") == "1":
                n = np.tanh(xn + of_h(r * h, 2, 3))
            else:
                n = np.tanh(xn + r * of_h(h, 2, 3))
            return [(1 - z) * n + z * h]

        return self.recurrent(row, x, tensor, 3, 1, cell)

    def rnn(self, row, x, tensor, training):
        def cell(of_x, of_h, h):
            return [self.activate(row, of_x + of_h(h, 0, 1), "tanh")]

        return self.recurrent(row, x, tensor, 1, 1, cell)

    def moved(self, name, mean, var):
        """The running statistics of a batchnorm row after an update that follows forward()."""
        row = next(row for row in self.rows if row.name == name)
        batch_mean, batch_var, count = self.moments[name]
        momentum = row.reals("momentum", np.float32(0.1))
        if row.word("biased") != "1":
            batch_var = batch_var * count / (count - 1)
        return mean + momentum * (batch_mean - mean), var + momentum * (batch_var - var)

    def loss(self, kind, y, target):
        """The mean loss; y is what forward() gave: probabilities if the last row ends in them."""
        act = self.rows[-1].word("act")
        if kind == "mse":
            return ((y - target) ** 2).mean()
        if kind == "bce":
            p = y if act == "sigmoid" else sigmoid(y)
            return -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
        assert kind == "ce", kind
        y = y.reshape(-1, y.shape[-1])
        if act != "softmax":
            e = np.exp(y - y.max(-1, keepdims=True))
            y = e / e.sum(-1, keepdims=True)
        return -np.log(y[np.arange(len(y)), target.reshape(-1)]).mean()
